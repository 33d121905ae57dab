//! A scenario: who writes what, how much may break, and which rule is taken away.

use crate::state::*;
use crate::steps::Action;

/// A rule of the protocol that a broken scenario goes without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The follower holds no open change of these keys that the leader lacks.
    Guard,
    /// The guard's other half: nor does the leader hold one that the follower lacks.
    GuardOfTheLeader,
    /// A change of epoch needs more than half of the votes.
    Votes,
    /// A voter reports what it has accepted, and that is proposed again.
    AcceptedIsProposedAgain,
    /// After a partial COMMIT, acknowledged only if the epoch changed once.
    MovedOnce,
    /// The name is asked for by an insert that waits for a COMMIT in flight.
    BlockingProbe,
    /// A failed COMMIT is unknown, not "not applied".
    ErrorIsUnknown,
    /// Only a member that stores the latest epoch may go on alone.
    DataRule,
    /// Settled when every side has answered its COMMIT.
    SettleLast,
    /// What a catch-up has overwritten on the returned side gives way, settled or not.
    OverwrittenGivesWay,
    /// Readmission is written on the survivor first.
    SurvivorFirst,
}

/// How finely a vote is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Each voter answers in a step of its own, in any order.
    Voter,
    /// All voters that can be reached answer a phase at once.
    Phase,
}

/// What is checked exhaustively.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Operation and instance of each job. Two jobs of one operation are a request and its retry.
    pub jobs: Vec<(usize, Instance)>,
    pub faults: u8,
    /// Votes about an ejection that may be begun.
    pub rounds: u8,
    pub grain: Grain,
    /// The second operation expects to find the row without the first, and is refused otherwise.
    pub conditional: bool,
    /// Whether it is recorded what readers of the leader have seen.
    pub readers: bool,
    /// Which faults there are; all if not said.
    pub only: Option<fn(&Action) -> bool>,
    pub without: Option<Rule>,
}

impl Scenario {
    /// Two operations on one row, each at an instance of its own; votes phase by phase.
    pub fn two_writes(faults: u8, rounds: u8) -> Scenario {
        Scenario {
            jobs: vec![(0, 0), (1, 1)],
            faults,
            rounds,
            grain: Grain::Phase,
            conditional: false,
            readers: false,
            only: None,
            without: None,
        }
    }

    /// The same without one rule.
    pub fn without(mut self, rule: Rule) -> Scenario {
        self.without = Some(rule);
        self
    }

    /// The same with these faults only: a counterexample that needs many steps is found sooner.
    pub fn only(mut self, faults: fn(&Action) -> bool) -> Scenario {
        self.only = Some(faults);
        self
    }

    pub(crate) fn lacks(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    pub(crate) fn op(&self, job: Job) -> usize {
        self.jobs[job].0
    }

    pub(crate) fn at(&self, job: Job) -> Instance {
        self.jobs[job].1
    }

    pub(crate) fn jobs(&self) -> std::ops::Range<Job> {
        0..self.jobs.len()
    }

    /// Whether exchanging the instances, and with them the operations, changes nothing.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.jobs == [(0, 0), (1, 1)] && !self.conditional && self.only.is_none()
    }

    /// Everything is well, nothing was asked yet.
    pub(crate) fn start(&self) -> World {
        let epoch = Epoch { n: 1, members: BOTH };
        let side = SideState {
            up: true,
            epoch,
            token: 0,
            row: Row::default(),
            ops: [Name::default(); 2],
            open: 0,
            vote: Vote::default(),
        };
        let instance = InstanceState {
            up: true,
            view: epoch,
            vote: Vote::default(),
            candidate: Candidate::default(),
            catching: Catching::None,
        };
        let mut jobs = [JobState::of(Phase::Absent); JOBS];
        for job in self.jobs() {
            jobs[job] = JobState::of(Phase::Waiting);
        }
        World {
            sides: [side; 2],
            instances: [instance; 2],
            jobs,
            txs: [[Tx::None; 2]; JOBS],
            cut: 0,
            faults: 0,
            rounds: 0,
            acknowledged: 0,
            refused: 0,
            seen: 0,
        }
    }
}
