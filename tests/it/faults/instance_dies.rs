//! Part A: an instance is killed at a named place of a write, and only the other one lives.

use std::time::{Duration, Instant};

use kambana::local::{Action, Fault, Passing, Then};
use kambana::multipool::failpoint::Point;
use uuid::Uuid;

use super::scene::{CROWDED, FREEZE, Scene, let_go};
use crate::support::{eventually, number, side, whole};

/// How soon what a dead instance left in the middle is brought together.
const ROLLED_FORWARD: Duration = Duration::from_secs(5);

/// Where the dying instance stands.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// At a failpoint.
    At(Point),
    /// With this statement on its way to a side, everything before it done.
    Sending(&'static str, &'static str),
}

use Stop::{At, Sending};

/// Cases 1 to 5: before the first COMMIT is sent.
const BEFORE_COMMIT: &[(u8, Stop)] = &[
    (1, At(Point::WriteBegin)),
    (1, At(Point::LeadBefore)),
    (1, Sending("a", "write::begin()")),
    (2, Sending("a", "write::enter()")),
    (2, Sending("a", "group::keyed()")),
    (2, At(Point::LeadCollected)),
    (3, Sending("b", "ROW SHARE MODE")),
    (3, At(Point::FollowFenced)),
    (4, At(Point::FollowBefore)),
    (4, Sending("b", "apply::upsert()")),
    (5, Sending("a", "write::store()")),
    (5, Sending("b", "write::follow()")),
    (5, At(Point::FollowApplied)),
    (5, At(Point::GuardPassed)),
];

/// web1 is stopped in the middle of giving `row` this content; returns when the proof is there.
async fn stopped(
    scene: &Scene,
    stop: Stop,
    row: i64,
    content: &str,
) -> (Uuid, tokio::task::JoinHandle<super::scene::Told>) {
    match stop {
        At(point) => {
            let points = scene.points(0);
            points.arm(point, "hold");
            let asked = scene.put(0, row, content);
            points.wait(point).await;
            asked
        }
        Sending(name, text) => {
            let wire = scene.wire(0, name);
            wire.set(Fault::HoldAt(Passing::Text(text.into())));
            let asked = scene.put(0, row, content);
            eventually(&format!("{stop:?}"), Duration::from_secs(20), || async {
                wire.hits() > 0
            })
            .await;
            asked
        }
    }
}

/// web1 is killed where it stands; what it had sent arrives, and the goodbye behind it.
async fn killed(scene: &Scene, stop: Stop) {
    scene.web_act(Action::Crash, 0).await;
    match stop {
        At(point) => scene.points(0).disarm(point),
        Sending(name, _) => let_go(scene.wire(0, name)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_1_to_5_killed_before_the_first_commit() {
    let scene = Scene::set().await;
    let row = scene.make(1, "first").await;
    let mut worst = Duration::ZERO;
    for (n, (case, stop)) in BEFORE_COMMIT.iter().enumerate() {
        let (op, asked) = stopped(&scene, *stop, row, &format!("lost {n}")).await;
        killed(&scene, *stop).await;
        let gap = scene.must_put(1, row, &format!("kept {n}")).await;
        assert!(
            gap < FREEZE * CROWDED,
            "case {case} {stop:?}: another writer waited {gap:?}"
        );
        worst = worst.max(gap);
        assert_eq!(asked.await.unwrap().status, None, "case {case} {stop:?}");
        for name in ["a", "b"] {
            assert!(
                !scene.has(name, op).await,
                "case {case} {stop:?}: half an operation on {name}"
            );
            assert_eq!(
                scene.content(name, row).await,
                Some(format!("kept {n}")),
                "case {case} {stop:?}"
            );
        }
        scene.web_act(Action::Start, 0).await;
    }
    println!(
        "cases 1 to 5: {} places, another writer of the row waited {worst:?} at most",
        BEFORE_COMMIT.len()
    );
    assert_eq!(scene.epoch("a").await, (1, 3), "no side was blamed");
    scene.finish().await;
}

/// Kills web1 when only some sides have committed, and waits until the other instance has rolled the write forward.
#[tokio::test(flavor = "multi_thread")]
async fn cases_6_to_8_killed_between_the_commits() {
    let scene = Scene::set().await;
    let row = scene.make(1, "first").await;
    let of = |name: &str| {
        Passing::CommitOf(
            if name == "a" {
                "write::enter()"
            } else {
                "write::follow()"
            }
            .to_owned(),
        )
    };

    // 6: the follower has committed and its answer is lost; the leader's COMMIT was not sent.
    let points = scene.points(0);
    points.arm(Point::CommitLeader, "hold");
    scene
        .wire(0, "b")
        .set_once(Fault::LoseCommitReply(of("b"), Then::Hang));
    let (op, _) = scene.put(0, row, "six");
    points.wait(Point::CommitLeader).await;
    eventually("the follower's answer is lost", FREEZE, || async {
        scene.wire(0, "b").counts().lost == 1
    })
    .await;
    assert!(scene.has("b", op).await && !scene.has("a", op).await, "case 6");
    assert_eq!(
        scene.seen(1, row).await.as_deref(),
        Some("first"),
        "no reader of the leader sees it before"
    );
    die_and_roll_forward(&scene, row, "six").await;

    // 7: the follower has committed, the leader's COMMIT was not sent. The next writer of the row meets it first.
    for (content, next) in [("seven", None), ("seven and", Some("a half"))] {
        points.arm(Point::CommitLeader, "hold");
        points.arm(Point::CommittedFollower, "sleep 0");
        let (op, _) = scene.put(0, row, content);
        points.wait(Point::CommittedFollower).await;
        assert!(scene.has("b", op).await && !scene.has("a", op).await, "case 7");
        let Some(next) = next else {
            die_and_roll_forward(&scene, row, content).await;
            continue;
        };
        scene.web_act(Action::Crash, 0).await;
        points.disarm(Point::CommitLeader);
        let gap = scene.must_put(1, row, next).await;
        assert!(gap < FREEZE * CROWDED, "case 7: another writer waited {gap:?}");
        for name in ["a", "b"] {
            assert!(
                scene.has(name, op).await,
                "case 7: rolled forward on {name}, then overwritten"
            );
            assert_eq!(scene.content(name, row).await.as_deref(), Some(next));
        }
        scene.web_act(Action::Start, 0).await;
    }

    // 8: the leader has committed, the follower's COMMIT was not sent.
    points.arm(Point::CommitFollower, "hold");
    let (op, _) = scene.put(0, row, "eight, unsent");
    points.wait(Point::CommitFollower).await;
    eventually("the leader has committed", FREEZE, || async {
        scene.has("a", op).await
    })
    .await;
    assert!(!scene.has("b", op).await, "case 8");
    die_and_roll_forward(&scene, row, "eight, unsent").await;

    // And: the leader has committed and its answer is lost; the follower's COMMIT never arrived.
    let (a, b) = (scene.wire(0, "a"), scene.wire(0, "b"));
    a.set_once(Fault::LoseCommitReply(of("a"), Then::Hang));
    b.set_once(Fault::CutAt(of("b")));
    let (op, _) = scene.put(0, row, "eight");
    eventually("one COMMIT arrived", FREEZE, || async {
        a.hits() == 1 && b.hits() == 1 && scene.has("a", op).await
    })
    .await;
    assert!(!scene.has("b", op).await, "case 8");
    die_and_roll_forward(&scene, row, "eight").await;

    assert_eq!(scene.epoch("a").await, (1, 3), "no side was blamed");
    scene.finish().await;
}

async fn die_and_roll_forward(scene: &Scene, row: i64, content: &str) {
    scene.web_act(Action::Crash, 0).await;
    let died = Instant::now();
    for point in Point::ALL {
        scene.points(0).disarm(*point);
    }
    scene.both_have(row, content, ROLLED_FORWARD * CROWDED).await;
    println!("`{content}`: rolled forward {:?} after the death", died.elapsed());
    assert_eq!(scene.seen(1, row).await.as_deref(), Some(content));
    scene.web_act(Action::Start, 0).await;
}

/// Cases 9 to 11: committed everywhere; a repetition through the other instance gets the stored outcome.
#[tokio::test(flavor = "multi_thread")]
async fn cases_9_to_11_killed_after_the_commits() {
    let scene = Scene::set().await;
    let row = scene.make(1, "first").await;
    let places = [
        (9, Point::CommittedLeader),
        (9, Point::AnswerBefore),
        (10, Point::AnswerAfter),
        (11, Point::SettleBefore),
        (11, Point::SettleSide),
    ];
    for (n, (case, point)) in places.into_iter().enumerate() {
        let content = format!("{case}.{n}");
        let points = scene.points(0);
        points.arm(point, "hold");
        let (op, asked) = scene.put(0, row, &content);
        points.wait(point).await;
        scene.both_have(row, &content, FREEZE).await;
        if case == 9 {
            scene.web_act(Action::Crash, 0).await;
        }
        // From case 10 on the answer is on its way, and arrives.
        let told = asked.await.unwrap();
        assert_eq!(told.applied(), case > 9, "case {case} at {point}: {told:?}");
        if case > 9 {
            scene.web_act(Action::Crash, 0).await;
        }
        points.disarm(point);

        // Somebody writes in between; the repetition must not undo that.
        scene.must_put(1, row, "in between").await;
        let again = scene.put_as(1, op, row, &content).await;
        assert!(again.applied(), "case {case} at {point}: {again:?}");
        for name in ["a", "b"] {
            assert_eq!(
                scene.content(name, row).await.as_deref(),
                Some("in between"),
                "case {case} at {point}: applied twice"
            );
        }
        scene.web_act(Action::Start, 0).await;
    }
    assert_eq!(scene.epoch("a").await, (1, 3), "no side was blamed");
    scene.finish().await;
}

/// Every place of an ejection and of a catch-up: the repairer is killed there, the other instance finishes.
const REPAIR: &[Point] = &[
    Point::VoteBefore,
    Point::VoteDecided,
    Point::EjectFenced,
    Point::EjectBefore,
    Point::EjectAfter,
    Point::AdoptBefore,
    Point::FenceOffBefore,
    Point::FenceOffAfter,
    Point::PassBegin,
    Point::ChunkBefore,
    Point::ChunkAfter,
    Point::PassEnd,
    Point::MergeFenced,
    Point::MergeBefore,
    Point::MergeBetween,
    Point::MergeAfter,
];

/// What is not walked by the tests of repair: [`BEFORE_COMMIT`], the commits and settling are above, trimming below. Two
/// are not held anywhere: `lead_entered` is met by the general door only, which no page uses, and `probe` by who asks for a
/// name that another instance has left in doubt (case 18 asks without holding it).
const ELSEWHERE: &[Point] = &[
    Point::WriteBegin,
    Point::LeadBefore,
    Point::LeadEntered,
    Point::FollowFenced,
    Point::LeadCollected,
    Point::FollowBefore,
    Point::FollowApplied,
    Point::GuardPassed,
    Point::CommitFollower,
    Point::CommitLeader,
    Point::CommittedFollower,
    Point::CommittedLeader,
    Point::AnswerBefore,
    Point::AnswerAfter,
    Point::SettleBefore,
    Point::SettleSide,
    Point::Probe,
    Point::TrimClosed,
    Point::TrimDeleted,
];

#[test]
fn every_failpoint_is_in_a_table() {
    for point in Point::ALL {
        assert!(REPAIR.contains(point) != ELSEWHERE.contains(point), "{point}");
    }
}

/// One side dies and returns; whoever repairs is killed at `point`.
async fn repairer_dies_at(scene: &Scene, point: Point, name: &str) {
    let other = if name == "a" { "b" } else { "a" };
    let row = scene.make(0, "before").await;
    let at_return =
        REPAIR.iter().position(|p| *p == point) >= REPAIR.iter().position(|p| *p == Point::FenceOffBefore);
    let points = [scene.points(0), scene.points(1)];
    let arm = || points.iter().for_each(|points| points.arm(point, "hold"));
    let reached = || points.iter().position(|points| points.reached(point) > 0);
    if !at_return {
        arm();
    }
    scene.side_act(Action::Crash, name).await;
    if at_return {
        // Something to copy.
        scene.must_put(0, row, "while it was out").await;
        scene.make(1, &format!("while it was out, {point}")).await;
        arm();
        scene.side_act(Action::Start, name).await;
    }
    eventually(
        &format!("{point} is reached by somebody"),
        Duration::from_secs(20),
        || async { reached().is_some() },
    )
    .await;
    let repairer = reached().unwrap();
    scene.web_act(Action::Crash, repairer).await;
    points.iter().for_each(|points| points.disarm(point));
    let content = format!("after {point}");
    let gap = scene.must_put(1 - repairer, row, &content).await;
    assert!(gap < FREEZE * CROWDED, "{point}: writes waited {gap:?}");
    if !at_return {
        assert_eq!(
            scene.epoch(other).await.1,
            if other == "a" { 1 } else { 2 },
            "{point}"
        );
        scene.side_act(Action::Start, name).await;
    }
    // A lease of the dead repairer has to run out first.
    whole(scene, Duration::from_secs(45)).await;
    println!("{point}: writes waited {gap:?} after the repairer's death");
    scene.both_have(row, &content, FREEZE).await;
    scene.web_act(Action::Start, repairer).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn the_repairer_is_killed_while_it_ejects() {
    let scene = Scene::set().await;
    // Before the epoch is written, the dead instance and side a together would be half of the votes: b dies then.
    for (point, name) in REPAIR[..6].iter().zip(["b", "b", "b", "b", "a", "b"]) {
        repairer_dies_at(&scene, *point, name).await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn the_repairer_is_killed_in_the_last_merge() {
    let scene = Scene::set().await;
    for (point, name) in [(Point::MergeBefore, "a"), (Point::MergeBetween, "b")] {
        repairer_dies_at(&scene, point, name).await;
    }
    scene.finish().await;
}

/// A pass of a catch-up copies the leader's row over a change that only the returned side has, and what it copied is settled
/// before the readmission looks: the overwritten change gives way all the same, is kept, and can be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pass_has_overwritten_gives_way_although_its_rival_is_settled() {
    let scene = Scene::set().await;
    let row = scene.make(0, "first").await;
    whole(&scene, Duration::from_secs(10)).await;
    let (repairer, dying) = (scene.points(0), scene.points(1));
    repairer.arm(Point::SettleBefore, "hold");
    let (rival, asked) = scene.put(0, row, "one");
    assert!(asked.await.unwrap().applied());
    repairer.wait(Point::SettleBefore).await;
    dying.arm(Point::CommitLeader, "hold");
    dying.arm(Point::CommittedFollower, "sleep 0");
    let (op, asked) = scene.put(1, row, "two");
    dying.wait(Point::CommittedFollower).await;
    scene.web_act(Action::Crash, 1).await;
    scene.side_act(Action::Crash, "b").await;
    dying.disarm(Point::CommitLeader);
    assert_eq!(asked.await.unwrap().status, None);
    eventually("b is out", FREEZE * CROWDED, || async {
        scene.epoch("a").await.1 == 1
    })
    .await;
    assert!(!scene.has("a", op).await, "only b has it");
    let open = format!(
        "SELECT count(*) FROM kambana.op AS o JOIN kambana.lane_settled AS l ON l.lane = o.lane \
         WHERE o.op = '{rival}' AND o.batch > coalesce(l.confirmed[2], 0)"
    );
    let a = scene.dsn(side("a"));
    assert_eq!(number(&a, &open).await, 1, "nobody has settled its rival yet");

    repairer.arm(Point::PassEnd, "hold");
    scene.side_act(Action::Start, "b").await;
    repairer.wait(Point::PassEnd).await;
    assert!(scene.has("b", op).await, "its name is still there");
    assert_eq!(
        scene.content("b", row).await.as_deref(),
        Some("one"),
        "overwritten"
    );
    repairer.disarm(Point::SettleBefore);
    eventually("its rival is settled", FREEZE * CROWDED, || async {
        number(&a, &open).await == 0
    })
    .await;
    repairer.disarm(Point::PassEnd);
    scene.web_act(Action::Start, 1).await;
    whole(&scene, super::scene::HEAL).await;
    for name in ["a", "b"] {
        let kept = format!(
            "SELECT count(*) FROM kambana.conflict WHERE lost_op = '{op}' \
             AND lost_image LIKE '%two%' AND kept_image LIKE '%one%'"
        );
        assert_eq!(
            number(&scene.dsn(side(name)), &kept).await,
            1,
            "both images on {name}"
        );
    }
    assert!(scene.put_as(0, op, row, "two").await.applied());
    scene.both_have(row, "two", FREEZE * CROWDED).await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_the_repairer_is_killed_at_every_place_of_a_catch_up() {
    let scene = Scene::set().await;
    for (n, point) in REPAIR[6..].iter().enumerate() {
        repairer_dies_at(&scene, *point, ["a", "b"][n % 2]).await;
        repairer_dies_at(&scene, *point, ["b", "a"][n % 2]).await;
    }
    scene.finish().await;
}

/// Case 11, trimming: takes a minute for a lane to be closed. Who dies in the middle loses no key's outcome.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_case_11_killed_while_trimming() {
    let scene = Scene::set().await;
    let row = scene.make(1, "first").await;
    for point in [Point::TrimClosed, Point::TrimDeleted] {
        let (op, asked) = scene.put(0, row, point.name());
        assert!(asked.await.unwrap().applied());
        scene.points(0).arm(point, "hold");
        eventually("trimming", Duration::from_secs(150), || async {
            scene.points(0).reached(point) > 0
        })
        .await;
        scene.web_act(Action::Crash, 0).await;
        scene.points(0).disarm(point);
        scene.must_put(1, row, "in between").await;
        assert!(scene.put_as(1, op, row, point.name()).await.applied());
        scene.both_have(row, "in between", FREEZE).await;
        scene.web_act(Action::Start, 0).await;
    }
    scene.finish().await;
}
