//! What several cases need: numbers from the environment, a superuser's hands, small things to look at from outside.

use std::time::Duration;

use kambana::local::Stack;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{connect, eventually, number, side};

/// Says that a case could not be run here, and why. A runner that shows no output of good tests does not show this
/// either: `scripts/test` reads it from the file and says it at the end.
pub fn skipped(case: u32, why: &str) {
    use std::io::Write;
    let line = format!("SKIPPED case {case}: {why}");
    println!("{line}");
    let file = crate::support::template_cache().join("skipped");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
    writeln!(file.unwrap(), "{line}").unwrap();
}

/// The superuser of one side, over its private socket.
pub async fn superuser(stack: &Stack, name: &str) -> Client {
    let (socket, port, database) = {
        let stack = stack.record();
        let side = &stack.sides[name];
        (side.socket_dir.clone(), side.port, side.database.clone())
    };
    let dsn = format!(
        "host={} port={port} user=postgres dbname={database}",
        socket.display()
    );
    connect(&dsn).await.unwrap()
}

/// Statements that cannot run together in one transaction, one after another.
pub async fn run(client: &Client, statements: &[&str]) {
    for sql in statements {
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

/// The number of the epoch that a side stores.
pub async fn epoch(stack: &Stack, name: &str) -> i64 {
    number(&stack.dsn(side(name)), "SELECT n FROM kambana.epoch").await
}

/// Waits until a side says that exactly these sides are active: 1 is a, 2 is b, 3 both.
pub async fn active(stack: &Stack, witness: &str, mask: i64, limit: Duration) {
    let dsn = stack.dsn(side(witness));
    eventually("the expected sides are active", limit, || async {
        number(&dsn, "SELECT members::bigint FROM kambana.epoch").await == mask
    })
    .await;
}

/// What an instance says about a side: its state, and what is wrong with it.
pub async fn said_of(url: &str, name: &str) -> (String, String) {
    let answer = reqwest::get(format!("{url}/api/status")).await;
    let status: Value = match answer {
        Ok(answer) => answer.json().await.unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let side = &status["sides"][name];
    (
        side["state"].as_str().unwrap_or("").to_owned(),
        side["fault"].to_string(),
    )
}

/// One request that inserts an item under a name of its own.
pub fn insert(http: &reqwest::Client, url: &str, op: Uuid, name: &str) -> reqwest::RequestBuilder {
    http.post(format!("{url}/api/items"))
        .header("Idempotency-Key", op.to_string())
        .json(&json!({ "name": name }))
}

/// Sessions of an instance on a side that wait for a lock.
pub async fn waiting_for_lock(stack: &Stack, name: &str, instance: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kambana {instance}' \
         AND wait_event_type = 'Lock'"
    );
    number(&stack.dsn(side(name)), &sql).await
}

/// How many of these operations are in effect on a side.
pub async fn applied(stack: &Stack, name: &str, ops: &[Uuid]) -> i64 {
    let client = connect(&stack.dsn(side(name))).await.unwrap();
    let sql = "SELECT count(*) FROM kambana.op WHERE op = ANY($1) AND applied";
    client.query_one(sql, &[&ops]).await.unwrap().get(0)
}
