//! A candidate's side of a vote, as a pure state machine: which answers make a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use uuid::Uuid;

use super::acceptor::{Answer, Ask, Ballot, Child};
use crate::multipool::SideId;
use crate::multipool::epoch::Epoch;

/// Who votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::multipool) enum Seat {
    /// An instance; 0 is this one, the others are the configured peers.
    Instance(usize),
    Witness,
    Side(SideId),
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seat::Instance(0) => f.write_str("this instance"),
            Seat::Instance(n) => write!(f, "peer {n}"),
            Seat::Witness => f.write_str("the witness"),
            Seat::Side(side) => write!(f, "side {side}"),
        }
    }
}

/// All who vote, with their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::multipool) struct Electorate(BTreeMap<Seat, u32>);

impl Electorate {
    /// Every side and every instance has a vote. Where these are even in number, side a has one more: of an odd number of
    /// votes one of two halves has a majority, so a crossed partition has one winner. Where they are odd by themselves
    /// (three sides, two instances) nobody has, so that any two sides may be lost. With a witness all count the same, so
    /// that either of two machines may burn. An instance that is alone has nobody to disagree with.
    pub fn new(sides: usize, instances: usize, witness: bool) -> Electorate {
        let mut seats: BTreeMap<Seat, u32> = (0..instances).map(|n| (Seat::Instance(n), 1)).collect();
        if instances > 1 || witness {
            let tie = !witness && (sides + instances).is_multiple_of(2);
            let sides = (0..sides).filter_map(SideId::from_index);
            seats.extend(sides.map(|side| {
                let weight = if side.index() == 0 && (tie || cfg!(mutant = "heavy_a")) {
                    2
                } else {
                    1
                };
                (Seat::Side(side), weight)
            }));
        }
        if witness {
            seats.insert(Seat::Witness, 1);
        }
        Electorate(seats)
    }

    /// Every seat with its weight.
    pub fn seats(&self) -> impl Iterator<Item = (Seat, u32)> {
        self.0.iter().map(|(seat, weight)| (*seat, *weight))
    }

    /// All votes.
    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }

    /// More than half of them: two such groups have a voter in common.
    pub fn needed(&self) -> u32 {
        if cfg!(mutant = "no_votes") {
            return 1;
        }
        self.total() / 2 + 1
    }

    /// The votes of these seats.
    pub fn weight<'a>(&self, seats: impl IntoIterator<Item = &'a Seat>) -> u32 {
        seats.into_iter().filter_map(|seat| self.0.get(seat)).sum()
    }
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::multipool) enum Progress {
    /// More answers are needed.
    Waiting,
    /// Everybody is to be asked this now.
    Next(Ask),
    /// This child follows the parent, for ever.
    Decided(Child),
    /// The parent is no longer current.
    Newer(Epoch),
    /// Too few votes can still come. Had some been given, the next attempt will find them.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Promising,
    Accepting,
    Over,
}

/// One attempt of one candidate.
#[derive(Clone, Debug)]
pub(in crate::multipool) struct Proposer {
    electorate: Electorate,
    ballot: Ballot,
    pub(super) child: Child,
    /// The latest ballot in which a voter has accepted something: that child is proposed instead of ours.
    pub(super) bound_by: Option<Ballot>,
    pub(super) phase: Phase,
    pub(super) granted: BTreeSet<Seat>,
    denied: BTreeSet<Seat>,
    /// Who has answered, so that one voter behind two addresses counts once.
    voters: BTreeMap<Uuid, Seat>,
}

impl Proposer {
    /// The first question is [`Ask::Promise`] with this ballot.
    pub fn new(electorate: Electorate, ballot: Ballot, wish: Child) -> Proposer {
        Proposer {
            electorate,
            ballot,
            child: wish,
            bound_by: None,
            phase: Phase::Promising,
            granted: BTreeSet::new(),
            denied: BTreeSet::new(),
            voters: BTreeMap::new(),
        }
    }

    /// One answer; `None` when a voter did not give one.
    pub fn hear(&mut self, seat: Seat, answer: Option<(Uuid, Answer)>) -> Progress {
        if self.phase == Phase::Over || self.granted.contains(&seat) {
            return Progress::Waiting;
        }
        let Some((voter, answer)) = answer else {
            return self.deny(seat);
        };
        if *self.voters.entry(voter).or_insert(seat) != seat {
            return self.deny(seat);
        }
        match (answer, self.phase) {
            (Answer::Newer(epoch), _) => {
                self.phase = Phase::Over;
                Progress::Newer(epoch)
            }
            (Answer::Promised(accepted), Phase::Promising) => {
                if let Some((ballot, child)) = accepted
                    && self.bound_by.is_none_or(|known| known < ballot)
                {
                    (self.bound_by, self.child) = (Some(ballot), child);
                }
                self.granted.insert(seat);
                if self.electorate.weight(&self.granted) < self.electorate.needed() {
                    return self.still_possible();
                }
                self.phase = Phase::Accepting;
                self.granted.clear();
                self.denied.clear();
                Progress::Next(Ask::Accept(self.ballot, self.child.clone()))
            }
            (Answer::Accepted, Phase::Accepting) => {
                self.granted.insert(seat);
                if self.electorate.weight(&self.granted) < self.electorate.needed() {
                    return self.still_possible();
                }
                self.phase = Phase::Over;
                Progress::Decided(self.child.clone())
            }
            // A promise that comes when enough were there.
            (Answer::Promised(_), _) => Progress::Waiting,
            (
                Answer::Outbid(_)
                | Answer::Abstains(_)
                | Answer::Refused(_)
                | Answer::Seen(_)
                | Answer::Accepted,
                _,
            ) => self.deny(seat),
        }
    }

    fn deny(&mut self, seat: Seat) -> Progress {
        self.denied.insert(seat);
        self.still_possible()
    }

    fn still_possible(&mut self) -> Progress {
        let lost = self.electorate.weight(&self.denied);
        if self.electorate.total() - lost >= self.electorate.needed() {
            return Progress::Waiting;
        }
        self.phase = Phase::Over;
        Progress::Failed
    }
}
