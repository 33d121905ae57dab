//! What would be lost next: which single further failure stops the writes.

use serde::Serialize;

use super::proposer::{Electorate, Seat};
use crate::multipool::{SideId, SideSet};

/// What one more failure would stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Margin {
    /// The only active side: without it nothing can be written.
    pub last_copy: Option<SideId>,
    /// Active sides whose loss would leave too few votes to go on without them.
    pub too_few_votes: Vec<SideId>,
    /// No other instance answers: without this one nobody serves.
    pub last_instance: bool,
}

impl Margin {
    /// Whether any single failure is survived.
    pub fn is_safe(&self) -> bool {
        self.last_copy.is_none() && self.too_few_votes.is_empty() && !self.last_instance
    }
}

/// `votes`: the seats that would vote now; `members`: the active sides.
pub(super) fn margin(electorate: &Electorate, votes: &[Seat], members: SideSet) -> Margin {
    let instances = |seats: &mut dyn Iterator<Item = Seat>| {
        seats.filter(|seat| matches!(seat, Seat::Instance(_))).count()
    };
    let configured = instances(&mut electorate.seats().map(|(seat, _)| seat));
    let answering = instances(&mut votes.iter().copied());
    let mut margin = Margin {
        last_instance: configured > 1 && answering <= 1,
        ..Margin::default()
    };
    for side in members.iter() {
        if members.len() == 1 {
            margin.last_copy = Some(side);
            continue;
        }
        let left = votes.iter().filter(|seat| **seat != Seat::Side(side));
        if electorate.weight(left) < electorate.needed() {
            margin.too_few_votes.push(side);
        }
    }
    margin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_more_failure_stops() {
        let (a, b): (SideId, SideId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (web1, web2) = (Seat::Instance(0), Seat::Instance(1));
        let (at_a, at_b, witness) = (Seat::Side(a), Seat::Side(b), Seat::Witness);
        let pair = Electorate::new(2, 2, false);
        let both = SideSet::first(2);
        let found = |votes: &[Seat], members| margin(&pair, votes, members);
        assert!(found(&[web1, web2, at_a, at_b], both).is_safe());
        // web2 is away: side a takes two of five votes with it.
        let without_web2 = found(&[web1, at_a, at_b], both);
        assert_eq!(
            (without_web2.too_few_votes, without_web2.last_instance),
            (vec![a], true)
        );
        assert_eq!(
            found(&[web1, web2, at_a], SideSet::EMPTY.with(a)).last_copy,
            Some(a)
        );
        // With a witness every voter counts the same.
        let five = Electorate::new(2, 2, true);
        let all = [web1, web2, at_a, at_b, witness];
        assert!(margin(&five, &all, both).is_safe());
        assert!(
            margin(&five, &all[..4], both).is_safe(),
            "three of five are left without a side"
        );
        assert_eq!(margin(&five, &[web1, at_a, at_b], both).too_few_votes, [a, b]);
        // Three sides and two instances: any two may be lost, so one is safe while one is away.
        let three = Electorate::new(3, 2, false);
        let at_c = Seat::Side("c".parse().unwrap());
        let all = SideSet::first(3);
        assert!(
            margin(
                &three,
                &[web1, web2, at_b, at_c],
                all.minus(SideSet::EMPTY.with(a))
            )
            .is_safe()
        );
        assert_eq!(
            margin(&three, &[web1, at_b, at_c], all.minus(SideSet::EMPTY.with(a))).too_few_votes,
            [b, "c".parse().unwrap()]
        );
        // Nobody else can act: only the last copy counts.
        let alone = Electorate::new(2, 1, false);
        assert!(margin(&alone, &[web1], both).is_safe());
    }
}
