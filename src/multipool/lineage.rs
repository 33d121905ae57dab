//! Lineage: whether a side that answers is the one that was there before, and has not gone back in time.
//!
//! After a restore from an older backup a server looks as before: its system identifier and its timeline are the same.
//! Only the others can know. Two things are remembered about a side:
//!
//! - its *mark*, a number that moves with every heartbeat and is told to the others with theirs. It covers minutes to years;
//! - the batches whose COMMIT it has answered (`confirmed`). Each batch is either said to be on a side, and must be
//!   there, or open for it, and is brought there: nothing lies in between, not even in the moment between two heartbeats.
//!
//! Both are written by commits that were answered, so that an ordinary crash takes none of them back.
//!
//! A restored server was started anew. No connection of a pool is used before the prober has looked at the server it leads
//! to ([`Looked`]), so that a side that was restored before anybody missed it is found before it is read or written.
//!
//! Crash rule: everything is stored on the sides; an instance that starts anew asks them.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;
use tokio_postgres::Client;
use uuid::Uuid;

use super::connection::{self, Failure, Purpose};
use super::inner::{Inner, lock};
use super::journal::place;
use super::{Loss, SideFault, SideId, SideSet, install};

/// A side made anew starts this far above everything remembered of it: more heartbeats than go unnoticed.
pub(super) const JUMP: i64 = 1_000_000;

/// How long another side may take to say what it remembers; a probe must not wait longer for a stranger.
const ASK_DEADLINE: Duration = Duration::from_millis(400);

/// What tells a running server apart from the one before: its start, and the database in it.
pub(super) const SERVER_SQL: &str = "-- lineage::server()
SELECT extract(epoch FROM pg_postmaster_start_time())::text || ' ' || d.oid
FROM pg_database AS d WHERE d.datname = current_database()";

/// The server that the prober has looked at and found to be what it was.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<Option<String>>);

impl Looked {
    pub fn is(&self, server: &str) -> bool {
        lock(&self.0).as_deref() == Some(server)
    }

    pub fn set(&self, server: &str) {
        *lock(&self.0) = Some(server.to_owned());
    }
}

/// Names the server behind a connection.
pub(super) async fn server(client: &Client) -> Result<String, Failure> {
    Ok(client.query_one(SERVER_SQL, &[]).await?.get(0))
}

/// What another side remembers about a side.
struct Remembered {
    /// The membership it stores.
    epoch: i64,
    mark: i64,
    /// Lanes, and the last batch of each that the side is said to have and the other has too.
    lanes: Vec<i64>,
    batches: Vec<i64>,
}

const REMEMBERED_SQL: &str = "-- lineage::remembered()
SELECT coalesce((SELECT m.mark FROM kambana.mark AS m WHERE m.side = $1), 0),
    coalesce(array_agg(l.lane), '{}'), coalesce(array_agg(least(l.confirmed[$2], last.batch)), '{}'),
    (SELECT e.n FROM kambana.epoch AS e)
FROM kambana.lane_settled AS l CROSS JOIN LATERAL (
    SELECT o.batch, o.at FROM kambana.op AS o WHERE o.lane = l.lane ORDER BY o.batch DESC LIMIT 1) AS last
WHERE l.confirmed[$2] > 0 AND last.at > now() - make_interval(secs => $3)";

const LACKS_SQL: &str = "-- lineage::lacks()
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS u(lane, batch)
WHERE NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.lane = u.lane AND o.batch >= u.batch)";

/// Asks `by` over a connection of its own: nobody has looked at that server yet either. `None`: it is no witness, for it
/// has no memory of this pool.
async fn remembered(inner: &Inner, by: SideId, of: SideId) -> Result<Option<Remembered>, Failure> {
    let client = connection::connect(&inner.config, by, Purpose::Write).await?;
    let lineage = inner.lineage.get().copied().unwrap_or_default();
    let identity = install::identity(&client).await?;
    if identity.is_none_or(|identity| install::wrong_identity(&identity, by, lineage).is_some()) {
        return Ok(None);
    }
    // Older batches may have been trimmed on the side in question; the marks speak of those.
    let trimmed = inner.config.journal_retention.as_secs_f64() / 2.0;
    let row = client
        .query_one(REMEMBERED_SQL, &[&of.to_string(), &place(of), &trimmed.max(45.0)])
        .await?;
    Ok(Some(Remembered {
        epoch: row.get(3),
        mark: row.get(0),
        lanes: row.get(1),
        batches: row.get(2),
    }))
}

/// Whether a side has everything that the others say it has. `client` is connected to it.
///
/// # Errors
/// [`Loss::Restored`]; or another side, in no known trouble, did not answer in time: then it is asked again.
pub(super) async fn check(inner: &Inner, side: SideId, client: &Client) -> Result<(), Failure> {
    if cfg!(mutant = "trust_backup") {
        return Ok(());
    }
    let mut highest = inner.sides[side].mark();
    for by in inner.sides.ids().filter(|by| *by != side) {
        if inner.health(by).fault.is_some() {
            continue;
        }
        let said = match timeout(ASK_DEADLINE, remembered(inner, by, side)).await {
            Ok(Ok(Some(said))) => said,
            Ok(Ok(None)) => continue,
            // It is in trouble itself, as its own prober is about to find.
            Ok(Err(Failure::Side(SideFault::Down(_) | SideFault::Refused(_)))) => continue,
            Ok(Err(failure)) => {
                tracing::debug!(%side, %by, why = connection::words(&failure), "could not say what it remembers");
                return Err(Failure::Side(SideFault::Silent));
            }
            // Frozen, or only slow: not used before that is known. A frozen one is, in a moment.
            Err(_) => return Err(Failure::Side(SideFault::Silent)),
        };
        let known = inner.view().epoch.n;
        if known > 0 && said.epoch > known {
            // While it was away the others may have gone on without it: this instance has to follow first.
            inner.doubt(by);
            return Err(Failure::Side(SideFault::Down(format!(
                "it was started anew, and meanwhile side {by} has gone on to epoch {}",
                said.epoch
            ))));
        }
        highest = highest.max(said.mark);
        let lacks: i64 = client
            .query_one(LACKS_SQL, &[&said.lanes, &said.batches])
            .await?
            .get(0);
        if lacks > 0 {
            tracing::warn!(%side, %by, lanes = lacks, "batches that it had answered are gone");
            return Err(restored());
        }
    }
    // Last: meanwhile the heartbeats of other instances move it on, and the others remember what it had answered to them.
    let row = client
        .query_opt(
            "-- lineage::check()\nSELECT mark FROM kambana.mark WHERE side = $1",
            &[&side.to_string()],
        )
        .await?;
    let mark: i64 = row.map_or(0, |row| row.get(0));
    inner.sides[side].learn_mark(highest);
    if mark < highest {
        tracing::warn!(%side, mark, remembered = highest, "its mark went back");
        return Err(restored());
    }
    Ok(())
}

/// Which pool this is: what most sides say, and if they are of two minds, what this instance's file says, or the first
/// side. One wrong `DB*_` setting must not make strangers of all the others.
pub(super) async fn find(inner: &Inner, strangers: SideSet) -> Option<Uuid> {
    let asked = inner.sides.all().minus(strangers);
    let said = join_all(asked.iter().map(|side| async move {
        let asked = async {
            let client = connection::connect(&inner.config, side, Purpose::Write).await?;
            install::identity(&client).await
        };
        match timeout(inner.config.probe_deadline, asked).await {
            Ok(Ok(identity)) => identity.map(|identity| identity.lineage),
            _ => None,
        }
    }));
    let said: Vec<Uuid> = said.await.into_iter().flatten().collect();
    most(&said, inner.state_file.lineage())
}

fn most(said: &[Uuid], remembered: Option<Uuid>) -> Option<Uuid> {
    let votes = |lineage: &Uuid| said.iter().filter(|other| *other == lineage).count();
    let place = |lineage: &Uuid| said.iter().position(|other| other == lineage);
    said.iter()
        .max_by_key(|lineage| {
            (
                votes(lineage),
                remembered == Some(**lineage),
                std::cmp::Reverse(place(lineage)),
            )
        })
        .copied()
}

/// A side that went back in time.
pub(super) fn restored() -> Failure {
    Failure::Side(SideFault::Lost(Loss::Restored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_setting_makes_no_strangers_of_the_others() {
        let [x, y] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        assert_eq!(most(&[], Some(x)), None);
        assert_eq!(most(&[x, y, y], Some(x)), Some(y));
        assert_eq!(most(&[x, y], Some(y)), Some(y));
        assert_eq!(most(&[y, x], None), Some(y));
    }

    #[test]
    fn only_the_server_that_was_looked_at_is_known() {
        let looked = Looked::default();
        assert!(!looked.is(""));
        looked.set("1.5 16384");
        assert!(looked.is("1.5 16384") && !looked.is("2.5 16384"));
    }
}
