//! Case 59: more work than can be done, while one side is slow. Queues stay bounded, who is not served is told so and
//! when to come back, reads live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kambana::local::{Action, Target};
use serde_json::Value;
use uuid::Uuid;

use super::stage::{applied, epoch, insert};
use crate::load::http;
use crate::support::{assert_identical, healed, number, program, setting, side, start, whole};

const QUEUE: u64 = 32;
/// Ten times what the lanes and the queue hold.
const CLIENTS: usize = 400;

/// Resident memory of a process, in kilobytes.
pub fn resident_kb(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[derive(Default)]
struct Answers {
    taken: std::sync::Mutex<Vec<Uuid>>,
    refused: std::sync::Mutex<Vec<Uuid>>,
    wrong: std::sync::Mutex<Vec<String>>,
}

async fn one_client(url: String, stop: Arc<AtomicBool>, answers: Arc<Answers>) {
    let http = http();
    while !stop.load(Ordering::Relaxed) {
        let op = Uuid::now_v7();
        let answer = match insert(&http, &url, op, "one of many").send().await {
            Ok(answer) => answer,
            Err(error) => {
                answers.wrong.lock().unwrap().push(format!("{error:?}"));
                continue;
            }
        };
        let wait = answer.headers().get("retry-after").cloned();
        match (answer.status().as_u16(), wait) {
            (201, _) => answers.taken.lock().unwrap().push(op),
            (503, Some(_)) => {
                answers.refused.lock().unwrap().push(op);
                // Far less patient than it was asked to be.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            (status, wait) => {
                let text = answer.text().await;
                answers
                    .wrong
                    .lock()
                    .unwrap()
                    .push(format!("{status} {wait:?} {text:?}"));
            }
        }
    }
}

/// Reads until told to stop: how many were answered, and the longest time without an answer.
async fn reader(url: String, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (http, mut answered, mut last, mut worst) = (http(), 0, Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let answer = http.get(format!("{url}/api/items?limit=1")).send().await;
        if answer.is_ok_and(|answer| answer.status() == 200) {
            answered += 1;
            worst = worst.max(last.elapsed());
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (answered, worst.max(last.elapsed()))
}

#[tokio::test(flavor = "multi_thread")]
async fn case_59_ten_times_the_load_and_a_slow_side() {
    let stack = start(|options| {
        options
            .with_instances(&program())
            .with_setting("WRITE_QUEUE", &QUEUE.to_string())
            .with_setting("WRITE_LANES", "1")
            .with_setting("POOL_SIZE", "2")
            .with_setting("OP_DEADLINE_MS", "3000")
    })
    .await;
    let url = stack.instance_url(0);
    let pid = stack.record().instances["web1"].process.unwrap().pid;
    let before = epoch(&stack, "a").await;
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Answers::default()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(one_client(url.clone(), Arc::clone(&stop), Arc::clone(&answers))))
        .collect();
    let reading = tokio::spawn(reader(url.clone(), Arc::clone(&stop)));
    let (longest, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let watching = {
        let (url, stop, longest, asked) = (
            url.clone(),
            Arc::clone(&stop),
            Arc::clone(&longest),
            Arc::clone(&asked),
        );
        tokio::spawn(async move {
            let http = http();
            while !stop.load(Ordering::Relaxed) {
                let status: Value = http
                    .get(format!("{url}/api/status"))
                    .send()
                    .await
                    .unwrap()
                    .json()
                    .await
                    .unwrap();
                longest.fetch_max(status["waiting_writes"].as_u64().unwrap(), Ordering::Relaxed);
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let slow = Target::Side(side("b"));
    let until = Instant::now() + Duration::from_secs(setting("KAMBANA_OVERLOAD_S", 8));
    let mut memory = 0;
    while Instant::now() < until {
        // Slow, and never silent for as long as a heartbeat may take.
        stack.act(Action::Freeze, slow).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        stack.act(Action::Thaw, slow).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        memory = memory.max(resident_kb(pid));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    watching.await.unwrap();
    let (reads, longest_read) = reading.await.unwrap();
    let (taken, refused) = (
        answers.taken.lock().unwrap().clone(),
        answers.refused.lock().unwrap().clone(),
    );
    println!(
        "{} taken, {} refused, {reads} reads, longest without a read {longest_read:?}, {memory} kB, queue {longest:?}, {asked:?} looks",
        taken.len(),
        refused.len(),
    );
    assert_eq!(*answers.wrong.lock().unwrap(), Vec::<String>::new());
    assert!(
        !taken.is_empty() && !refused.is_empty(),
        "there was more than could be done"
    );
    assert!(longest.load(Ordering::Relaxed) <= QUEUE, "the queue is bounded");
    assert!(memory < 200_000, "memory is bounded");
    assert!(reads >= 5 && longest_read < Duration::from_secs(5), "reads live");
    assert!(
        epoch(&stack, "a").await <= before + 2,
        "a slow side is no reason to change the membership again and again"
    );
    whole(&stack, Duration::from_secs(30)).await;
    healed(&stack, Duration::from_secs(30)).await;
    assert_identical(&stack).await;
    for name in ["a", "b"] {
        assert_eq!(applied(&stack, name, &taken).await, taken.len() as i64);
        assert_eq!(applied(&stack, name, &refused).await, 0, "refused on {name}");
        let rows = number(&stack.dsn(side(name)), "SELECT count(*) FROM items").await;
        assert_eq!(rows, taken.len() as i64, "each once on {name}");
    }
    stack.stop().await.unwrap();
}
