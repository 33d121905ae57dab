//! The epoch on the sides and in the instances: `adopt`, `eject`, and the way back: `fence_off`, `pass`, `readmit`, `align`.

use crate::merge::Purpose;
use crate::scenario::{Rule, Scenario};
use crate::state::*;
use crate::steps::Half;

impl Scenario {
    /// The highest epoch that an instance reads on a side.
    pub fn adopt(&self, w: &World, i: Instance) -> Option<World> {
        if !w.instances[i].up {
            return None;
        }
        let newest = [A, B]
            .iter()
            .filter(|s| w.reaches(i, **s))
            .map(|s| w.sides[*s].epoch)
            .max()?;
        if newest.n <= w.instances[i].view.n {
            return None;
        }
        let mut next = *w;
        next.take_over(i, newest);
        Some(next)
    }

    /// After the vote: the child is written on the survivor under its fence, if its epoch is still the parent.
    pub fn eject(&self, w: &World, i: Instance) -> Option<World> {
        let candidate = w.instances[i].candidate;
        if candidate.stage != Stage::Granted {
            return None;
        }
        let side = leader(candidate.members);
        if !w.reaches(i, side) || !w.fence_is_free(side) {
            return None;
        }
        let mut next = *w;
        next.instances[i].candidate = Candidate::default();
        let current = w.sides[side].epoch.n == candidate.parent;
        if current || self.lacks(Rule::DataRule) && w.sides[side].epoch.n < candidate.parent {
            let epoch = Epoch {
                n: candidate.parent + 1,
                members: candidate.members,
            };
            next.store(side, epoch, 0);
            next.take_over(i, epoch);
        }
        Some(next)
    }

    /// The returned side stores the epoch it is no member of, and who repairs it.
    pub fn fence_off(&self, w: &World, i: Instance) -> Option<World> {
        let epoch = w.instances[i].view;
        if !w.instances[i].up || epoch.members == BOTH || w.instances[i].catching != Catching::None {
            return None;
        }
        let lead = leader(epoch.members);
        let side = other(lead);
        let twin = other(i);
        // The lease is politeness: one who cannot go on loses it.
        let lease = w.instances[twin].catching != Catching::None && w.reaches_all(twin, BOTH);
        if lease
            || !w.reaches_all(i, BOTH)
            || w.sides[lead].epoch.n != epoch.n
            || w.sides[side].epoch.n > epoch.n
            || !w.fence_is_free(side)
        {
            return None;
        }
        let mut next = *w;
        next.store(side, epoch, i as u8 + 1);
        next.instances[i].catching = Catching::Fenced;
        Some(next)
    }

    /// The present rows of what is open for the returned side, from one snapshot of the leader.
    pub fn pass(&self, w: &World, i: Instance) -> Option<World> {
        if w.instances[i].catching != Catching::Fenced {
            return None;
        }
        let epoch = w.instances[i].view;
        let lead = leader(epoch.members);
        let side = other(lead);
        if !w.reaches_all(i, BOTH) {
            return None;
        }
        let mut next = *w;
        if !w.is_mine(i, side, &epoch) {
            next.instances[i].catching = Catching::None;
            return Some(next);
        }
        let (from, to) = (&w.sides[lead], &mut next.sides[side]);
        let mut seen = 0;
        for op in 0..2 {
            if from.ops[op].is_known() {
                seen |= bit(op);
            }
            if from.open & bit(op) != 0 {
                to.ops[op] = from.ops[op];
                to.open &= !bit(op);
                if from.ops[op].is_applied() {
                    to.row = from.row;
                }
            }
        }
        next.instances[i].catching = Catching::Passed { seen };
        Some(next)
    }

    /// Both fences, the rest, the next epoch: on the survivor first. No vote is modelled here: of an epoch with one member
    /// every child is written on this member, under its fence, so that there is one at most.
    pub fn readmit(&self, w: &World, i: Instance, half: Half) -> Option<World> {
        let Catching::Passed { seen } = w.instances[i].catching else {
            return None;
        };
        let epoch = w.instances[i].view;
        let lead = leader(epoch.members);
        let side = other(lead);
        if !w.reaches_all(i, BOTH) || !w.fence_is_free(A) || !w.fence_is_free(B) {
            return None;
        }
        let mut next = *w;
        next.instances[i].catching = Catching::None;
        if w.sides[lead].epoch.n != epoch.n || !w.is_mine(i, side, &epoch) {
            return (half == Half::Whole).then_some(next);
        }
        self.merge(&mut next, lead, side, Purpose::Readmit { seen });
        let child = Epoch {
            n: epoch.n + 1,
            members: BOTH,
        };
        next.store(lead, child, 0);
        next.store(side, child, 0);
        let second = if self.lacks(Rule::SurvivorFirst) {
            lead
        } else {
            side
        };
        self.interrupt(&mut next, w, i, second, half);
        if half == Half::Whole {
            next.settle_all();
            next.take_over(i, child);
        }
        Some(next)
    }

    /// Somebody died between the two commits of a readmission: anyone finishes it.
    pub fn align(&self, w: &World, i: Instance, half: Half) -> Option<World> {
        let epoch = w.instances[i].view;
        if !w.instances[i].up || epoch.members != BOTH || !w.reaches_all(i, BOTH) {
            return None;
        }
        let lead = [A, B].into_iter().find(|s| w.sides[*s].epoch.n == epoch.n)?;
        let side = other(lead);
        if w.sides[side].epoch.n >= epoch.n || !w.fence_is_free(A) || !w.fence_is_free(B) {
            return None;
        }
        let mut next = *w;
        self.merge(&mut next, lead, side, Purpose::Align);
        next.store(side, epoch, 0);
        self.interrupt(&mut next, w, i, side, half);
        if half == Half::Whole {
            next.settle_all();
        }
        Some(next)
    }

    /// Brings two active sides together: a guard asked for it, or something is open whose writer is not at work any more.
    pub fn sweep(&self, w: &World, i: Instance, half: Half) -> Option<World> {
        let epoch = w.instances[i].view;
        if !w.instances[i].up
            || epoch.members != BOTH
            || !w.reaches_all(i, BOTH)
            || !w.is_stored(&epoch)
            || !w.fence_is_free(A)
            || !w.fence_is_free(B)
        {
            return None;
        }
        let asked = self
            .jobs()
            .any(|j| self.at(j) == i && w.jobs[j].phase == Phase::Merge && w.jobs[j].epoch == epoch.n);
        let busy = |op: usize| {
            self.jobs()
                .any(|j| self.op(j) == op && w.jobs[j].phase == Phase::Acknowledged)
        };
        let left = (0..2).any(|op| (w.sides[A].open | w.sides[B].open) & bit(op) != 0 && !busy(op));
        if !asked && !left {
            return None;
        }
        let mut next = *w;
        self.merge(&mut next, A, B, Purpose::Sweep);
        // The other side is committed before the leader here.
        self.interrupt(&mut next, w, i, A, half);
        if half == Half::Whole {
            next.settle_all();
        }
        for job in &mut next.jobs {
            if job.phase == Phase::Merge {
                job.phase = Phase::Run;
            }
        }
        Some(next)
    }

    /// A merge that is interrupted after its first commit: `second` keeps what it had in `before`.
    fn interrupt(&self, next: &mut World, before: &World, i: Instance, second: Side, half: Half) {
        if half == Half::Whole {
            return;
        }
        next.faults += 1;
        next.sides[second] = before.sides[second];
        match half {
            Half::Whole | Half::Reset => {}
            Half::InstanceDies => self.instance_dies(next, i),
            Half::SideDies => next.side_dies(second),
        }
    }
}

impl World {
    /// Writes an epoch on a side under its fence.
    fn store(&mut self, side: Side, epoch: Epoch, token: u8) {
        self.sides[side].epoch = epoch;
        self.sides[side].token = token;
        self.forget_old_votes();
    }

    /// First on the instance's disk, then for its writers. A repair for an older epoch ends.
    fn take_over(&mut self, i: Instance, epoch: Epoch) {
        if epoch.n > self.instances[i].view.n {
            self.instances[i].view = epoch;
            self.instances[i].catching = Catching::None;
            self.forget_old_votes();
        }
    }

    /// Whether a side is being brought up to date by this instance.
    fn is_mine(&self, i: Instance, side: Side, epoch: &Epoch) -> bool {
        self.sides[side].epoch.n == epoch.n && self.sides[side].token == i as u8 + 1
    }
}
