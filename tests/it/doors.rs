//! A pair with the pool's objects and pools on it, as a library's user has them.

use std::time::Duration;

use kambana::config::PoolConfig;
use kambana::multipool::{Change, Fields, MultiPool, OpId, install};
use tokio_postgres::Client;

use crate::support::{Running, assert_identical, connect, healed, pair, side};

pub const TABLES: [&str; 3] = ["php_session", "items", "servers"];

/// A side whose tests share two cores with others may take this much longer.
pub const CROWDED: u32 = 3;

pub fn config(stack: &Running, instance: &str) -> PoolConfig {
    let mut config = PoolConfig::new(stack.side_configs(), instance);
    config.state_dir = stack.place().dir.join("state");
    config
}

/// Two databases with the application's tables watched.
pub async fn installed() -> Running {
    let stack = pair().await;
    install(&config(&stack, "init"), &TABLES).await.unwrap();
    stack
}

pub async fn pool(stack: &Running, instance: &str) -> MultiPool {
    MultiPool::connect(config(stack, instance)).await.unwrap()
}

pub async fn sql(stack: &Running, name: &str) -> Client {
    connect(&stack.dsn(side(name))).await.unwrap()
}

pub fn item(name: &str) -> Change {
    Change::insert("items", Fields::new().with("name", name))
}

/// The key of an item.
pub fn id(id: i64) -> Fields {
    Fields::new().with("id", id)
}

pub async fn insert(pool: &MultiPool, name: &str) -> i64 {
    let applied = pool.change(OpId::new(), vec![item(name)]).await.unwrap();
    applied.rows[0].id().unwrap()
}

/// Everything settled and identical, nothing left running.
pub async fn finish(stack: Running, pools: &[MultiPool]) {
    healed(&stack, Duration::from_secs(30)).await;
    assert_identical(&stack).await;
    for pool in pools {
        pool.close().await;
    }
    stack.stop().await.unwrap();
}

/// Writes of the pool until told to stop: how many, and the longest one.
pub struct Writer {
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<(u32, Duration)>,
}

impl Writer {
    /// Inserts and deletes rows named `load`, one every `pause`.
    pub fn start(pool: &MultiPool, pause: Duration) -> Writer {
        let pool = pool.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while stopped.try_recv().is_err() {
                let began = std::time::Instant::now();
                let row = insert(&pool, "load").await;
                longest = longest.max(began.elapsed());
                let key = Fields::new().with("id", row);
                pool.change(OpId::new(), vec![Change::delete("items", key)])
                    .await
                    .unwrap();
                count += 2;
                tokio::time::sleep(pause).await;
            }
            (count, longest)
        });
        Writer { stop, task }
    }

    pub async fn stop(self) -> (u32, Duration) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}
