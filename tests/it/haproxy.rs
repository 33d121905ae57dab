//! What HAProxy promises in front of two instances and two databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kambana::local::{Action, Stack, StackOptions, Target, http};
use serde_json::json;

use crate::support::{connect, eventually, program, side, start};

const CLIENTS: usize = 4;

fn whole(options: StackOptions) -> StackOptions {
    options.with_instances(&program()).with_haproxy()
}

/// Writes and reads through HAProxy, on connections that are kept, until told to stop; returns how many were answered.
async fn load(url: String, stop: Arc<AtomicBool>) -> Result<usize, String> {
    let client = reqwest::Client::new();
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let url = format!("{url}/api/items");
        let write = client.post(&url).json(&json!({"name": "x"}));
        for request in [write, client.get(&url)] {
            let answer = request.send().await.map_err(|e| format!("{e:?}"))?;
            if !answer.status().is_success() || answer.status() == 202 {
                return Err(format!("{}: {:?}", answer.status(), answer.text().await));
            }
            answered += 1;
        }
    }
    Ok(answered)
}

async fn count(stack: &Stack, name: &str) -> i64 {
    let client = connect(&stack.dsn(side(name))).await.unwrap();
    let row = client.query_one("SELECT count(*) FROM items", &[]).await.unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_restarts_of_both_instances_fail_no_request() {
    let stack = start(whole).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(load(stack.url(), stop.clone())))
        .collect();
    for index in [0, 1] {
        let web = Target::Web(index);
        stack.act(Action::Stop, web).await.unwrap();
        stack.act(Action::Start, web).await.unwrap();
        // The next one may go only when HAProxy has seen this one.
        let stats = stack.record().haproxy.unwrap().stats_url;
        eventually("HAProxy sees the instance", Duration::from_secs(10), || async {
            let csv = http::get(&format!("{stats};csv"), Duration::from_secs(5))
                .await
                .unwrap()
                .body;
            let csv = String::from_utf8_lossy(&csv).into_owned();
            let line = csv.lines().find(|line| line.starts_with(&format!("web,{web},")));
            line.is_some_and(|line| line.contains(",UP,"))
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap().unwrap();
    }
    // Half of them were writes, each applied once, on both sides.
    for name in ["a", "b"] {
        assert_eq!(count(&stack, name).await, answered as i64 / 2, "side {name}");
    }
}

#[tokio::test]
async fn the_front_for_postgresql_follows_the_side_that_may_be_used() {
    let stack = start(whole).await;
    let port = stack.record().haproxy.unwrap().postgres_port;
    let through_front = |name: &str| {
        let config = stack.record().sides[name].config();
        let (user, password) = (config.user, config.password.expose().to_owned());
        format!(
            "postgresql://{user}:{password}@127.0.0.1:{port}/{}",
            config.database
        )
    };
    assert!(connect(&through_front("a")).await.is_ok());
    assert!(connect(&through_front("b")).await.is_err(), "side a leads");

    stack.act(Action::Crash, Target::Side(side("a"))).await.unwrap();
    eventually("the front leads to side b", Duration::from_secs(15), || async {
        connect(&through_front("b")).await.is_ok()
    })
    .await;
    // The checks do not depend on one instance. (Both at once would be half of the votes.)
    stack.act(Action::Crash, Target::Web(0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    eventually(
        "the front still leads to side b",
        Duration::from_secs(5),
        || async { connect(&through_front("b")).await.is_ok() },
    )
    .await;
}

#[tokio::test]
async fn what_clients_say_about_themselves_is_replaced() {
    let stack = start(whole).await;
    let client = reqwest::Client::new();
    // An instance that believed `https` would set the cookie for secure connections only.
    let answer = client
        .get(format!("{}/", stack.url()))
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-For", "6.6.6.6")
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success());
    for cookie in answer.headers().get_all("set-cookie") {
        assert!(!cookie.to_str().unwrap().contains("Secure"), "{cookie:?}");
    }
    let metrics = stack
        .record()
        .haproxy
        .unwrap()
        .stats_url
        .replace("/stats", "/metrics");
    let metrics = http::get(&metrics, Duration::from_secs(5)).await.unwrap();
    assert!(String::from_utf8_lossy(&metrics.body).contains("haproxy_server_status"));
}
