//! Who is active: the decision is a pure function, the task performs it.
//!
//! Votes of more than half (DESIGN section 4) belong here, before an epoch is changed: `eject` is the place that
//! would gather grants.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::catch_up::{self, Caught};
use super::connection::{Conn, Failure, words};
use super::epoch::{self, Epoch, Fence};
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::merge::{self, Purpose};
use super::{NotApplied, PerSide, SideFault, SideId, SideSet, health, sequences};

/// The task looks again after this long even if nothing stirred.
const TICK: Duration = Duration::from_millis(500);

/// Pause before a repair that failed is tried again.
const REPAIR_PAUSE: Duration = Duration::from_millis(500);

/// How long an ejection tries to get the fence of the survivor.
const EJECT_DEADLINE: Duration = Duration::from_secs(4);

/// A side that others hear and we do not: after this long it is we who are cut off. Before, the others may not have
/// noticed yet.
const ISOLATED_AFTER: Duration = Duration::from_secs(3);

/// What is seen of one side.
#[derive(Clone, Debug, Default)]
struct Seen {
    well: bool,
    epoch: Option<Epoch>,
    leftovers: bool,
    /// When it last answered a heartbeat.
    answered: Option<std::time::Instant>,
    others_reach: SideSet,
    /// It may be we who cannot hear it (see [`ours_alone`]): since when.
    silent: Option<std::time::Instant>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// Everything is as it should be.
    Rest,
    /// A side knows a newer epoch.
    Adopt(Epoch),
    /// No side may be written.
    Refuse(NotApplied),
    /// A member is silent, but so may all be: it could be this machine that stands still. Ask the others first.
    AskOthers(SideSet),
    /// These members are in trouble; others go on without them.
    Eject(SideSet),
    /// A member has not stored the epoch it is a member of.
    Align { side: SideId, from: SideId },
    /// A side that is out answers again.
    CatchUp(SideId),
    /// Something on an active side waits for another.
    Sweep,
}

/// Decides from the epoch this instance knows and what it sees of each side.
///
/// The data rule: only a side that stores the latest known epoch and is a member of it may be written. A side that was
/// out when the last write was made stores an older epoch.
fn next(epoch: &Epoch, sides: &PerSide<Seen>, now: std::time::Instant) -> Action {
    let newest = sides
        .iter()
        .filter(|(_, s)| s.well)
        .filter_map(|(_, s)| s.epoch)
        .max_by_key(|e| e.n);
    if let Some(newest) = newest
        && newest.n > epoch.n
    {
        return Action::Adopt(newest);
    }
    let well: SideSet = sides
        .iter()
        .filter(|(_, s)| s.well)
        .map(|(side, _)| side)
        .collect();
    let current = |side: &SideId| sides[*side].epoch.is_some_and(|e| e.n == epoch.n);
    let authority: SideSet = epoch.members.and(well).iter().filter(current).collect();
    if authority.is_empty() {
        return Action::Refuse(
            well.iter()
                .next()
                .map_or(NotApplied::NoSide, NotApplied::NoAuthority),
        );
    }
    // One number, two memberships: two instances have acted apart. Nothing may be written before somebody decides.
    if sides.iter().any(|(_, s)| {
        s.well
            && s.epoch
                .is_some_and(|e| e.n == epoch.n && e.members != epoch.members)
    }) {
        return Action::Refuse(NotApplied::Split);
    }
    let dead = epoch.members.minus(well);
    if !dead.is_empty() {
        // A side that others hear is not dead; it is we who are cut off from it.
        let silent = |side: &SideId| sides[*side].silent.is_some();
        let heard = |side: &SideId| {
            authority
                .iter()
                .any(|other| sides[other].others_reach.contains(*side))
        };
        if let Some(side) = dead.iter().find(|side| silent(side) && heard(side)) {
            let long = sides[side]
                .silent
                .is_some_and(|since| now.duration_since(since) > ISOLATED_AFTER);
            return if long {
                Action::Refuse(NotApplied::Isolated(side))
            } else {
                Action::AskOthers(authority)
            };
        }
        // A machine that has no time for us makes every side look silent.
        let asked = |since| {
            authority
                .iter()
                .any(|side| sides[side].answered.is_some_and(|at| at > since))
        };
        let all_asked = dead.iter().all(|side| sides[side].silent.is_none_or(asked));
        return if all_asked {
            Action::Eject(dead)
        } else {
            Action::AskOthers(authority)
        };
    }
    if let (Some(side), Some(from)) = (epoch.members.minus(authority).leader(), authority.leader()) {
        return Action::Align { side, from };
    }
    if let Some(side) = well.minus(epoch.members).iter().next() {
        return Action::CatchUp(side);
    }
    match epoch.members.iter().any(|side| sides[side].leftovers) {
        true => Action::Sweep,
        false => Action::Rest,
    }
}

fn look(inner: &Inner) -> PerSide<Seen> {
    inner.sides.map(|_, side| {
        let health = side.health.borrow();
        Seen {
            well: health.is_well(),
            epoch: health.epoch,
            leftovers: health.leftovers,
            answered: health.answered,
            others_reach: health.others_reach,
            silent: health.doubted.filter(|_| ours_alone(health.fault.as_ref())),
        }
    })
}

/// Faults that may be this instance's own: it is cut off, starved, or has the wrong password.
fn ours_alone(fault: Option<&SideFault>) -> bool {
    matches!(fault, Some(SideFault::Silent | SideFault::Refused(_)))
}

/// A repair in progress beside the decisions.
struct Repair {
    handle: JoinHandle<Result<(), (SideId, Failure)>>,
    what: String,
}

/// The named background task `membership`.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut remembered = false;
    let mut repair: Option<Repair> = None;
    let mut not_before = Instant::now();
    let mut last_failure = String::new();
    loop {
        if let Some(ended) = repair.take_if(|r| r.handle.is_finished()) {
            match ended.handle.await {
                Ok(Ok(())) => last_failure.clear(),
                Ok(Err((side, failure))) => {
                    not_before = Instant::now() + REPAIR_PAUSE;
                    let text = format!("{} failed at side {side}: {}", ended.what, words(&failure));
                    if matches!(failure, Failure::Repeat(_)) {
                        tracing::debug!("{text}");
                    } else if text != last_failure {
                        inner.event(&text);
                        last_failure = text;
                    }
                    inner.doubt(side);
                }
                Err(error) => inner.event(format!("{} ended in a panic: {error}", ended.what)),
            }
            inner.view.send_modify(|view| view.catching_up = None);
        }
        remembered = remembered || remember(&inner);
        if remembered {
            step(&inner, &mut repair, not_before).await;
        }
        tokio::select! {
            () = inner.stir.notified() => {}
            () = tokio::time::sleep(TICK) => {}
            () = inner.closed() => break,
        }
    }
    if let Some(repair) = repair {
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

/// One decision and what follows from it.
async fn step(inner: &Arc<Inner>, repair: &mut Option<Repair>, not_before: Instant) {
    let epoch = inner.view().epoch;
    let action = next(&epoch, &look(inner), std::time::Instant::now());
    if !matches!(action, Action::Refuse(_) | Action::Adopt(_)) {
        allow(inner, &epoch).await;
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
        Action::Eject(dead) => match ejected(inner, &epoch, dead).await {
            Ok(()) => inner.stir.notify_one(),
            Err((side, failure)) => {
                tracing::warn!(%side, why = words(&failure), "an ejection did not succeed yet");
                inner.doubt(side);
            }
        },
        Action::Align { .. } | Action::CatchUp(_) | Action::Sweep => {
            if repair.is_none() && Instant::now() >= not_before {
                *repair = Some(start_repair(inner, epoch, &action));
            }
        }
    }
}

fn start_repair(inner: &Arc<Inner>, epoch: Epoch, action: &Action) -> Repair {
    let leader = epoch.members.leader();
    let (what, work) = match (action, leader) {
        (Action::Align { side, from }, _) => (
            format!("finishing the readmission of side {side}"),
            Work::Align {
                side: *side,
                from: *from,
            },
        ),
        (Action::CatchUp(side), Some(from)) => {
            inner.view.send_modify(|view| view.catching_up = Some(*side));
            (
                format!("catch-up of side {side}"),
                Work::CatchUp { side: *side, from },
            )
        }
        _ => ("the sweep".to_owned(), Work::Sweep),
    };
    let busy = match work {
        Work::Align { side, from } | Work::CatchUp { side, from } => SideSet::EMPTY.with(side).with(from),
        Work::Sweep => epoch.members,
    };
    let task = {
        let inner = Arc::clone(inner);
        async move {
            // A side that falls silent in the middle must not hold the repairer.
            let done = tokio::select! {
                done = repair(&inner, epoch, work) => done,
                (side, fault) = inner.trouble(busy) => Err((side, Failure::Side(fault))),
            };
            inner.stir.notify_one();
            done
        }
    };
    Repair {
        handle: tokio::spawn(task),
        what,
    }
}

/// What a repair does.
#[derive(Clone, Copy)]
enum Work {
    Align { side: SideId, from: SideId },
    CatchUp { side: SideId, from: SideId },
    Sweep,
}

async fn repair(inner: &Inner, epoch: Epoch, work: Work) -> Result<(), (SideId, Failure)> {
    match work {
        Work::Align { side, from } => {
            merge::merge(inner, &epoch, from, side, Purpose::Align).await?;
            note_epoch(inner, SideSet::EMPTY.with(side), epoch, "readmission finished");
            inner.event(format!("side {side} stores the current epoch again"));
        }
        Work::CatchUp { side, from } => match catch_up::catch_up(inner, &epoch, from, side).await? {
            Caught::Up { epoch, keys } => {
                note_epoch(inner, SideSet::EMPTY.with(from).with(side), epoch, "");
                adopt(inner, epoch).await;
                inner.event(format!(
                    "side {side} is up to date ({keys} keys copied) and active again"
                ));
            }
            Caught::ByAnother => tracing::debug!(%side, "another instance is catching it up"),
        },
        Work::Sweep => {
            let copied = merge::sweep(inner, &epoch).await?;
            if copied > 0 {
                inner.event(format!(
                    "{copied} rows that were on one side only were brought together"
                ));
            }
        }
    }
    Ok(())
}

/// Sides that have just stored this epoch, so that the next decision need not wait for their heartbeats.
fn note_epoch(inner: &Inner, sides: SideSet, epoch: Epoch, reason: &str) {
    for side in sides.iter() {
        inner.sides[side].health.send_modify(|health| {
            health.epoch = Some(epoch);
            health.reason = reason.to_owned();
            health.leftovers = false;
        });
    }
}

/// Makes an epoch the current one of this instance: first on its disk, then for its writers.
async fn adopt(inner: &Inner, epoch: Epoch) {
    let _ = reach(Point::AdoptBefore).await;
    if let Some(lineage) = inner.lineage.get()
        && let Err(error) = inner.state_file.store(*lineage, &epoch)
    {
        inner.event(format!(
            "the epoch cannot be kept on this instance's disk: {error}"
        ));
    }
    let changed = inner.view.send_if_modified(|view| {
        let newer = epoch.n > view.epoch.n;
        if newer {
            view.epoch = epoch;
        }
        newer
    });
    if changed {
        let why = inner.sides.iter().find_map(|(_, side)| {
            let health = side.health.borrow();
            (health.epoch.is_some_and(|e| e.same_as(&epoch)) && !health.reason.is_empty())
                .then(|| health.reason.clone())
        });
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        inner.event(format!("epoch {}: active sides {}{why}", epoch.n, epoch.members));
    }
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
        inner.event("writes are accepted");
    }
}

fn refuse(inner: &Inner, reason: NotApplied) {
    let changed = inner.view.send_if_modified(|view| {
        let changed = view.refusal.as_ref() != Some(&reason);
        view.refusal = Some(reason.clone());
        changed
    });
    if changed {
        inner.event(format!("writes are refused: {reason}"));
    }
}

/// As [`eject`], given up when a survivor falls silent too.
async fn ejected(inner: &Inner, epoch: &Epoch, dead: SideSet) -> Result<(), (SideId, Failure)> {
    tokio::select! {
        done = eject(inner, epoch, dead) => done,
        (side, fault) = inner.trouble(epoch.members.minus(dead)) => Err((side, Failure::Side(fault))),
    }
}

/// Writes the next epoch, without the dead sides, on every survivor under its fence. If we die after the first, the
/// others are members that have not stored it yet: anyone aligns them.
async fn eject(inner: &Inner, epoch: &Epoch, dead: SideSet) -> Result<(), (SideId, Failure)> {
    let survivors = epoch.members.minus(dead);
    let next = epoch.next(survivors);
    let why: Vec<String> = dead
        .iter()
        .filter_map(|side| Some(format!("side {side} {}", inner.health(side).fault?)))
        .collect();
    let reason = why.join("; ");
    for side in survivors.iter() {
        let conn = Conn::open(&inner.sides[side].writes)
            .await
            .map_err(|f| (side, f))?;
        conn.set_busy(true);
        let client = conn.client().map_err(|f| (side, f))?;
        let until = Instant::now() + EJECT_DEADLINE;
        let fence = loop {
            match Fence::take(client).await {
                Ok(fence) => break fence,
                Err(Failure::Repeat(_)) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(failure) => return Err((side, failure)),
            }
        };
        reach(Point::EjectFenced).await.map_err(|f| (side, f))?;
        let stored = epoch::read(client).await.map_err(|f| (side, f))?;
        if stored.n > epoch.n {
            fence.release().await.map_err(|f| (side, f))?;
            conn.set_busy(false);
            note_epoch(inner, SideSet::EMPTY.with(side), stored, "");
            adopt(inner, stored).await;
            return Ok(());
        }
        fence.write(&next, &reason).await.map_err(|f| (side, f))?;
        if Some(side) == survivors.leader() {
            sequences::align_if_possible(client, side, inner.sides.count())
                .await
                .map_err(|f| (side, f))?;
        }
        reach(Point::EjectBefore).await.map_err(|f| (side, f))?;
        fence.commit().await.map_err(|f| (side, f))?;
        conn.set_busy(false);
        reach(Point::EjectAfter).await.map_err(|f| (side, f))?;
        note_epoch(inner, SideSet::EMPTY.with(side), next, "");
    }
    inner.event(format!("{reason}; going on with {survivors}"));
    adopt(inner, next).await;
    Ok(())
}

impl Inner {
    /// Asks the sides for their epochs now and adopts a newer one: a writer has met an epoch it does not know.
    pub async fn refresh(&self) {
        for side in self.well().iter() {
            let asked =
                tokio::time::timeout(self.config.probe_interval, health::current_epoch(self, side)).await;
            if let Ok(Ok((found, reason))) = asked
                && found.n > self.view.borrow().epoch.n
            {
                note_epoch(self, SideSet::EMPTY.with(side), found, &reason);
                adopt(self, found).await;
            }
        }
        self.stir.notify_one();
    }
}

#[cfg(test)]
mod tests;
