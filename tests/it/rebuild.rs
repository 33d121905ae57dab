//! Sides that were lost: wiped, emptied, restored from a backup, away for too long, or somebody else's.

mod backup;
mod command;
mod kills;
mod limits;
mod speed;
mod structure;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kambana::config::PoolConfig;
use kambana::local::{Action, Stack, Target};
use kambana::multipool::{Change, Fields, MultiPool, OpId, install};

use crate::load::Load;
use crate::support::{
    Running, assert_identical, connect, eventually, full, healed, number, pair, rows, side, whole,
};

const TABLES: [&str; 3] = ["php_session", "items", "servers"];

/// Everything here is done in seconds; the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

fn config(stack: &Stack, instance: &str) -> PoolConfig {
    // With RUST_LOG a failed test shows what the pools in this process did.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    let mut config = PoolConfig::new(stack.side_configs(), instance);
    config.state_dir = stack.place().dir.join("state");
    config
}

/// A pair with the pool's objects.
async fn installed() -> Running {
    let stack = pair().await;
    install(&config(&stack, "init"), &TABLES).await.unwrap();
    stack
}

async fn pool(stack: &Stack, instance: &str) -> MultiPool {
    MultiPool::connect(config(stack, instance)).await.unwrap()
}

async fn insert(pool: &MultiPool, name: &str) -> i64 {
    let item = Change::insert("items", Fields::new().with("name", name));
    pool.change(OpId::new(), vec![item]).await.unwrap().rows[0]
        .id()
        .unwrap()
}

/// Rows that nobody captures, on both sides, as an old pool would have them.
async fn fill(stack: &Stack, count: i64) {
    for name in ["a", "b"] {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        let sql = format!(
            "SET kambana.apply = 'on'; INSERT INTO items (id, name, content, updated_at) \
             SELECT 1000000 + i, 'row ' || i, repeat('x', 60), '2026-01-01' FROM generate_series(1, {count}) AS i"
        );
        client.batch_execute(&sql).await.unwrap();
    }
}

/// What an instance says happened.
async fn events(url: &str) -> String {
    let status: serde_json::Value = reqwest::get(format!("{url}/api/status"))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let what = |event: &serde_json::Value| event["what"].as_str().unwrap_or_default().to_owned();
    let events = status["events"].as_array().unwrap();
    events.iter().map(what).collect::<Vec<_>>().join("\n")
}

async fn all_events(stack: &Running) -> String {
    let mut all = String::new();
    for index in [0, 1] {
        all += &events(&stack.instance_url(index)).await;
    }
    all
}

fn said(pool: &MultiPool) -> String {
    let events = pool.status().events;
    events
        .iter()
        .map(|e| e.what.to_string())
        .collect::<Vec<_>>()
        .join("\n")
}

async fn data_dir(stack: &Running, name: &str) -> PathBuf {
    stack.side(side(name)).await.data_dir()
}

fn run(program: &str, args: &[&std::ffi::OsStr]) {
    assert!(Command::new(program).args(args).status().unwrap().success());
}

/// A copy of a stopped side's files.
async fn back_up(stack: &Running, name: &str) {
    let data = data_dir(stack, name).await;
    let backup = data.with_extension("backup");
    run("cp", &["-a".as_ref(), data.as_os_str(), backup.as_os_str()]);
}

/// Puts the copy in the place of a stopped side's files.
async fn restore(stack: &Running, name: &str) {
    let data = data_dir(stack, name).await;
    run("rm", &["-rf".as_ref(), data.as_os_str()]);
    run(
        "mv",
        &[data.with_extension("backup").as_os_str(), data.as_os_str()],
    );
}

/// The side is wiped and started while clients write through HAProxy, a few rows over and over.
async fn wiped_under_load(name: &str) {
    let stack = full().await;
    fill(&stack, 20_000).await;
    let other = if name == "a" { "b" } else { "a" };
    let load = Load::start(vec![stack.url()], 8, 6, false);
    load.more(150).await;
    let target = Target::Side(side(name));
    stack.act(Action::Wipe, target).await.unwrap();
    assert!(
        !data_dir(&stack, name).await.exists(),
        "everything it had is gone"
    );
    load.more(100).await;
    stack.act(Action::Start, target).await.unwrap();
    load.more(100).await;
    whole(&stack, LIMIT).await;
    load.more(100).await;
    load.all_served(&stack, LIMIT).await;
    let events = all_events(&stack).await;
    assert!(
        events.contains(&format!("side {name} was rebuilt from side {other}")),
        "{events}"
    );
    // It is a side like the other: it goes on alone, with ids of its own.
    stack.act(Action::Crash, Target::Side(side(other))).await.unwrap();
    let load = Load::start(vec![stack.url()], 2, 6, false);
    load.more(30).await;
    stack.act(Action::Start, Target::Side(side(other))).await.unwrap();
    whole(&stack, LIMIT).await;
    load.judged(&stack, LIMIT).await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_49_a_wiped_follower_is_rebuilt_under_load() {
    wiped_under_load("b").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_49_a_wiped_leader_is_rebuilt_under_load() {
    wiped_under_load("a").await;
}

/// While no instance runs, somebody drops the pool's schema on one side and edits rows.
#[tokio::test(flavor = "multi_thread")]
async fn case_49_what_a_stripped_side_holds_is_kept_as_conflicts() {
    let stack = installed().await;
    let first = pool(&stack, "web1").await;
    let ids = [
        insert(&first, "changed on b").await,
        insert(&first, "deleted on b").await,
        insert(&first, "as it was").await,
    ];
    first.close().await;
    healed(&stack, LIMIT).await;
    let on_b = connect(&stack.dsn(side("b"))).await.unwrap();
    on_b.batch_execute(&format!(
        "DROP SCHEMA kambana CASCADE; UPDATE items SET name = 'only b knows' WHERE id = {}; \
         DELETE FROM items WHERE id = {}; INSERT INTO items (id, name) VALUES (77777, 'only on b')",
        ids[0], ids[1]
    ))
    .await
    .unwrap();

    let second = pool(&stack, "web1").await;
    insert(&second, "while b is rebuilt").await;
    whole(&stack, LIMIT).await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    let names = rows(&stack.dsn(side("b")), "SELECT name FROM items ORDER BY name").await;
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(
        said(&second).contains("schema kambana is missing"),
        "{}",
        said(&second)
    );
    for name in ["a", "b"] {
        let kept = rows(
            &stack.dsn(side(name)),
            "SELECT key, kept_side, lost_side, lost_image ~ 'only b knows', lost_image ~ 'only on b' \
             FROM kambana.conflict ORDER BY key",
        )
        .await;
        let changed = format!("(\"({})\",a,b,t,f)", ids[0]);
        assert_eq!(kept.len(), 2, "{name}: {kept:?}");
        assert!(
            kept.contains(&changed) && kept.contains(&"(\"(77777)\",a,b,f,t)".to_owned()),
            "{kept:?}"
        );
    }
    second.close().await;
    stack.stop().await.unwrap();
}

/// The database of one side is dropped and made anew, empty, while its server and the instances go on.
#[tokio::test(flavor = "multi_thread")]
async fn case_49_an_emptied_database_is_rebuilt_and_reads_go_on() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let id = insert(&pool, "survives").await;
    let (server, database) = {
        let cluster = stack.side(side("a")).await;
        let dir = cluster.socket_dir().display().to_string();
        (
            format!("host={dir} port={} user=postgres dbname=postgres", cluster.port()),
            cluster.database(),
        )
    };
    let admin = connect(&server).await.unwrap();
    admin
        .batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)"))
        .await
        .unwrap();
    admin
        .batch_execute(&format!("CREATE DATABASE {database} OWNER webuser"))
        .await
        .unwrap();
    let until = tokio::time::Instant::now() + LIMIT;
    loop {
        let found = pool
            .read("SELECT name FROM items WHERE id = $1", &[&(id as i32)])
            .await;
        assert_eq!(found.unwrap().len(), 1, "nobody reads the empty database");
        if pool.status().is_whole()
            && number(
                &stack.dsn(side("a")),
                "SELECT count(*) FROM pg_class WHERE relname = 'items'",
            )
            .await
                == 1
        {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{}", said(&pool));
    }
    whole(&stack, LIMIT).await;
    insert(&pool, "after").await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    assert!(
        said(&pool).contains("side a was rebuilt from side b"),
        "{}",
        said(&pool)
    );
    pool.close().await;
    stack.stop().await.unwrap();
}

/// An ordinary crash takes no mark and no batch back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn an_ordinary_crash_is_no_restore() {
    let stack = full().await;
    let load = Load::start(vec![stack.url()], 8, 40, false);
    for name in ["b", "a", "b", "a"] {
        load.more(60).await;
        let before = number(
            &stack.dsn(side(name)),
            "SELECT mark FROM kambana.mark m JOIN kambana.identity USING (side)",
        )
        .await;
        stack.act(Action::Crash, Target::Side(side(name))).await.unwrap();
        stack.act(Action::Start, Target::Side(side(name))).await.unwrap();
        whole(&stack, LIMIT).await;
        let after = number(
            &stack.dsn(side(name)),
            "SELECT mark FROM kambana.mark m JOIN kambana.identity USING (side)",
        )
        .await;
        assert!(
            after > before && after < before + 100_000,
            "{before} {after}: the same side goes on"
        );
    }
    load.judged(&stack, LIMIT).await;
    let events = all_events(&stack).await;
    assert!(
        !events.contains("rebuil") && !events.contains("backup"),
        "{events}"
    );
    stack.stop().await.unwrap();
}
