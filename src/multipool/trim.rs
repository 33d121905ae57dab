//! Housekeeping: counts what is open, closes finished lanes, and deletes what is settled and older than the retention.

use std::sync::Arc;
use std::time::Duration;

use super::connection::{Conn, Failure, words};
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::{PerSide, SideId, SideSet};

/// How often open rows are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Every so many counts the journal is trimmed (about a minute).
const TRIM_EVERY: u64 = 60;

/// Rows deleted in one statement, so that no trim holds locks for long.
const STROKE: i64 = 5000;

/// Decided conflicts are kept for so many days.
const CONFLICT_DAYS: i32 = 30;

/// Counting stops here; the page says "100000 or more".
const COUNT_LIMIT: i64 = 100_000;

/// The named background task `trim`.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut round: u64 = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(COUNT_EVERY) => {}
            () = inner.closed() => return,
        }
        round += 1;
        let members = inner.view().epoch.members.and(inner.well());
        if let Some(leader) = members.leader() {
            let counted = tokio::select! {
                counted = async {
                    super::check::proof(&inner, leader).await?;
                    count_open(&inner, leader).await
                } => counted,
                (_, fault) = inner.trouble(SideSet::EMPTY.with(leader)) => Err(Failure::Side(fault)),
            };
            match counted {
                Ok(counts) => {
                    for (side, state) in inner.sides.iter() {
                        state.open_rows.send_replace(Some(counts[side]));
                    }
                }
                Err(failure) => {
                    tracing::debug!(side = %leader, why = words(&failure), "open rows not counted")
                }
            }
        }
        if round.is_multiple_of(TRIM_EVERY) {
            for side in members.iter() {
                let trimmed = tokio::select! {
                    trimmed = trim(&inner, side) => trimmed,
                    (_, fault) = inner.trouble(SideSet::EMPTY.with(side)) => Err(Failure::Side(fault)),
                };
                if let Err(failure) = trimmed {
                    tracing::debug!(%side, why = words(&failure), "not trimmed this time");
                }
            }
        }
    }
}

/// Journal rows on the leader whose change is not known to be on each side.
async fn count_open(inner: &Inner, leader: SideId) -> Result<PerSide<i64>, Failure> {
    let conn = Conn::open(&inner.sides[leader].reads).await?;
    let count = inner.sides.count() as i32;
    let rows = conn
        .client()?
        .query(
            "-- trim::count_open()\nSELECT i, (SELECT count(*) FROM (SELECT FROM kambana.lane AS l \
             JOIN kambana.journal AS j ON j.lane = l.lane AND j.batch > coalesce(l.confirmed[i], 0) \
             WHERE NOT l.closed LIMIT $2) AS x) FROM generate_series(1, $1) AS i ORDER BY i",
            &[&count, &COUNT_LIMIT],
        )
        .await?;
    Ok(PerSide::new(rows.len(), |side| rows[side.index()].get(1)))
}

async fn trim(inner: &Inner, side: SideId) -> Result<(), Failure> {
    let conn = Conn::open(&inner.sides[side].writes).await?;
    let client = conn.client()?;
    client
        .execute(
            "-- trim::close_lanes()\nUPDATE kambana.lane AS l SET closed = true WHERE NOT closed \
             AND NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.lane = l.lane AND (o.at > now() - interval '1 min' \
               OR o.batch > ANY (SELECT coalesce(l.confirmed[i], 0) FROM generate_series(1, $1) AS i)))",
            &[&(inner.sides.count() as i32)],
        )
        .await?;
    reach(Point::TrimClosed).await?;
    let seconds = inner.config.journal_retention.as_secs_f64();
    for table in ["journal", "op"] {
        let sql = format!(
            "-- trim::{table}()\nDELETE FROM kambana.{table} WHERE ctid = ANY (ARRAY( \
             SELECT t.ctid FROM kambana.{table} AS t JOIN kambana.lane AS l ON l.lane = t.lane AND l.closed \
             WHERE t.at < now() - make_interval(secs => $1) LIMIT $2))"
        );
        while client.execute(&sql, &[&seconds, &STROKE]).await? == STROKE as u64 {
            if *inner.closing.borrow() {
                return Ok(());
            }
        }
    }
    reach(Point::TrimDeleted).await?;
    client
        .execute(
            "-- trim::conflicts()\nDELETE FROM kambana.conflict WHERE state <> 'open' \
             AND coalesce(decided_at, at) < now() - make_interval(days => $1)",
            &[&CONFLICT_DAYS],
        )
        .await?;
    client
        .execute(
            "-- trim::lanes()\nDELETE FROM kambana.lane AS l WHERE closed \
             AND NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.lane = l.lane) \
             AND NOT EXISTS (SELECT FROM kambana.journal AS j WHERE j.lane = l.lane)",
            &[],
        )
        .await?;
    Ok(())
}
