//! A side whose heartbeat is fine and that yet does not take what the others take: its disk is full, a privilege was
//! revoked, a check exists only there.
//!
//! Writers report what they met. As long as another member can take the writes, the side counts as unfit in that epoch,
//! which is what `membership` ejects. It returns by catch-up, which has to write there what it missed; one that keeps
//! refusing is let back more and more rarely, so that a full disk costs one change of membership and not a hundred.
//!
//! Crash rule: nothing of this is stored; an instance that starts anew meets the refusal again.

use std::time::{Duration, Instant};

use super::epoch::Epoch;
use super::inner::{Inner, lock};
use super::{SideId, SideSet};

/// Pause before a side that refused is let back; doubled every time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// No pause is longer: what was mended must be used again soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A side that took everything for this long has a clean record.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// What a side did not take.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The epoch in which it was a member and refused.
    epoch: i64,
    /// Nothing once it is a member again.
    why: Option<String>,
    at: Instant,
    /// Refusals since the last long time without one.
    times: u32,
}

impl Refusal {
    fn next(before: Option<&Refusal>, epoch: i64, why: &str, now: Instant) -> Refusal {
        let times = match before {
            Some(before) if before.epoch == epoch => before.times,
            Some(before) if now.duration_since(before.at) < FORGET_AFTER => before.times + 1,
            _ => 1,
        };
        Refusal {
            epoch,
            why: Some(why.to_owned()),
            at: now,
            times,
        }
    }

    fn pause(&self) -> Duration {
        let doubled = FIRST_PAUSE * 2u32.saturating_pow(self.times.saturating_sub(1).min(10));
        doubled.min(LONGEST_PAUSE)
    }
}

impl Inner {
    /// A member did not take a write although a probe found nothing wrong with it. Says whether it will be ejected for
    /// that: not when it is the last one, for then nobody would be left.
    pub fn refuses_writes(&self, side: SideId, epoch: &Epoch, why: &str) -> bool {
        if self.without(side, epoch).is_empty() || cfg!(mutant = "heartbeat_is_enough") {
            return false;
        }
        let mut refusal = lock(&self.sides[side].refusal);
        let next = Refusal::next(refusal.as_ref(), epoch.n, why, Instant::now());
        *refusal = Some(next);
        drop(refusal);
        self.doubt(side);
        true
    }

    /// What a side that is out does not take, as its repair or another instance has met it: for the status page.
    pub fn note_refusal(&self, side: SideId, why: &str) {
        let mut refusal = lock(&self.sides[side].refusal);
        let now = Instant::now();
        let refusal = refusal.get_or_insert(Refusal {
            epoch: 0,
            why: None,
            at: now.checked_sub(LONGEST_PAUSE).unwrap_or(now),
            times: 0,
        });
        refusal.why = Some(why.to_owned());
    }

    /// What a new epoch means: its members take what is written, and who was left out was left out for a reason.
    pub fn learn_refusals(&self, epoch: &Epoch, reason: &str) {
        for side in self.sides.ids() {
            if epoch.members.contains(side) {
                if let Some(refusal) = lock(&self.sides[side].refusal).as_mut() {
                    refusal.why = None;
                }
            } else if let Some((_, why)) = reason.split_once(&format!("side {side} cannot be used: ")) {
                self.note_refusal(side, why);
            }
        }
    }

    /// Why a side must be seen as unfit now: it refused a write in this epoch, and another member takes it.
    pub fn standing_refusal(&self, side: SideId) -> Option<String> {
        let epoch = self.view().epoch;
        let refusal = lock(&self.sides[side].refusal).clone()?;
        let stands = refusal.epoch == epoch.n
            && epoch.members.contains(side)
            && !self.without(side, &epoch).is_empty();
        refusal.why.filter(|_| stands)
    }

    /// What a side refused when it was ejected.
    pub fn last_refusal(&self, side: SideId) -> Option<String> {
        let refusal = lock(&self.sides[side].refusal);
        refusal.as_ref()?.why.clone()
    }

    /// Whether a side that refused has to wait before it is let back.
    pub fn is_resting(&self, side: SideId) -> bool {
        let refusal = lock(&self.sides[side].refusal);
        refusal
            .as_ref()
            .is_some_and(|refusal| refusal.at.elapsed() < refusal.pause())
    }

    /// The other members that answer.
    fn without(&self, side: SideId, epoch: &Epoch) -> SideSet {
        epoch.members.and(self.well()).minus(SideSet::EMPTY.with(side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_keeps_refusing_is_let_back_more_and_more_rarely() {
        let start = Instant::now();
        let mut last = Refusal::next(None, 1, "disk full", start);
        assert_eq!(last.pause(), FIRST_PAUSE);
        let again = Refusal::next(Some(&last), 1, "disk full", start);
        assert_eq!(again.times, 1, "many writers meet one refusal");
        for epoch in 3..20 {
            let next = Refusal::next(Some(&last), epoch, "disk full", start);
            assert!(next.pause() >= last.pause() && next.pause() <= LONGEST_PAUSE);
            last = next;
        }
        assert_eq!(last.pause(), LONGEST_PAUSE);
        let later = Refusal::next(Some(&last), 40, "disk full", start + FORGET_AFTER);
        assert_eq!(later.pause(), FIRST_PAUSE);
    }
}
