//! Part B: a database dies, every process of it or only one, and returns.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kambana::config::PoolConfig;
use kambana::local::{Action, Fault, Passing, Then};
use kambana::multipool::failpoint::Point;
use kambana::multipool::{MultiPool, OpId, WriteError, install};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::scene::{CRASH, CROWDED, FREEZE, HEAL, Scene};
use crate::load::Load;
use crate::support::{eventually, healed, number, pair, side, whole};

/// How soon pages and `/api/status` tell the truth.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

fn of_leader() -> Passing {
    Passing::CommitOf("write::enter()".into())
}

fn of_follower() -> Passing {
    Passing::CommitOf("write::follow()".into())
}

async fn out(scene: &Scene, name: &str) {
    for web in 0..2 {
        scene.status_says(web, name, "out", TOLD_WITHIN * CROWDED).await;
    }
}

async fn returned(scene: &Scene, name: &str) {
    scene.side_act(Action::Start, name).await;
    whole(scene, HEAL).await;
}

async fn case_12(away: Duration) {
    let scene = Scene::set().await;
    let rows = [scene.make(0, "x").await, scene.make(1, "y").await];
    scene.side_act(Action::Crash, "a").await;
    let (x, y) = tokio::join!(
        scene.must_put(0, rows[0], "without the leader"),
        scene.must_put(1, rows[1], "without the leader")
    );
    assert!(x.max(y) < CRASH * CROWDED, "writes waited {x:?} and {y:?}");
    println!("case 12: writes went on after {:?}", x.max(y));
    assert_eq!(scene.epoch("b").await.1, 2, "b leads");
    out(&scene, "a").await;
    tokio::time::sleep(away).await;
    returned(&scene, "a").await;
    assert_eq!(scene.epoch("a").await, scene.epoch("b").await);
    scene.both_have(rows[0], "without the leader", FREEZE).await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_12_the_leader_dies_idle() {
    case_12(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_case_12_the_leader_is_away_for_a_minute() {
    case_12(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_13_the_leader_dies_between_the_two_commits() {
    let scene = Scene::set().await;
    let points = [scene.points(0), scene.points(1)];
    points[0].arm(Point::CommitLeader, "hold");
    points[0].arm(Point::CommittedFollower, "sleep 0");
    points[0].arm(Point::AnswerBefore, "sleep 0");
    for points in &points {
        points.arm(Point::EjectBefore, "hold");
    }
    let (op, asked) = scene.create(0, "thirteen");
    points[0].wait(Point::CommittedFollower).await;
    assert!(scene.has("b", op).await && !scene.has("a", op).await);
    scene.side_act(Action::Crash, "a").await;
    eventually("somebody is about to change the epoch", HEAL, || async {
        points.iter().any(|points| points.reached(Point::EjectBefore) > 0)
    })
    .await;
    tokio::time::sleep(CRASH).await;
    // Not the answer to the client: that waits for a leader to read the row from.
    assert_eq!(
        points[0].reached(Point::AnswerBefore),
        0,
        "acknowledged while the dead side is still a member"
    );
    points[0].disarm(Point::CommitLeader);
    for points in &points {
        points.disarm(Point::EjectBefore);
    }
    let told = asked.await.unwrap();
    assert!(told.applied(), "{told:?}");
    assert_eq!(scene.epoch("b").await.1, 2, "the epoch changed before the answer");
    returned(&scene, "a").await;
    healed(&scene, HEAL).await;
    scene.exactly_one("thirteen").await;
    scene.finish().await;
}

/// Where the follower is when it dies.
#[derive(Clone, Copy, Debug)]
enum Dies {
    AtTheStatement,
    BeforeItsCommitArrives,
    AfterItsCommitUnheard,
}

/// The write is redone in the new epoch under its name, and recognised when the side returns.
#[tokio::test(flavor = "multi_thread")]
async fn cases_14_and_15_a_side_dies_in_the_middle_of_a_write() {
    let scene = Scene::set().await;
    let cases = [
        (14, "b", Dies::AtTheStatement),
        (15, "b", Dies::BeforeItsCommitArrives),
        (15, "b", Dies::AfterItsCommitUnheard),
        (15, "a", Dies::AfterItsCommitUnheard),
    ];
    for (n, (case, name, dies)) in cases.into_iter().enumerate() {
        let content = format!("{case}.{n}");
        let what = format!("case {case}, side {name} {dies:?}");
        let wire = scene.wire(0, name);
        let commit = if name == "a" { of_leader() } else { of_follower() };
        wire.set_once(match dies {
            Dies::AtTheStatement => Fault::HoldAt(Passing::Text("write::follow()".into())),
            Dies::BeforeItsCommitArrives => Fault::HoldAt(commit),
            Dies::AfterItsCommitUnheard => Fault::LoseCommitReply(commit, Then::Hang),
        });
        let lost = wire.counts().lost;
        let (op, asked) = scene.create(0, &content);
        eventually(&what, HEAL, || async {
            wire.hits() == 1 && (!matches!(dies, Dies::AfterItsCommitUnheard) || wire.counts().lost > lost)
        })
        .await;
        assert_eq!(
            scene.has(name, op).await,
            matches!(dies, Dies::AfterItsCommitUnheard),
            "{what}"
        );
        let died = Instant::now();
        scene.side_act(Action::Crash, name).await;
        wire.heal();
        let told = asked.await.unwrap();
        assert!(told.applied(), "{what}: {told:?}");
        assert!(
            died.elapsed() < CRASH * CROWDED,
            "{what}: answered after {:?}",
            died.elapsed()
        );
        let other = if name == "a" { "b" } else { "a" };
        assert_eq!(
            scene.epoch(other).await.1,
            if name == "a" { 2 } else { 1 },
            "{what}"
        );
        assert!(scene.has(other, op).await, "{what}");
        returned(&scene, name).await;
        healed(&scene, HEAL).await;
        scene.exactly_one(&content).await;
    }
    scene.finish().await;
}

/// The COMMIT was executed, only its answer is lost; both servers live. Found by the probe, nothing is written twice.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_the_reply_to_commit_is_lost() {
    let scene = Scene::set().await;
    let mut n = 0;
    for then in [Then::Cut, Then::Hang] {
        for names in [&["a"][..], &["b"], &["a", "b"]] {
            n += 1;
            let content = format!("16.{n}");
            for name in names {
                let commit = if *name == "a" { of_leader() } else { of_follower() };
                scene.wire(0, name).set_once(Fault::LoseCommitReply(commit, then));
            }
            let (op, asked) = scene.create(0, &content);
            let told = asked.await.unwrap();
            assert!(told.applied(), "reply of {names:?} lost, {then:?}: {told:?}");
            assert!(
                told.took < FREEZE * CROWDED,
                "reply of {names:?} lost, {then:?}: {:?}",
                told.took
            );
            println!(
                "case 16: reply of {names:?} lost, {then:?}: answered after {:?}",
                told.took
            );
            for name in names {
                assert_eq!(scene.wire(0, name).hits(), 1, "the reply of {name} was lost");
                scene.wire(0, name).heal();
            }
            assert!(scene.has("a", op).await && scene.has("b", op).await);
            scene.exactly_one(&content).await;
        }
    }
    assert_eq!(scene.epoch("a").await, (1, 3), "no side was blamed");
    scene.finish().await;
}

/// The disk of a side fails at COMMIT: the client sees an error, and after recovery the row is there. Needs root, to make
/// one process's write fail.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_the_disk_fails_at_commit() {
    if !nix::unistd::geteuid().is_root() || Command::new("strace").arg("-V").output().is_err() {
        println!("NOT RUN: case 17 needs root and strace");
        return;
    }
    let scene = Scene::set().await;
    let wire = scene.wire(0, "b");
    wire.set_once(Fault::HoldAt(of_follower()));
    let (op, asked) = scene.create(0, "seventeen");
    eventually("the COMMIT is held", HEAL, || async { wire.hits() == 1 }).await;
    let holder = "SELECT pid::bigint FROM pg_locks WHERE relation = 'kambana.fence'::regclass AND mode = 'RowShareLock'";
    let pid = number(&scene.dsn(side("b")), holder).await;
    let mut strace = Command::new("strace")
        .args([
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO",
            "-p",
            &pid.to_string(),
        ])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the process is traced", HEAL, || async {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
    .await;
    wire.release();
    let told = asked.await.unwrap();
    strace.wait().unwrap();
    let log = std::fs::read_to_string(&scene.record().sides["b"].log).unwrap();
    assert!(
        log.contains("PANIC") && log.contains("fdatasync"),
        "the disk failed"
    );
    assert!(told.applied(), "{told:?}");
    healed(&scene, HEAL).await;
    assert!(scene.has("b", op).await);
    scene.exactly_one("seventeen").await;
    scene.finish().await;
}

/// Somebody repeats the operation while its COMMIT is in flight on one side.
#[tokio::test(flavor = "multi_thread")]
async fn case_18_a_commit_is_in_flight_while_it_is_asked_for() {
    let scene = Scene::set().await;
    scene.stall("b").await;
    let (op, asked) = scene.create(0, "eighteen");
    eventually("the follower's COMMIT stalls", HEAL, || async {
        scene.has("a", op).await && scene.is_stalled("b", "COMMIT").await
    })
    .await;
    assert!(
        !scene.has("b", op).await,
        "not visible: a plain look would say that it is not there"
    );
    scene.web_act(Action::Crash, 0).await;
    let _ = asked.await;
    let body = serde_json::json!({ "name": "row", "content": "eighteen" });
    let again = scene.send(1, op, "POST", "/api/items", Some(body)).await;
    assert!(again.applied(), "{again:?}");
    assert!(
        scene.has("b", op).await || scene.epoch("a").await.1 == 1,
        "answered while a member may lack it"
    );
    tokio::time::sleep(FREEZE).await;
    scene.unstall("b").await;
    scene.web_act(Action::Start, 0).await;
    healed(&scene, HEAL).await;
    scene.exactly_one("eighteen").await;
    scene.finish().await;
}

/// Both COMMITs were sent, both links are cut: unknown to the client, known to everybody else, final when a link returns.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_19_both_links_are_cut_after_both_commits_were_sent() {
    let scene = Scene::with(|options| options.with_setting("OP_DEADLINE_MS", "3000")).await;
    let (a, b) = (scene.wire(0, "a"), scene.wire(0, "b"));
    a.set_once(Fault::LoseCommitReply(of_leader(), Then::Hang));
    b.set_once(Fault::LoseCommitReply(of_follower(), Then::Hang));
    let (op, asked) = scene.create(0, "nineteen");
    eventually("both replies are lost", HEAL, || async {
        a.counts().lost + b.counts().lost == 2
    })
    .await;
    a.set(Fault::Cut);
    b.set(Fault::Cut);
    let told = asked.await.unwrap();
    assert_eq!(told.status, Some(202), "{told:?}");
    assert!(a.hits() > 0 && b.hits() > 0);
    let known = scene.send(1, op, "GET", &format!("/api/ops/{op}"), None).await;
    assert_eq!(known.body["outcome"], "applied", "the other instance knows");
    a.heal();
    b.heal();
    scene.judge().await;
    scene.exactly_one("nineteen").await;
    scene.finish().await;
}

/// A deferred constraint fails when it is asked for, and that is before the first COMMIT.
#[tokio::test(flavor = "multi_thread")]
async fn case_20_a_deferred_constraint_would_fail_at_commit() {
    let stack = pair().await;
    let config = |name: &str| {
        let mut config = PoolConfig::new(stack.side_configs(), name);
        config.state_dir = stack.place().dir.join("state");
        config
    };
    install(&config("init"), &["items"]).await.unwrap();
    let pool = MultiPool::connect(config("web1")).await.unwrap();
    let (op, finished) = (OpId::new(), Arc::new(AtomicBool::new(false)));
    let at_end = Arc::clone(&finished);
    let refused = pool
        .transaction(op, move |tx| {
            let at_end = Arc::clone(&at_end);
            Box::pin(async move {
                tx.execute("INSERT INTO items (name) VALUES ('twenty')", &[])
                    .await?;
                let table = "CREATE TEMP TABLE d (n int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP";
                tx.execute(table, &[]).await?;
                tx.execute("INSERT INTO d VALUES (1), (1)", &[]).await?;
                at_end.store(true, Ordering::Relaxed);
                Ok(())
            })
        })
        .await;
    assert!(finished.load(Ordering::Relaxed), "no statement failed");
    assert!(
        matches!(&refused, Err(WriteError::Rejected { sqlstate, .. }) if sqlstate == "23505"),
        "{refused:?}"
    );
    for name in ["a", "b"] {
        let dsn = stack.dsn(side(name));
        assert_eq!(number(&dsn, "SELECT count(*) FROM items").await, 0, "{name}");
        assert_eq!(number(&dsn, "SELECT count(*) FROM kambana.op").await, 0, "{name}");
        assert_eq!(
            number(&dsn, "SELECT n FROM kambana.epoch").await,
            1,
            "no side was blamed"
        );
    }
    pool.close().await;
    stack.stop().await.unwrap();
}

/// A process of a database under load: the postmaster alone, or one backend.
async fn process_dies(name: &str, which: &str) {
    let scene = Scene::set().await;
    let load = Load::start(vec![scene.instance_url(0), scene.instance_url(1)], 6, 30, false);
    load.more(50).await;
    let postmaster = scene.record().sides[name].process.unwrap();
    let pid = match which {
        "postmaster" => postmaster.pid,
        _ => {
            let sql =
                "SELECT pid::bigint FROM pg_stat_activity WHERE application_name = 'kambana web1' LIMIT 1";
            number(&scene.dsn(side(name)), sql).await as i32
        }
    };
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    load.more(100).await;
    let other = if name == "a" { "b" } else { "a" };
    assert!(
        scene.epoch(other).await.0 > 1,
        "{which} of {name}: the side was given up"
    );
    if which == "postmaster" {
        scene.newly_ended();
        scene.side_act(Action::Start, name).await;
    }
    whole(&scene, HEAL).await;
    load.more(50).await;
    let history = load.all_served(&scene, HEAL).await;
    assert!(
        history.worst_gap() < CRASH * CROWDED,
        "{which} of {name}: {:?}",
        history.worst_gap()
    );
    assert!(
        history.worst_read_gap() < CRASH * CROWDED,
        "{which} of {name}: {:?}",
        history.worst_read_gap()
    );
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_21_only_the_postmaster_dies() {
    process_dies("a", "postmaster").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_22_one_backend_dies() {
    process_dies("b", "backend").await;
}
