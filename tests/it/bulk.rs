//! A million rows at a time: every bulk work in turn, and the memory of the instances that do it.

use std::fmt::Write;
use std::time::{Duration, Instant};

use kambana::local::{Action, Target};

use crate::browser::Browser;
use crate::support::{assert_identical, eventually, healed, number, program, side, start, whole};

const ROWS: usize = 1_000_000;

/// What an instance may have in memory at most, whatever it does.
const MOST_KB: i64 = 150 * 1024;

const PATIENCE: Duration = Duration::from_secs(900);

/// The most that this process has ever had in memory.
fn peak_kb(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_a_million_rows_need_little_memory_however_they_come() {
    let stack = start(|options| {
        // A longer absence than the journal keeps by default.
        let options = options.with_setting("JOURNAL_MAX_ROWS", "2000000");
        options.with_instances(&program())
    })
    .await;
    let running = stack.record().instances;
    let pids: Vec<i32> = running
        .values()
        .filter_map(|i| Some(i.process.as_ref()?.pid))
        .collect();
    assert_eq!(pids.len(), 2);
    let url = stack.instance_url(0);
    let small = |what: &str, since: Instant| {
        let peaks: Vec<i64> = pids.iter().map(|pid| peak_kb(*pid)).collect();
        println!("{what}: {:?}, peaks {peaks:?} kB", since.elapsed());
        assert!(peaks.iter().all(|peak| *peak < MOST_KB), "{what}: {peaks:?} kB");
    };
    let count = |name: &'static str| {
        let dsn = stack.dsn(side(name));
        async move { number(&dsn, "SELECT count(*) FROM items").await }
    };
    stack.act(Action::Crash, Target::Side(side("b"))).await.unwrap();

    let since = Instant::now();
    let mut file = String::from("name,content\n");
    for n in 0..ROWS {
        writeln!(file, "row {n},content of row {n}").unwrap();
    }
    let person = Browser::new();
    let form = person
        .open(&url, "/items/import")
        .await
        .form_to("/items/import?op_id=");
    let answer = person.upload(&url, &form, file.into()).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    eventually("all is imported", PATIENCE, || async {
        count("a").await == ROWS as i64
    })
    .await;
    small("import while b is out", since);

    let since = Instant::now();
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    whole(&stack, PATIENCE).await;
    healed(&stack, PATIENCE).await;
    small("catch-up", since);

    let since = Instant::now();
    stack.act(Action::Wipe, Target::Side(side("b"))).await.unwrap();
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    whole(&stack, PATIENCE).await;
    healed(&stack, PATIENCE).await;
    assert_eq!(count("b").await, ROWS as i64);
    small("rebuild", since);
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}
