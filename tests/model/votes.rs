//! The vote about the child of an epoch: one decision, made by more than half of the votes.
//!
//! Each voter keeps the highest ballot it has promised and the last one it has accepted, a side in a row, an instance in
//! its file. What a voter reports as accepted is proposed again, so that two
//! candidates for one parent cannot get different children; a voter that knows a newer epoch refuses.

use crate::scenario::{Grain, Rule, Scenario};
use crate::state::*;
use crate::steps::Voters;

const VOTERS: usize = 4;

/// Instances, then sides: see [`Voters`].
const WEIGHT: [u8; VOTERS] = [1, 1, 2, 1];

const MAJORITY: u8 = 3;

fn weight(voters: u8) -> u8 {
    (0..VOTERS)
        .filter(|v| voters & bit(*v) != 0)
        .map(|v| WEIGHT[v])
        .sum()
}

fn those(holds: impl Fn(usize) -> bool) -> u8 {
    (0..VOTERS).filter(|v| holds(*v)).fold(0, |set, v| set | bit(v))
}

impl World {
    /// What a voter keeps, and the latest epoch it knows.
    fn vote(&self, voter: usize) -> (Vote, u8) {
        match voter {
            0 | 1 => (self.instances[voter].vote, self.instances[voter].view.n),
            _ => (self.sides[voter - 2].vote, self.sides[voter - 2].epoch.n),
        }
    }

    fn vote_mut(&mut self, voter: usize) -> &mut Vote {
        match voter {
            0 | 1 => &mut self.instances[voter].vote,
            _ => &mut self.sides[voter - 2].vote,
        }
    }

    /// A vote about the child of an epoch that has one by now is over.
    pub fn forget_old_votes(&mut self) {
        for voter in 0..VOTERS {
            let (vote, known) = self.vote(voter);
            if vote.parent < known {
                *self.vote_mut(voter) = Vote::default();
            }
        }
    }

    fn hears(&self, i: Instance, voter: usize) -> bool {
        match voter {
            0 | 1 => voter == i || (self.instances[voter].up && !self.is_cut(PEERS)),
            _ => self.reaches(i, voter - 2),
        }
    }

    /// What a voter that is heard has to say about the child of `parent`; nothing if it knows a newer epoch.
    fn voter(&self, i: Instance, voter: usize, parent: u8) -> Option<Vote> {
        let (vote, known) = self.vote(voter);
        if !self.hears(i, voter) || known > parent || vote.parent > parent {
            return None;
        }
        let blank = Vote {
            parent,
            ..Vote::default()
        };
        Some(if vote.parent == parent { vote } else { blank })
    }

    /// Voters that are heard and would grant what this candidate asks next.
    fn willing(&self, i: Instance) -> u8 {
        let Candidate {
            stage,
            parent,
            ballot,
            ..
        } = self.instances[i].candidate;
        let would = |vote: Vote| match stage {
            Stage::Promise => ballot > vote.promised,
            Stage::Accept => ballot >= vote.promised,
            Stage::None | Stage::Granted => false,
        };
        those(|voter| self.voter(i, voter, parent).is_some_and(would))
    }

    /// Whether somebody refuses an instance its vote at this moment.
    pub fn is_refused(&self, i: Instance) -> bool {
        let candidate = self.instances[i].candidate;
        let heard = those(|voter| self.hears(i, voter));
        matches!(candidate.stage, Stage::Promise | Stage::Accept)
            && heard & !self.willing(i) & !candidate.granted != 0
    }
}

impl Scenario {
    /// In which portions voters are asked.
    pub fn voters(&self) -> &'static [Voters] {
        use Voters::*;
        match self.grain {
            Grain::Phase => &[All],
            Grain::Voter => &[One(0), One(1), One(2), One(3)],
        }
    }

    /// A member does not answer: its instance proposes to go on without it, if enough voters are there.
    pub fn candidate(&self, w: &World, i: Instance) -> Option<World> {
        let me = &w.instances[i];
        let parent = me.view;
        if !me.up || me.candidate.stage != Stage::None || w.rounds >= self.rounds {
            return None;
        }
        let well = [A, B]
            .iter()
            .filter(|s| w.reaches(i, **s))
            .fold(0, |set, s| set | bit(*s));
        let current = |s: Side| parent.members & bit(s) != 0 && w.sides[s].epoch.n == parent.n;
        let members = [A, B]
            .into_iter()
            .filter(|s| well & bit(*s) != 0 && (current(*s) || self.lacks(Rule::DataRule)))
            .fold(0, |set, s| set | bit(s));
        let free = self.lacks(Rule::Votes);
        let enough = weight(those(|voter| w.hears(i, voter))) >= MAJORITY;
        if parent.members & !well == 0 || members == 0 || !(enough || free) {
            return None;
        }
        // Ballots are in one order and no two are alike. One that is outbid is repeated above; here it starts there.
        let promised = (0..VOTERS)
            .filter_map(|v| w.voter(i, v, parent.n))
            .map(|v| v.promised)
            .max();
        let mut next = *w;
        next.rounds += 1;
        next.instances[i].candidate = Candidate {
            stage: if free { Stage::Granted } else { Stage::Promise },
            parent: parent.n,
            ballot: promised.unwrap_or(0) + 1,
            members,
            best: 0,
            granted: 0,
        };
        Some(next)
    }

    /// Phase 1: a voter will accept no lower ballot, and says what it has accepted.
    pub fn promise(&self, w: &World, i: Instance, voters: Voters) -> Option<World> {
        self.ask(w, i, voters, Stage::Promise, |next, voter| {
            let Candidate {
                parent, ballot, best, ..
            } = next.instances[i].candidate;
            let vote = next.voter(i, voter, parent).unwrap_or_default();
            *next.vote_mut(voter) = Vote {
                promised: ballot,
                ..vote
            };
            if vote.accepted > best && !self.lacks(Rule::AcceptedIsProposedAgain) {
                next.instances[i].candidate.best = vote.accepted;
                next.instances[i].candidate.members = vote.members;
            }
        })
    }

    /// Phase 2: a voter that has promised nothing higher accepts.
    pub fn accept(&self, w: &World, i: Instance, voters: Voters) -> Option<World> {
        self.ask(w, i, voters, Stage::Accept, |next, voter| {
            let Candidate {
                parent,
                ballot,
                members,
                ..
            } = next.instances[i].candidate;
            *next.vote_mut(voter) = Vote {
                parent,
                promised: ballot,
                accepted: ballot,
                members,
            };
        })
    }

    /// Asks voters in this stage; with more than half of the votes the next one begins.
    fn ask(
        &self,
        w: &World,
        i: Instance,
        voters: Voters,
        stage: Stage,
        grant: impl Fn(&mut World, usize),
    ) -> Option<World> {
        let candidate = w.instances[i].candidate;
        if candidate.stage != stage {
            return None;
        }
        let willing = w.willing(i) & !candidate.granted;
        let asked = match voters {
            Voters::One(voter) => willing & bit(voter),
            Voters::All if weight(willing) >= MAJORITY => willing,
            Voters::All => 0,
        };
        if asked == 0 {
            return None;
        }
        let mut next = *w;
        for voter in (0..VOTERS).filter(|v| asked & bit(*v) != 0) {
            grant(&mut next, voter);
        }
        let mine = &mut next.instances[i].candidate;
        mine.granted |= asked;
        if weight(mine.granted) >= MAJORITY {
            mine.granted = 0;
            mine.stage = match stage {
                Stage::Promise => Stage::Accept,
                _ => Stage::Granted,
            };
            if mine.stage == Stage::Granted {
                mine.best = 0;
            }
        }
        Some(next)
    }

    /// Too few voters are left that would grant it, or the survivor is gone.
    pub fn withdraw(&self, w: &World, i: Instance) -> Option<World> {
        let candidate = w.instances[i].candidate;
        let hopeless = match candidate.stage {
            Stage::None => false,
            Stage::Promise | Stage::Accept => weight(candidate.granted | w.willing(i)) < MAJORITY,
            Stage::Granted => !w.reaches(i, leader(candidate.members)),
        };
        if !hopeless {
            return None;
        }
        let mut next = *w;
        next.instances[i].candidate = Candidate::default();
        Some(next)
    }
}
