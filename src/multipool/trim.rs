//! Housekeeping: counts what is open, closes finished lanes, and deletes what is settled and older than the retention.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::Client;

use super::connection::{Conn, Failure, words};
use super::epoch::Fence;
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::{Happened, PerSide, SideId, SideSet};

/// How often open rows are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Every so many counts the journal is trimmed (about a minute).
const TRIM_EVERY: u64 = 60;

/// Rows deleted in one statement, so that no trim holds locks for long.
const STROKE: i64 = 5000;

/// As [`STROKE`], of rows that nobody else touches; each stroke passes what the one before has deleted.
const SETTLED_STROKE: i64 = 100_000;

/// How long it is tried to close lanes, and the pause in between.
const FENCE_PATIENCE: Duration = Duration::from_secs(3);
const FENCE_PAUSE: Duration = Duration::from_millis(200);

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
                    let minute = round.is_multiple_of(TRIM_EVERY);
                    give_up(&inner, leader, &counts, minute).await;
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

/// Journal rows on the leader whose change is not known to be on each side. Lane by lane: a join of all lanes may begin with
/// the journal, every second.
async fn count_open(inner: &Inner, leader: SideId) -> Result<PerSide<i64>, Failure> {
    let conn = Conn::open(&inner.sides[leader].writes).await?;
    let count = inner.sides.count() as i32;
    let rows = conn
        .client()?
        .query(
            "-- trim::count_open()\nSELECT i, (SELECT count(*) FROM (SELECT FROM kambana.lane_settled AS l \
             CROSS JOIN LATERAL (SELECT FROM kambana.journal AS j \
               WHERE j.lane = l.lane AND j.batch > coalesce(l.confirmed[i], 0) OFFSET 0) AS open \
             WHERE NOT l.closed LIMIT $2) AS x) FROM generate_series(1, $1) AS i ORDER BY i",
            &[&count, &COUNT_LIMIT],
        )
        .await?;
    Ok(PerSide::new(rows.len(), |side| rows[side.index()].get(1)))
}

/// Sides for which more rows are kept than the configured limit are given up: they will be rebuilt. A count that stops at
/// [`COUNT_LIMIT`] is made in full once a minute.
async fn give_up(inner: &Inner, leader: SideId, counts: &PerSide<i64>, minute: bool) {
    let limit = inner.config.journal_max_rows;
    let members = inner.view().epoch.members;
    for side in inner.sides.ids().filter(|side| !members.contains(*side)) {
        let state = &inner.sides[side];
        let may_be = counts[side] > limit || (minute && counts[side] >= COUNT_LIMIT);
        if !may_be || state.given_up.load(Ordering::Acquire) {
            continue;
        }
        match give_up_side(inner, leader, members, side, limit).await {
            Ok(true) => {
                state.given_up.store(true, Ordering::Release);
                inner.event(Happened::GivenUp { side, limit });
            }
            Ok(false) => {}
            Err(failure) => tracing::debug!(%side, why = words(&failure), "not given up this time"),
        }
    }
}

/// Not while somebody is repairing it: he needs these rows.
const GIVE_UP_SQL: &str = "-- trim::give_up()
INSERT INTO kambana.mark AS m (side, mark, given_up) SELECT $1, 0, true
WHERE NOT EXISTS (SELECT FROM kambana.repair AS r WHERE r.side = $1 AND r.until > clock_timestamp())
ON CONFLICT (side) DO UPDATE SET given_up = true";

async fn give_up_side(
    inner: &Inner,
    leader: SideId,
    members: SideSet,
    side: SideId,
    limit: i64,
) -> Result<bool, Failure> {
    let conn = Conn::open(&inner.sides[leader].writes).await?;
    let client = conn.client()?;
    if limit >= COUNT_LIMIT {
        let sql = "-- trim::give_up()\nSELECT count(*) FROM (SELECT FROM kambana.lane_settled AS l JOIN kambana.journal AS j \
                   ON j.lane = l.lane AND j.batch > coalesce(l.confirmed[$1], 0) WHERE NOT l.closed LIMIT $2) AS x";
        let counted = client
            .query_one(sql, &[&super::journal::place(side), &(limit + 1)])
            .await?;
        if counted.get::<_, i64>(0) <= limit {
            return Ok(false);
        }
    }
    let name = side.to_string();
    // The leader's word counts; the others follow, so that each of them may lead and trim.
    if client.execute(GIVE_UP_SQL, &[&name]).await? == 0 {
        return Ok(false);
    }
    for other in members.and(inner.well()).iter().filter(|other| *other != leader) {
        let conn = Conn::open(&inner.sides[other].writes).await?;
        conn.client()?.execute(GIVE_UP_SQL, &[&name]).await?;
    }
    Ok(true)
}

/// Lanes that have written nothing for a minute, and of which nothing is open.
const FINISHED_SQL: &str = "-- trim::close_lanes()
SELECT l.lane FROM kambana.lane_settled AS l LEFT JOIN LATERAL (
    SELECT o.batch, o.at FROM kambana.op AS o WHERE o.lane = l.lane ORDER BY o.batch DESC LIMIT 1) AS last ON true
WHERE NOT l.closed AND ($2::bigint[] IS NULL OR l.lane = ANY ($2)) AND (last.at < now() - interval '1 min') IS NOT FALSE
    AND NOT EXISTS (SELECT FROM generate_series(1, $1) AS i WHERE last.batch > coalesce(l.confirmed[i], 0)
        AND NOT EXISTS (SELECT FROM kambana.mark AS m WHERE m.side = chr(96 + i) AND m.given_up))";

/// What the last batch of a lane says is all that counts, and a closed lane has it in its own row.
const SETTLED_SQL: &str = "-- trim::settled()
DELETE FROM kambana.settled WHERE ctid = ANY (ARRAY(
    SELECT s.ctid FROM kambana.lane AS l
    CROSS JOIN LATERAL (SELECT max(n.batch) AS batch FROM kambana.settled AS n WHERE n.lane = l.lane) AS last
    JOIN kambana.settled AS s ON s.lane = l.lane AND (l.closed OR s.batch < last.batch) LIMIT $1))";

/// A batch that has entered looks for its lane once, so nobody may be writing while lanes are closed.
async fn close_lanes(client: &Client, sides: i32) -> Result<(), Failure> {
    let finished = async |among: Option<&[i64]>| {
        let rows = client.query(FINISHED_SQL, &[&sides, &among]).await?;
        Ok::<Vec<i64>, Failure>(rows.iter().map(|row| row.get(0)).collect())
    };
    let lanes = finished(None).await?;
    if lanes.is_empty() {
        return Ok(());
    }
    let fence = match Fence::take_within(client, FENCE_PATIENCE, FENCE_PAUSE).await {
        // Somebody writes for longer than one waits: in a minute, then.
        Err(Failure::Repeat(_)) => return Ok(()),
        taken => taken?,
    };
    let lanes = finished(Some(&lanes)).await?;
    client
        .execute(
            "-- trim::close_lanes()\nUPDATE kambana.lane AS l SET closed = true, confirmed = k.confirmed \
             FROM kambana.lane_settled AS k WHERE k.lane = l.lane AND l.lane = ANY($1)",
            &[&lanes],
        )
        .await?;
    fence.commit().await
}

async fn trim(inner: &Inner, side: SideId) -> Result<(), Failure> {
    let conn = Conn::open(&inner.sides[side].writes).await?;
    let client = conn.client()?;
    conn.set_busy(true);
    close_lanes(client, inner.sides.count() as i32).await?;
    conn.set_busy(false);
    reach(Point::TrimClosed).await?;
    while client.execute(SETTLED_SQL, &[&SETTLED_STROKE]).await? == SETTLED_STROKE as u64 {
        if *inner.closing.borrow() {
            return Ok(());
        }
    }
    let seconds = inner.config.journal_retention.as_secs_f64();
    for table in ["journal", "op"] {
        // What is kept is not looked at: of each lane the first row tells whether it is old enough.
        let sql = format!(
            "-- trim::{table}()\nDELETE FROM kambana.{table} WHERE ctid = ANY (ARRAY( \
             SELECT t.ctid FROM kambana.lane AS l CROSS JOIN LATERAL ( \
               SELECT o.ctid FROM kambana.{table} AS o WHERE o.lane = l.lane AND o.at < now() - make_interval(secs => $1) \
               OFFSET 0) AS t \
             WHERE l.closed AND (SELECT o.at FROM kambana.{table} AS o WHERE o.lane = l.lane ORDER BY o.batch LIMIT 1) \
               < now() - make_interval(secs => $1) LIMIT $2))"
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
            "-- trim::lanes()\nWITH gone AS (DELETE FROM kambana.lane AS l WHERE closed \
               AND NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.lane = l.lane) \
               AND NOT EXISTS (SELECT FROM kambana.journal AS j WHERE j.lane = l.lane) RETURNING l.lane) \
             DELETE FROM kambana.settled AS s USING gone WHERE s.lane = gone.lane",
            &[],
        )
        .await?;
    Ok(())
}
