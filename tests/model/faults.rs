//! What breaks, and how it comes back.

use crate::scenario::Scenario;
use crate::state::*;

impl Scenario {
    pub fn side_crashes(&self, w: &World, side: Side) -> Option<World> {
        if !w.sides[side].up {
            return None;
        }
        let mut next = *w;
        next.faults += 1;
        next.side_dies(side);
        for j in self.jobs() {
            self.judge(&mut next, j);
        }
        Some(next)
    }

    pub fn side_returns(&self, w: &World, side: Side) -> Option<World> {
        if w.sides[side].up {
            return None;
        }
        let mut next = *w;
        next.sides[side].up = true;
        Some(next)
    }

    pub fn instance_crashes(&self, w: &World, i: Instance) -> Option<World> {
        if !w.instances[i].up {
            return None;
        }
        let mut next = *w;
        next.faults += 1;
        self.instance_dies(&mut next, i);
        Some(next)
    }

    /// Its view and its vote are on its disk; its clients get no answer.
    pub fn instance_dies(&self, w: &mut World, i: Instance) {
        let instance = &mut w.instances[i];
        instance.up = false;
        instance.candidate = Candidate::default();
        instance.catching = Catching::None;
        for j in self.jobs().filter(|j| self.at(*j) == i) {
            w.orphan(j);
        }
    }

    pub fn instance_returns(&self, w: &World, i: Instance) -> Option<World> {
        if w.instances[i].up {
            return None;
        }
        let mut next = *w;
        next.instances[i].up = true;
        Some(next)
    }

    /// A cut link takes its connections with it. An open transaction is rolled back by the server (at once here: until
    /// then it would only make others wait); a COMMIT on the wire may have arrived, or not.
    pub fn cut(&self, w: &World, link: usize) -> Option<World> {
        if w.is_cut(link) {
            return None;
        }
        let mut next = *w;
        next.faults += 1;
        next.cut |= bit(link);
        if link != PEERS {
            let (i, side) = (link / 2, link % 2);
            for j in self.jobs().filter(|j| self.at(*j) == i) {
                if matches!(next.txs[j][side], Tx::Open { .. }) {
                    next.txs[j][side] = Tx::None;
                }
                next.jobs[j].awaited &= !bit(side);
                self.judge(&mut next, j);
            }
        }
        Some(next)
    }

    pub fn heal(&self, w: &World, link: usize) -> Option<World> {
        if !w.is_cut(link) {
            return None;
        }
        let mut next = *w;
        next.cut &= !bit(link);
        Some(next)
    }

    pub fn lose_answer(&self, w: &World, j: Job, side: Side) -> Option<World> {
        if w.jobs[j].awaited & bit(side) == 0 {
            return None;
        }
        let mut next = *w;
        next.faults += 1;
        next.execute(self.op(j), j, side);
        next.jobs[j].awaited &= !bit(side);
        self.judge(&mut next, j);
        Some(next)
    }

    pub fn late_commit(&self, w: &World, j: Job, side: Side) -> Option<World> {
        if w.jobs[j].awaited & bit(side) == 0 {
            return None;
        }
        let mut next = *w;
        next.faults += 1;
        next.jobs[j].awaited &= !bit(side);
        self.judge(&mut next, j);
        Some(next)
    }
}

impl World {
    /// Transactions that were not committed are gone; whoever awaits a COMMIT gets an error.
    pub fn side_dies(&mut self, side: Side) {
        self.sides[side].up = false;
        for j in 0..JOBS {
            self.txs[j][side] = Tx::None;
            self.jobs[j].awaited &= !bit(side);
        }
    }

    /// The client of this job gets no answer. COMMITs on the wire may arrive.
    fn orphan(&mut self, j: Job) {
        let job = &mut self.jobs[j];
        match job.phase {
            Phase::Absent | Phase::Waiting | Phase::Done | Phase::NotApplied | Phase::Unknown => return,
            Phase::Acknowledged => *job = JobState::of(Phase::Done),
            _ => *job = JobState::of(Phase::Unknown),
        }
        for tx in &mut self.txs[j] {
            if matches!(tx, Tx::Open { .. }) {
                *tx = Tx::None;
            }
        }
    }
}
