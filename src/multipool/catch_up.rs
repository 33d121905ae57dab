//! Bringing a returned side up to date while writes go on.
//!
//! Pass after pass copies the rows of all keys that are open for it and that the pass before could not see; each pass
//! reads one snapshot of the leader. When a pass finds little, [`merge`](super::merge) takes both fences, copies the
//! rest and makes the side active. If we die anywhere, the next repairer starts over: every pass is idempotent, and
//! until the last commit the side is neither written by others nor read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::connection::{Conn, Failure, Repeat};
use super::epoch::{self, Epoch, Fence};
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::journal::{self, COLUMNS, Entry, Lanes, OP_COLUMNS, OpRow, insert_lanes, insert_ops, place};
use super::merge::{self, Copying, Keys, Purpose, collect_keys, widen_truncates};
use super::votes::{Child, Verdict, decide};
use super::{Loss, Reason, SideFault, SideId};

/// Journal rows or operations copied in one transaction of the target.
const CHUNK: i32 = 2000;

/// Images of journal rows that are in memory at a time, in bytes (or one, if it is longer).
const PORTION_BYTES: usize = 4 << 20;

/// A pass that found no more than this leaves the rest to the final merge under the fences.
const FEW: u64 = 200;

/// Writes may outrun the passes; after so many the rest is merged under the fences whatever it costs.
const MAX_PASSES: u32 = 20;

/// How long the lease of a repairer lasts without being renewed.
const LEASE: &str = "10 s";

/// How often a pass renews it: each time the leader flushes its log once more.
const RENEW_EVERY: Duration = Duration::from_secs(2);

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
    if merge::is_given_up(inner, lead, other)
        .await
        .map_err(|f| (lead, f))?
    {
        return Err((other, Failure::Side(SideFault::Lost(Loss::TooOld))));
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
        let (seen, found) = match pass(inner, epoch, lead, other, token, snapshot.as_deref()).await {
            // The side has changes of its own that do not go together with the leader's. Which gives way is decided
            // where both sides stand still.
            Err((side, failure)) if side == other && failure.breaks_constraint() => {
                tracing::warn!(%side, why = super::connection::words(&failure), "left to the merge");
                break;
            }
            passed => passed?,
        };
        snapshot = Some(seen);
        keys += found;
        if found <= FEW || *inner.closing.borrow() {
            break;
        }
    }
    let wish = Child {
        epoch: epoch.next(epoch.members.with(other)),
        reason: Reason::Readmitted(other).to_string(),
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
pub(super) async fn renew_lease(inner: &Inner, lead: SideId, other: SideId) -> Result<bool, Failure> {
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

pub(super) async fn release_lease(inner: &Inner, lead: SideId, other: SideId) -> Result<(), Failure> {
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
    let (patience, pause) = (inner.config.op_deadline, inner.config.probe_interval);
    let fence = Fence::take_within(conn.client()?, patience, pause).await?;
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
            &Reason::CatchingUp.to_string(),
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
    let to = target.client().map_err(|f| (other, f))?;
    let mut copying = Copying::new(&catalog, (lead, from), (other, to));
    let mut begun = false;
    let mut copied = 0;
    let mut renewed: Option<Instant> = None;
    let mut next = fetch(from).await.map_err(at_lead)?;
    while let Some((ops, rows)) = next {
        let ops: Vec<OpRow> = ops.iter().map(OpRow::from_row).collect();
        let entries: Vec<Entry> = rows.iter().map(Entry::from_row).collect();
        let mut keys = Keys::new();
        collect_keys(&mut keys, entries.iter());
        if !begun {
            target.set_busy(true);
            begin_chunk(to, epoch, token).await.map_err(|f| (other, f))?;
            begun = true;
        }
        widen_truncates(to, &catalog, &mut keys, entries.iter())
            .await
            .map_err(|f| (other, f))?;
        let lanes = lanes(inner, lead, &instances, &ops, &entries);
        // The leader looks for what comes next while the other side writes.
        let (written, fetched) = tokio::join!(write_ledger(to, &ops, lanes), fetch(from));
        written.map_err(|f| (other, f))?;
        next = fetched.map_err(at_lead)?;
        // The rows first: their locks order the journal, and what they overwrite has an earlier number
        // (`open::overwritten`).
        let count = copying.rows(&keys).await?;
        write_journal(from, to, lead, other, &rows, &entries).await?;
        // Rows that depend on each other come together, when all of them are there.
        if !copying.waits() {
            commit_chunk(to).await.map_err(|f| (other, f))?;
            begun = false;
            target.set_busy(false);
        }
        reach(Point::ChunkAfter).await.map_err(|f| (other, f))?;
        copied += count;
        inner.sides[other]
            .caught_up_keys
            .send_modify(|keys| *keys += count);
        if *inner.closing.borrow() {
            return Err((lead, Failure::Repeat(Repeat::Contention)));
        }
        if renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            if !renew_lease(inner, lead, other).await.map_err(at_lead)? {
                return Err((lead, Failure::Repeat(Repeat::Contention)));
            }
            renewed = Some(Instant::now());
        }
    }
    if begun {
        copying.finish().await?;
        commit_chunk(to).await.map_err(|f| (other, f))?;
        target.set_busy(false);
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
            "DECLARE open_ops NO SCROLL CURSOR FOR SELECT {OP_COLUMNS} FROM kambana.lane_settled AS l \
             JOIN kambana.op AS o ON o.lane = l.lane AND o.batch > coalesce(l.confirmed[{place}], 0) \
             WHERE NOT l.closed {newer_o} ORDER BY o.lane, o.batch; \
             DECLARE open_rows NO SCROLL CURSOR FOR SELECT j.lane, j.batch, j.op, j.tbl, j.kind::text, j.key, j.old_key, \
               NULL::text AS image, j.bytes, j.place FROM ( \
               SELECT j.*, {sizes} FROM kambana.lane_settled AS l JOIN kambana.journal AS j ON j.lane = l.lane \
                 AND j.batch > coalesce(l.confirmed[{place}], 0) WHERE NOT l.closed {newer_j} \
               UNION ALL SELECT j.*, {sizes} FROM kambana.journal AS j WHERE j.lane = 0 {newer_j}) AS j ORDER BY j.n",
            // The images themselves come in portions: a few long ones would fill the memory.
            sizes = "coalesce(octet_length(j.image), 0) AS bytes, j.ctid::text AS place",
            newer_o = newer("o"),
            newer_j = newer("j"),
        ))
        .await?;
    Ok(row.get(0))
}

/// The next operations and journal rows of a pass, in either order; `None` when there are no more.
async fn fetch(from: &Client) -> Result<Option<(Vec<Row>, Vec<Row>)>, Failure> {
    let from_cursor = async |cursor: &str| {
        let sql = format!("-- catch_up::fetch()\nFETCH {CHUNK} FROM {cursor}");
        from.query(&sql, &[]).await
    };
    let (ops, rows) = tokio::try_join!(from_cursor("open_ops"), from_cursor("open_rows"))?;
    Ok((!ops.is_empty() || !rows.is_empty()).then_some((ops, rows)))
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

/// Begins a transaction on the target, if it still waits for this repairer. Rows that depend on each other are written by
/// one statement, however many they are; nobody waits for it but the side itself.
async fn begin_chunk(to: &Client, epoch: &Epoch, token: Uuid) -> Result<(), Failure> {
    to.batch_execute(
        "BEGIN; SET LOCAL statement_timeout = '10min'; SET LOCAL idle_in_transaction_session_timeout = '60s'; \
         LOCK TABLE kambana.fence IN ROW SHARE MODE",
    )
    .await?;
    let row = to
        .query_one(
            "-- catch_up::begin_chunk()\nSELECT count(*), set_config('kambana.apply', 'on', true) FROM kambana.epoch \
             WHERE n = $1 AND generation = $2",
            &[&epoch.n, &token],
        )
        .await?;
    if row.get::<_, i64>(0) != 1 {
        // Another repairer or another epoch: nothing of ours may be written here any more.
        return Err(Failure::Repeat(Repeat::Contention));
    }
    Ok(())
}

async fn commit_chunk(to: &Client) -> Result<(), Failure> {
    reach(Point::ChunkBefore).await?;
    to.batch_execute("SET CONSTRAINTS ALL IMMEDIATE; COMMIT").await?;
    Ok(())
}

async fn write_ledger(to: &Client, ops: &[OpRow], lanes: Lanes) -> Result<(), Failure> {
    tokio::try_join!(insert_ops(to, ops), insert_lanes(to, &lanes))?;
    Ok(())
}

/// Brings journal rows with their images, a portion at a time: `rows` say how long the images are and where they lie.
async fn write_journal(
    from: &Client,
    to: &Client,
    lead: SideId,
    other: SideId,
    rows: &[Row],
    entries: &[Entry],
) -> Result<(), At> {
    let own: Vec<(&Entry, i32, &str)> = entries
        .iter()
        .zip(rows)
        .filter(|(e, _)| e.lane != 0)
        .map(|(e, row)| (e, row.get("bytes"), row.get("place")))
        .collect();
    // A repeated pass brings the same rows again.
    let forget = own.iter().map(|(entry, _, _)| *entry);
    forget_batches(to, forget).await.map_err(|f| (other, f))?;
    let mut rest = own.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|(_, size, _)| {
            bytes += *size as usize;
            bytes <= PORTION_BYTES
        });
        let (portion, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let places: Vec<&str> = portion.iter().map(|(_, _, place)| *place).collect();
        let found = from
            .query(
                &format!(
                    "-- catch_up::write_journal()\nSELECT {COLUMNS} FROM kambana.journal AS j \
                     WHERE j.ctid = ANY($1::text[]::tid[]) ORDER BY j.n"
                ),
                &[&places],
            )
            .await
            .map_err(|e| (lead, e.into()))?;
        let entries: Vec<Entry> = found.iter().map(Entry::from_row).collect();
        drop(found);
        journal::insert(to, &entries).await.map_err(|f| (other, f))?;
    }
    Ok(())
}

/// Takes out journal rows that an earlier, interrupted pass has brought.
async fn forget_batches<'a>(to: &Client, entries: impl Iterator<Item = &'a Entry>) -> Result<(), Failure> {
    let (mut lanes, mut batches, mut keys) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        lanes.push(entry.lane);
        batches.push(entry.batch);
        keys.push(entry.key.as_str());
    }
    to.execute(
        "-- catch_up::forget_batches()\nDELETE FROM kambana.journal AS j \
         USING unnest($1::bigint[], $2::bigint[], $3::text[]) AS u(lane, batch, key) \
         WHERE j.lane = u.lane AND j.batch = u.batch AND j.key = u.key",
        &[&lanes, &batches, &keys],
    )
    .await?;
    Ok(())
}
