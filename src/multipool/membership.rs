//! Who is active: the decision is a pure function (`decide`), the task performs it (`change`, `repair`).
//!
//! No epoch is changed without the votes of more than half (`votes`).

mod change;
mod damping;
mod decide;
mod repair;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Failure, words};
use super::epoch::Epoch;
use super::inner::Inner;
use super::{Happened, Loss, NotApplied, PerSide, Reason, Repair, SideFault, SideId, SideSet};
use change::{Changed, adopt, change};
use damping::Damping;
use decide::{Action, Seen, next, wants_sweep};
use repair::{Ended, Repaired, Running};

/// A side that was left out because it did not take a write is not brought back before this is over.
const REFUSAL_TRIAL: Duration = Duration::from_secs(2);

/// The task looks again after this long even if nothing stirred.
const TICK: Duration = Duration::from_millis(500);

/// Pause before a repair that failed is tried again.
const REPAIR_PAUSE: Duration = Duration::from_millis(500);

/// A voter without memory is no reason to change the epoch again and again.
const RENEW_PAUSE: Duration = Duration::from_secs(10);

/// Pause before a rebuild that was refused is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The named background task `membership`.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut task = Membership {
        damping: Damping::new(inner.sides.count()),
        on_trial: SideSet::EMPTY,
        repair: None,
        not_before: Instant::now(),
        put_off: None,
        sweep: None,
        sweep_after: Instant::now(),
        swept: None,
        rebuild: None,
        rebuild_after: Instant::now(),
        renew_at: Instant::now(),
        last_failure: None,
        inner,
    };
    let inner = Arc::clone(&task.inner);
    let mut remembered = false;
    loop {
        if let Some(ended) = task.repair.take_if(|r| r.handle.is_finished()) {
            match ended.handle.await {
                Ok(result) => task.note_repair(ended.repair, ended.side, ended.epoch, result),
                Err(error) => panicked(&inner, ended.repair, &error),
            }
            inner.view.send_modify(|view| view.catching_up = None);
        }
        if let Some(ended) = task.sweep.take_if(|r| r.handle.is_finished()) {
            match ended.handle.await {
                Ok(result) => task.note_sweep(ended.repair, result),
                Err(error) => panicked(&inner, ended.repair, &error),
            }
        }
        if let Some(ended) = task.rebuild.take_if(|r| r.handle.is_finished()) {
            match ended.handle.await {
                Ok(result) => task.note_rebuild(ended.repair, result),
                Err(error) => panicked(&inner, ended.repair, &error),
            }
        }
        remembered = remembered || remember(&inner);
        if remembered {
            task.step().await;
        }
        tokio::select! {
            () = inner.stir.notified() => {}
            () = tokio::time::sleep(TICK) => {}
            () = inner.closed() => break,
        }
    }
    for repair in [task.repair, task.sweep, task.rebuild].into_iter().flatten() {
        repair.handle.abort();
    }
}

/// Reads the state file, once a side has told which pool this is: before any side is believed. A file that cannot be
/// read refuses writes; guessing would break the promise it is for.
fn remember(inner: &Inner) -> bool {
    let Some(lineage) = inner.lineage.get() else {
        return false;
    };
    match inner.state_file.load(*lineage) {
        Ok(stored) => {
            if let Some(stored) = stored.filter(|e| e.members.is_subset(inner.sides.all())) {
                inner.view.send_modify(|view| view.epoch = stored);
            }
            true
        }
        Err(error) => {
            tracing::error!(%error, "the state file cannot be read");
            refuse(inner, NotApplied::NoMemory(error));
            false
        }
    }
}

/// What the task remembers between two decisions.
struct Membership {
    inner: Arc<Inner>,
    damping: Damping,
    /// Sides that are watched before they are brought back, and were announced as such.
    on_trial: SideSet,
    repair: Option<Running>,
    /// No repair before this.
    not_before: Instant,
    /// The side that could not be brought back or aligned in this epoch, for a reason that may last. What failed in an
    /// earlier epoch says nothing about one whose return another has just finished.
    put_off: Option<(SideId, i64)>,
    /// Bringing leftovers of the members together does not wait for a side that is caught up, which may take long.
    sweep: Option<Running>,
    /// No sweep before this.
    sweep_after: Instant,
    /// When the last sweep was done: what a side was asked before says nothing about what is left now, and a sweep stops
    /// every writer.
    swept: Option<std::time::Instant>,
    /// A rebuild takes its time and must not hold up the rest.
    rebuild: Option<Running>,
    /// No rebuild before this.
    rebuild_after: Instant,
    renew_at: Instant,
    last_failure: Option<Happened>,
}

impl Membership {
    /// One decision and what follows from it.
    async fn step(&mut self) {
        let epoch = self.inner.view().epoch;
        let now = std::time::Instant::now();
        self.damping.note(epoch.members, now);
        let sides = self.look(&epoch, now);
        let inner = &self.inner;
        let rebuilding = self.rebuild.is_some() || Instant::now() < self.rebuild_after;
        let action = next(&epoch, &sides, &inner.assembly.heard(&epoch), now, rebuilding);
        match action {
            Action::Refuse(_)
            | Action::Adopt(_)
            | Action::AskOthers(_)
            | Action::Eject(_)
            | Action::Advance(_) => {}
            _ => allow(inner, &epoch).await,
        }
        if matches!(action, Action::Sweep | Action::CatchUp(_) | Action::Rebuild(..))
            && wants_sweep(&epoch, &sides)
            && self.sweep.is_none()
            && Instant::now() >= self.sweep_after
        {
            self.sweep = Some(repair::start(inner, epoch, &Action::Sweep));
        }
        match action {
            Action::Rest => {}
            Action::Adopt(newer) => {
                adopt(inner, newer).await;
                inner.stir.notify_one();
            }
            Action::Refuse(reason) => refuse(inner, reason),
            Action::AskOthers(others) => others
                .iter()
                .for_each(|side| inner.sides[side].doubted.notify_one()),
            Action::Eject(dead) => {
                let fault = |side| Some(Reason::Fault(side, inner.health(side).fault?));
                let members = epoch.members.minus(dead);
                let unfinished = dead.iter().filter(|side| sides[*side].well);
                let why = dead
                    .iter()
                    .filter_map(fault)
                    .chain(unfinished.map(Reason::Unfinished));
                let why = Reason::sentence(&why.collect::<Vec<_>>());
                if let Changed::Refused(reason) = self.change(&epoch, members, why).await {
                    // The dead side's writes could not be acknowledged anyway; now everybody is told at once.
                    refuse(&self.inner, reason);
                }
            }
            Action::Finish(child) => {
                self.change(&epoch, child.epoch.members, child.reason).await;
            }
            Action::Renew => {
                if Instant::now() >= self.renew_at {
                    self.renew_at = Instant::now() + RENEW_PAUSE;
                    let reason = Reason::VoterForgot.to_string();
                    self.change(&epoch, epoch.members, reason).await;
                }
            }
            Action::Advance(side) => match change::advance(inner, &epoch, side).await {
                Ok(_) => inner.stir.notify_one(),
                Err((side, failure)) => {
                    tracing::debug!(%side, why = words(&failure), "it could not store the epoch yet");
                    inner.doubt(side);
                }
            },
            Action::Sweep => {}
            Action::Align { .. } | Action::CatchUp(_) => {
                if self.repair.is_none() && Instant::now() >= self.not_before {
                    self.repair = Some(repair::start(inner, epoch, &action));
                }
            }
            Action::Rebuild(..) => self.rebuild = Some(repair::start(inner, epoch, &action)),
        }
    }

    async fn change(&self, epoch: &Epoch, members: SideSet, reason: String) -> Changed {
        match change(&self.inner, epoch, members, reason).await {
            Ok(changed) => {
                if matches!(changed, Changed::Moved) {
                    self.inner.stir.notify_one();
                }
                changed
            }
            Err((side, failure)) => {
                tracing::warn!(%side, why = words(&failure), "a change of the members did not succeed yet");
                self.inner.doubt(side);
                Changed::Later
            }
        }
    }

    /// How long a side that is out must have answered before it is brought back. What it missed at once may just fit where
    /// the next write does not: one that was left out because it did not take a write has to take some more than that.
    fn trial(&self, side: SideId, epoch: &Epoch) -> Duration {
        let refused = self
            .inner
            .last_refusal(side)
            .filter(|_| !epoch.members.contains(side));
        self.damping
            .trial(side)
            .max(refused.map_or(Duration::ZERO, |_| REFUSAL_TRIAL))
    }

    fn look(&mut self, epoch: &Epoch, now: std::time::Instant) -> PerSide<Seen> {
        for (_, state) in self.inner.sides.iter() {
            let health = state.health.borrow();
            if health.epoch.is_some_and(|stored| stored.same_as(epoch)) {
                self.inner.learn_why_out(epoch, &health.reason);
            }
        }
        let adopted = self.inner.view.borrow().adopted;
        let back = |side: &SideId| {
            let stored = self.inner.health(*side).epoch;
            epoch.members.contains(*side) && stored.is_some_and(|stored| stored.n == epoch.n)
        };
        self.put_off = self.put_off.filter(|(side, n)| *n == epoch.n && !back(side));
        let seen = self.inner.sides.map(|side, state| {
            let health = state.health.borrow();
            let trial = self.trial(side, epoch);
            // A side may have answered all the time and yet have been left out.
            let since = health
                .well_since
                .max(health.well_since.and(self.damping.left(side)));
            let well_for = since.map(|since| now.duration_since(since));
            Seen {
                well: health.is_well(),
                epoch: health.epoch,
                leftovers: health.leftovers && health.asked > self.swept,
                answered: health.answered,
                others_reach: health.others_reach,
                silent: health.doubted.filter(|_| ours_alone(health.fault.as_ref())),
                on_trial: well_for.is_none_or(|well_for| well_for < trial),
                put_off: self.put_off.is_some_and(|(put_off, _)| put_off == side),
                stale: health
                    .asked
                    .is_none_or(|asked| adopted.is_some_and(|at| asked < at)),
                lost: match &health.fault {
                    Some(SideFault::Lost(loss)) => Some(*loss),
                    None if state.given_up.load(Ordering::Acquire) => Some(Loss::TooOld),
                    _ => None,
                },
            }
        });
        let on_trial = |(_, seen): &(_, &Seen)| seen.well && seen.on_trial;
        let on_trial: SideSet = seen.iter().filter(on_trial).map(|(side, _)| side).collect();
        let on_trial = on_trial.minus(epoch.members);
        for side in on_trial.minus(self.on_trial).iter() {
            let trial = self.trial(side, epoch).as_secs();
            if trial > 0 {
                self.inner.event(Happened::OnTrial { side, seconds: trial });
            }
        }
        self.on_trial = on_trial;
        seen
    }

    fn note_repair(&mut self, repair: Repair, side: Option<SideId>, epoch: i64, ended: Ended) {
        if !matches!(ended, Err((_, Failure::Repeat(_)))) {
            self.put_off = side.map(|side| (side, epoch));
        }
        let (pause, news) = match ended {
            Ok(Repaired::Done) => {
                self.last_failure = None;
                self.put_off = None;
                return;
            }
            Ok(Repaired::Waits(why)) => (REPAIR_PAUSE * 2, why),
            Err((side, failure)) => {
                self.inner.note_repair_refused(side, &failure);
                self.inner.doubt(side);
                (REPAIR_PAUSE, failed(repair, side, &failure))
            }
        };
        self.not_before = Instant::now() + pause;
        self.tell_once(news);
    }

    fn note_sweep(&mut self, repair: Repair, ended: Ended) {
        let Err((side, failure)) = ended else {
            self.swept = Some(std::time::Instant::now());
            self.last_failure = None;
            return;
        };
        self.inner.note_repair_refused(side, &failure);
        self.inner.doubt(side);
        self.sweep_after = Instant::now() + REPAIR_PAUSE;
        self.tell_once(failed(repair, side, &failure));
    }

    fn note_rebuild(&mut self, repair: Repair, ended: Ended) {
        let (pause, news) = match ended {
            Ok(Repaired::Done) => (REPAIR_PAUSE, None),
            Ok(Repaired::Waits(why)) => (REFUSED_PAUSE, why),
            Err((side, failure)) => {
                self.inner.doubt(side);
                let why = words(&failure);
                (REPAIR_PAUSE, Some(Happened::Failed { repair, side, why }))
            }
        };
        self.rebuild_after = Instant::now() + pause;
        self.tell_once(news);
    }

    fn tell_once(&mut self, news: Option<Happened>) {
        if let Some(news) = news
            && self.last_failure.as_ref() != Some(&news)
        {
            self.inner.event(news.clone());
            self.last_failure = Some(news);
        }
    }
}

/// What is to be told of a short repair that failed: nothing if it only has to be repeated.
fn failed(repair: Repair, side: SideId, failure: &Failure) -> Option<Happened> {
    let why = words(failure);
    if matches!(failure, Failure::Repeat(_)) {
        tracing::debug!(%side, why, "{repair} did not succeed yet");
        return None;
    }
    Some(Happened::Failed { repair, side, why })
}

fn panicked(inner: &Inner, repair: Repair, error: &tokio::task::JoinError) {
    tracing::error!(%error, "{repair} ended in a panic");
    inner.event(Happened::Panicked(repair));
}

/// Faults that may be this instance's own: it is cut off, starved, or has the wrong password.
fn ours_alone(fault: Option<&SideFault>) -> bool {
    matches!(fault, Some(SideFault::Silent | SideFault::Refused(_)))
}

/// Accepts writes, once the structure of the tables is known.
async fn allow(inner: &Inner, epoch: &Epoch) {
    let Some(leader) = epoch.members.and(inner.well()).leader() else {
        return;
    };
    if (inner.catalog().is_empty() || inner.reference().map(|(side, _)| side) != Some(leader))
        && let Err(failure) = inner.load_catalog(leader).await
    {
        tracing::warn!(side = %leader, why = words(&failure), "the watched tables cannot be read");
        return inner.doubt(leader);
    }
    let changed = inner.view.send_if_modified(|view| view.refusal.take().is_some());
    if changed {
        inner.event(Happened::Accepting);
    }
}

fn refuse(inner: &Inner, reason: NotApplied) {
    let mut another = false;
    inner.view.send_if_modified(|view| {
        let changed = view.refusal.as_ref() != Some(&reason);
        // Which votes are missing may change with every attempt; that they are is said once.
        let no_votes = |reason: &NotApplied| matches!(reason, NotApplied::NoVotes { .. });
        another = changed && !(no_votes(&reason) && view.refusal.as_ref().is_some_and(no_votes));
        view.refusal = Some(reason.clone());
        changed
    });
    if another {
        inner.event(Happened::Refusing(reason));
    }
}

#[cfg(test)]
mod tests;
