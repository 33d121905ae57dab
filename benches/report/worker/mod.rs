//! One instance of an application, as a process of its own: two instances are two processes in real life, with a
//! scheduler, a memory and a runtime each, and only so can what one costs be measured apart from the measuring.
//!
//! The bench starts itself with the argument `worker`. Orders come as JSON lines on standard input, answers go to
//! standard output; when the input ends, so does the worker.

mod clients;
mod plain;
mod pool;
mod voter;

use std::io::Write;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::work::Work;

/// How the worker reaches its databases: the first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Door {
    /// Plain connections of the same driver, one a client, prepared statements.
    Plain {
        /// Connection string.
        dsn: String,
    },
    /// A `MultiPool`.
    Pool(PoolDoor),
}

pub use clients::{Doer, run as run_clients};
pub use pool::{Address, PoolDoor, patient};

/// One cell: so many clients for so long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What they do.
    pub work: Work,
    /// How many do it at once, each one operation after the other.
    pub clients: usize,
    /// How long is measured; a fifth of it is run before. With 0 the connections are opened, no more.
    pub ms: u64,
    /// Tells this cell's rows from those of others.
    pub seed: u64,
}

/// What became of a cell, or of the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Operations that ended well while it was measured.
    pub done: u64,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// What each of them took, in microseconds.
    pub latencies_us: Vec<u32>,
    /// Operations that ended well, those before the measuring included.
    pub acknowledged: u64,
    /// Operations that did not.
    pub failed: u64,
    /// What the first of them said.
    pub first_failure: Option<String>,
}

/// The worker's `main`.
pub fn main() -> Result<()> {
    // Silent but for errors, unless RUST_LOG says otherwise.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve());
    runtime.shutdown_background();
    result
}

enum Connected {
    Plain(plain::Plain),
    Pool(pool::Pool),
}

async fn serve() -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let door = lines.next_line().await?.context("no door was given")?;
    let mut doer = match serde_json::from_str(&door)? {
        Door::Plain { dsn } => Connected::Plain(plain::Plain::new(dsn)),
        Door::Pool(door) => Connected::Pool(pool::Pool::connect(door).await?),
    };
    say(&Answer::default())?;
    while let Some(line) = lines.next_line().await? {
        let order: Order = serde_json::from_str(&line)?;
        let answer = match &mut doer {
            Connected::Plain(plain) => {
                plain.connect(order.clients, order.work).await?;
                clients::run(&order, plain.doers(&order)).await
            }
            Connected::Pool(pool) => clients::run(&order, pool.doers(&order)).await,
        };
        say(&answer)?;
    }
    if let Connected::Pool(pool) = doer {
        pool.close().await;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
