//! What must hold in every state, and what must be reached for that to mean anything.

use stateright::Property;

use crate::scenario::{Grain, Scenario};
use crate::state::*;

pub const LOST: &str = "no acknowledged operation is lost";
pub const TWICE: &str = "no operation is applied twice";
pub const NOT_APPLIED: &str = "what was answered as not applied is on no side";
pub const ONE_HISTORY: &str = "one membership at a time";
pub const UNDONE: &str = "what a reader has seen is not undone by one failure";
pub const CONVERGED: &str =
    "when nothing can happen any more, both sides are identical and every outcome is final";

/// The properties of a scenario.
pub(crate) fn all(scenario: &Scenario) -> Vec<Property<Scenario>> {
    let mut all = vec![
        Property::always(LOST, acknowledged_is_in_effect),
        Property::always(TWICE, once),
        Property::always(NOT_APPLIED, not_applied_is_nowhere),
        Property::always(ONE_HISTORY, one_membership),
        Property::always(CONVERGED, converged),
        Property::<Scenario>::sometimes("a side is ejected", |_, w| w.sides.iter().any(|s| s.epoch.n > 1)),
        Property::<Scenario>::sometimes("a side is readmitted", |_, w| {
            w.sides.iter().all(|s| s.epoch.n > 2 && s.epoch.members == BOTH)
        }),
        Property::<Scenario>::sometimes("a readmission is half written", |_, w| {
            w.sides.iter().any(|s| s.epoch.n > 2 && s.epoch.members == BOTH)
                && w.sides.iter().any(|s| s.epoch.n > 1 && s.epoch.members != BOTH)
        }),
    ];
    if scenario.readers {
        all.push(Property::always(UNDONE, seen_stays));
    }
    if scenario.grain == Grain::Voter || scenario.rounds > 1 {
        all.push(Property::<Scenario>::sometimes("a vote is refused", |_, w| {
            (0..2).any(|i| w.is_refused(i))
        }));
    }
    if !scenario.jobs.is_empty() {
        all.push(Property::<Scenario>::sometimes(
            "an outcome is unknown",
            |_, w| w.jobs.iter().any(|j| j.in_doubt),
        ));
        all.push(Property::<Scenario>::sometimes(
            "the client of a dead instance gets no answer",
            |_, w| w.jobs.iter().any(|j| j.phase == Phase::Unknown),
        ));
        all.push(Property::<Scenario>::sometimes(
            "the other instance rolls an operation forward",
            rolled_forward,
        ));
    }
    if scenario.jobs.len() > 1 {
        all.push(Property::<Scenario>::sometimes(
            "a guard or a probe asks for a merge",
            |_, w| w.jobs.iter().any(|j| j.phase == Phase::Merge),
        ));
    }
    if scenario.conditional {
        all.push(Property::<Scenario>::sometimes(
            "a name is taken by a tombstone",
            |_, w| w.sides.iter().any(|s| s.ops.iter().any(|o| o.is_tombstone())),
        ));
    }
    all
}

/// Sides that are active as far as the latest epoch written on any side says, and have stored it.
fn active(w: &World) -> impl Iterator<Item = &SideState> {
    let latest = w.sides.iter().map(|s| s.epoch).max();
    [A, B].into_iter().filter_map(move |s| {
        let side = &w.sides[s];
        latest
            .is_some_and(|l| l.n == side.epoch.n && l.members & bit(s) != 0)
            .then_some(side)
    })
}

fn ops_of(set: u8) -> impl Iterator<Item = usize> {
    (0..2).filter(move |op| set & bit(*op) != 0)
}

/// Both operations are kept by whoever reads the row later: an acknowledged one is in it for good.
fn acknowledged_is_in_effect(_: &Scenario, w: &World) -> bool {
    active(w).all(|side| ops_of(w.acknowledged).all(|op| side.row.times(op) > 0 && side.ops[op].is_applied()))
}

fn once(_: &Scenario, w: &World) -> bool {
    w.sides
        .iter()
        .all(|side| (0..2).all(|op| side.row.times(op) <= 1))
}

/// A side that is out may hold what it will have to give up on its return; nobody reads it before.
fn not_applied_is_nowhere(scenario: &Scenario, w: &World) -> bool {
    ops_of(w.refused)
        // A retry that is still on its way may yet apply it.
        .filter(|op| {
            scenario
                .jobs()
                .all(|j| scenario.op(j) != *op || w.jobs[j].phase == Phase::NotApplied)
        })
        .all(|op| active(w).all(|side| side.row.times(op) == 0 && !side.ops[op].is_applied()))
}

/// No two sides go on alone, and no number stands for two memberships.
fn one_membership(_: &Scenario, w: &World) -> bool {
    let alone = |side: Side| w.sides[side].epoch.members == bit(side);
    let known = [
        w.sides[A].epoch,
        w.sides[B].epoch,
        w.instances[0].view,
        w.instances[1].view,
    ];
    let double = known.iter().any(|x| known.iter().any(|y| x.n == y.n && x != y));
    !(double || alone(A) && alone(B))
}

/// Who reads the leader of the latest epoch sees at least what was seen before, on whichever side.
fn seen_stays(_: &Scenario, w: &World) -> bool {
    w.reader()
        .is_none_or(|side| ops_of(w.seen).all(|op| side.row.times(op) > 0))
}

fn converged(scenario: &Scenario, w: &World) -> bool {
    let [a, b] = &w.sides;
    let same = a.epoch == b.epoch && a.row == b.row && a.ops == b.ops;
    let settled = a.epoch.members == BOTH && a.open == 0 && b.open == 0;
    let answered = w.jobs.iter().all(|job| job.is_final());
    same && settled && answered && w.fence_is_free(A) && w.fence_is_free(B) || !scenario.is_quiet(w)
}

/// Its own instance is still down, and both sides have it and know that both have it.
fn rolled_forward(scenario: &Scenario, w: &World) -> bool {
    scenario.jobs().any(|j| {
        let everywhere = |side: &SideState| side.ops[scenario.op(j)].is_applied() && side.open == 0;
        w.jobs[j].phase == Phase::Unknown && !w.instances[scenario.at(j)].up && w.sides.iter().all(everywhere)
    })
}

impl World {
    /// The side that readers ask now: the leader of the latest epoch, if it answers.
    fn reader(&self) -> Option<&SideState> {
        let latest = self.sides.iter().map(|s| s.epoch).max()?;
        let side = &self.sides[leader(latest.members)];
        (side.up && side.epoch.n == latest.n).then_some(side)
    }

    /// Somebody reads the row from the leader.
    pub fn read(&mut self) {
        if let Some(side) = self.reader() {
            self.seen |= side.row.ops().fold(0, |set, op| set | bit(op));
        }
    }
}
