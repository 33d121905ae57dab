//! One write: `lead`, `follow` with the `guard`, `commit`, `acknowledge`, `settle`; and what is in doubt: `probe`.

use crate::scenario::{Rule, Scenario};
use crate::state::*;

impl Scenario {
    /// Steps 1 and 2. A member that does not answer or has not stored the epoch ends the attempt with nothing done, so
    /// such an attempt is not begun here.
    pub fn lead(&self, w: &World, j: Job) -> Option<World> {
        let (op, i, job) = (self.op(j), self.at(j), &w.jobs[j]);
        let epoch = w.instances[i].view;
        let again = job.phase == Phase::Merge && job.epoch != epoch.n;
        let first = job.phase == Phase::Waiting && self.is_sent(w, j);
        let lead = leader(epoch.members);
        if !(job.phase == Phase::Run || again || first)
            || !w.instances[i].up
            || !w.reaches_all(i, epoch.members)
            || !w.is_stored(&epoch)
            // Another transaction holds the row, or this name.
            || !w.fence_is_free(lead)
        {
            return None;
        }
        let mut next = *w;
        let job = &mut next.jobs[j];
        (job.epoch, job.members) = (epoch.n, epoch.members);
        (job.awaited, job.answered) = (0, 0);
        let (row, name) = (w.sides[lead].row, w.sides[lead].ops[op]);
        let alone = epoch.members == bit(lead);
        if name.is_known() {
            if alone {
                next.conclude(j, op, name);
            } else {
                job.phase = Phase::Known;
            }
            return Some(next);
        }
        let refused = self.conditional && op == 1 && row.times(0) > 0;
        if refused && !job.bury {
            if job.in_doubt {
                // The name must be taken before the refusal is given: the lost COMMIT may still arrive.
                job.bury = true;
                job.phase = Phase::Run;
            } else {
                next.jobs[j] = JobState::of(Phase::NotApplied);
                next.refused |= bit(op);
            }
            return Some(next);
        }
        job.phase = Phase::Led;
        next.txs[j][lead] = match job.bury {
            true => Tx::Open {
                row,
                name: Name::tombstone(epoch.n),
            },
            false => Tx::Open {
                row: row.with(op),
                name: Name::applied(epoch.n),
            },
        };
        Some(next)
    }

    /// A retry is sent when its first try was.
    fn is_sent(&self, w: &World, j: Job) -> bool {
        (0..j).all(|first| self.op(first) != self.op(j) || w.jobs[first].phase != Phase::Waiting)
    }

    /// Step 3. The guard belongs to it: between the two, row lock and fence of the follower and of the leader are held,
    /// so nothing that the guard looks at can change.
    pub fn follow(&self, w: &World, j: Job, guard: bool) -> Option<World> {
        let (op, i, job) = (self.op(j), self.at(j), &w.jobs[j]);
        if job.phase != Phase::Led {
            return None;
        }
        let lead = leader(job.members);
        let side = other(lead);
        if job.members == bit(lead) || !w.reaches_all(i, BOTH) || !w.fence_is_free(side) {
            return None;
        }
        let moved = w.sides[side].epoch.n != job.epoch;
        let image = w.txs[j][lead];
        let Tx::Open { name, .. } = image else { return None };
        // The name is taken here, or an open change of this row is missing on the leader. A tombstone changes no row.
        let lacks = |from: Side, at: Side| {
            (0..2).any(|o| {
                let here = w.sides[from].ops[o];
                o != op && w.sides[from].open & bit(o) != 0 && here.is_applied() && w.sides[at].ops[o] != here
            })
        };
        let lacking = lacks(side, lead) || (lacks(lead, side) && !self.lacks(Rule::GuardOfTheLeader));
        let hit =
            w.sides[side].ops[op].is_known() || (lacking && name.is_applied() && !self.lacks(Rule::Guard));
        let mut next = *w;
        if guard {
            if moved || !hit {
                return None;
            }
            next.roll_back(j);
            next.jobs[j].phase = Phase::Merge;
        } else if moved {
            next.roll_back(j);
            next.jobs[j].phase = Phase::Run;
        } else if hit {
            return None;
        } else {
            next.txs[j][side] = image;
            next.jobs[j].phase = Phase::Followed;
        }
        Some(next)
    }

    /// Step 4: COMMIT goes out to all members at once.
    pub fn commit(&self, w: &World, j: Job) -> Option<World> {
        let job = &w.jobs[j];
        let alone = job.members.count_ones() == 1;
        if !(job.phase == Phase::Followed || job.phase == Phase::Led && alone) {
            return None;
        }
        let mut next = *w;
        for side in [A, B] {
            if let Tx::Open { row, name } = w.txs[j][side] {
                next.txs[j][side] = Tx::Sent { row, name };
            }
        }
        next.jobs[j].phase = Phase::Committing;
        next.jobs[j].awaited = job.members;
        Some(next)
    }

    /// A COMMIT is executed. Its answer arrives in the same step: the instance does nothing in between, and an answer that
    /// does not arrive is a fault of its own.
    pub fn committed(&self, w: &World, j: Job, side: Side) -> Option<World> {
        if !matches!(w.txs[j][side], Tx::Sent { .. }) {
            return None;
        }
        let mut next = *w;
        next.execute(self.op(j), j, side);
        let job = &mut next.jobs[j];
        if job.awaited & bit(side) != 0 {
            job.awaited &= !bit(side);
            job.answered |= bit(side);
            self.judge(&mut next, j);
        }
        Some(next)
    }

    pub fn vanished(&self, w: &World, j: Job, side: Side) -> Option<World> {
        if !matches!(w.txs[j][side], Tx::Sent { .. }) || w.jobs[j].awaited & bit(side) != 0 {
            return None;
        }
        let mut next = *w;
        next.txs[j][side] = Tx::None;
        Some(next)
    }

    /// When every COMMIT is answered or given up, and not all are answered: the batch is in doubt and repeated.
    pub fn judge(&self, w: &mut World, j: Job) {
        let job = &mut w.jobs[j];
        if job.phase == Phase::Committing && job.awaited == 0 && job.answered != job.members {
            if self.lacks(Rule::ErrorIsUnknown) && job.answered == 0 {
                *job = JobState::of(Phase::NotApplied);
                w.refused |= bit(self.op(j));
                return;
            }
            job.phase = Phase::Run;
            job.in_doubt = true;
        }
    }

    /// An attempt that lost a member before its COMMIT ends everywhere.
    pub fn abandon(&self, w: &World, j: Job) -> Option<World> {
        let job = &w.jobs[j];
        if !matches!(job.phase, Phase::Led | Phase::Known) || w.reaches_all(self.at(j), job.members) {
            return None;
        }
        let mut next = *w;
        next.roll_back(j);
        next.jobs[j].phase = Phase::Run;
        Some(next)
    }

    /// The leader has the name. The other member is asked by an insert, which waits for a COMMIT in flight.
    pub fn probe(&self, w: &World, j: Job) -> Option<World> {
        let (op, job) = (self.op(j), &w.jobs[j]);
        if job.phase != Phase::Known {
            return None;
        }
        let lead = leader(job.members);
        let side = other(lead);
        if !w.fence_is_free(side) {
            return None;
        }
        let mut next = *w;
        let name = w.sides[side].ops[op];
        if w.sides[side].epoch.n != job.epoch {
            next.jobs[j].phase = Phase::Run;
        } else if name.is_known() {
            next.conclude(j, op, w.sides[lead].ops[op]);
        } else {
            next.jobs[j].phase = Phase::Merge;
        }
        Some(next)
    }

    /// Step 5: every member has answered; or those that have not were ejected, and nobody else was.
    pub fn acknowledge(&self, w: &World, j: Job) -> Option<World> {
        let (op, job) = (self.op(j), &w.jobs[j]);
        let view = w.instances[self.at(j)].view;
        let all = job.phase == Phase::Committing && job.awaited == 0 && job.answered == job.members;
        let once = view.n == job.epoch + 1 || self.lacks(Rule::MovedOnce);
        let ejected = job.phase == Phase::Run
            && job.answered != 0
            && view.n > job.epoch
            && once
            && view.members & !job.answered == 0;
        if !all && !ejected {
            return None;
        }
        let mut next = *w;
        if job.bury {
            next.jobs[j] = JobState::of(Phase::NotApplied);
            next.refused |= bit(op);
        } else {
            let (epoch, answered) = (job.epoch, job.answered);
            next.acknowledged |= bit(op);
            // What only one side has stays open.
            let early = self.lacks(Rule::SettleLast);
            next.jobs[j] = JobState::of(if answered == BOTH || early {
                Phase::Acknowledged
            } else {
                Phase::Done
            });
            if next.jobs[j].phase == Phase::Acknowledged {
                next.jobs[j].epoch = epoch;
            }
        }
        Some(next)
    }

    /// Step 6: the sides that answer are told that every side has it. Never needed: the sweep finds what is left.
    pub fn settle(&self, w: &World, j: Job) -> Option<World> {
        let (op, i, job) = (self.op(j), self.at(j), &w.jobs[j]);
        if job.phase != Phase::Acknowledged {
            return None;
        }
        let mut next = *w;
        for side in [A, B] {
            if w.reaches(i, side) && w.sides[side].ops[op] == Name::applied(job.epoch) {
                next.sides[side].open &= !bit(op);
            }
        }
        next.jobs[j] = JobState::of(Phase::Done);
        Some(next)
    }

    /// A broken build: what a SELECT does not find was never applied.
    pub fn peek(&self, w: &World, j: Job) -> Option<World> {
        let (op, job) = (self.op(j), &w.jobs[j]);
        let view = w.instances[self.at(j)].view;
        let unseen = [A, B]
            .iter()
            .all(|s| view.members & bit(*s) == 0 || !w.sides[*s].ops[op].is_known());
        if !self.lacks(Rule::BlockingProbe)
            || job.phase != Phase::Run
            || !job.in_doubt
            || job.answered != 0
            || !w.reaches_all(self.at(j), view.members)
            || !w.is_stored(&view)
            || !unseen
        {
            return None;
        }
        let mut next = *w;
        next.jobs[j] = JobState::of(Phase::NotApplied);
        next.refused |= bit(op);
        Some(next)
    }
}

impl World {
    /// What a COMMIT does on its side.
    pub fn execute(&mut self, op: usize, j: Job, side: Side) {
        if let Tx::Sent { row, name } = self.txs[j][side] {
            let s = &mut self.sides[side];
            s.row = row;
            s.ops[op] = name;
            s.open |= bit(op);
            self.txs[j][side] = Tx::None;
        }
    }

    fn roll_back(&mut self, j: Job) {
        for tx in &mut self.txs[j] {
            if matches!(tx, Tx::Open { .. }) {
                *tx = Tx::None;
            }
        }
    }

    /// The stored outcome is the answer.
    fn conclude(&mut self, j: Job, op: usize, name: Name) {
        if name.is_applied() {
            self.acknowledged |= bit(op);
            self.jobs[j] = JobState::of(Phase::Done);
        } else {
            self.refused |= bit(op);
            self.jobs[j] = JobState::of(Phase::NotApplied);
        }
    }
}
