//! A side whose heartbeat is fine and that yet does not take what the others take: its disk is full, a privilege was
//! revoked, a check exists only there.
//!
//! Writers and repairs report what they met. As long as another member can take the writes, the side counts as unfit in
//! that epoch, which is what `membership` ejects. It returns by catch-up, which has to write there what it missed, and more
//! and more rarely if it goes on refusing: `membership` damps every side that comes and goes.
//!
//! Crash rule: nothing of this is stored; an instance that starts anew meets the refusal again.

use std::sync::atomic::Ordering;

use super::connection::Failure;
use super::epoch::Epoch;
use super::inner::{Inner, lock};
use super::{Reason, SideFault, SideId, SideSet};

/// What a side did not take.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The epoch in which it was a member and refused; 0 if it was out.
    epoch: i64,
    why: String,
}

impl Inner {
    /// A member did not take a write although a probe found nothing wrong with it. Says whether it will be ejected for
    /// that: not when it is the last one, for then nobody would be left.
    pub fn refuses_writes(&self, side: SideId, epoch: &Epoch, why: &str) -> bool {
        if self.without(side, epoch).is_empty() || cfg!(mutant = "heartbeat_is_enough") {
            return false;
        }
        self.keep(side, epoch.n, why);
        self.doubt(side);
        true
    }

    /// A repair failed at a side.
    pub fn note_repair_refused(&self, side: SideId, failure: &Failure) {
        let why = match failure {
            Failure::Side(SideFault::Unfit(why)) => why,
            // The pool's own statements: what they meet is the side's fault.
            Failure::Rejected(rejection) => &rejection.message,
            _ => return,
        };
        // The prober looks for what it is, and says it better.
        self.sides[side].refit.store(true, Ordering::Release);
        let epoch = self.view().epoch;
        if !epoch.members.contains(side) {
            self.keep(side, 0, why);
        } else if !matches!(failure, Failure::Rejected(_)) {
            self.refuses_writes(side, &epoch, why);
        }
    }

    /// What a new epoch means: its members take what is written, and who was left out was left out for a reason, perhaps
    /// met by another instance.
    pub fn learn_refusals(&self, epoch: &Epoch, reason: &str) {
        for side in epoch.members.iter() {
            *lock(&self.sides[side].refusal) = None;
        }
        self.learn_why_out(epoch, reason);
    }

    /// Why those who are out were left out, as the epoch's reason says.
    pub fn learn_why_out(&self, epoch: &Epoch, reason: &str) {
        // Of those we have: the reason may name others, and quotes servers.
        let out = self.sides.all().minus(epoch.members);
        if out.is_empty() {
            return;
        }
        for reason in Reason::read(reason) {
            if let Reason::Fault(side, SideFault::Unfit(why)) = reason
                && out.contains(side)
                && self.last_refusal(side).is_none()
            {
                self.keep(side, 0, &why);
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
        stands.then_some(refusal.why)
    }

    /// What a side that is out did not take, for the status page.
    pub fn last_refusal(&self, side: SideId) -> Option<String> {
        let refusal = lock(&self.sides[side].refusal);
        refusal.as_ref().map(|refusal| refusal.why.clone())
    }

    fn keep(&self, side: SideId, epoch: i64, why: &str) {
        let why = why.to_owned();
        *lock(&self.sides[side].refusal) = Some(Refusal { epoch, why });
    }

    /// The other members that answer.
    fn without(&self, side: SideId, epoch: &Epoch) -> SideSet {
        let others = epoch.members.minus(SideSet::EMPTY.with(side));
        others.and(self.well())
    }
}
