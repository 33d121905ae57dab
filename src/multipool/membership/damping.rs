//! A side that comes and goes is brought back more slowly each time, so that a flapping link cannot keep the membership
//! changing: every change costs writers a moment, and every return a catch-up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::multipool::{PerSide, SideId, SideSet};

/// A departure this long ago no longer counts.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);

/// Two heartbeats.
const WORD_SPREADS: Duration = Duration::from_millis(500);

/// After the second departure within that time; then twice as long each time.
const FIRST_TRIAL: Duration = Duration::from_secs(1);

/// Never longer.
const LONGEST_TRIAL: Duration = Duration::from_secs(60);

/// When each side left lately.
pub(super) struct Damping {
    members: SideSet,
    departures: PerSide<VecDeque<Instant>>,
}

impl Damping {
    pub fn new(sides: usize) -> Damping {
        Damping {
            members: SideSet::EMPTY,
            departures: PerSide::new(sides, |_| VecDeque::new()),
        }
    }

    /// The members as they are now, whoever changed them.
    pub fn note(&mut self, members: SideSet, now: Instant) {
        for side in self.members.minus(members).iter() {
            self.departures[side].push_back(now);
        }
        self.members = members;
        for (_, times) in self.departures.iter_mut() {
            times.retain(|at| now.duration_since(*at) < FORGOTTEN_AFTER);
        }
    }

    /// When a side left last, if that was lately.
    pub fn left(&self, side: SideId) -> Option<Instant> {
        self.departures[side].back().copied()
    }

    /// How long a side must have answered without a break before it is brought back. Once is no habit, and waits only until
    /// every instance has heard why.
    pub fn trial(&self, side: SideId) -> Duration {
        match self.departures[side].len() {
            0 => Duration::ZERO,
            1 => WORD_SPREADS,
            times => {
                let doublings = u32::try_from(times - 2).unwrap_or(u32::MAX).min(10);
                (FIRST_TRIAL * 2u32.pow(doublings)).min(LONGEST_TRIAL)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_departure_within_minutes_doubles_the_trial_up_to_a_minute() {
        let (both, only_a) = (SideSet::first(2), SideSet::first(1));
        let b = both.minus(only_a).leader().unwrap();
        let start = Instant::now();
        let mut damping = Damping::new(2);
        let mut trials = Vec::new();
        for n in 0..10 {
            let now = start + Duration::from_secs(2 * n);
            damping.note(both, now);
            damping.note(only_a, now + Duration::from_secs(1));
            trials.push(damping.trial(b).as_secs());
        }
        assert_eq!(trials, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(damping.trial(only_a.leader().unwrap()), Duration::ZERO);
        // Nothing changed: nothing counts.
        damping.note(only_a, start + Duration::from_secs(30));
        assert_eq!(damping.trial(b).as_secs(), 60);
        damping.note(only_a, start + Duration::from_secs(30) + FORGOTTEN_AFTER);
        assert_eq!(damping.trial(b), Duration::ZERO);
    }
}
