//! Candidates and voters in every order: one child a parent, whatever is lost, late, or begun anew.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use uuid::Uuid;

use super::acceptor::{Answer, Ask, Ballot, Child, Memory};
use super::proposer::{Electorate, Phase, Progress, Proposer, Seat};
use crate::multipool::SideSet;
use crate::multipool::epoch::Epoch;

fn epoch(n: i64, mask: i32) -> Epoch {
    Epoch {
        n,
        parent: n - 1,
        members: SideSet::from_mask(mask),
        generation: Uuid::nil(),
    }
}

fn child(n: i64, mask: i32) -> Child {
    Child {
        epoch: epoch(n, mask),
        reason: String::new(),
    }
}

/// One attempt of a candidate. A candidate that dies simply does not move any more.
#[derive(Clone, Debug)]
struct Attempt {
    ballot: Ballot,
    proposer: Proposer,
    accept: Option<Ask>,
    /// By voter: whether it was asked to promise, and to accept.
    asked: Vec<[bool; 2]>,
    decided: Option<Child>,
}

#[derive(Clone, Debug)]
struct World {
    electorate: Vec<(Seat, u32)>,
    parent: Epoch,
    voters: Vec<Memory>,
    attempts: Vec<Attempt>,
}

/// A question reaches a voter; its answer reaches the candidate, or is lost.
#[derive(Clone, Copy, Debug)]
struct Move {
    attempt: usize,
    voter: usize,
    accept: bool,
    lost: bool,
}

impl World {
    fn new(electorate: &Electorate, attempts: &[(i64, i32)]) -> World {
        let seats: Vec<(Seat, u32)> = electorate.seats().collect();
        let attempt = |(index, (round, mask)): (usize, &(i64, i32))| {
            let ballot = Ballot {
                round: *round,
                attempt: Uuid::from_u128(index as u128),
            };
            Attempt {
                ballot,
                proposer: Proposer::new(electorate.clone(), ballot, child(2, *mask)),
                accept: None,
                asked: vec![[false; 2]; seats.len()],
                decided: None,
            }
        };
        World {
            voters: vec![Memory::new(0); seats.len()],
            attempts: attempts.iter().enumerate().map(attempt).collect(),
            electorate: seats,
            parent: epoch(1, 3),
        }
    }

    /// What can happen next. That a question is lost is every run in which it never arrives; that an answer is late is a run
    /// in which the candidate's next questions are. An accepted child counts as heard: a decision is one, heard or not.
    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (number, attempt) in self.attempts.iter().enumerate() {
            for (voter, asked) in attempt.asked.iter().enumerate() {
                let mut may = |accept, lost| {
                    moves.push(Move {
                        attempt: number,
                        voter,
                        accept,
                        lost,
                    });
                };
                if attempt.proposer.phase == Phase::Promising && !asked[0] {
                    may(false, false);
                    may(false, true);
                }
                if attempt.accept.is_some() && !asked[1] {
                    may(true, false);
                }
            }
        }
        moves
    }

    fn step(&mut self, step: Move) {
        let attempt = &mut self.attempts[step.attempt];
        attempt.asked[step.voter][usize::from(step.accept)] = true;
        let ask = match &attempt.accept {
            Some(ask) if step.accept => ask.clone(),
            _ => Ask::Promise(attempt.ballot),
        };
        let answer = self.voters[step.voter].answer(&Epoch::NONE, &self.parent, &ask);
        // That a voter says no tells the candidate when to stop; here it stops whenever it does not move any more.
        if step.lost || !matches!(answer, Answer::Promised(_) | Answer::Accepted) {
            return;
        }
        let (seat, _) = self.electorate[step.voter];
        let voter = Uuid::from_u128(step.voter as u128);
        match attempt.proposer.hear(seat, Some((voter, answer))) {
            Progress::Next(ask) => attempt.accept = Some(ask),
            Progress::Decided(child) => attempt.decided = Some(child),
            Progress::Waiting | Progress::Newer(_) | Progress::Failed => {}
        }
    }

    /// The same for worlds that differ only in which of several equal voters did something.
    fn fingerprint(&self) -> u64 {
        let digest = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        let mut voters: Vec<(u32, u64)> = (0..self.voters.len())
            .map(|v| {
                let (seat, weight) = self.electorate[v];
                let all = digest(&|h| {
                    self.voters[v].hash(h);
                    for attempt in &self.attempts {
                        let promising = attempt.proposer.phase == Phase::Promising;
                        (promising && attempt.asked[v][0]).hash(h);
                        (attempt.accept.is_some() && attempt.asked[v][1]).hash(h);
                        attempt.proposer.granted.contains(&seat).hash(h);
                    }
                });
                (weight, all)
            })
            .collect();
        voters.sort_unstable();
        digest(&|h| {
            voters.hash(h);
            for attempt in &self.attempts {
                attempt.proposer.child.hash(h);
                attempt.proposer.bound_by.hash(h);
                attempt.proposer.phase.hash(h);
                attempt.accept.hash(h);
                attempt.decided.hash(h);
            }
        })
    }

    fn assert_one_child(&self) {
        let mut decided = self.attempts.iter().filter_map(|a| a.decided.as_ref());
        if let Some(first) = decided.next() {
            assert!(
                decided.all(|other| other == first),
                "two children of one parent: {self:#?}"
            );
        }
    }
}

/// Every order in which questions and answers can arrive or be lost. Returns the number of different worlds, and of those in
/// which both candidates were told of a decision.
fn explore(start: World) -> (usize, usize) {
    let mut known = HashSet::from([start.fingerprint()]);
    let (mut waiting, mut decided) = (vec![start], 0);
    while let Some(world) = waiting.pop() {
        world.assert_one_child();
        decided += usize::from(world.attempts.iter().filter(|a| a.decided.is_some()).count() > 1);
        for step in world.moves() {
            let mut after = world.clone();
            after.step(step);
            if known.insert(after.fingerprint()) {
                waiting.push(after);
            }
        }
    }
    println!("{} worlds, {decided} with two decisions", known.len());
    (known.len(), decided)
}

#[test]
fn two_candidates_and_the_usual_votes_in_every_order() {
    let electorate = Electorate::new(2, 2, false);
    let (worlds, decided_twice) = explore(World::new(&electorate, &[(1, 1), (1, 2)]));
    assert!(
        worlds > 1_000 && decided_twice > 0,
        "{worlds} worlds, {decided_twice} with two decisions"
    );
}

#[test]
fn two_candidates_and_five_equal_voters_in_every_order() {
    let electorate = Electorate::new(2, 2, true);
    let (worlds, decided_twice) = explore(World::new(&electorate, &[(1, 1), (1, 2)]));
    assert!(
        worlds > 1_000 && decided_twice > 0,
        "{worlds} worlds, {decided_twice} with two decisions"
    );
}

#[test]
fn two_candidates_and_three_sides_in_every_order() {
    let electorate = Electorate::new(3, 2, false);
    let mut start = World::new(&electorate, &[(1, 3), (1, 6)]);
    start.parent = epoch(1, 7);
    let (worlds, decided_twice) = explore(start);
    assert!(
        worlds > 1_000 && decided_twice > 0,
        "{worlds} worlds, {decided_twice} with two decisions"
    );
}

#[test]
fn a_candidate_that_dies_and_begins_again_in_every_order() {
    // Three voters, two of them needed: the smallest in which three attempts can cross.
    let electorate = Electorate::new(1, 1, true);
    let (worlds, decided_twice) = explore(World::new(&electorate, &[(1, 1), (1, 2), (2, 1)]));
    assert!(
        worlds > 1_000 && decided_twice > 0,
        "{worlds} worlds, {decided_twice} with two decisions"
    );
}

/// A small generator of its own, so that a run can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Candidates that begin again and again over several epochs, among them some that still believe an old one; voters that
/// lose their memory and begin above everything the others know.
#[test]
fn many_candidates_over_many_epochs_at_random() {
    let mut longest = 0;
    for seed in 1..600_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let electorate = Electorate::new(2, 2, seed.is_multiple_of(2));
        let seats: Vec<(Seat, u32)> = electorate.seats().collect();
        let mut voters = vec![Memory::new(0); seats.len()];
        let mut children: BTreeMap<i64, Child> = BTreeMap::new();
        let mut current = epoch(1, 3);
        let mut running: Vec<(Epoch, Attempt)> = Vec::new();
        for time in 0..400_u128 {
            if running.len() < 3 {
                let ballot = Ballot {
                    round: dice.below(50) as i64,
                    attempt: Uuid::from_u128(time),
                };
                // One in four believes the epoch before.
                let old = children.contains_key(&current.parent) && dice.below(4) == 0;
                let parent = match old {
                    true => children
                        .get(&(current.parent - 1))
                        .map_or(epoch(1, 3), |child| child.epoch),
                    false => current,
                };
                // Some side of the parent stays; the generation tells the wishes apart.
                let mut wish = child(parent.n + 1, [1, 2, 3][dice.below(3)]);
                if wish.epoch.members.and(parent.members).is_empty() {
                    wish.epoch.members = SideSet::first(2);
                }
                wish.epoch.generation = Uuid::from_u128(time);
                let attempt = Attempt {
                    ballot,
                    proposer: Proposer::new(electorate.clone(), ballot, wish),
                    accept: None,
                    asked: vec![[false; 2]; seats.len()],
                    decided: None,
                };
                running.push((parent, attempt));
            }
            let place = dice.below(running.len());
            if dice.below(30) == 0 {
                // It dies, or gives up.
                running.remove(place);
                continue;
            }
            if dice.below(60) == 0 {
                lose_memory(&mut voters, &seats, &electorate, dice.below(seats.len()));
                continue;
            }
            let (parent, attempt) = &mut running[place];
            let v = dice.below(seats.len());
            let which = usize::from(attempt.accept.is_some() && dice.below(4) > 0);
            let ask = match (which, &attempt.accept) {
                (1, Some(ask)) => ask.clone(),
                _ => Ask::Promise(attempt.ballot),
            };
            // Every side stores the first epoch.
            let answer = voters[v].answer(&epoch(1, 3), parent, &ask);
            if dice.below(5) == 0 {
                continue;
            }
            let heard = attempt
                .proposer
                .hear(seats[v].0, Some((Uuid::from_u128(v as u128), answer)));
            match heard {
                Progress::Next(ask) => attempt.accept = Some(ask),
                Progress::Decided(decided) => {
                    let n = parent.n;
                    let first = children.entry(n).or_insert_with(|| decided.clone());
                    assert_eq!(*first, decided, "seed {seed}: two children of epoch {n}");
                    if decided.epoch.n > current.n {
                        current = decided.epoch;
                    }
                    running.remove(place);
                }
                Progress::Newer(_) | Progress::Failed => {
                    running.remove(place);
                }
                Progress::Waiting => {}
            }
        }
        longest = longest.max(children.len());
    }
    assert!(longest > 3, "only {longest} epochs in the longest run");
}

/// As `begin` does it: a voter without memory asks the rest, and begins above everything more than half of all know.
fn lose_memory(voters: &mut [Memory], seats: &[(Seat, u32)], electorate: &Electorate, lost: usize) {
    let others = (0..voters.len()).filter(|v| *v != lost);
    let (mut known, mut highest) = (Vec::new(), 0);
    for v in others {
        known.push(seats[v].0);
        highest = highest.max(voters[v].seen(&epoch(1, 3)).highest());
    }
    assert!(electorate.weight(&known) >= electorate.needed());
    voters[lost] = Memory::new(highest + 1);
}

#[test]
fn more_than_half_of_all_votes() {
    for (sides, instances, witness, votes) in [
        (2, 1, false, (1, 1)),
        (2, 2, false, (5, 3)),
        (2, 2, true, (5, 3)),
        (3, 2, false, (5, 3)),
        (2, 3, false, (5, 3)),
        (3, 3, false, (7, 4)),
        (3, 1, false, (1, 1)),
        (2, 1, true, (4, 3)),
        (3, 2, true, (6, 4)),
    ] {
        let electorate = Electorate::new(sides, instances, witness);
        assert_eq!((electorate.total(), electorate.needed()), votes);
    }
}

/// Every way to part the seats in two, tried one by one.
fn halves(electorate: &Electorate) -> impl Iterator<Item = [Vec<Seat>; 2]> {
    let seats: Vec<Seat> = electorate.seats().map(|(seat, _)| seat).collect();
    (0..1_usize << seats.len()).map(move |mask| {
        let half = |yes: bool| {
            let seats = seats.iter().enumerate();
            let of_half = seats.filter(|(place, _)| (mask >> place & 1 == 1) == yes);
            of_half.map(|(_, seat)| *seat).collect()
        };
        [half(true), half(false)]
    })
}

#[test]
fn of_two_halves_exactly_one_decides_without_a_witness() {
    for (sides, instances) in (1..=4).flat_map(|sides| (2..=4).map(move |instances| (sides, instances))) {
        let electorate = Electorate::new(sides, instances, false);
        for half in halves(&electorate) {
            let deciding = half
                .iter()
                .filter(|seats| electorate.weight(*seats) >= electorate.needed());
            assert_eq!(
                deciding.count(),
                1,
                "{sides} sides, {instances} instances: {half:?}"
            );
        }
    }
}

/// With three sides and two instances any two voters may be lost; any single one with two.
#[test]
fn what_may_be_lost() {
    for (sides, witness, may_be_lost) in [(2, false, 1), (2, true, 2), (3, false, 2), (3, true, 2)] {
        let electorate = Electorate::new(sides, 2, witness);
        for [lost, left] in halves(&electorate).filter(|[lost, _]| lost.len() <= may_be_lost) {
            assert!(
                electorate.weight(&left) >= electorate.needed(),
                "{sides} sides, witness {witness}: {lost:?} are lost"
            );
        }
    }
}

/// While instances are replaced one after the other, some still count two votes for side a: a group that decides by their
/// count and one that decides by ours have a voter in common.
#[test]
fn groups_that_decide_by_the_earlier_count_meet_ours() {
    for (sides, instances) in [(3, 2), (2, 3), (4, 3), (3, 4)] {
        let electorate = Electorate::new(sides, instances, false);
        let a = Seat::Side("a".parse().unwrap());
        let earlier = |seats: &[Seat]| seats.len() + usize::from(seats.contains(&a));
        let all: Vec<Seat> = electorate.seats().map(|(seat, _)| seat).collect();
        for [ours, theirs] in halves(&electorate) {
            let decide = [
                electorate.weight(&ours) >= electorate.needed(),
                earlier(&theirs) > earlier(&all) / 2,
            ];
            assert_ne!(decide, [true; 2], "{ours:?} and {theirs:?}");
        }
    }
}

#[test]
fn one_voter_behind_two_addresses_counts_once() {
    let electorate = Electorate::new(2, 3, true);
    let ballot = Ballot {
        round: 1,
        attempt: Uuid::nil(),
    };
    let mut proposer = Proposer::new(electorate, ballot, child(2, 1));
    let same = Uuid::from_u128(5);
    for seat in [Seat::Instance(0), Seat::Instance(1), Seat::Instance(2)] {
        proposer.hear(seat, Some((same, Answer::Promised(None))));
    }
    let witness = (Uuid::from_u128(6), Answer::Promised(None));
    // Two voters of six: four seats have answered.
    assert_eq!(proposer.hear(Seat::Witness, Some(witness)), Progress::Waiting);
}

#[test]
fn a_voter_keeps_the_data_rule_and_its_own_past() {
    let ballot = |round| Ballot {
        round,
        attempt: Uuid::nil(),
    };
    let parent = epoch(5, 1);
    let mut voter = Memory::new(0);
    // Nobody of the new members is known to have the last write; a number that does not follow.
    for wrong in [child(6, 2), child(7, 1)] {
        let answer = voter.answer(&Epoch::NONE, &parent, &Ask::Accept(ballot(1), wrong));
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
    // Another membership of the same number.
    let split = voter.answer(&epoch(5, 2), &parent, &Ask::Promise(ballot(1)));
    assert!(matches!(split, Answer::Refused(_)), "{split:?}");
    let mut late = Memory::new(6);
    assert_eq!(
        late.answer(&Epoch::NONE, &parent, &Ask::Promise(ballot(1))),
        Answer::Abstains(Some(6))
    );
    assert_eq!(
        late.answer(&Epoch::NONE, &epoch(6, 1), &Ask::Promise(ballot(1))),
        Answer::Promised(None)
    );
}
