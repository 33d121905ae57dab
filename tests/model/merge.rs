//! Bringing two sides together under both fences: `merge`, as sweep, readmission and alignment use it.

use crate::scenario::{Rule, Scenario};
use crate::state::*;

/// What a merge is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Sweep,
    /// `seen`: what the last pass has copied.
    Readmit {
        seen: u8,
    },
    Align,
}

/// Operations, as a mask, for which something holds.
fn those(holds: impl Fn(usize) -> bool) -> u8 {
    (0..2).filter(|op| holds(*op)).fold(0, |set, op| set | bit(op))
}

/// What `from` has open and `at` lacks, or has under another batch.
fn missing(from: &SideState, at: &SideState) -> u8 {
    those(|op| from.open & bit(op) != 0 && from.ops[op].is_known() && at.ops[op] != from.ops[op])
}

/// Operations of this set that have changed the row; a tombstone has not.
fn applied(set: u8, on: &SideState) -> u8 {
    those(|op| set & bit(op) != 0 && on.ops[op].is_applied())
}

impl Scenario {
    /// Merges `side` with the authority `lead`; both transactions commit.
    pub fn merge(&self, w: &mut World, lead: Side, side: Side, purpose: Purpose) {
        let (a, b) = (w.sides[lead], w.sides[side]);
        let copied = match purpose {
            Purpose::Readmit { seen } => seen,
            Purpose::Sweep | Purpose::Align => 0,
        };
        let open_a = missing(&a, &b) & !copied;
        let open_b = missing(&b, &a);
        let lost = self.losers(&a, &b, open_a, open_b, purpose);
        let kept = open_b & !lost;

        if applied(open_a, &a) | applied(lost, &b) != 0 {
            w.sides[side].row = a.row;
        }
        if applied(kept, &b) != 0 {
            w.sides[lead].row = w.sides[side].row;
        }
        for op in 0..2 {
            let [of_lead, of_side] = [lead, side].map(|s| w.sides[s].ops[op]);
            if lost & bit(op) != 0 {
                w.sides[side].ops[op] = Name::default();
                w.sides[side].open &= !bit(op);
            }
            if open_a & bit(op) != 0 {
                w.sides[side].ops[op] = of_lead;
                w.sides[side].open |= bit(op);
            }
            if kept & bit(op) != 0 {
                w.sides[lead].ops[op] = of_side;
                w.sides[lead].open |= bit(op);
            }
        }
    }

    /// Operations of the other side that give way.
    fn losers(&self, a: &SideState, b: &SideState, open_a: u8, open_b: u8, purpose: Purpose) -> u8 {
        // Repeated in a later epoch: the authority's counts.
        let repeated = those(|op| open_b & bit(op) != 0 && a.ops[op].is_known());
        let changed_on_a = match purpose {
            Purpose::Sweep => applied(open_a, a),
            Purpose::Readmit { .. } | Purpose::Align => applied(a.open, a),
        };
        // A pass has overwritten its row: in the journal of its side, an operation that the authority has comes later.
        let overwritten = |op: usize| !self.lacks(Rule::OverwrittenGivesWay) && b.row.times(op) == 0;
        let gives_way = |op: usize| changed_on_a & !bit(op) != 0 || overwritten(op);
        repeated | those(|op| applied(open_b, b) & bit(op) != 0 && gives_way(op))
    }
}

impl World {
    /// After both commits: everything is on both sides.
    pub fn settle_all(&mut self) {
        for side in &mut self.sides {
            side.open = 0;
        }
    }
}
