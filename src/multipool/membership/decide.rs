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
    if authority.is_empty() {
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
        return without(dead, authority, sides, now);
    }
    if let (Some(side), Some(from)) = (epoch.members.minus(authority).leader(), authority.leader()) {
        return Action::Align { side, from };
    }
    if let Some(child) = &heard.unfinished
        && !child.epoch.members.and(authority).is_empty()
    {
        return Action::Finish(child.clone());
    }
    let returning = well.minus(epoch.members);
    let ready = |side: &SideId| !sides[*side].on_trial && sides[*side].lost.is_none();
    if let Some(side) = returning.iter().find(ready) {
        return Action::CatchUp(side);
    }
    let lost = |side: SideId| Some((side, sides[side].lost?));
    let out = sides.all().minus(epoch.members);
    if let Some((side, loss)) = out.iter().find_map(lost).filter(|_| !rebuilding) {
        return Action::Rebuild(side, loss);
    }
    if epoch.members.iter().any(|side| sides[side].leftovers) {
        return Action::Sweep;
    }
    match heard.waiting {
        true => Action::Renew,
        false => Action::Rest,
    }
}

/// Members are in trouble: is it they, or is it we?
fn without(dead: SideSet, authority: SideSet, sides: &PerSide<Seen>, now: Instant) -> Action {
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
        true => Action::Eject(dead),
        false => Action::AskOthers(authority),
    }
}
