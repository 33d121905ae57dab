//! A voter's side of a vote, as a pure function: what it remembers, what it is asked, what it answers.
//!
//! The same function decides for an instance, a witness and a side; only where the memory lies differs. Whoever calls it
//! must have the changed memory on disk before the answer leaves.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::multipool::epoch::Epoch;

/// Puts the attempts of all candidates in one order. Two attempts never have the same: `attempt` is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(in crate::multipool) struct Ballot {
    pub round: i64,
    pub attempt: Uuid,
}

/// The membership that is proposed to follow its parent, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::multipool) struct Child {
    pub epoch: Epoch,
    pub reason: String,
}

/// What a voter is asked about one parent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::multipool) enum Ask {
    /// Nothing: only to be told what it knows.
    Look,
    /// Not to take part in any earlier ballot any more.
    Promise(Ballot),
    /// To accept this child in this ballot.
    Accept(Ballot, Child),
    /// A voter without memory may begin: it votes for parents from this epoch on. `voter` is what it has called itself,
    /// so that a question that comes late cannot give a memory to a voter that has lost its memory once more.
    Begin { voter: Uuid, from: i64 },
}

/// What a voter answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::multipool) enum Answer {
    Seen(Seen),
    /// Promised; and what it has accepted for this parent before.
    Promised(Option<(Ballot, Child)>),
    Accepted,
    /// It has promised a later ballot.
    Outbid(Ballot),
    /// The parent is no longer current.
    Newer(Epoch),
    /// It does not vote on this parent: it could have voted on it before it lost its memory.
    Abstains(Option<i64>),
    /// It will not vote for this candidate, for this reason.
    Refused(String),
}

/// What a voter knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::multipool) struct Seen {
    /// The newest epoch it has heard of as current.
    pub newest: Epoch,
    /// The first parent it votes on; `None`: none yet.
    pub from: Option<i64>,
    /// What it has accepted and does not know to be finished.
    pub accepted: Option<Child>,
}

impl Seen {
    /// No epoch above this one can have had a vote of a majority to which this voter belonged.
    pub fn highest(&self) -> i64 {
        let accepted = self.accepted.as_ref().map_or(0, |child| child.epoch.n);
        // What it asked the others for when it had lost its own memory.
        let told = self.from.map_or(0, |from| from - 1);
        self.newest.n.max(accepted).max(told)
    }
}

/// What a voter must never forget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::multipool) struct Memory {
    /// The first parent it votes on.
    pub from: i64,
    /// The newest parent it was asked about; what follows is about this one only.
    pub parent: Option<Epoch>,
    pub promised: Option<Ballot>,
    pub accepted: Option<(Ballot, Child)>,
}

impl Memory {
    /// Of a voter that votes on parents from this epoch on.
    pub fn new(from: i64) -> Memory {
        Memory {
            from,
            parent: None,
            promised: None,
            accepted: None,
        }
    }

    /// The newest epoch this voter knows: what it was asked about, or what it has learned otherwise.
    fn newest(&self, known: &Epoch) -> Epoch {
        match &self.parent {
            Some(parent) if parent.n > known.n => *parent,
            _ => *known,
        }
    }

    /// What it knows, for anybody who looks.
    pub fn seen(&self, known: &Epoch) -> Seen {
        let newest = self.newest(known);
        let accepted = self.accepted.as_ref().map(|(_, child)| child.clone());
        Seen {
            newest,
            from: Some(self.from),
            accepted: accepted.filter(|child| child.epoch.parent == newest.n),
        }
    }

    /// One question. `known` is the newest epoch the voter knows from elsewhere. The answer may leave only when the
    /// memory, if it changed, is on disk.
    pub fn answer(&mut self, known: &Epoch, parent: &Epoch, ask: &Ask) -> Answer {
        #[cfg(mutant = "voter_forgets")]
        {
            (self.promised, self.accepted) = (None, None);
        }
        let newest = self.newest(known);
        match ask {
            Ask::Look | Ask::Begin { .. } => return Answer::Seen(self.seen(known)),
            Ask::Promise(_) | Ask::Accept(..) => {}
        }
        if parent.n < newest.n {
            return Answer::Newer(newest);
        }
        if parent.n == newest.n && parent.members != newest.members {
            return Answer::Refused(format!(
                "it knows epoch {} with the sides {}",
                newest.n, newest.members
            ));
        }
        if parent.n < self.from {
            return Answer::Abstains(Some(self.from));
        }
        if self.parent.is_none_or(|known| known.n < parent.n) {
            // That this parent is current proves that the one before has had its child: nothing about it counts any more.
            *self = Memory {
                parent: Some(*parent),
                ..Memory::new(self.from)
            };
        }
        let (Ask::Promise(ballot) | Ask::Accept(ballot, _)) = ask else {
            return Answer::Seen(self.seen(known));
        };
        if let Some(promised) = self.promised
            && promised > *ballot
        {
            return Answer::Outbid(promised);
        }
        if let Ask::Accept(ballot, child) = ask {
            let follows = (child.epoch.parent, child.epoch.n) == (parent.n, parent.n + 1);
            if !follows || child.epoch.members.and(parent.members).is_empty() {
                // The data rule: none of these sides is known to have the last write.
                return Answer::Refused(format!(
                    "the sides {} cannot follow {}",
                    child.epoch.members, parent.members
                ));
            }
            self.promised = Some(*ballot);
            self.accepted = Some((*ballot, child.clone()));
            return Answer::Accepted;
        }
        self.promised = Some(*ballot);
        Answer::Promised(self.accepted.clone())
    }
}
