//! Clients that do one operation after the other until the time is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Answer, Order};
use crate::work::{Step, Steps};

/// A part of the time before the measuring: connections and caches are warm then.
const WARM_UP: u32 = 5;

/// After this many failures a client gives up: the cell is worthless anyway.
const MOST_FAILURES: u64 = 20;

/// What one client does.
pub trait Doer: Send + 'static {
    /// One operation.
    fn act(&mut self, step: Step) -> impl Future<Output = Result<()>> + Send;
}

/// Where the cell is.
mod phase {
    pub const WARMING: u8 = 0;
    pub const MEASURING: u8 = 1;
    pub const OVER: u8 = 2;
}

/// Runs the cell.
pub async fn run(order: &Order, doers: Vec<impl Doer>) -> Answer {
    if order.ms == 0 {
        return Answer::default();
    }
    let phase = Arc::new(AtomicU8::new(phase::WARMING));
    let clients: Vec<_> = doers
        .into_iter()
        .enumerate()
        .map(|(number, doer)| {
            let steps = Steps::new(order.seed.wrapping_add(number as u64));
            tokio::spawn(client(doer, steps, Arc::clone(&phase)))
        })
        .collect();
    let measured = Duration::from_millis(order.ms);
    tokio::time::sleep(measured / WARM_UP).await;
    phase.store(phase::MEASURING, Ordering::Relaxed);
    let began = Instant::now();
    tokio::time::sleep(measured).await;
    phase.store(phase::OVER, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let mut answer = Answer {
        seconds,
        ..Answer::default()
    };
    for client in clients {
        match client.await {
            Ok(mine) => answer.add(mine),
            Err(error) => answer.fail(&anyhow::anyhow!("a client: {error}")),
        }
    }
    answer
}

async fn client(mut doer: impl Doer, mut steps: Steps, phase: Arc<AtomicU8>) -> Answer {
    let mut mine = Answer::default();
    while phase.load(Ordering::Relaxed) != phase::OVER && mine.failed < MOST_FAILURES {
        let began = Instant::now();
        let result = doer.act(steps.step()).await;
        let took = began.elapsed();
        match result {
            Ok(()) => {
                mine.acknowledged += 1;
                // What ends after the time does not count; what began before it does, as in any steady flow.
                if phase.load(Ordering::Relaxed) == phase::MEASURING {
                    mine.done += 1;
                    mine.latencies_us
                        .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                }
            }
            Err(error) => mine.fail(&error),
        }
    }
    mine
}

impl Answer {
    /// Adds what another client, or another instance, did in the same time.
    pub fn add(&mut self, other: Answer) {
        self.done += other.done;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.seconds = self.seconds.max(other.seconds);
        self.latencies_us.extend(other.latencies_us);
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| format!("{error:#}"));
    }
}
