//! The decisions, case by case.

use super::decide::{Action, ISOLATED_AFTER, Seen};
use super::*;
use crate::multipool::SideId;
use crate::multipool::votes::{Child, Heard};

fn next(known: &Epoch, sides: &PerSide<Seen>, now: std::time::Instant) -> Action {
    decide::next(known, sides, &Heard::default(), now, false)
}

fn set(names: &str) -> SideSet {
    names
        .chars()
        .map(|c| c.to_string().parse::<SideId>().unwrap())
        .collect()
}

fn epoch(n: i64, members: &str) -> Epoch {
    Epoch {
        n,
        parent: n - 1,
        members: set(members),
        generation: uuid::Uuid::nil(),
    }
}

/// Each side as `(well, n, members)`.
fn sides(seen: &[(bool, i64, &str)]) -> PerSide<Seen> {
    PerSide::new(seen.len(), |side| {
        let (well, n, members) = seen[side.index()];
        Seen {
            well,
            epoch: (n > 0).then(|| epoch(n, members)),
            ..Seen::default()
        }
    })
}

#[test]
fn a_lost_side_is_rebuilt_and_never_believed() {
    let now = std::time::Instant::now();
    let b: SideId = "b".parse().unwrap();
    let mut seen = sides(&[(true, 2, "a"), (false, 1, "ab")]);
    seen[b].lost = Some(Loss::Restored);
    let rebuild = Action::Rebuild(b, Loss::Restored);
    assert_eq!(next(&epoch(2, "a"), &seen, now), rebuild);
    let busy = decide::next(&epoch(2, "a"), &seen, &Heard::default(), now, true);
    assert_eq!(busy, Action::Rest);
    // Well, but the journal no longer holds what it misses.
    seen[b].well = true;
    assert_eq!(next(&epoch(2, "a"), &seen, now), rebuild);
    // A member that went back in time is put out first, whoever leads.
    seen[b].well = false;
    let member = |seen: &PerSide<Seen>| next(&epoch(1, "ab"), seen, now);
    seen["a".parse().unwrap()].epoch = Some(epoch(1, "ab"));
    assert_eq!(member(&seen), Action::Eject(set("b")));
    // Alone, it is no authority.
    seen["a".parse().unwrap()].well = false;
    assert_eq!(member(&seen), Action::Refuse(NotApplied::NoAuthority(b)));
}

#[test]
fn a_side_is_not_ejected_for_what_was_seen_before_it_was_readmitted() {
    let now = std::time::Instant::now();
    let mut seen = sides(&[(true, 3, "ab"), (false, 2, "a")]);
    seen["b".parse().unwrap()].stale = true;
    assert_eq!(next(&epoch(3, "ab"), &seen, now), Action::AskOthers(set("b")));
}

#[test]
fn decisions() {
    let now = std::time::Instant::now();
    let (a, b): (SideId, SideId) = ("a".parse().unwrap(), "b".parse().unwrap());
    for (known, seen, action) in [
        (epoch(1, "ab"), [(true, 1, "ab"), (true, 1, "ab")], Action::Rest),
        (
            epoch(0, ""),
            [(true, 4, "ab"), (false, 0, "")],
            Action::Adopt(epoch(4, "ab")),
        ),
        (
            epoch(1, "ab"),
            [(true, 1, "ab"), (false, 1, "ab")],
            Action::Eject(set("b")),
        ),
        (
            epoch(1, "ab"),
            [(false, 1, "ab"), (true, 1, "ab")],
            Action::Eject(set("a")),
        ),
        (
            epoch(1, "ab"),
            [(false, 1, "ab"), (false, 1, "ab")],
            Action::Refuse(NotApplied::NoSide),
        ),
        (
            epoch(2, "b"),
            [(true, 1, "ab"), (true, 2, "b")],
            Action::CatchUp(a),
        ),
        // The side that was out must not serve alone, however well it is.
        (
            epoch(2, "b"),
            [(true, 1, "ab"), (false, 0, "")],
            Action::Refuse(NotApplied::NoAuthority(a)),
        ),
        // A readmission that was written on the survivor only.
        (
            epoch(3, "ab"),
            [(true, 3, "ab"), (true, 2, "a")],
            Action::Align { side: b, from: a },
        ),
        (
            epoch(3, "ab"),
            [(false, 0, ""), (true, 2, "a")],
            Action::Refuse(NotApplied::NoAuthority(b)),
        ),
    ] {
        assert_eq!(next(&known, &sides(&seen), now), action, "{known:?} {seen:?}");
    }
    let mut split = sides(&[(true, 2, "a"), (true, 2, "b")]);
    assert_eq!(
        next(&epoch(2, "a"), &split, now),
        Action::Refuse(NotApplied::Split)
    );
    split[b].well = false;
    assert_eq!(next(&epoch(2, "a"), &split, now), Action::Rest);
    // Silence counts when somebody else has answered since it began.
    let began = now;
    let mut silence = sides(&[(true, 1, "ab"), (false, 1, "ab")]);
    silence[b].silent = Some(began);
    silence[a].answered = Some(began);
    assert_eq!(next(&epoch(1, "ab"), &silence, now), Action::AskOthers(set("a")));
    silence[a].answered = Some(began + Duration::from_millis(1));
    assert_eq!(next(&epoch(1, "ab"), &silence, now), Action::Eject(set("b")));
    silence[a].others_reach = set("ab");
    // Others hear it: perhaps they have not noticed yet; after a while it is we who are cut off.
    assert_eq!(next(&epoch(1, "ab"), &silence, now), Action::AskOthers(set("a")));
    let later = now + ISOLATED_AFTER * 2;
    assert_eq!(
        next(&epoch(1, "ab"), &silence, later),
        Action::Refuse(NotApplied::Isolated(b))
    );
    let mut leftovers = sides(&[(true, 1, "ab"), (true, 1, "ab")]);
    leftovers[b].leftovers = true;
    assert_eq!(next(&epoch(1, "ab"), &leftovers, now), Action::Sweep);
}

#[test]
fn what_voters_bring_up() {
    let now = std::time::Instant::now();
    let (all, alone) = (epoch(1, "ab"), epoch(2, "b"));
    let whole = sides(&[(true, 1, "ab"), (true, 1, "ab")]);
    let act =
        |known: &Epoch, seen: &PerSide<Seen>, heard: &Heard| decide::next(known, seen, heard, now, false);
    // Cut off from b, told by another instance: a must not go on.
    let newer = Heard {
        newer: Some(alone),
        ..Heard::default()
    };
    assert_eq!(act(&all, &whole, &newer), Action::Adopt(alone));
    let only_a = sides(&[(true, 1, "ab"), (false, 1, "ab")]);
    assert_eq!(
        act(&alone, &only_a, &Heard::default()),
        Action::Refuse(NotApplied::NoAuthority("a".parse().unwrap()))
    );
    // A side nobody here has heard of.
    let unknown = Heard {
        newer: Some(epoch(2, "bc")),
        ..Heard::default()
    };
    assert_eq!(act(&all, &whole, &unknown), Action::Rest);
    let child = Child {
        epoch: epoch(2, "b"),
        reason: String::new(),
    };
    let unfinished = Heard {
        unfinished: Some(child.clone()),
        waiting: true,
        ..Heard::default()
    };
    assert_eq!(act(&all, &whole, &unfinished), Action::Finish(child));
    let waiting = Heard {
        waiting: true,
        ..Heard::default()
    };
    assert_eq!(act(&all, &whole, &waiting), Action::Renew);
    let mut returning = sides(&[(true, 1, "ab"), (true, 2, "b")]);
    let a = "a".parse::<SideId>().unwrap();
    assert_eq!(act(&alone, &returning, &Heard::default()), Action::CatchUp(a));
    returning[a].on_trial = true;
    assert_eq!(act(&alone, &returning, &Heard::default()), Action::Rest);
}

#[test]
fn three_sides() {
    let now = std::time::Instant::now();
    let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<SideId>().unwrap());
    for (known, seen, action) in [
        // Two at the same instant.
        (
            epoch(1, "abc"),
            [(false, 1, "abc"), (false, 1, "abc"), (true, 1, "abc")],
            Action::Eject(set("ab")),
        ),
        // c was readmitted; b, a member before and after, has only to store it: no row needs to cross for that.
        (
            epoch(5, "abc"),
            [(true, 5, "abc"), (true, 4, "ab"), (true, 5, "abc")],
            Action::Advance(b),
        ),
        // The only one that stored it has died: b has everything that was acknowledged, c has not.
        (
            epoch(5, "abc"),
            [(false, 5, "abc"), (true, 4, "ab"), (true, 4, "ab")],
            Action::Advance(b),
        ),
        (
            epoch(5, "abc"),
            [(false, 5, "abc"), (false, 4, "ab"), (true, 4, "ab")],
            Action::Refuse(NotApplied::NoAuthority(c)),
        ),
        // Two epochs behind: others may have gone on without it in between.
        (
            epoch(5, "abc"),
            [(false, 5, "abc"), (true, 3, "ab"), (true, 3, "ab")],
            Action::Refuse(NotApplied::NoAuthority(b)),
        ),
        // The return of c was decided and not finished when b died: c is caught up again while writes go on.
        (
            epoch(5, "abc"),
            [(true, 5, "abc"), (false, 4, "ab"), (true, 4, "ab")],
            Action::Eject(set("bc")),
        ),
        (
            epoch(5, "abc"),
            [(true, 5, "abc"), (true, 5, "abc"), (true, 4, "ab")],
            Action::Align { side: c, from: a },
        ),
        (
            epoch(5, "a"),
            [(true, 5, "a"), (true, 4, "ab"), (true, 3, "abc")],
            Action::CatchUp(b),
        ),
    ] {
        assert_eq!(next(&known, &sides(&seen), now), action, "{known:?} {seen:?}");
    }
    // One that cannot be brought back keeps nobody out.
    let mut waiting = sides(&[(true, 5, "a"), (true, 4, "ab"), (true, 3, "abc")]);
    waiting[b].put_off = true;
    assert_eq!(next(&epoch(5, "a"), &waiting, now), Action::CatchUp(c));
    waiting[c].on_trial = true;
    assert_eq!(next(&epoch(5, "a"), &waiting, now), Action::CatchUp(b));
    waiting[c].lost = Some(Loss::Restored);
    assert_eq!(
        next(&epoch(5, "a"), &waiting, now),
        Action::Rebuild(c, Loss::Restored)
    );
    let rebuilding = decide::next(&epoch(5, "a"), &waiting, &Heard::default(), now, true);
    assert_eq!(rebuilding, Action::CatchUp(b));
    // Decided for, and not to be aligned: the others go on without it.
    let mut stuck = sides(&[(true, 5, "ab"), (true, 4, "a"), (true, 3, "abc")]);
    assert_eq!(
        next(&epoch(5, "ab"), &stuck, now),
        Action::Align { side: b, from: a }
    );
    stuck[b].put_off = true;
    assert_eq!(next(&epoch(5, "ab"), &stuck, now), Action::Eject(set("b")));
    // What waits between the members is not put off for the one that is out.
    let mut leftovers = sides(&[(true, 5, "ab"), (true, 5, "ab"), (true, 4, "abc")]);
    leftovers[b].leftovers = true;
    assert_eq!(next(&epoch(5, "ab"), &leftovers, now), Action::CatchUp(c));
    assert!(wants_sweep(&epoch(5, "ab"), &leftovers));
    assert!(!wants_sweep(&epoch(5, "b"), &leftovers), "nobody to share with");
}
