//! Writes per second: one plain PostgreSQL through the same driver, and `MultiPool` on two, in one run.
//!
//! `cargo bench --bench writes -- [seconds per cell]`. Prints a table; compares both databases at the end and fails if
//! they differ, because a fast wrong answer is no figure.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kambana::config::PoolConfig;
use kambana::local::{Stack, StackOptions};
use kambana::multipool::{Change, Fields, MultiPool, OpId, Value, compare, install};
use tokio_postgres::NoTls;

const ROWS: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
enum Work {
    /// Insert one row.
    Insert,
    /// Update one of 10,000 rows.
    Update,
}

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|a| a.parse::<f64>().ok())
        .unwrap_or(3.0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(Duration::from_secs_f64(seconds)));
    runtime.shutdown_background();
}

async fn run(cell: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(StackOptions::pair(dir.path(), &dir.path().join("templates")))
        .await
        .unwrap();
    let mut config = PoolConfig::new(stack.side_configs(), "bench");
    config.state_dir = stack.place().dir.join("state");
    let plain_dsn = stack.dsn("a".parse().unwrap());
    let (plain, connection) = tokio_postgres::connect(&plain_dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    plain
        .batch_execute("CREATE TABLE plain (LIKE items INCLUDING ALL)")
        .await
        .unwrap();
    plain
        .execute(
            "INSERT INTO plain (name) SELECT 'row ' || g FROM generate_series(1, $1::int) g",
            &[&(ROWS as i32)],
        )
        .await
        .unwrap();
    install(&config, &["items", "servers", "php_session"])
        .await
        .unwrap();
    let pool = MultiPool::connect(config.clone()).await.unwrap();
    let fill =
        format!("INSERT INTO items (id, name) SELECT g, 'row ' || g FROM generate_series(1, {ROWS}) g");
    pool.transactional_write(&fill, &[]).await.unwrap();
    plain.batch_execute("VACUUM ANALYZE").await.unwrap();

    println!(
        "{:8} {:>7} {:>12} {:>12} {:>7}",
        "work", "clients", "single/s", "twins/s", "ratio"
    );
    for work in [Work::Insert, Work::Update] {
        for clients in [1, 8, 32] {
            let mut conns = Vec::new();
            for _ in 0..clients {
                let (client, connection) = tokio_postgres::connect(&plain_dsn, NoTls).await.unwrap();
                tokio::spawn(connection);
                let insert = client
                    .prepare("INSERT INTO plain (name) VALUES ($1)")
                    .await
                    .unwrap();
                let update = client
                    .prepare("UPDATE plain SET content = $1 WHERE id = $2")
                    .await
                    .unwrap();
                conns.push(Arc::new((client, insert, update)));
            }
            let single = rate(clients, cell, |client, n| {
                let conn = Arc::clone(&conns[client]);
                async move {
                    let text = format!("x {n}");
                    match work {
                        Work::Insert => conn.0.execute(&conn.1, &[&text]).await.unwrap(),
                        Work::Update => conn
                            .0
                            .execute(&conn.2, &[&text, &(scatter(n) as i32)])
                            .await
                            .unwrap(),
                    };
                }
            })
            .await;
            let twins = rate(clients, cell, |_, n| {
                let pool = pool.clone();
                async move {
                    let change = match work {
                        Work::Insert => Change::insert("items", Fields::new().with("name", format!("x {n}"))),
                        Work::Update => Change::update(
                            "items",
                            Fields::new().with("id", scatter(n) as i64),
                            Fields::new().with("content", Value::from(format!("x {n}"))),
                        ),
                    };
                    pool.change(OpId::new(), vec![change]).await.unwrap();
                }
            })
            .await;
            println!(
                "{:8} {clients:>7} {single:>12.0} {twins:>12.0} {:>7.2}",
                format!("{work:?}"),
                twins / single
            );
        }
    }
    pool.close().await;
    assert!(
        compare(&config).await.unwrap().identical,
        "the databases differ: the figures above mean nothing"
    );
    stack.stop().await.unwrap();
}

fn scatter(n: u64) -> u64 {
    n.wrapping_mul(7919) % ROWS + 1
}

async fn rate<F, Fut>(clients: usize, cell: Duration, work: F) -> f64
where
    F: Fn(usize, u64) -> Fut,
    Fut: Future<Output = ()> + Send,
{
    let (done, stop, next) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    let timer = async {
        tokio::time::sleep(cell).await;
        stop.store(true, Ordering::Relaxed);
    };
    let work = &work;
    let (done, stop, next) = (&done, &stop, &next);
    let loops = futures::future::join_all((0..clients).map(|client| async move {
        while !stop.load(Ordering::Relaxed) {
            work(client, next.fetch_add(1, Ordering::Relaxed)).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }));
    futures::join!(timer, loops);
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}
