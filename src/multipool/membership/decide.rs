//! What to do next, from the epoch this instance knows, what it sees of each side, and what voters have brought up.

use std::time::{Duration, Instant};

use crate::multipool::epoch::Epoch;
use crate::multipool::votes::{Child, Heard};
use crate::multipool::{Loss, NotApplied, PerSide, SideId, SideSet};

/// A side that others hear and we do not: after this long it is we who are cut off. Before, the others may not have
/// noticed yet.
pub(super) const ISOLATED_AFTER: Duration = Duration::from_secs(3);

/// What is seen of one side.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub well: bool,
    pub epoch: Option<Epoch>,
    pub leftovers: bool,
    /// When it last answered a heartbeat.
    pub answered: Option<Instant>,
    pub others_reach: SideSet,
    /// It may be we who cannot hear it: since when.
    pub silent: Option<Instant>,
    /// It left so often lately that it is watched for a while before it is brought back.
    pub on_trial: bool,
    /// The last attempt to bring it back or to align it has failed: others that wait are brought back first.
    pub put_off: bool,
    /// It answers, but has to be rebuilt.
    pub lost: Option<Loss>,
    /// What is known of it is older than the epoch: it may have been readmitted since.
    pub stale: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Everything is as it should be.
    Rest,
    /// A side or a voter knows a newer epoch.
    Adopt(Epoch),
    /// No side may be written.
    Refuse(NotApplied),
    /// A member is silent, but so may all be: it could be this machine that stands still. Ask the others first.
    AskOthers(SideSet),
    /// These members are in trouble; others go on without them, if the votes agree.
    Eject(SideSet),
    /// A member of this epoch and of the one before, which it stores, has only to store this one.
    Advance(SideId),
    /// A member has not stored the epoch it is a member of.
    Align { side: SideId, from: SideId },
    /// Somebody began to change the members and did not finish.
    Finish(Child),
    /// A side that is out answers again.
    CatchUp(SideId),
    /// A side that is out answers again, and what it holds cannot be caught up.
    Rebuild(SideId, Loss),
    /// Something on an active side waits for another.
    Sweep,
    /// The same members in a new epoch: a voter that has lost its memory votes again from there.
    Renew,
}

/// Decides.
///
/// The data rule: only a side that stores the latest known epoch and is a member of it may be written. A side that was
/// out when the last write was made stores an older epoch.
/// `rebuilding`: a rebuild is under way, or is not to be begun just now.
pub(super) fn next(
    epoch: &Epoch,
    sides: &PerSide<Seen>,
    heard: &Heard,
    now: Instant,
    rebuilding: bool,
) -> Action {
    let newest = sides
        .iter()
        .filter(|(_, s)| s.well)
        .filter_map(|(_, s)| s.epoch)
        .chain(heard.newer.filter(|newer| newer.members.is_subset(sides.all())))
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
    let one_behind = |side: &SideId| sides[*side].epoch.is_some_and(|e| may_advance(*side, &e, epoch));
    let behind: SideSet = epoch.members.and(well).iter().filter(one_behind).collect();
    if authority.is_empty() {
        // It has every write that was acknowledged in the epoch before, and none was in this one without it.
        if let Some(side) = behind.leader() {
            return Action::Advance(side);
        }
        let lost = sides
            .iter()
            .filter(|(_, s)| s.lost.is_some())
            .map(|(side, _)| side);
        return Action::Refuse(
            well.iter()
                .chain(lost)
                .next()
                .map_or(NotApplied::NoSide, NotApplied::NoAuthority),
        );
    }
    // One number, two memberships: votes make this impossible while every instance is given the same voters. Nothing may
    // be written before somebody decides.
    if sides.iter().any(|(_, s)| {
        s.well
            && s.epoch
                .is_some_and(|e| e.n == epoch.n && e.members != epoch.members)
    }) {
        return Action::Refuse(NotApplied::Split);
    }
    let dead = epoch.members.minus(well);
    if !dead.is_empty() {
        // A side whose return is not finished goes with them: nobody could write before it was aligned under all fences,
        // however much it lacks by now. It is caught up again while writes go on.
        let unfinished = epoch.members.and(well).minus(authority).minus(behind);
        return without(dead, unfinished, authority, sides, now);
    }
    if let Some(side) = behind.leader() {
        return Action::Advance(side);
    }
    if let (Some(side), Some(from)) = (epoch.members.minus(authority).leader(), authority.leader()) {
        // Nobody can write before it is aligned: better without it.
        if sides[side].put_off {
            return Action::Eject(SideSet::EMPTY.with(side));
        }
        return Action::Align { side, from };
    }
    if let Some(child) = &heard.unfinished
        && !child.epoch.members.and(authority).is_empty()
    {
        return Action::Finish(child.clone());
    }
    let returning = well.minus(epoch.members);
    let ready = |side: &SideId| !sides[*side].on_trial && sides[*side].lost.is_none();
    // One that cannot be brought back, for whatever reason, must not keep the others out.
    let first = returning
        .iter()
        .filter(ready)
        .min_by_key(|side| sides[*side].put_off);
    if let Some(side) = first.filter(|side| !sides[*side].put_off) {
        return Action::CatchUp(side);
    }
    let lost = |side: SideId| Some((side, sides[side].lost?));
    let out = sides.all().minus(epoch.members);
    if let Some((side, loss)) = out.iter().find_map(lost).filter(|_| !rebuilding) {
        return Action::Rebuild(side, loss);
    }
    if let Some(side) = first {
        return Action::CatchUp(side);
    }
    if wants_sweep(epoch, sides) {
        return Action::Sweep;
    }
    match heard.waiting {
        true => Action::Renew,
        false => Action::Rest,
    }
}

/// Whether something on a member waits for another one.
pub(super) fn wants_sweep(epoch: &Epoch, sides: &PerSide<Seen>) -> bool {
    epoch.members.len() > 1 && epoch.members.iter().any(|side| sides[side].leftovers)
}

/// Whether a member that stores `stored` lacks nothing but the epoch itself. No write of this epoch can have been
/// acknowledged without it, and every write of the one before was on it.
pub(super) fn may_advance(side: SideId, stored: &Epoch, epoch: &Epoch) -> bool {
    stored.n < epoch.n
        && stored.n == epoch.parent
        && stored.members.contains(side)
        && epoch.members.contains(side)
}

/// Members are in trouble: is it they, or is it we?
fn without(
    dead: SideSet,
    unfinished: SideSet,
    authority: SideSet,
    sides: &PerSide<Seen>,
    now: Instant,
) -> Action {
    let stale: SideSet = dead.iter().filter(|side| sides[*side].stale).collect();
    if !stale.is_empty() {
        return Action::AskOthers(stale);
    }
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
    match dead.iter().all(|side| sides[side].silent.is_none_or(asked)) {
        true => Action::Eject(dead.iter().chain(unfinished.iter()).collect()),
        false => Action::AskOthers(authority),
    }
}
