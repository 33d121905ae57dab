//! Bringing a returned side up to date while writes go on.
//!
//! Pass after pass copies the rows of all keys that are open for it and that the pass before could not see; each pass
//! reads one snapshot of the leader. When a pass finds little, [`merge`](super::merge) takes both fences, copies the
//! rest and makes the side active. If we die anywhere, the next repairer starts over: every pass is idempotent, and
//! until the last commit the side is neither written by others nor read.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use super::connection::{Conn, Failure, Repeat};
use super::epoch::{self, Epoch, Fence};
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::journal::{self, COLUMNS, Entry, Lanes, OP_COLUMNS, OpRow, insert_lanes, insert_ops, place};
use super::merge::{self, Found, Keys, Purpose, collect_keys, widen_truncates, write_images};
use super::votes::{Child, Verdict, decide};
use super::{SideFault, SideId};

/// Journal rows or operations copied in one transaction of the target.
const CHUNK: i32 = 2000;

/// A pass that found no more than this leaves the rest to the final merge under the fences.
const FEW: u64 = 200;

/// Writes may outrun the passes; after so many the rest is merged under the fences whatever it costs.
const MAX_PASSES: u32 = 20;

/// How long the lease of a repairer lasts without being renewed.
const LEASE: &str = "10 s";

/// How a catch-up ended.
pub(super) enum Caught {
    /// The side is active in this epoch; so many keys were copied.
    Up { epoch: Epoch, keys: u64 },
    /// Another instance is doing it.
    ByAnother,
    /// The votes did not come, or decided for something else.
    Voted(Verdict),
}

type At = (SideId, Failure);

/// Catches `other` up from `lead` and readmits it.
///
/// # Errors
/// The side in trouble. The side stays out and is tried again.
pub(super) async fn catch_up(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    other: SideId,
) -> Result<Caught, At> {
    if !renew_lease(inner, lead, other).await.map_err(|f| (lead, f))? {
        return Ok(Caught::ByAnother);
    }
    same_structure(inner, lead, other).await?;
    let token = Uuid::new_v4();
    fence_off(inner, epoch, other, token)
        .await
        .map_err(|f| (other, f))?;
    inner.sides[other].caught_up_keys.send_replace(0);
    let mut snapshot: Option<String> = None;
    let mut keys = 0;
    for _ in 0..MAX_PASSES {
        let (seen, found) = pass(inner, epoch, lead, other, token, snapshot.as_deref()).await?;
        snapshot = Some(seen);
        keys += found;
        if found <= FEW || *inner.closing.borrow() {
            break;
        }
    }
    let wish = Child {
        epoch: epoch.next(epoch.members.with(other)),
        reason: format!("side {other} readmitted"),
    };
    // Before the fences: nobody waits for voters while they are held. If we die after this, the next one to bring this
    // side back is given the same child.
    let members = wish.epoch.members;
    let next = match decide(inner, epoch, wish).await {
        Verdict::Decided(child) if child.epoch.members == members => child.epoch,
        verdict => {
            release_lease(inner, lead, other).await.map_err(|f| (lead, f))?;
            return Ok(Caught::Voted(verdict));
        }
    };
    let snapshot = snapshot.unwrap_or_default();
    keys += merge::merge(
        inner,
        epoch,
        lead,
        other,
        Purpose::Readmit {
            next,
            snapshot,
            token,
        },
    )
    .await?;
    release_lease(inner, lead, other).await.map_err(|f| (lead, f))?;
    Ok(Caught::Up { epoch: next, keys })
}

/// Another instance may have left this side out because its tables differ, and we have not looked since.
async fn same_structure(inner: &Inner, lead: SideId, other: SideId) -> Result<(), At> {
    let mut found = Vec::new();
    for side in [lead, other] {
        found.push(inner.fingerprint(side).await.map_err(|f| (side, f))?);
    }
    match super::catalog::difference(&found[0], &found[1]) {
        None => Ok(()),
        Some(difference) => {
            inner.sides[other].refit.store(true, Ordering::Release);
            Err((other, Failure::Side(SideFault::Unfit(difference))))
        }
    }
}

/// Takes or renews the right to repair a side, by the leader's clock; a lease that would last longer than any was made
/// before that clock stepped back. Only politeness: correctness rests on the token.
async fn renew_lease(inner: &Inner, lead: SideId, other: SideId) -> Result<bool, Failure> {
    let conn = Conn::open(&inner.sides[lead].writes).await?;
    let over = match () {
        () if cfg!(mutant = "lease_forever") => "false",
        () if cfg!(mutant = "future_is_now") => "r.until < clock_timestamp()",
        () => "r.until NOT BETWEEN clock_timestamp() AND EXCLUDED.until",
    };
    let sql = format!(
        "-- catch_up::renew_lease()\nINSERT INTO kambana.repair AS r (side, holder, until) \
         VALUES ($1, $2, clock_timestamp() + interval '{LEASE}') \
         ON CONFLICT (side) DO UPDATE SET holder = EXCLUDED.holder, until = EXCLUDED.until \
         WHERE {over} OR r.holder = EXCLUDED.holder"
    );
    Ok(conn
        .client()?
        .execute(&sql, &[&other.to_string(), &inner.config.instance])
        .await?
        == 1)
}

async fn release_lease(inner: &Inner, lead: SideId, other: SideId) -> Result<(), Failure> {
    let conn = Conn::open(&inner.sides[lead].writes).await?;
    conn.client()?
        .execute(
            "-- catch_up::release_lease()\nDELETE FROM kambana.repair WHERE side = $1 AND holder = $2",
            &[&other.to_string(), &inner.config.instance],
        )
        .await?;
    Ok(())
}

/// Stores the current epoch on the returned side, with this repairer's token: writers of older epochs and earlier
/// repairers are refused there from now on.
async fn fence_off(inner: &Inner, epoch: &Epoch, other: SideId, token: Uuid) -> Result<(), Failure> {
    reach(Point::FenceOffBefore).await?;
    let conn = Conn::open(&inner.sides[other].writes).await?;
    conn.set_busy(true);
    let until = Instant::now() + inner.config.op_deadline;
    let fence = loop {
        match Fence::take(conn.client()?).await {
            Ok(fence) => break fence,
            Err(Failure::Repeat(_)) if Instant::now() < until => {
                tokio::time::sleep(inner.config.probe_interval).await;
            }
            Err(failure) => return Err(failure),
        }
    };
    let stored = epoch::read(fence.client()).await?;
    if stored.n > epoch.n || (stored.n == epoch.n && !stored.same_as(epoch)) {
        return Err(Failure::Repeat(Repeat::Contention));
    }
    fence
        .write(
            &Epoch {
                generation: token,
                ..*epoch
            },
            "being caught up",
        )
        .await?;
    fence.commit().await?;
    conn.set_busy(false);
    reach(Point::FenceOffAfter).await
}

/// Copies everything that is open for `other` and not shown by the snapshot of the pass before. Returns this pass's
/// snapshot and the number of keys.
async fn pass(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    other: SideId,
    token: Uuid,
    since: Option<&str>,
) -> Result<(String, u64), At> {
    let at_lead = |f: Failure| (lead, f);
    let source = Conn::open(&inner.sides[lead].writes).await.map_err(at_lead)?;
    source.set_busy(true);
    let from = source.client().map_err(at_lead)?;
    let snapshot = begin_pass(from, other, since).await.map_err(at_lead)?;
    reach(Point::PassBegin).await.map_err(at_lead)?;
    let catalog = super::catalog::load(from).await.map_err(at_lead)?;
    let instances = instances(from).await.map_err(at_lead)?;
    let target = Conn::open(&inner.sides[other].writes)
        .await
        .map_err(|f| (other, f))?;
    let mut copied = 0;
    loop {
        let ops = from
            .query(&format!("-- catch_up::pass()\nFETCH {CHUNK} FROM open_ops"), &[])
            .await
            .map_err(|e| at_lead(e.into()))?;
        let rows = from
            .query(&format!("-- catch_up::pass()\nFETCH {CHUNK} FROM open_rows"), &[])
            .await
            .map_err(|e| at_lead(e.into()))?;
        if ops.is_empty() && rows.is_empty() {
            break;
        }
        let ops: Vec<OpRow> = ops.iter().map(OpRow::from_row).collect();
        let entries: Vec<Entry> = rows.iter().map(Entry::from_row).collect();
        let mut keys = Keys::new();
        collect_keys(&mut keys, entries.iter());
        target.set_busy(true);
        let to = target.client().map_err(|f| (other, f))?;
        widen_truncates(to, &catalog, &mut keys, entries.iter())
            .await
            .map_err(|f| (other, f))?;
        let mut found: Found<'_> = Vec::new();
        for (name, keys) in &keys {
            let table = catalog
                .get(name)
                .ok_or_else(|| (lead, journal::unknown_table(name)))?;
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            found.push((table, merge::images(from, table, &keys).await.map_err(at_lead)?));
        }
        let chunk = Chunk {
            ops: &ops,
            entries: &entries,
            found: &found,
            lanes: lanes(inner, lead, &instances, &ops, &entries),
        };
        write_chunk(to, epoch, token, &chunk)
            .await
            .map_err(|f| (other, f))?;
        target.set_busy(false);
        reach(Point::ChunkAfter).await.map_err(|f| (other, f))?;
        let count = keys.values().map(BTreeSet::len).sum::<usize>() as u64;
        copied += count;
        inner.sides[other]
            .caught_up_keys
            .send_modify(|keys| *keys += count);
        if *inner.closing.borrow() || !renew_lease(inner, lead, other).await.map_err(at_lead)? {
            return Err((lead, Failure::Repeat(Repeat::Contention)));
        }
    }
    from.batch_execute("ROLLBACK")
        .await
        .map_err(|e| at_lead(e.into()))?;
    source.set_busy(false);
    reach(Point::PassEnd).await.map_err(at_lead)?;
    Ok((snapshot, copied))
}

/// One snapshot of the leader with two cursors: operations and journal rows that are open for `other`.
async fn begin_pass(client: &Client, other: SideId, since: Option<&str>) -> Result<String, Failure> {
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '60s'; \
             SET LOCAL idle_in_transaction_session_timeout = '5min'",
        )
        .await?;
    let row = client
        .query_one(
            "-- catch_up::begin_pass()\nSELECT pg_current_snapshot()::text",
            &[],
        )
        .await?;
    // DECLARE takes no parameters: the place is a number, the snapshot is PostgreSQL's own text.
    let newer = |alias: &str| match since {
        Some(snapshot) => {
            let snapshot = super::catalog::literal(snapshot);
            format!(
                "AND {alias}.xid >= pg_snapshot_xmin({snapshot}::pg_snapshot) \
                 AND NOT pg_visible_in_snapshot({alias}.xid, {snapshot}::pg_snapshot)"
            )
        }
        None => String::new(),
    };
    let place = place(other);
    client
        .batch_execute(&format!(
            "DECLARE open_ops NO SCROLL CURSOR FOR SELECT {OP_COLUMNS} FROM kambana.lane AS l \
             JOIN kambana.op AS o ON o.lane = l.lane AND o.batch > coalesce(l.confirmed[{place}], 0) \
             WHERE NOT l.closed {newer_o} ORDER BY o.lane, o.batch; \
             DECLARE open_rows NO SCROLL CURSOR FOR SELECT {COLUMNS} FROM ( \
               SELECT j.* FROM kambana.lane AS l JOIN kambana.journal AS j ON j.lane = l.lane \
                 AND j.batch > coalesce(l.confirmed[{place}], 0) WHERE NOT l.closed {newer_j} \
               UNION ALL SELECT j.* FROM kambana.journal AS j WHERE j.lane = 0 {newer_j}) AS j ORDER BY j.n",
            newer_o = newer("o"),
            newer_j = newer("j"),
        ))
        .await?;
    Ok(row.get(0))
}

/// Names of the writers, by lane.
async fn instances(client: &Client) -> Result<std::collections::BTreeMap<i64, String>, Failure> {
    let rows = client
        .query(
            "-- catch_up::instances()\nSELECT lane, instance FROM kambana.lane",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The lanes of a chunk: what comes from the leader is on the leader.
fn lanes(
    inner: &Inner,
    lead: SideId,
    instances: &std::collections::BTreeMap<i64, String>,
    ops: &[OpRow],
    entries: &[Entry],
) -> Lanes {
    let mut lanes = Lanes::new();
    let batches = ops
        .iter()
        .map(|o| (o.lane, o.batch))
        .chain(entries.iter().map(|e| (e.lane, e.batch)));
    for (lane, batch) in batches.filter(|(lane, _)| *lane != 0) {
        let (_, confirmed) = lanes.entry(lane).or_insert_with(|| {
            (
                instances.get(&lane).cloned().unwrap_or_default(),
                vec![0; inner.sides.count()],
            )
        });
        if let Some(known) = confirmed.get_mut(lead.index()) {
            *known = batch.max(*known);
        }
    }
    lanes
}

/// What one transaction of the target writes.
struct Chunk<'a> {
    ops: &'a [OpRow],
    entries: &'a [Entry],
    found: &'a Found<'a>,
    lanes: Lanes,
}

async fn write_chunk(to: &Client, epoch: &Epoch, token: Uuid, chunk: &Chunk<'_>) -> Result<(), Failure> {
    to.batch_execute(
        "BEGIN; SET LOCAL statement_timeout = '60s'; LOCK TABLE kambana.fence IN ROW SHARE MODE",
    )
    .await?;
    let row = to
        .query_one(
            "-- catch_up::write_chunk()\nSELECT count(*), set_config('kambana.apply', 'on', true) FROM kambana.epoch \
             WHERE n = $1 AND generation = $2",
            &[&epoch.n, &token],
        )
        .await?;
    if row.get::<_, i64>(0) != 1 {
        // Another repairer or another epoch: nothing of ours may be written here any more.
        return Err(Failure::Repeat(Repeat::Contention));
    }
    insert_ops(to, chunk.ops).await?;
    insert_lanes(to, &chunk.lanes).await?;
    let entries: Vec<Entry> = chunk.entries.iter().filter(|e| e.lane != 0).cloned().collect();
    // A repeated pass brings the same rows again.
    forget_batches(to, &entries).await?;
    // The rows first: their locks order the journal, and what they overwrite has an earlier number (`open::overwritten`).
    write_images(to, chunk.found).await?;
    journal::insert(to, &entries).await?;
    reach(Point::ChunkBefore).await?;
    to.batch_execute("SET CONSTRAINTS ALL IMMEDIATE; COMMIT").await?;
    Ok(())
}

/// Takes out journal rows that an earlier, interrupted pass has brought.
async fn forget_batches(to: &Client, entries: &[Entry]) -> Result<(), Failure> {
    let (lanes, batches): (Vec<i64>, Vec<i64>) = entries.iter().map(|e| (e.lane, e.batch)).unzip();
    let keys: Vec<&str> = entries.iter().map(|e| e.key.as_str()).collect();
    to.execute(
        "-- catch_up::forget_batches()\nDELETE FROM kambana.journal AS j \
         USING unnest($1::bigint[], $2::bigint[], $3::text[]) AS u(lane, batch, key) \
         WHERE j.lane = u.lane AND j.batch = u.batch AND j.key = u.key",
        &[&lanes, &batches, &keys],
    )
    .await?;
    Ok(())
}
