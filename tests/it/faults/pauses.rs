//! Part F: what stands still for a while and then goes on, two who repair at once, and clocks that lie.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kambana::local::{Action, Target};
use kambana::multipool::failpoint::Point;
use uuid::Uuid;

use super::points::{Points, with_failpoints};
use super::stage::{active, applied, insert, run, skipped};
use crate::load::{Load, http};
use crate::support::{
    Running, assert_identical, connect, eventually, full, healed, instances, number, program, rows, setting,
    side, start, whole,
};

const RETURN: Duration = Duration::from_secs(60);
/// What stands still costs writers at most this much,
const FROZEN_BUDGET: Duration = Duration::from_secs(3);
/// on a machine that is free.
const CROWDED: u32 = 3;

/// An instance stands still in the middle of whatever it does, for longer than any timeout of its sessions; the other
/// one serves, finishes what was left, and must not be disturbed when the first one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn case_43_an_instance_that_stood_still_changes_nothing_when_it_goes_on() {
    let stack = full().await;
    let urls = vec![stack.instance_url(0), stack.instance_url(1)];
    let load = Load::start(urls, 8, 40, true);
    load.more(200).await;
    let pause = Duration::from_secs(setting("KAMBANA_PAUSE_S", 5));
    for index in [0, 1] {
        stack.act(Action::Freeze, Target::Web(index)).await.unwrap();
        let ping = reqwest::Client::new()
            .get(format!("{}/health/live", stack.instance_url(index)))
            .timeout(Duration::from_millis(300));
        assert!(ping.send().await.is_err(), "it stands still");
        // The pause itself is the fault: nothing to wait for.
        tokio::time::sleep(pause).await;
        stack.act(Action::Thaw, Target::Web(index)).await.unwrap();
        load.more(100).await;
    }
    load.all_served(&stack, RETURN).await;
    stack.stop().await.unwrap();
}

/// Exactly between the two commits: the follower has the change, the leader's COMMIT is not sent yet.
#[tokio::test(flavor = "multi_thread")]
async fn case_43_a_commit_that_comes_too_late_changes_nothing() {
    let stack = start(|options| with_failpoints(options.with_instances(&program()))).await;
    let urls = [stack.instance_url(0), stack.instance_url(1)];
    let (http, points) = (http(), Points::of(&stack, 0));
    let answer = insert(&http, &urls[0], Uuid::now_v7(), "before")
        .send()
        .await
        .unwrap();
    let id = answer.json::<serde_json::Value>().await.unwrap()["id"].clone();
    let put = |url: &str, op: Uuid, name: &str| {
        let request = http.put(format!("{url}/api/items/{id}"));
        let request = request.header("Idempotency-Key", op.to_string());
        request.json(&serde_json::json!({ "name": name }))
    };
    points.arm(Point::CommitLeader, "hold once");
    let held = Uuid::now_v7();
    let first = tokio::spawn(put(&urls[0], held, "held").send());
    points.wait(Point::CommitLeader).await;
    eventually("only the follower has it", Duration::from_secs(5), || async {
        applied(&stack, "b", &[held]).await == 1
    })
    .await;
    assert_eq!(applied(&stack, "a", &[held]).await, 0);
    stack.act(Action::Freeze, Target::Web(0)).await.unwrap();
    // The next writer of the row rolls it forward and goes on from there.
    let later = Uuid::now_v7();
    let began = std::time::Instant::now();
    let answer = put(&urls[1], later, "later").send().await.unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    println!("the next writer waited {:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(setting("KAMBANA_PAUSE_S", 2))).await;
    points.release(Point::CommitLeader);
    stack.act(Action::Thaw, Target::Web(0)).await.unwrap();
    let status = first.await.unwrap().unwrap().status().as_u16();
    assert!(status == 200 || status == 202, "{status}");
    whole(&stack, RETURN).await;
    healed(&stack, RETURN).await;
    assert_identical(&stack).await;
    for name in ["a", "b"] {
        assert_eq!(applied(&stack, name, &[held, later]).await, 2);
        let names = rows(&stack.dsn(side(name)), "SELECT name FROM items").await;
        assert_eq!(names, ["(later)"], "side {name}");
    }
    stack.stop().await.unwrap();
}

/// Side b misses so many rows that its repair can be met in the middle.
async fn b_missed_much(stack: &Running) {
    let (a, b) = (stack.dsn(side("a")), Target::Side(side("b")));
    stack.act(Action::Crash, b).await.unwrap();
    active(stack, "a", 1, Duration::from_secs(20)).await;
    let a = connect(&a).await.unwrap();
    for round in 0..10 {
        let sql = format!(
            "INSERT INTO items (name, content) SELECT 'missed {round}', repeat('x', 500) FROM generate_series(1, 5000)"
        );
        a.execute(&sql, &[]).await.unwrap();
    }
}

/// Who holds the lease on the repair of side b.
async fn repairer(stack: &Running) -> Option<String> {
    let found = rows(&stack.dsn(side("a")), "SELECT holder FROM kambana.repair").await;
    found.first().map(|row| row.trim_matches(['(', ')']).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_44_a_repairer_that_stood_still_is_replaced_and_does_no_harm() {
    let (stack, urls) = instances().await;
    b_missed_much(&stack).await;
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    let seen = std::sync::Mutex::new(None);
    eventually("somebody repairs", Duration::from_secs(20), || async {
        *seen.lock().unwrap() = repairer(&stack).await;
        seen.lock().unwrap().is_some()
    })
    .await;
    let first = seen.into_inner().unwrap().unwrap();
    let (frozen, other) = if first == "web1" { (0, 1) } else { (1, 0) };
    stack.act(Action::Freeze, Target::Web(frozen)).await.unwrap();
    assert_eq!(
        number(&stack.dsn(side("a")), "SELECT members::bigint FROM kambana.epoch").await,
        1,
        "the repair was not over"
    );
    let second = format!("web{}", other + 1);
    // The row it changes now is one that the first repairer may have read already.
    let http = http();
    let op = Uuid::now_v7();
    let answer = insert(&http, &urls[other], op, "during the pause")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    eventually(
        "the other instance takes over",
        Duration::from_secs(30),
        || async {
            let epoch = "SELECT members::bigint FROM kambana.epoch";
            repairer(&stack).await.as_deref() == Some(&second)
                || number(&stack.dsn(side("a")), epoch).await == 3
        },
    )
    .await;
    stack.act(Action::Thaw, Target::Web(frozen)).await.unwrap();
    whole(&stack, RETURN).await;
    healed(&stack, RETURN).await;
    assert_identical(&stack).await;
    for name in ["a", "b"] {
        assert_eq!(applied(&stack, name, &[op]).await, 1);
        let all = "SELECT count(*) FROM items";
        assert_eq!(number(&stack.dsn(side(name)), all).await, 50_001);
    }
    stack.stop().await.unwrap();
}

/// The worst moment: every writer waits for the fences that the repairer holds.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_44_a_repairer_that_stands_still_with_both_fences_stops_nobody_for_long() {
    let stack = start(|options| with_failpoints(options.with_instances(&program()))).await;
    let urls = [stack.instance_url(0), stack.instance_url(1)];
    let points = [Points::of(&stack, 0), Points::of(&stack, 1)];
    let b = Target::Side(side("b"));
    stack.act(Action::Crash, b).await.unwrap();
    active(&stack, "a", 1, Duration::from_secs(20)).await;
    for points in &points {
        points.arm(Point::MergeBefore, "hold once");
    }
    stack.act(Action::Start, b).await.unwrap();
    let reached = || {
        points
            .iter()
            .position(|points| points.reached(Point::MergeBefore) > 0)
    };
    eventually(
        "a repairer holds both fences",
        Duration::from_secs(20),
        || async { reached().is_some() },
    )
    .await;
    let holder = reached().unwrap();
    stack.act(Action::Freeze, Target::Web(holder)).await.unwrap();
    for points in &points {
        points.disarm(Point::MergeBefore);
    }
    let began = std::time::Instant::now();
    let answer = insert(&http(), &urls[1 - holder], Uuid::now_v7(), "behind the fence")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
    let waited = began.elapsed();
    println!("a writer waited {waited:?}");
    assert!(waited < FROZEN_BUDGET * CROWDED);
    whole(&stack, RETURN).await;
    points[holder].release(Point::MergeBefore);
    stack.act(Action::Thaw, Target::Web(holder)).await.unwrap();
    let answer = insert(&http(), &urls[holder], Uuid::now_v7(), "afterwards")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    healed(&stack, RETURN).await;
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

/// The lease is only politeness: with it taken away again and again, both instances repair at the same time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_45_two_repairers_at_once_do_no_harm() {
    let (stack, urls) = instances().await;
    b_missed_much(&stack).await;
    let load = Load::start(urls.to_vec(), 4, 20, true);
    load.more(20).await;
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let thief = {
        let (stop, dsn) = (Arc::clone(&stop), stack.dsn(side("a")));
        tokio::spawn(async move {
            let a = connect(&dsn).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                a.execute("DELETE FROM kambana.repair", &[]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    // Every repairer marks the side with a token of its own.
    let tokens = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let b = stack.dsn(side("b"));
    eventually(
        "two repairers have been at work",
        Duration::from_secs(30),
        || async {
            let sql = "SELECT generation FROM kambana.epoch WHERE reason = 'being caught up'";
            let found = rows(&b, sql).await;
            tokens.lock().unwrap().extend(found);
            tokens.lock().unwrap().len() >= 2
        },
    )
    .await;
    stop.store(true, Ordering::Relaxed);
    thief.await.unwrap();
    whole(&stack, RETURN).await;
    load.more(50).await;
    load.all_served(&stack, RETURN).await;
    stack.stop().await.unwrap();
}

/// A lease, a heartbeat and a leftover of a server whose clock has stepped back an hour since: none of them may be
/// believed until the clock has come round again.
#[tokio::test(flavor = "multi_thread")]
async fn case_46_what_was_written_before_a_clock_stepped_back_binds_nobody() {
    let (stack, urls) = instances().await;
    let http = http();
    for url in &urls {
        let answer = insert(&http, url, Uuid::now_v7(), "before").send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }
    healed(&stack, RETURN).await;
    // What an instance that died has left on the follower, an hour from now.
    let b = connect(&stack.dsn(side("b"))).await.unwrap();
    b.batch_execute(
        "BEGIN; INSERT INTO kambana.lane VALUES (77, 'dead', '{0,0}');
         INSERT INTO kambana.op (op, digest, lane, batch, epoch, at)
           VALUES (gen_random_uuid(), 0, 77, 1, 1, now() + interval '1 h');
         SELECT set_config('kambana.lane', '77', true), set_config('kambana.batch', '1', true),
                set_config('kambana.op', (SELECT op::text FROM kambana.op WHERE lane = 77), true);
         INSERT INTO items (name) VALUES ('half written'); COMMIT",
    )
    .await
    .unwrap();
    let a = stack.dsn(side("a"));
    eventually("the leftover is found", Duration::from_secs(10), || async {
        number(&a, "SELECT count(*) FROM items WHERE name = 'half written'").await == 1
    })
    .await;
    // A dead instance says that it reaches b, an hour from now, and still repairs it.
    let root = connect(&a).await.unwrap();
    run(
        &root,
        &[
            "INSERT INTO kambana.heartbeat VALUES ('dead', 1, 3, now() + interval '1 h')",
            "INSERT INTO kambana.repair VALUES ('b', 'dead', now() + interval '1 h')",
        ],
    )
    .await;
    stack.act(Action::Freeze, Target::Side(side("b"))).await.unwrap();
    active(&stack, "a", 1, Duration::from_secs(12)).await;
    let answer = insert(&http, &urls[0], Uuid::now_v7(), "alone")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    stack.act(Action::Thaw, Target::Side(side("b"))).await.unwrap();
    whole(&stack, RETURN).await;
    healed(&stack, RETURN).await;
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

/// libfaketime, where Debian puts it.
fn faketime() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").ok()?.flatten();
    found
        .map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.is_file())
}

/// How far a program's clock is off, from now on.
fn set_clock(dir: &Path, offset: &str) {
    let (file, fresh) = (dir.join("clock"), dir.join("clock.new"));
    std::fs::write(&fresh, offset).unwrap();
    std::fs::rename(&fresh, &file).unwrap();
}

/// Order comes from epochs and from the leader's locks, never from clocks: instances and servers an hour apart, each
/// stepping back and forth under load, through the loss and return of each side.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_46_clocks_an_hour_apart_stepping_back() {
    let Some(library) = faketime() else {
        return skipped(46, "libfaketime is not installed (apt-get install libfaketime)");
    };
    let library = library.display().to_string();
    let variables = [
        ("LD_PRELOAD", library.as_str()),
        // In each program's own working directory.
        ("FAKETIME_TIMESTAMP_FILE", "clock"),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let stack = start(|options| {
        let options = options.with_instances(&program()).with_haproxy();
        variables.iter().fold(options, |options, (name, value)| {
            options
                .with_setting(name, value)
                .with_server_variable(name, value)
        })
    })
    .await;
    let place = stack.place();
    let dirs = [
        place.dir.join("web1"),
        place.dir.join("web2"),
        place.clusters.join("a/data"),
        place.clusters.join("b/data"),
    ];
    let clocks = |offsets: [&str; 4]| {
        for (dir, offset) in dirs.iter().zip(offsets) {
            set_clock(dir, offset);
        }
    };
    clocks(["+3600s", "-3600s", "-1800s", "+5400s"]);
    let clock_of = |name: &str| {
        let dsn = stack.dsn(side(name));
        async move { number(&dsn, "SELECT extract(epoch FROM clock_timestamp())::bigint").await }
    };
    eventually("the clocks are apart", Duration::from_secs(10), || async {
        clock_of("b").await - clock_of("a").await > 7000
    })
    .await;
    let load = Load::start(vec![stack.url()], 8, 40, true);
    for (name, offsets) in [
        ("a", ["-3600s", "+3600s", "+1800s", "-5400s"]),
        ("b", ["+0s", "+7200s", "-7200s", "+100s"]),
        ("a", ["+60s", "-60s", "+3600s", "-3600s"]),
    ] {
        load.more(100).await;
        let other = if name == "a" { "b" } else { "a" };
        stack.act(Action::Crash, Target::Side(side(name))).await.unwrap();
        load.more(60).await;
        active(
            &stack,
            other,
            if other == "a" { 1 } else { 2 },
            Duration::from_secs(20),
        )
        .await;
        clocks(offsets);
        load.more(60).await;
        stack.act(Action::Start, Target::Side(side(name))).await.unwrap();
        whole(&stack, RETURN).await;
    }
    load.all_served(&stack, RETURN).await;
    stack.stop().await.unwrap();
}
