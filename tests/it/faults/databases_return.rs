//! Part B, continued: databases return, one before the other, or while something is in flight.

use std::time::{Duration, Instant};

use kambana::local::Action;
use kambana::multipool::failpoint::Point;
use uuid::Uuid;

use super::scene::{FREEZE, HEAL, Scene};
use crate::support::{eventually, healed, whole};

/// Both die, and return in every order. Who was out when the last write was made never serves alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn cases_23_and_24_both_die_and_return_in_four_orders() {
    let scene = Scene::set().await;
    let row = scene.make(0, "first").await;
    for (first, second) in [("a", "b"), ("b", "a")] {
        for back in [first, second] {
            let what = format!("{first} dies, then {second}; {back} returns first");
            scene.side_act(Action::Crash, first).await;
            scene.must_put(0, row, "only on the second").await;
            assert_eq!(
                scene.epoch(second).await.1,
                if second == "a" { 1 } else { 2 },
                "{what}"
            );
            scene.side_act(Action::Crash, second).await;
            scene.side_act(Action::Start, back).await;
            let late = if back == first { second } else { first };
            if back == first {
                // Case 24: it feels well and must not be believed. Each of these waits some seconds for the other side.
                tokio::join!(refuses(&scene, 0, row, back), refuses(&scene, 1, row, back));
                scene.side_act(Action::Start, late).await;
                healed(&scene, HEAL).await;
                scene.both_have(row, "only on the second", FREEZE).await;
            } else {
                scene.must_put(1, row, "alone again").await;
                scene.side_act(Action::Start, late).await;
                healed(&scene, HEAL).await;
                scene.both_have(row, "alone again", FREEZE).await;
            }
        }
    }
    scene.finish().await;
}

/// An instance that hears only a side that was out says so, and neither writes there nor shows the past.
async fn refuses(scene: &Scene, web: usize, row: i64, alone: &str) {
    let path = format!("/api/items/{row}");
    let (write, read) = tokio::join!(
        scene.put_as(web, Uuid::now_v7(), row, "lost?"),
        scene.send(web, Uuid::now_v7(), "GET", &path, None)
    );
    assert_eq!(
        (write.status, read.status),
        (Some(503), Some(503)),
        "{alone} alone: {write:?} {read:?}"
    );
    let why = "was out when the last write was made";
    assert!(write.body["detail"].as_str().unwrap().contains(why), "{write:?}");
    let status = scene.status(web).await;
    assert_eq!(status["writable"], false, "{status}");
    assert!(
        status["refusal"]
            .as_str()
            .unwrap()
            .contains(&format!("side {alone}")),
        "{status}"
    );
}

/// A side returns while a write of the epoch without it is in flight: it is not readmitted past it.
#[tokio::test(flavor = "multi_thread")]
async fn no_side_is_readmitted_past_a_write_in_flight() {
    let scene = Scene::set().await;
    scene.side_act(Action::Crash, "b").await;
    let row = scene.make(0, "b is out").await;
    let points = [scene.points(0), scene.points(1)];
    for points in &points {
        points.arm(Point::FenceOffBefore, "hold");
    }
    scene.side_act(Action::Start, "b").await;
    eventually("somebody is about to catch it up", HEAL, || async {
        points
            .iter()
            .any(|points| points.reached(Point::FenceOffBefore) > 0)
    })
    .await;
    points[0].arm(Point::GuardPassed, "hold");
    let (_, asked) = scene.put(0, row, "in flight");
    points[0].wait(Point::GuardPassed).await;
    let held = Instant::now();
    for points in &points {
        points.disarm(Point::FenceOffBefore);
    }
    // The server ends a transaction that stands still for three seconds; until then this one is in the way.
    let a = scene.sql("a").await;
    let standing = "SELECT members, EXISTS (SELECT FROM pg_locks WHERE relation = 'kambana.fence'::regclass
                      AND mode = 'RowShareLock' AND granted) FROM kambana.epoch";
    loop {
        let row = a.query_one(standing, &[]).await.unwrap();
        let (members, stands): (i32, bool) = (row.get(0), row.get(1));
        if !stands || held.elapsed() > Duration::from_millis(2500) {
            break;
        }
        assert_eq!(members, 1, "readmitted while a write that it lacks is in flight");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        held.elapsed() > Duration::from_secs(1),
        "it stood for {:?} only",
        held.elapsed()
    );
    points[0].disarm(Point::GuardPassed);
    assert!(asked.await.unwrap().applied());
    whole(&scene, HEAL).await;
    scene.both_have(row, "in flight", FREEZE).await;
    scene.finish().await;
}
