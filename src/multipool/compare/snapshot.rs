//! One snapshot a side of one and the same moment: no write of the pool is on one side only.

use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::At;
use crate::config::PoolConfig;
use crate::multipool::connection::{Failure, connect_all};
use crate::multipool::{PerSide, SideFault, SideId};

/// The wait for a fence, in milliseconds: writers behind us wait as long. Longer after many tries, or a comparison would
/// never begin under load.
const FENCE_WAITS_MS: [u32; 4] = [15, 30, 60, 100];

/// If we fall silent with the fence, the server takes it back.
fn fence_sql(tries: usize) -> String {
    let wait = FENCE_WAITS_MS[(tries / 4).min(FENCE_WAITS_MS.len() - 1)];
    format!(
        "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '1s'; SET LOCAL lock_timeout = {wait}; \
         LOCK TABLE kambana.fence IN EXCLUSIVE MODE"
    )
}

/// A side that does not answer by then gets no snapshot, and the others' fences are given back.
const FENCE_DEADLINE: Duration = Duration::from_millis(500);

/// How long the fences are tried for before a comparison gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two tries, longer each time up to the last.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(100)];

/// Connections of a comparison: one a side for the fence, one a side for the snapshot.
pub(super) struct Snapshots {
    fences: PerSide<Client>,
    clients: PerSide<Client>,
    /// The longest time that the fences were asked for or held.
    pub pause: Duration,
}

impl Snapshots {
    pub async fn connect(config: &PoolConfig) -> Result<Snapshots, At> {
        Ok(Snapshots {
            fences: connect_all(config).await?,
            clients: connect_all(config).await?,
            pause: Duration::ZERO,
        })
    }

    /// The clients, in their snapshots.
    pub fn clients(&self) -> &PerSide<Client> {
        &self.clients
    }

    /// Takes a new snapshot on every side.
    pub async fn take(&mut self) -> Result<(), At> {
        let until = Instant::now() + PATIENCE;
        let mut pause = PAUSES[0];
        let mut tries = 0;
        loop {
            self.end().await?;
            on_all(&self.clients, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let began = Instant::now();
            let taken = match timeout(FENCE_DEADLINE, self.under_fences(tries)).await {
                Ok(taken) => taken,
                Err(_) => Err((self.last(), Failure::Side(SideFault::Silent))),
            };
            let released = self.release().await;
            self.pause = self.pause.max(began.elapsed());
            // A side that does not answer says so here, by name.
            released?;
            match taken {
                Ok(()) => return Ok(()),
                Err((_, Failure::Repeat(_))) if Instant::now() < until => {}
                Err(failure) => return Err(failure),
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// Gives every fence back, whatever the other sides do.
    async fn release(&self) -> Result<(), At> {
        let ended = self.fences.iter().map(|(side, client)| async move {
            match timeout(FENCE_DEADLINE, run(side, client, "ROLLBACK")).await {
                Ok(done) => done,
                Err(_) => Err((side, Failure::Side(SideFault::Silent))),
            }
        });
        join_all(ended).await.into_iter().collect()
    }

    /// Only named if a side was slow and answered after all.
    fn last(&self) -> SideId {
        let last = self.fences.ids().last();
        last.unwrap_or_else(|| unreachable!("a pool has sides"))
    }

    async fn under_fences(&self, tries: usize) -> Result<(), At> {
        // All at once: a writer asks for all of them at once too. One after the other, the writers that queue behind us for
        // the first would hold the second.
        on_all(&self.fences, &fence_sql(tries)).await?;
        // A statement takes the snapshot; BEGIN alone does not.
        on_all(&self.clients, "SELECT 1").await
    }

    /// Gives the snapshots back.
    pub async fn end(&self) -> Result<(), At> {
        on_all(&self.clients, "ROLLBACK").await
    }
}

async fn run(side: SideId, client: &Client, sql: &str) -> Result<(), At> {
    client.batch_execute(sql).await.map_err(|e| (side, e.into()))
}

async fn on_all(clients: &PerSide<Client>, sql: &str) -> Result<(), At> {
    try_join_all(clients.iter().map(|(side, client)| run(side, client, sql))).await?;
    Ok(())
}
