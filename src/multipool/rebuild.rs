//! Copying a side that was lost from a living one, while writes go on.
//!
//! ```text
//! claim      the lost side gets schema kambana anew, the current epoch (of which it is no member), and a marker
//! structure  tables that are missing are made like the source's
//! copy       one snapshot of the source; one transaction a table, or for all that foreign keys tie; what is there and
//!            differs is kept as conflicts
//! finish     what the snapshot shows is settled for the side on the others, the marker goes
//! ```
//!
//! After that the side is one that was out: [`catch_up`](super::catch_up) brings what was written since the snapshot and
//! readmits it. Until then it is neither read nor written by anybody else: it is no member of the epoch it stores, and while
//! the marker stands every prober says so.
//!
//! Crash rule: whatever dies, the marker stays. The next repairer takes the side over with a token of its own, ends what
//! the dead one may have left open there, and goes on with the tables that are not complete. Every transaction on the lost
//! side asks for the token before its COMMIT.
//!
//! A rebuilt side starts with no memory of votes: whoever keeps grants on a side must not count one that was rebuilt
//! before it has stored an epoch of its own.

mod claim;
mod command;
mod copy;
mod keep;
pub(super) mod marker;
mod settle;
mod structure;
mod ties;

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::catch_up::{release_lease, renew_lease};
use super::connection::{Failure, Purpose, Repeat, pg_config, words};
use super::epoch::Epoch;
use super::inner::Inner;
use super::{Loss, SideFault, SideId};
pub use command::{Ended, rebuild as rebuild_side};

/// The longest that one answer of a server may take: a statement over a whole table is one answer.
const LONG: Duration = Duration::from_secs(600);

/// The longest pause in a stream of rows, and the longest that a small statement may take.
const SHORT: Duration = Duration::from_secs(20);

/// How often the lease is renewed; it lasts five times as long.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub loss: Loss,
    /// A person has agreed to overwrite what is there, whatever it is.
    pub consent: bool,
}

/// How a rebuild ended.
#[derive(Debug)]
pub(super) enum Rebuilt {
    /// Everything is copied; the side can be caught up. `loss`: what was wrong when it was begun, perhaps by another
    /// repairer that did not finish.
    Copied { rows: u64, loss: Loss },
    /// Another instance is doing it.
    ByAnother,
    /// It may not be done, or not yet: the reason for a person.
    Refused(String),
}

/// Why it stopped.
#[derive(Debug)]
pub(super) enum Stop {
    At(SideId, Failure),
    /// `asks`: a person must decide before it goes on.
    Refused {
        why: String,
        asks: bool,
    },
}

/// A refusal that is tried again by itself.
fn refused(why: impl Into<String>) -> Stop {
    Stop::Refused {
        why: why.into(),
        asks: false,
    }
}

/// A rebuild in hand.
struct Work<'a> {
    inner: &'a Inner,
    epoch: Epoch,
    lead: SideId,
    other: SideId,
    token: Uuid,
    /// Holds the snapshot.
    source: Client,
    target: Client,
    /// A second connection to the lost side, for what must be seen before the copy is committed.
    notes: Client,
}

/// Rebuilds `other` from `lead`, which must be a member of `epoch`.
///
/// # Errors
/// The side in trouble. The marker stays; it is tried again.
pub(super) async fn rebuild(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    other: SideId,
    order: Order,
) -> Result<Rebuilt, (SideId, Failure)> {
    if !renew_lease(inner, lead, other).await.map_err(|f| (lead, f))? {
        return Ok(Rebuilt::ByAnother);
    }
    let token = Uuid::new_v4();
    let done = tokio::select! {
        done = Box::pin(run(inner, epoch, lead, other, token, order)) => done,
        failure = lease_lost(inner, lead, other) => Err(Stop::At(lead, failure)),
        fault = unreachable(inner, other) => Err(Stop::At(other, Failure::Side(fault))),
    };
    if let Err(failure) = release_lease(inner, lead, other).await {
        tracing::debug!(side = %lead, why = words(&failure), "the lease of a rebuild ends by itself");
    }
    match done {
        Ok((rows, loss)) => {
            // What was seen of it before must not start another one.
            inner.look_anew(other).await;
            Ok(Rebuilt::Copied { rows, loss })
        }
        Err(Stop::Refused { why, asks }) => {
            note_refusal(inner, other, token, &why, asks).await;
            Ok(Rebuilt::Refused(why))
        }
        Err(Stop::At(side, failure)) => Err((side, failure)),
    }
}

async fn run(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    other: SideId,
    token: Uuid,
    order: Order,
) -> Result<(u64, Loss), Stop> {
    let target = open(inner, other, other).await?;
    end_earlier(&target, other).await?;
    let work = Work {
        inner,
        epoch: *epoch,
        lead,
        other,
        token,
        source: open(inner, lead, other).await?,
        target,
        notes: open(inner, other, other).await?,
    };
    let plan = claim::claim(&work, order).await?;
    copy::take_snapshot(&work).await?;
    let catalog = within(lead, SHORT, super::catalog::load(&work.source)).await?;
    structure::complete(&work, &catalog).await?;
    let mut rows = copy::own_tables(&work, &plan).await?;
    for unit in ties::units(&work, &catalog).await? {
        rows += copy::unit(&work, &plan, &unit).await?;
    }
    copy::sequences(&work).await?;
    settle::finish(&work).await?;
    // From here on it is caught up; nobody waits for the rest.
    inner.doubt(other);
    settle::analyze(&work, &catalog).await;
    Ok((rows, plan.loss))
}

/// The name of a repairer's sessions, by which the next one finds those of a dead one.
fn session_name(other: SideId) -> String {
    format!("kambana rebuild {other}")
}

/// A connection for long work: whoever waits has a deadline of his own.
async fn open(inner: &Inner, side: SideId, other: SideId) -> Result<Client, Stop> {
    let mut driver = pg_config(&inner.config.sides[side], &inner.config, Purpose::Write);
    driver.application_name(session_name(other));
    let (client, connection) = within(side, SHORT, driver.connect(NoTls)).await?;
    // Ends by itself when the client is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%side, %error, "connection of a rebuild ended");
        }
    });
    let settings = "SET statement_timeout = 0; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '10min'";
    within(side, SHORT, client.batch_execute(settings)).await?;
    Ok(client)
}

/// A repairer that stands still may hold locks here; its lease is over.
async fn end_earlier(target: &Client, other: SideId) -> Result<(), Stop> {
    let sql = "-- rebuild::end_earlier()\nSELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = $1 AND usename = current_user AND datname = current_database() \
                 AND pid <> pg_backend_pid()";
    within(other, SHORT, target.query(sql, &[&session_name(other)])).await?;
    Ok(())
}

/// Waits for a server no longer than `patience`.
async fn within<T, E: Into<Failure>>(
    side: SideId,
    patience: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Stop> {
    match timeout(patience, work).await {
        Ok(done) => done.map_err(|e| Stop::At(side, e.into())),
        Err(_) => Err(Stop::At(side, Failure::Side(SideFault::Silent))),
    }
}

impl Work<'_> {
    /// As [`within`] on the lost side, where a statement that is rejected concerns a person.
    async fn at_target<T, E: Into<Failure>>(
        &self,
        patience: Duration,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Stop> {
        within(self.other, patience, work)
            .await
            .map_err(|stop| match stop {
                Stop::At(_, failure @ Failure::Rejected(_)) => {
                    refused(format!("{what}: {}", words(&failure)))
                }
                stop => stop,
            })
    }

    /// Begins a transaction on the lost side; captures nothing.
    async fn begin(&self) -> Result<(), Stop> {
        let sql = "BEGIN; SELECT set_config('kambana.apply', 'on', true)";
        within(self.other, SHORT, self.target.batch_execute(sql)).await
    }

    /// Ends it, if this repairer is still the one.
    async fn commit(&self) -> Result<(), Stop> {
        let fence = "SET CONSTRAINTS ALL IMMEDIATE; LOCK TABLE kambana.fence IN ROW SHARE MODE";
        self.at_target(
            SHORT,
            "what was copied is not accepted",
            self.target.batch_execute(fence),
        )
        .await?;
        let sql = "-- rebuild::commit()\nSELECT count(*) FROM kambana.epoch WHERE n = $1 AND generation = $2";
        let row = within(
            self.other,
            SHORT,
            self.target.query_one(sql, &[&self.epoch.n, &self.token]),
        )
        .await?;
        if row.get::<_, i64>(0) != 1 {
            return Err(Stop::At(self.other, Failure::Repeat(Repeat::Contention)));
        }
        within(self.other, LONG, self.target.batch_execute("COMMIT")).await
    }
}

/// Renews the lease until it is lost.
async fn lease_lost(inner: &Inner, lead: SideId, other: SideId) -> Failure {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let renewed = timeout(inner.config.probe_deadline * 2, renew_lease(inner, lead, other)).await;
        match renewed {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Failure::Repeat(Repeat::Contention),
            Ok(Err(failure @ Failure::Side(_))) => return failure,
            // Busy; the next try is in time.
            Ok(Err(_)) => {}
            Err(_) => return Failure::Side(SideFault::Silent),
        }
    }
}

/// Resolves when the lost side no longer answers at all.
async fn unreachable(inner: &Inner, other: SideId) -> SideFault {
    let gone = |fault: &Option<SideFault>| {
        matches!(
            fault,
            Some(SideFault::Down(_) | SideFault::Silent | SideFault::Refused(_))
        )
    };
    let mut health = inner.sides[other].health.subscribe();
    let fault = health.wait_for(|h| gone(&h.fault)).await;
    fault
        .ok()
        .and_then(|h| h.fault.clone())
        .unwrap_or(SideFault::Silent)
}

/// Leaves the reason on the side itself, for every instance to show.
async fn note_refusal(inner: &Inner, other: SideId, token: Uuid, why: &str, asks: bool) {
    let noted = async {
        let client = open(inner, other, other).await?;
        within(other, SHORT, marker::refuse(&client, token, why, asks)).await
    };
    if let Err(stop) = noted.await {
        tracing::debug!(side = %other, ?stop, "the reason of a refusal could not be stored");
    }
    inner.doubt(other);
}
