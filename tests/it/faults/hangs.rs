//! Part C: something stands still and says nothing.

use std::time::{Duration, Instant};

use kambana::local::{Action, Fault, Passing};
use kambana::multipool::failpoint::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use uuid::Uuid;

use super::scene::{CROWDED, FREEZE, HEAL, Scene, let_go};
use crate::load::Load;
use crate::support::{eventually, healed, whole};

/// A postmaster that stands still is seen by a fresh connection within this.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// Cases 25 to 27: the leader stands still while a write is at this place. Nothing that was on its way may win later.
async fn leader_freezes(standing: Duration) {
    let scene = Scene::set().await;
    let rows = [scene.make(0, "first").await, scene.make(1, "other").await];
    for (case, at) in [
        (25, None),
        (26, Some(Passing::Text("write::enter()".into()))),
        (26, Some(Passing::Text("group::keyed()".into()))),
        (27, Some(Passing::CommitOf("write::enter()".into()))),
    ] {
        let what = format!("case {case}, {at:?}");
        let wire = scene.wire(0, "a");
        let late = match &at {
            None => None,
            Some(at) => {
                wire.set_once(Fault::HoldAt(at.clone()));
                let asked = scene.put(0, rows[0], "late");
                eventually(&what, HEAL, || async { wire.hits() == 1 }).await;
                Some(asked)
            }
        };
        scene.side_act(Action::Freeze, "a").await;
        let frozen = Instant::now();
        // What was held goes on its way now and waits in the frozen server's socket.
        let_go(wire);
        let (gap, read) = tokio::join!(scene.must_put(1, rows[1], "meanwhile"), async {
            let started = Instant::now();
            scene.seen(1, rows[1]).await;
            started.elapsed()
        });
        assert!(gap < FREEZE * CROWDED, "{what}: writes waited {gap:?}");
        assert!(read < FREEZE * CROWDED, "{what}: reads waited {read:?}");
        println!("{what}: writes waited {gap:?}, reads {read:?}");
        assert_eq!(scene.epoch("b").await.1, 2, "{what}: b leads");
        for web in 0..2 {
            scene.status_says(web, "a", "out", FREEZE * CROWDED).await;
        }
        if let Some((op, asked)) = late {
            let told = asked.await.unwrap();
            assert!(told.applied(), "{what}: {told:?}");
            assert!(
                frozen.elapsed() < FREEZE * CROWDED,
                "{what}: answered after {:?}",
                frozen.elapsed()
            );
            assert!(scene.has("b", op).await, "{what}");
        }
        scene.must_put(1, rows[0], "newest").await;
        tokio::time::sleep(standing.saturating_sub(frozen.elapsed())).await;
        scene.side_act(Action::Thaw, "a").await;
        whole(&scene, HEAL).await;
        healed(&scene, HEAL).await;
        scene.both_have(rows[0], "newest", FREEZE).await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_25_to_27_the_leader_freezes() {
    leader_freezes(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_cases_25_to_27_the_leader_freezes_for_a_minute() {
    leader_freezes(Duration::from_secs(60)).await;
}

/// Case 25, while the others are still leaving it out: a frozen side takes new connections and says nothing, so a write
/// that has given up the old ones must not wait for new ones.
#[tokio::test(flavor = "multi_thread")]
async fn case_25_nobody_connects_to_a_side_that_is_known_to_be_frozen() {
    let scene = Scene::set().await;
    let row = scene.make(0, "first").await;
    for web in 0..2 {
        scene.points(web).arm(Point::EjectBefore, "sleep 350");
    }
    scene.side_act(Action::Freeze, "b").await;
    let (_, asked) = scene.put(0, row, "meanwhile");
    eventually("the frozen side is out", FREEZE * CROWDED, || async {
        scene.epoch("a").await.0 == 2
    })
    .await;
    let out = Instant::now();
    let told = asked.await.unwrap();
    let after = out.elapsed();
    println!("case 25: answered {after:?} after the side was out");
    let reached = (0..2).map(|web| scene.points(web).reached(Point::EjectBefore));
    assert!(reached.sum::<usize>() > 0, "leaving it out took its time");
    assert!(told.applied(), "{told:?}");
    assert!(
        after < Duration::from_millis(500),
        "answered {after:?} after it was out"
    );
    scene.side_act(Action::Thaw, "b").await;
    whole(&scene, HEAL).await;
    scene.both_have(row, "meanwhile", FREEZE).await;
    scene.finish().await;
}

/// Connections that are open go on working; only a fresh one finds out.
#[tokio::test(flavor = "multi_thread")]
async fn case_28_only_the_followers_postmaster_freezes() {
    let scene = Scene::set().await;
    let row = scene.make(0, "first").await;
    let postmaster = Pid::from_raw(scene.record().sides["b"].process.unwrap().pid);
    kill(postmaster, Signal::SIGSTOP).unwrap();
    let frozen = Instant::now();
    for web in 0..2 {
        eventually("the status tells of it", SEEN_WITHIN * CROWDED, || async {
            let b = &scene.status(web).await["sides"]["b"];
            !b["fault"].is_null() || b["state"] != "active"
        })
        .await;
    }
    println!("case 28: seen after {:?}", frozen.elapsed());
    let gap = scene.must_put(0, row, "meanwhile").await;
    assert!(gap < FREEZE * CROWDED, "writes waited {gap:?}");
    kill(postmaster, Signal::SIGCONT).unwrap();
    whole(&scene, HEAL).await;
    scene.both_have(row, "meanwhile", FREEZE).await;
    scene.finish().await;
}

/// Case 29: every COMMIT of a side takes so long.
async fn disk_stalls(name: &str, stall: Duration) {
    let scene = Scene::set().await;
    let load = Load::start(vec![scene.instance_url(0), scene.instance_url(1)], 6, 30, false);
    load.more(50).await;
    scene.stall(name).await;
    let other = if name == "a" { "b" } else { "a" };
    eventually("the side is given up", FREEZE * CROWDED, || async {
        scene.epoch(other).await.0 == 2
    })
    .await;
    tokio::time::sleep(stall).await;
    assert_eq!(
        scene.epoch(other).await.0,
        2,
        "given up once, and not taken back while it stalls"
    );
    scene.unstall(name).await;
    whole(&scene, HEAL).await;
    load.more(50).await;
    let history = load.all_served(&scene, HEAL).await;
    assert_eq!(scene.epoch(other).await, (3, 3), "out once and back once");
    assert!(
        history.worst_gap() < FREEZE * CROWDED,
        "{:?}",
        history.worst_gap()
    );
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_29_the_disk_of_a_side_stalls() {
    disk_stalls("b", Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_case_29_the_disk_of_the_leader_stalls_for_ten_seconds() {
    disk_stalls("a", Duration::from_secs(10)).await;
}

/// Another program locks a table on one side: that table is answered 503, all others go on, and no side is blamed.
#[tokio::test(flavor = "multi_thread")]
async fn case_30_a_foreign_lock_of_a_table() {
    let scene = Scene::set().await;
    let row = scene.make(0, "first").await;
    for name in ["a", "b"] {
        let locker = scene.sql(name).await;
        locker
            .batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            .await
            .unwrap();
        let (_, asked) = scene.put(0, row, "behind the lock");
        let server = json!({ "name": name, "host": "h", "port": 1 });
        let other = scene
            .send(1, Uuid::now_v7(), "POST", "/api/servers", Some(server))
            .await;
        assert_eq!(other.status, Some(201), "another table, {name} locked: {other:?}");
        let refused = asked.await.unwrap();
        assert_eq!(refused.status, Some(503), "{name}: {refused:?}");
        println!(
            "case 30: {name} locked: refused after {:?}: {}",
            refused.took, refused.body["detail"]
        );
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("holds a lock"), "{name}: {refused:?}");
        locker.batch_execute("ROLLBACK").await.unwrap();
        scene.must_put(1, row, "after the lock").await;
        scene.both_have(row, "after the lock", FREEZE).await;
    }
    assert_eq!(scene.epoch("a").await, (1, 3), "no side was blamed");
    scene.finish().await;
}
