//! What every test needs: a directory, real servers in it, and SQL that asks them directly.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kambana::local::{LocalError, Patience, Stack, StackOptions, Target};
use kambana::multipool::SideId;
use tokio_postgres::{Client, NoTls};

/// Template clusters, shared by every test of every run.
pub fn template_cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// The program under test.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kambana"))
}

/// How often or how long: as given in the environment (for long runs), or the short default.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}=`{text}` is no number")),
        Err(_) => default,
    }
}

/// A directory that is deleted when the test passes. When it fails, it is kept, and the test says how to look inside.
pub struct TestDir(Option<tempfile::TempDir>);

impl TestDir {
    pub fn new() -> TestDir {
        TestDir(Some(
            tempfile::Builder::new()
                .prefix("kambana-test-")
                .tempdir()
                .unwrap(),
        ))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().map(tempfile::TempDir::path).unwrap()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.0.take()
        {
            let dir = dir.keep();
            eprintln!(
                "kept for a look: {0}; logs below it; open it with `kambana up --data {0}`",
                dir.display()
            );
        }
    }
}

/// Running servers in a directory of their own.
pub struct Running {
    // Dropped first: nothing runs any more when the directory is deleted.
    pub stack: Stack,
    _dir: TestDir,
}

impl std::ops::Deref for Running {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl Drop for Running {
    /// A task that panics is started anew, and what it did is finished: only the log tells.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for index in 0..self.record().instances.len() {
            let name = Target::Web(index).to_string();
            let log = self.place().dir.join(&name).join(format!("{name}.log"));
            let log = std::fs::read_to_string(log).unwrap_or_default();
            assert_eq!(unasked_panic(&log), None, "{name}");
        }
    }
}

/// The first panic in a log that no failpoint was asked for.
fn unasked_panic(log: &str) -> Option<&str> {
    let told = log.split("thread '").skip(1);
    told.filter(|text| text.contains(" panicked at "))
        .find(|text| !text.lines().take(2).any(|line| line.starts_with("failpoint ")))
}

#[test]
fn only_a_failpoint_may_panic() {
    let panic =
        |why| format!("INFO serving\n\nthread 'worker' (7) panicked at src/x.rs:1:2:\n{why}\nstack\n");
    assert_eq!(unasked_panic("INFO serving\n"), None);
    assert_eq!(unasked_panic(&panic("failpoint guard_passed")), None);
    let both = panic("failpoint guard_passed") + &panic("index out of bounds");
    assert!(unasked_panic(&both).unwrap().contains("index out of bounds"));
}

/// Two fresh databases with the application's tables.
pub async fn pair() -> Running {
    start(|options| options).await
}

/// Starts what `choose` makes of a pair.
pub async fn start(choose: impl FnOnce(StackOptions) -> StackOptions) -> Running {
    let stack = try_start(choose).await.unwrap_or_else(|e| panic!("{e}"));
    all_vote(&stack).await;
    stack
}

/// As [`start`], for what is expected to fail, or not to vote yet.
pub async fn try_start(choose: impl FnOnce(StackOptions) -> StackOptions) -> Result<Running, LocalError> {
    let dir = TestDir::new();
    let options = choose(StackOptions::pair(dir.path(), &template_cache()));
    let stack = Stack::start(options).await?;
    Ok(Running { stack, _dir: dir })
}

/// What is broken next may need the vote of every one that is left.
pub async fn all_vote(stack: &Stack) {
    for instance in stack.record().instances.values() {
        let url = format!("{}/api/status", instance.url);
        eventually("every voter votes", Duration::from_secs(30), || async {
            let Ok(answer) = reqwest::get(&url).await else {
                return false;
            };
            let status: serde_json::Value = answer.json().await.unwrap_or_default();
            status["votes"]["total"].is_u64() && status["votes"]["present"] == status["votes"]["total"]
        })
        .await;
    }
}

pub fn side(name: &str) -> SideId {
    name.parse().unwrap()
}

/// A connection of the test's own.
pub async fn connect(dsn: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Waits until `check` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, mut check: impl FnMut() -> F) {
    let mut patience = Patience::new(limit);
    while !check().await {
        assert!(patience.pause().await, "not within {limit:?}: {what}");
    }
}

/// Two databases, two instances and HAProxy, with the pool's objects installed.
pub async fn full() -> Running {
    start(|options| options.with_instances(&program()).with_haproxy()).await
}

/// Two databases and two instances, asked directly, with their addresses.
pub async fn instances() -> (Running, [String; 2]) {
    let stack = start(|options| options.with_instances(&program())).await;
    let urls = [stack.instance_url(0), stack.instance_url(1)];
    (stack, urls)
}

/// Every row of the application's tables on one side, asked by the test's own SQL.
pub async fn dump(dsn: &str) -> Vec<String> {
    let client = connect(dsn).await.unwrap();
    let mut rows = Vec::new();
    for table in ["items", "servers", "php_session"] {
        let sql = format!("SELECT t::text FROM {table} AS t ORDER BY 1");
        rows.extend(
            client
                .query(&sql, &[])
                .await
                .unwrap()
                .iter()
                .map(|r| format!("{table} {}", r.get::<_, String>(0))),
        );
    }
    rows
}

/// The sides of a stack, in order.
pub fn names(stack: &Stack) -> Vec<String> {
    stack.record().sides.keys().cloned().collect()
}

/// Fails with the first differing rows unless all sides hold exactly the same.
pub async fn assert_identical(stack: &Stack) {
    let a = dump(&stack.dsn(side("a"))).await;
    for name in &names(stack)[1..] {
        let b = dump(&stack.dsn(side(name))).await;
        let only = |x: &[String], y: &[String]| {
            x.iter()
                .filter(|r| !y.contains(r))
                .take(5)
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            a,
            b,
            "\nonly on a: {:#?}\nonly on {name}: {:#?}",
            only(&a, &b),
            only(&b, &a)
        );
    }
}

/// A number asked on one side by the test's own SQL.
pub async fn number(dsn: &str, sql: &str) -> i64 {
    connect(dsn)
        .await
        .unwrap()
        .query_one(sql, &[])
        .await
        .unwrap()
        .get(0)
}

/// The rows of a query on one side as record text, asked by the test's own SQL.
pub async fn rows(dsn: &str, sql: &str) -> Vec<String> {
    let sql = format!("SELECT found::text FROM ({sql}) AS found");
    let rows = connect(dsn).await.unwrap().query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What one side stores of the membership.
struct Stored {
    n: i64,
    members: i32,
    /// Journal rows that some side is not known to have.
    open: i64,
}

async fn membership(stack: &Stack, name: &str) -> Option<Stored> {
    let client = connect(&stack.dsn(side(name))).await.ok()?;
    let sides = names(stack).len() as i32;
    let row = client
        .query_one(
            "SELECT n, members, (SELECT count(*) FROM kambana.journal j LEFT JOIN kambana.lane_settled l USING (lane)
               WHERE j.lane = 0 OR (NOT l.closed AND j.batch > (
                 SELECT min(coalesce(l.confirmed[i], 0)) FROM generate_series(1, $1::int) AS i)))
             FROM kambana.epoch",
            &[&sides],
        )
        .await
        .ok()?;
    Some(Stored {
        n: row.get(0),
        members: row.get(1),
        open: row.get(2),
    })
}

/// Whether every side says that all are active in one epoch; `settled`: and that nothing is open.
async fn all_active(stack: &Stack, settled: bool) -> bool {
    let names = names(stack);
    let all = (1 << names.len()) - 1;
    let mut epochs = std::collections::BTreeSet::new();
    for name in &names {
        match membership(stack, name).await {
            Some(stored) if stored.members == all && !(settled && stored.open > 0) => epochs.insert(stored.n),
            _ => return false,
        };
    }
    epochs.len() == 1
}

/// Waits until all sides say that all are active in the same epoch. Writes may go on.
pub async fn whole(stack: &Stack, limit: Duration) {
    eventually("all sides active in one epoch", limit, || {
        all_active(stack, false)
    })
    .await;
}

/// As [`whole`], after the last write: and nothing waits for anybody any more.
pub async fn healed(stack: &Stack, limit: Duration) {
    eventually("all sides active in one epoch with nothing open", limit, || {
        all_active(stack, true)
    })
    .await;
}
