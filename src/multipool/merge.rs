//! Bringing two sides together under both fences: what is open on one side only is copied, row state by row state.
//!
//! Images are read anew from the side that has them, never taken from the journal: a journal row may be older than the
//! row. Nothing is in flight while both fences are held, so what is missing is missing for good. If we die between the
//! two commits, the next merge finds the rest: presence is asked from the data, not remembered.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Client;
use uuid::Uuid;

use super::catalog::{Catalog, Table};
use super::connection::{Conn, Failure};
use super::epoch::{self, Epoch, Fence};
use super::journal::{self, COLUMNS, Entry, Kind, Lanes, OP_COLUMNS, OpRow, insert_lanes, insert_ops, place};
use super::pool::Inner;
use super::{SideId, sequences};

/// Keys per table.
pub(super) type Keys = BTreeMap<String, BTreeSet<String>>;

/// How long a merge tries to get both fences before it gives up and is started anew.
const FENCE_TRIES: u32 = 30;

/// What a merge is for.
pub(super) enum Purpose {
    /// Both are active; an instance died or a foreign write is on its way.
    Sweep,
    /// The other side was caught up to this snapshot and becomes active in the new epoch.
    Readmit {
        next: Epoch,
        snapshot: String,
        token: Uuid,
    },
    /// The other side is a member of the epoch but has not stored it yet: somebody died while readmitting it.
    Align,
}

/// What was found on one side and may be missing on the other.
struct Open {
    ops: Vec<OpRow>,
    entries: Vec<Entry>,
}

/// Brings every other active side together with the leader.
///
/// # Errors
/// The side in trouble; nothing is half done that the next merge would not find.
pub(super) async fn sweep(inner: &Inner, epoch: &Epoch) -> Result<u64, (SideId, Failure)> {
    let Some(leader) = epoch.members.leader() else {
        return Ok(0);
    };
    let mut copied = 0;
    for other in epoch.members.iter().filter(|side| *side != leader) {
        copied += merge(inner, epoch, leader, other, Purpose::Sweep).await?;
    }
    Ok(copied)
}

/// Merges `other` with the authority `lead` in one transaction a side. Returns the number of rows copied.
pub(super) async fn merge(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    other: SideId,
    purpose: Purpose,
) -> Result<u64, (SideId, Failure)> {
    let a = Conn::open(&inner.sides[lead].writes)
        .await
        .map_err(|f| (lead, f))?;
    let b = Conn::open(&inner.sides[other].writes)
        .await
        .map_err(|f| (other, f))?;
    let (mut tries, mut pause) = (0, std::time::Duration::from_millis(5));
    a.set_busy(true);
    b.set_busy(true);
    let (fence_a, fence_b) = loop {
        let at_a = a.client().map_err(|f| (lead, f))?;
        let at_b = b.client().map_err(|f| (other, f))?;
        let fence_a = match Fence::take(at_a).await {
            Ok(fence) => Some(fence),
            Err(Failure::Repeat(_)) if tries < FENCE_TRIES => None,
            Err(failure) => return Err((lead, failure)),
        };
        if let Some(fence_a) = fence_a {
            match Fence::take(at_b).await {
                Ok(fence_b) => break (fence_a, fence_b),
                Err(Failure::Repeat(_)) if tries < FENCE_TRIES => {
                    fence_a.release().await.map_err(|f| (lead, f))?;
                }
                Err(failure) => return Err((other, failure)),
            }
        }
        tries += 1;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_millis(100));
    };
    let (copied, batches) = under_fences(inner, epoch, (lead, &fence_a), (other, &fence_b), &purpose).await?;
    match purpose {
        // The survivor first: if we die in between, the other side stays behind and is aligned by anyone.
        Purpose::Readmit { .. } | Purpose::Align => {
            fence_a.commit().await.map_err(|f| (lead, f))?;
            fence_b.commit().await.map_err(|f| (other, f))?;
        }
        Purpose::Sweep => {
            fence_b.commit().await.map_err(|f| (other, f))?;
            fence_a.commit().await.map_err(|f| (lead, f))?;
        }
    }
    // Only now, with both answers: what a side is said to have, it has. If we die before this, the next merge compares
    // the same batches once more and finds nothing missing.
    for (side, conn) in [(lead, &a), (other, &b)] {
        let client = conn.client().map_err(|f| (side, f))?;
        settle(client, lead, other, &batches)
            .await
            .map_err(|f| (side, f))?;
        conn.set_busy(false);
    }
    Ok(copied)
}

/// The last batch of every lane that is open.
type Batches = (Vec<i64>, Vec<i64>);

async fn settle(
    client: &Client,
    lead: SideId,
    other: SideId,
    (lanes, batches): &Batches,
) -> Result<(), Failure> {
    client
        .execute(
            "-- merge::settle()\nUPDATE kambana.lane AS l \
             SET confirmed[$1] = greatest(coalesce(l.confirmed[$1], 0), u.batch), \
                 confirmed[$2] = greatest(coalesce(l.confirmed[$2], 0), u.batch) \
             FROM unnest($3::bigint[], $4::bigint[]) AS u(lane, batch) WHERE l.lane = u.lane",
            &[&place(lead), &place(other), lanes, batches],
        )
        .await?;
    Ok(())
}

fn moved(side: SideId, found: &Epoch) -> (SideId, Failure) {
    tracing::debug!(%side, n = found.n, "the epoch moved before a merge");
    (side, Failure::Repeat(super::connection::Repeat::Contention))
}

async fn under_fences(
    inner: &Inner,
    epoch: &Epoch,
    (lead, fence_a): (SideId, &Fence<'_>),
    (other, fence_b): (SideId, &Fence<'_>),
    purpose: &Purpose,
) -> Result<(u64, Batches), (SideId, Failure)> {
    let (a, b) = (fence_a.client(), fence_b.client());
    let (at_a, at_b) = (|f: Failure| (lead, f), |f: Failure| (other, f));
    let stored_a = epoch::read(a).await.map_err(at_a)?;
    if !stored_a.same_as(epoch) {
        return Err(moved(lead, &stored_a));
    }
    let stored_b = epoch::read(b).await.map_err(at_b)?;
    let fits = match purpose {
        Purpose::Sweep => stored_b.same_as(epoch),
        Purpose::Readmit { token, .. } => stored_b.n == epoch.n && stored_b.generation == *token,
        Purpose::Align => stored_b.n < epoch.n && epoch.members.contains(other),
    };
    if !fits {
        return Err(moved(other, &stored_b));
    }
    for (client, say) in [
        (a, &at_a as &(dyn Fn(Failure) -> (SideId, Failure) + Sync)),
        (b, &at_b),
    ] {
        client
            .batch_execute(
                "SET LOCAL statement_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '60s'; \
                 SELECT set_config('kambana.apply', 'on', true)",
            )
            .await
            .map_err(|e| say(e.into()))?;
    }
    let since = match purpose {
        Purpose::Readmit { snapshot, .. } => Some(snapshot.as_str()),
        Purpose::Sweep | Purpose::Align => None,
    };
    let catalog = super::catalog::load(a).await.map_err(at_a)?;
    let mut open_a = open(a, other, since).await.map_err(at_a)?;
    let mut open_b = open(b, lead, None).await.map_err(at_b)?;
    let on_b = present(b, &open_a).await.map_err(at_b)?;
    let on_a = present(a, &open_b).await.map_err(at_a)?;
    keep_missing(&mut open_a, &on_b);
    // An operation that was repeated in a later epoch is on the authority under another batch: that one counts.
    let elsewhere = |op: &Uuid, at: (i64, i64)| on_a.get(op).is_some_and(|there| *there != at);
    let repeated: BTreeSet<Uuid> = open_b
        .ops
        .iter()
        .map(|o| (o.op, (o.lane, o.batch)))
        .chain(open_b.entries.iter().map(|e| (e.op, (e.lane, e.batch))))
        .filter(|(op, at)| elsewhere(op, *at))
        .map(|(op, _)| op)
        .collect();
    keep_missing(&mut open_b, &on_a);

    let lost = if open_b.entries.is_empty() {
        BTreeSet::new()
    } else {
        let changed_on_a = match purpose {
            Purpose::Sweep => keys_with_ops(open_a.entries.iter()),
            // Here it is not enough to look at what the last pass has left: the side was out for longer.
            Purpose::Readmit { .. } | Purpose::Align => {
                open_keys(a, other, &open_b.entries).await.map_err(at_a)?
            }
        };
        losers(&open_b, &repeated, &changed_on_a)
    };
    let (mut to_b, mut to_a) = (Keys::new(), Keys::new());
    collect_keys(&mut to_b, open_a.entries.iter());
    collect_keys(&mut to_b, open_b.entries.iter().filter(|e| lost.contains(&e.op)));
    collect_keys(&mut to_a, open_b.entries.iter().filter(|e| !lost.contains(&e.op)));
    widen_truncates(b, &catalog, &mut to_b, open_a.entries.iter())
        .await
        .map_err(at_b)?;
    widen_truncates(
        a,
        &catalog,
        &mut to_a,
        open_b.entries.iter().filter(|e| !lost.contains(&e.op)),
    )
    .await
    .map_err(at_a)?;

    for (side, client) in [(lead, a), (other, b)] {
        // A truncate that gives way is undone: every row the authority has, and none that it has not.
        widen_truncates(
            client,
            &catalog,
            &mut to_b,
            open_b.entries.iter().filter(|e| lost.contains(&e.op)),
        )
        .await
        .map_err(|f| (side, f))?;
    }

    let losing = open_b
        .entries
        .iter()
        .filter(|e| lost.contains(&e.op) && !repeated.contains(&e.op));
    keep_conflicts(&catalog, (lead, a), (other, b), losing).await?;
    let copied = copy(&catalog, (lead, a), (other, b), &to_b).await?
        + copy(&catalog, (other, b), (lead, a), &to_a).await?;
    // After the copy, in a later statement: whoever held these rows has committed by now.
    for (side, client, keys, open) in [(lead, a, &to_a, &open_a), (other, b, &to_b, &open_b)] {
        no_foreign_write(client, keys, open)
            .await
            .map_err(|f| (side, f))?;
    }
    let batches = ledger(inner, epoch, (lead, a), (other, b), open_a, open_b, &lost).await?;

    match purpose {
        Purpose::Sweep => {}
        Purpose::Align => fence_b.write(epoch, "readmission finished").await.map_err(at_b)?,
        Purpose::Readmit { next, .. } => {
            let reason = format!("side {other} readmitted");
            fence_a.write(next, &reason).await.map_err(at_a)?;
            fence_b.write(next, &reason).await.map_err(at_b)?;
        }
    }
    if !matches!(purpose, Purpose::Sweep) {
        for (side, client) in [(lead, a), (other, b)] {
            sequences::align_if_possible(client, side, inner.sides.count())
                .await
                .map_err(|f| (side, f))?;
        }
    }
    Ok((copied, batches))
}

/// Foreign writers do not take the fence: one that changed a row we have just overwritten must not be lost.
async fn no_foreign_write(client: &Client, keys: &Keys, seen: &Open) -> Result<(), Failure> {
    let (tables, keys): (Vec<&str>, Vec<&str>) = keys
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(move |key| (table.as_str(), key.as_str())))
        .unzip();
    let seen: Vec<Uuid> = seen
        .entries
        .iter()
        .filter(|e| e.lane == 0)
        .map(|e| e.op)
        .collect();
    let row = client
        .query_one(
            "-- merge::no_foreign_write()\nSELECT count(*) FROM kambana.journal AS j WHERE j.lane = 0 \
             AND NOT j.op = ANY($3) AND EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS k(tbl, key) \
               WHERE j.tbl = k.tbl AND (j.key IN (k.key, '') OR j.old_key = k.key))",
            &[&tables, &keys, &seen],
        )
        .await?;
    match row.get::<_, i64>(0) {
        0 => Ok(()),
        _ => Err(Failure::Repeat(super::connection::Repeat::Contention)),
    }
}

/// What the side of `client` has that `other` is not known to have. `since`: only what this snapshot does not show.
async fn open(client: &Client, other: SideId, since: Option<&str>) -> Result<Open, Failure> {
    let newer = |alias: &str| match since {
        Some(_) => format!(
            "AND {alias}.xid >= pg_snapshot_xmin($2::text::pg_snapshot) \
             AND NOT pg_visible_in_snapshot({alias}.xid, $2::text::pg_snapshot)"
        ),
        None => "AND $2::text IS NULL".into(),
    };
    let sql = format!(
        "-- merge::open()\nSELECT {OP_COLUMNS} FROM kambana.lane AS l JOIN kambana.op AS o ON o.lane = l.lane \
         AND o.batch > coalesce(l.confirmed[$1], 0) WHERE NOT l.closed {} ORDER BY o.xid, o.lane, o.batch",
        newer("o")
    );
    let ops = client.query(&sql, &[&place(other), &since]).await?;
    let sql = format!(
        "-- merge::open()\nSELECT {COLUMNS} FROM (\
           SELECT j.* FROM kambana.lane AS l JOIN kambana.journal AS j ON j.lane = l.lane \
             AND j.batch > coalesce(l.confirmed[$1], 0) WHERE NOT l.closed {newer} \
           UNION ALL SELECT j.* FROM kambana.journal AS j WHERE j.lane = 0 {newer}) AS j ORDER BY j.n",
        newer = newer("j")
    );
    let entries = client.query(&sql, &[&place(other), &since]).await?;
    Ok(Open {
        ops: ops.iter().map(OpRow::from_row).collect(),
        entries: entries.iter().map(Entry::from_row).collect(),
    })
}

/// Operations that changed each key.
type KeyOps = HashMap<(String, String), Vec<Uuid>>;

fn keys_with_ops<'a>(entries: impl Iterator<Item = &'a Entry>) -> KeyOps {
    let mut keys = KeyOps::new();
    for entry in entries {
        for key in entry.keys() {
            keys.entry((entry.table.clone(), key.to_owned()))
                .or_default()
                .push(entry.op);
        }
    }
    keys
}

/// Which of the keys of `entries` are open for `other` on this side, and by which operations. A truncate concerns its
/// whole table.
async fn open_keys(client: &Client, other: SideId, entries: &[Entry]) -> Result<KeyOps, Failure> {
    let (tables, keys): (Vec<&str>, Vec<&str>) = entries
        .iter()
        .flat_map(|e| e.keys().map(|key| (e.table.as_str(), key)))
        .unzip();
    let truncated: Vec<&str> = entries
        .iter()
        .filter(|e| e.kind == Kind::Truncate)
        .map(|e| e.table.as_str())
        .collect();
    let sql = format!(
        "-- merge::open_keys()\nSELECT {COLUMNS} FROM ( \
           SELECT j.* FROM kambana.lane AS l JOIN kambana.journal AS j ON j.lane = l.lane \
             AND j.batch > coalesce(l.confirmed[$1], 0) WHERE NOT l.closed \
           UNION ALL SELECT j.* FROM kambana.journal AS j WHERE j.lane = 0) AS j \
         WHERE (j.tbl, j.key) IN (SELECT * FROM unnest($2::text[], $3::text[])) \
            OR (j.tbl, j.old_key) IN (SELECT * FROM unnest($2::text[], $3::text[])) \
            OR j.tbl = ANY($4) OR (j.kind = 'T' AND j.tbl = ANY($2))"
    );
    let rows = client
        .query(&sql, &[&place(other), &tables, &keys, &truncated])
        .await?;
    let found: Vec<Entry> = rows.iter().map(Entry::from_row).collect();
    Ok(keys_with_ops(found.iter()))
}

/// Which of these operations a side has, and in which batch.
async fn present(client: &Client, open: &Open) -> Result<HashMap<Uuid, (i64, i64)>, Failure> {
    let ids: BTreeSet<Uuid> = open
        .ops
        .iter()
        .map(|o| o.op)
        .chain(open.entries.iter().map(|e| e.op))
        .collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let rows = client
        .query(
            "-- merge::present()\nSELECT o.op, o.lane, o.batch FROM kambana.op AS o WHERE o.op = ANY($1)",
            &[&ids],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect())
}

/// Leaves what the other side has in the same batch; foreign rows have no operation and always stay.
fn keep_missing(open: &mut Open, present: &HashMap<Uuid, (i64, i64)>) {
    open.ops
        .retain(|o| present.get(&o.op) != Some(&(o.lane, o.batch)));
    open.entries
        .retain(|e| e.lane == 0 || present.get(&e.op) != Some(&(e.lane, e.batch)));
}

/// Operations of the other side that must give way: repeated in a later epoch, or touching a key that the authority
/// has changed too. An operation gives way as a whole.
fn losers(open_b: &Open, repeated: &BTreeSet<Uuid>, changed_on_a: &KeyOps) -> BTreeSet<Uuid> {
    let whole_tables: BTreeSet<&str> = changed_on_a
        .keys()
        .filter(|(_, key)| key.is_empty())
        .map(|(table, _)| table.as_str())
        .collect();
    let mut lost = repeated.clone();
    for entry in &open_b.entries {
        let clash = |key: &str| {
            changed_on_a
                .get(&(entry.table.clone(), key.to_owned()))
                .is_some_and(|ops| ops.iter().any(|op| *op != entry.op))
        };
        let truncates =
            entry.kind == Kind::Truncate && changed_on_a.keys().any(|(table, _)| *table == entry.table);
        if truncates || whole_tables.contains(entry.table.as_str()) || entry.keys().any(clash) {
            lost.insert(entry.op);
        }
    }
    lost
}

/// Adds the keys of entries.
pub(super) fn collect_keys<'a>(keys: &mut Keys, entries: impl Iterator<Item = &'a Entry>) {
    for entry in entries.filter(|e| e.kind != Kind::Truncate) {
        let of_table = keys.entry(entry.table.clone()).or_default();
        of_table.extend(entry.keys().map(str::to_owned));
    }
}

/// A truncated table: every key of the side that still has rows is looked at.
pub(super) async fn widen_truncates<'a>(
    target: &Client,
    catalog: &Catalog,
    keys: &mut Keys,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<(), Failure> {
    let tables: BTreeSet<&str> = entries
        .filter(|e| e.kind == Kind::Truncate)
        .map(|e| e.table.as_str())
        .collect();
    for name in tables {
        let table = catalog.get(name).ok_or_else(|| journal::unknown_table(name))?;
        let rows = target.query(&table.keys_sql, &[]).await?;
        keys.entry(name.to_owned())
            .or_default()
            .extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    Ok(())
}

/// Reads rows by key: present ones as images, absent ones as keys.
pub(super) async fn images(
    client: &Client,
    table: &Table,
    keys: &[&str],
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for row in client.query(&table.images_sql, &[&keys]).await? {
        match row.get::<_, Option<String>>(1) {
            Some(image) => there.push(image),
            None => gone.push(row.get(0)),
        }
    }
    Ok((there, gone))
}

/// Makes the rows of `keys` on the target what they are on the source, in the transactions of both clients.
async fn copy(
    catalog: &Catalog,
    (source, from): (SideId, &Client),
    (target, to): (SideId, &Client),
    keys: &Keys,
) -> Result<u64, (SideId, Failure)> {
    let mut copied = 0;
    let mut found = Vec::new();
    for (name, keys) in keys {
        let table = catalog
            .get(name)
            .ok_or_else(|| (source, journal::unknown_table(name)))?;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        copied += keys.len() as u64;
        found.push((table, images(from, table, &keys).await.map_err(|f| (source, f))?));
    }
    write_images(to, &found).await.map_err(|f| (target, f))?;
    Ok(copied)
}

/// Rows to write and rows to delete, by table.
pub(super) type Found<'a> = Vec<(&'a Table, (Vec<String>, Vec<String>))>;

/// Writes images and deletions on a side. Deletions first: a new row may reuse a unique value of a deleted one.
pub(super) async fn write_images(to: &Client, found: &Found<'_>) -> Result<(), Failure> {
    for (table, (_, gone)) in found.iter().rev() {
        if !gone.is_empty() && !cfg!(mutant = "forget_deletes") {
            to.execute(&table.delete_sql, &[gone]).await?;
        }
    }
    for (table, (there, _)) in found {
        if !there.is_empty() {
            to.execute(&table.upsert_sql, &[there]).await?;
        }
    }
    Ok(())
}

/// Both images of every row that gives way, on both sides, where they differ. The losing image is the journal's: the
/// row itself may have been overwritten by a catch-up already.
async fn keep_conflicts<'a>(
    catalog: &Catalog,
    (lead, a): (SideId, &Client),
    (other, b): (SideId, &Client),
    losing: impl Iterator<Item = &'a Entry>,
) -> Result<(), (SideId, Failure)> {
    let mut by_key: BTreeMap<(&str, &str), (Option<&str>, Uuid)> = BTreeMap::new();
    for entry in losing {
        if let Some(old_key) = &entry.old_key {
            by_key.insert((&entry.table, old_key), (None, entry.op));
        }
        by_key.insert((&entry.table, &entry.key), (entry.image.as_deref(), entry.op));
    }
    for ((name, key), (lost, op)) in by_key {
        let Some(table) = catalog.get(name) else { continue };
        // A truncate has no key and no image; it is kept as what it is.
        let kept = match key {
            "" => None,
            key => images(a, table, &[key])
                .await
                .map_err(|f| (lead, f))?
                .0
                .into_iter()
                .next(),
        };
        if kept.as_deref() == lost && !key.is_empty() {
            continue;
        }
        tracing::warn!(table = name, key, kept = %lead, lost = %other, "conflict: both images are kept in kambana.conflict");
        for (side, client) in [(lead, a), (other, b)] {
            client
                .execute(
                    "-- merge::keep_conflicts()\nINSERT INTO kambana.conflict \
                     (tbl, key, kept_side, kept_image, lost_side, lost_image, lost_op) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    &[&name, &key, &lead.to_string(), &kept, &other.to_string(), &lost, &op],
                )
                .await
                .map_err(|e| (side, e.into()))?;
        }
    }
    Ok(())
}

/// Gives both sides the same operations and journal rows. Returns what may be settled once both have committed.
async fn ledger(
    inner: &Inner,
    epoch: &Epoch,
    (lead, a): (SideId, &Client),
    (other, b): (SideId, &Client),
    mut open_a: Open,
    mut open_b: Open,
    lost: &BTreeSet<Uuid>,
) -> Result<Batches, (SideId, Failure)> {
    let (at_a, at_b) = (|f: Failure| (lead, f), |f: Failure| (other, f));
    // Foreign rows get a lane of their own, so that a third side that is out still finds them open.
    let lane = (Uuid::new_v4().as_u128() as i64) & i64::MAX;
    let foreign = [&open_a, &open_b]
        .iter()
        .any(|open| open.entries.iter().any(|e| e.lane == 0));
    for (at, client, open) in [(lead, a, &mut open_a), (other, b, &mut open_b)] {
        let mut ops: Vec<Uuid> = Vec::new();
        for entry in open.entries.iter_mut().filter(|e| e.lane == 0) {
            (entry.lane, entry.batch) = (lane, 1);
            ops.push(entry.op);
        }
        // Exactly these: a foreign writer may have committed another one since they were read.
        client
            .execute(
                "-- merge::ledger()\nUPDATE kambana.journal SET lane = $1, batch = 1 WHERE lane = 0 AND op = ANY($2)",
                &[&lane, &ops],
            )
            .await
            .map_err(|e| (at, e.into()))?;
        // From now on they are operations like others: asked for by name, and trimmed with their lane.
        let named = ops.into_iter().map(|op| OpRow {
            op,
            digest: 0,
            lane,
            batch: 1,
            epoch: epoch.n,
            applied: true,
            result: None,
            at: std::time::SystemTime::now(),
        });
        let named: Vec<OpRow> = named.collect();
        insert_ops(client, &named).await.map_err(|f| (at, f))?;
        open.ops.extend(named);
    }
    // Only the losing batches: the authority's own version of a repeated operation may be here already.
    let mut gone: BTreeSet<(Uuid, i64, i64)> = open_b
        .ops
        .iter()
        .filter(|o| lost.contains(&o.op))
        .map(|o| (o.op, o.lane, o.batch))
        .collect();
    gone.extend(
        open_b
            .entries
            .iter()
            .filter(|e| lost.contains(&e.op))
            .map(|e| (e.op, e.lane, e.batch)),
    );
    if !gone.is_empty() {
        let ops: Vec<Uuid> = gone.iter().map(|(op, _, _)| *op).collect();
        let lanes: Vec<i64> = gone.iter().map(|(_, lane, _)| *lane).collect();
        let batches: Vec<i64> = gone.iter().map(|(_, _, batch)| *batch).collect();
        for table in ["journal", "op"] {
            let sql = format!(
                "-- merge::ledger()\nDELETE FROM kambana.{table} AS t \
                 USING unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS u(op, lane, batch) \
                 WHERE t.op = u.op AND t.lane = u.lane AND t.batch = u.batch"
            );
            b.execute(&sql, &[&ops, &lanes, &batches])
                .await
                .map_err(|e| at_b(e.into()))?;
        }
    }
    open_b.ops.retain(|o| !lost.contains(&o.op));
    open_b.entries.retain(|e| !lost.contains(&e.op));
    // What was repeated in a later epoch was just deleted on the other side and comes back from the authority.
    insert_ops(b, &open_a.ops).await.map_err(at_b)?;
    journal::insert(b, &open_a.entries).await.map_err(at_b)?;
    insert_ops(a, &open_b.ops).await.map_err(at_a)?;
    journal::insert(a, &open_b.entries).await.map_err(at_a)?;

    let mut lanes = lanes(a).await.map_err(at_a)?;
    for (lane, (instance, confirmed)) in self::lanes(b).await.map_err(at_b)? {
        let known = lanes
            .entry(lane)
            .or_insert_with(|| (instance, vec![0; confirmed.len()]));
        for (ours, theirs) in known.1.iter_mut().zip(confirmed) {
            *ours = (*ours).max(theirs);
        }
    }
    if foreign {
        lanes.insert(lane, ("merge".into(), vec![0; inner.sides.count()]));
    }
    for (at, client) in [(lead, a), (other, b)] {
        insert_lanes(client, &lanes).await.map_err(|f| (at, f))?;
    }
    let rows = a
        .query(
            "-- merge::ledger()\nSELECT l.lane, greatest( \
               (SELECT max(o.batch) FROM kambana.op AS o WHERE o.lane = l.lane), \
               (SELECT max(j.batch) FROM kambana.journal AS j WHERE j.lane = l.lane), 0) \
             FROM kambana.lane AS l WHERE NOT l.closed",
            &[],
        )
        .await
        .map_err(|e| at_a(e.into()))?;
    Ok(rows
        .iter()
        .map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)))
        .unzip())
}

async fn lanes(client: &Client) -> Result<Lanes, Failure> {
    let rows = client
        .query(
            "-- merge::lanes()\nSELECT lane, instance, confirmed FROM kambana.lane WHERE NOT closed",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(op: u128, key: &str) -> Entry {
        Entry {
            lane: 1,
            batch: 1,
            op: Uuid::from_u128(op),
            table: "t".into(),
            kind: Kind::Update,
            key: key.into(),
            old_key: None,
            image: None,
        }
    }

    #[test]
    fn an_operation_gives_way_as_a_whole() {
        let open = Open {
            ops: vec![],
            entries: vec![entry(1, "(1)"), entry(1, "(2)"), entry(2, "(3)"), entry(3, "(4)")],
        };
        let key = |k: &str| ("t".to_owned(), k.to_owned());
        let changed = HashMap::from([
            (key("(2)"), vec![Uuid::from_u128(9)]),
            (key("(4)"), vec![Uuid::from_u128(3)]),
        ]);
        let lost = losers(&open, &BTreeSet::new(), &changed);
        assert_eq!(
            lost,
            BTreeSet::from([Uuid::from_u128(1)]),
            "2 is open on one side only, 3 is the same operation"
        );
        let truncated = HashMap::from([(key(""), vec![Uuid::from_u128(9)])]);
        assert_eq!(losers(&open, &BTreeSet::new(), &truncated).len(), 3);
    }
}
