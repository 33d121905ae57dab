//! The instances are alike: a state and its mirror image need to be looked at once.

use stateright::Model;

use crate::scenario::Scenario;
use crate::state::*;

/// The smaller of a state and its mirror image, in which both instances, and with them both operations, change places.
pub fn representative(w: &World) -> World {
    mirrored(w).min(*w)
}

/// Bits 0 and 1 change places.
fn swap_bits(set: u8) -> u8 {
    set & !0b11 | (set & 0b01) << 1 | (set & 0b10) >> 1
}

fn mirrored(w: &World) -> World {
    let mut m = *w;
    m.instances.swap(0, 1);
    m.jobs.swap(0, 1);
    m.txs.swap(0, 1);
    for side in &mut m.sides {
        side.row = side.row.mirrored();
        side.ops.swap(0, 1);
        side.open = swap_bits(side.open);
        side.token = match side.token {
            1 => 2,
            2 => 1,
            token => token,
        };
    }
    for instance in &mut m.instances {
        instance.candidate.granted = swap_bits(instance.candidate.granted);
        if let Catching::Passed { seen } = &mut instance.catching {
            *seen = swap_bits(*seen);
        }
    }
    for tx in m.txs.iter_mut().flatten() {
        if let Tx::Open { row, .. } | Tx::Sent { row, .. } = tx {
            *row = row.mirrored();
        }
    }
    // Two links for each instance, then the one between them.
    m.cut = w.cut & bit(PEERS) | (w.cut & 0b0011) << 2 | (w.cut & 0b1100) >> 2;
    for set in [&mut m.acknowledged, &mut m.refused, &mut m.seen] {
        *set = swap_bits(*set);
    }
    m
}

/// Follows every way of this many steps and asserts that the next states of a mirror image are the mirror images of the
/// next states (after the steps that are taken at once, whose order differs): otherwise looking at one of the two would not be enough.
pub fn assert_symmetric(scenario: &Scenario, steps: usize) {
    let after = |w: &World| {
        let mut next: Vec<World> = scenario
            .next_states(w)
            .iter()
            .map(|next| representative(&scenario.at_rest(next)))
            .collect();
        next.sort();
        next.dedup();
        next
    };
    let mut front = scenario.init_states();
    for _ in 0..steps {
        let mut all = Vec::new();
        for w in &front {
            let here = after(w);
            assert_eq!(here, after(&mirrored(w)), "the mirror image of {w:?}");
            all.extend(here);
        }
        all.sort();
        all.dedup();
        front = all;
    }
}
