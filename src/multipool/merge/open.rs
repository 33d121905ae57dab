//! What one side has and another is not known to have, and which of two sides gives way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Client;
use uuid::Uuid;

use super::clash::Version;
use super::held::Held;
use crate::multipool::SideId;
use crate::multipool::connection::Failure;
use crate::multipool::journal::{COLUMNS, Entry, Kind, OP_COLUMNS, OpRow, place};

/// What was found on one side and may be missing on the other.
pub(super) struct Open {
    pub ops: Vec<OpRow>,
    pub entries: Vec<Entry>,
}

/// What the side of `client` has that `other` is not known to have. `since`: only what this snapshot does not show.
/// Keys that rest are left out, with every operation of the pool that concerns one of them; `Resting` says which.
pub(super) async fn open(
    client: &Client,
    other: SideId,
    since: Option<&str>,
    held: &Held,
) -> Result<(Open, Resting), Failure> {
    let newer = |alias: &str| match since {
        Some(_) => format!(
            "AND {alias}.xid >= pg_snapshot_xmin($2::text::pg_snapshot) \
             AND NOT pg_visible_in_snapshot({alias}.xid, $2::text::pg_snapshot)"
        ),
        None => "AND $2::text IS NULL".into(),
    };
    let sql = format!(
        "-- merge::open()\nSELECT {OP_COLUMNS} FROM kambana.lane_settled AS l JOIN kambana.op AS o ON o.lane = l.lane \
         AND o.batch > coalesce(l.confirmed[$1], 0) WHERE NOT l.closed {} ORDER BY o.xid, o.lane, o.batch",
        newer("o")
    );
    let ops = client.query(&sql, &[&place(other), &since]).await?;
    let (tables, keys) = held.resting();
    let sql = format!(
        "-- merge::open()\nSELECT {COLUMNS} FROM (\
           SELECT j.* FROM kambana.lane_settled AS l JOIN kambana.journal AS j ON j.lane = l.lane \
             AND j.batch > coalesce(l.confirmed[$1], 0) WHERE NOT l.closed {newer} \
           UNION ALL SELECT j.* FROM kambana.journal AS j WHERE j.lane = 0 {newer} \
             AND NOT EXISTS (SELECT FROM unnest($3::text[], $4::text[]) AS h(tbl, key) \
               WHERE h.tbl = j.tbl AND (h.key = '' OR h.key IN (j.key, j.old_key)))) AS j ORDER BY j.n",
        newer = newer("j")
    );
    let entries = client
        .query(&sql, &[&place(other), &since, &tables, &keys])
        .await?;
    let mut open = Open {
        ops: ops.iter().map(OpRow::from_row).collect(),
        entries: entries.iter().map(Entry::from_row).collect(),
    };
    let rests = open
        .entries
        .iter()
        .filter(|e| e.keys().any(|key| held.rests(&e.table, key)));
    let rests: BTreeSet<Uuid> = rests.map(|e| e.op).collect();
    let resting = open.leave_out(&rests);
    Ok((open, resting))
}

/// The writer of lanes with foreign writes that a merge has brought over, in `kambana.lane`. No instance is called so:
/// see [`super::ledger`].
pub(super) const MERGE_LANE: &str = "merge";

/// Operations of the pool that stay open: per lane the first batch that must not be settled.
pub(super) type Resting = BTreeMap<i64, i64>;

impl Open {
    /// Takes these operations out: they stay open as they are.
    pub fn leave_out(&mut self, ops: &BTreeSet<Uuid>) -> Resting {
        let mut resting = Resting::new();
        let batches = self.ops.iter().map(|o| (o.op, o.lane, o.batch));
        let batches = batches.chain(self.entries.iter().map(|e| (e.op, e.lane, e.batch)));
        for (op, lane, batch) in batches.filter(|(_, lane, _)| *lane != 0) {
            if ops.contains(&op) {
                let first = resting.entry(lane).or_insert(batch);
                *first = batch.min(*first);
            }
        }
        self.ops.retain(|o| !ops.contains(&o.op));
        self.entries.retain(|e| !ops.contains(&e.op));
        resting
    }

    /// Foreign writes by their names.
    pub fn foreign(&self) -> BTreeSet<Uuid> {
        self.entries
            .iter()
            .filter(|e| e.lane == 0)
            .map(|e| e.op)
            .collect()
    }
}

/// Foreign writes among these that a merge has brought from a third side: they have a lane by now.
pub(super) async fn brought(client: &Client, open: &Open) -> Result<BTreeSet<Uuid>, Failure> {
    let lanes: BTreeSet<i64> = open
        .entries
        .iter()
        .map(|e| e.lane)
        .filter(|lane| *lane != 0)
        .collect();
    if lanes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let lanes: Vec<i64> = lanes.into_iter().collect();
    let rows = client
        .query(
            "-- merge::brought()\nSELECT lane FROM kambana.lane WHERE lane = ANY($1) AND instance = $2",
            &[&lanes, &MERGE_LANE],
        )
        .await?;
    let lanes: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let brought = open.entries.iter().filter(|e| lanes.contains(&e.lane));
    Ok(brought.map(|e| e.op).collect())
}

/// When these operations were made, as this side has stored it. The pool's own have the time of their transaction.
pub(super) async fn versions(
    client: &Client,
    ops: &BTreeSet<Uuid>,
) -> Result<HashMap<Uuid, Version>, Failure> {
    let ops: Vec<Uuid> = ops.iter().copied().collect();
    let rows = client
        .query(
            "-- merge::versions()\nSELECT j.op, max(coalesce(j.epoch, o.epoch, 0)), \
               max(coalesce(j.clock, (extract(epoch FROM j.at) * 1000000)::bigint)) \
             FROM kambana.journal AS j LEFT JOIN kambana.op AS o ON o.op = j.op WHERE j.op = ANY($1) GROUP BY j.op",
            &[&ops],
        )
        .await?;
    let version = |row: &tokio_postgres::Row| {
        let (epoch, clock) = (row.get(1), row.get(2));
        (row.get(0), Version { epoch, clock })
    };
    Ok(rows.iter().map(version).collect())
}

/// Sets the clocks of both sides to the later one: what is written from now on is newer than what either has seen.
pub(super) async fn join_clocks(
    (side_a, a): (SideId, &Client),
    (side_b, b): (SideId, &Client),
) -> Result<(), (SideId, Failure)> {
    let mut latest = 0;
    for (side, client) in [(side_a, a), (side_b, b)] {
        let row = client
            .query_one(
                "-- merge::join_clocks()\nSELECT last_value FROM kambana.clock",
                &[],
            )
            .await
            .map_err(|e| (side, e.into()))?;
        latest = row.get::<_, i64>(0).max(latest);
    }
    for (side, client) in [(side_a, a), (side_b, b)] {
        client
            .execute(
                "-- merge::join_clocks()\nSELECT setval('kambana.clock', greatest(last_value, $1)) FROM kambana.clock",
                &[&latest],
            )
            .await
            .map_err(|e| (side, e.into()))?;
    }
    Ok(())
}

/// How many journal rows may be missing on `other`; counting stops above `most`.
pub(super) async fn count(client: &Client, other: SideId, most: i64) -> Result<i64, Failure> {
    let sql = "-- merge::count()\nSELECT count(*) FROM (SELECT FROM kambana.lane_settled AS l JOIN kambana.journal AS j \
               ON j.lane = l.lane AND j.batch > coalesce(l.confirmed[$1], 0) WHERE NOT l.closed \
               UNION ALL SELECT FROM kambana.journal AS j WHERE j.lane = 0 LIMIT $2) AS x";
    let row = client.query_one(sql, &[&place(other), &(most + 1)]).await?;
    Ok(row.get(0))
}

/// Operations that changed each key.
pub(super) type KeyOps = HashMap<(String, String), Vec<Uuid>>;

pub(super) fn keys_with_ops<'a>(entries: impl Iterator<Item = &'a Entry>) -> KeyOps {
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
pub(super) async fn open_keys(client: &Client, other: SideId, entries: &[Entry]) -> Result<KeyOps, Failure> {
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
           SELECT j.* FROM kambana.lane_settled AS l JOIN kambana.journal AS j ON j.lane = l.lane \
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

/// Keys of what is open on a returned side that it has journal rows of later, from the authority: a pass has copied the
/// authority's row over the open change, whose effect is gone. With the operations that the pass has brought, settled or
/// not. A truncate concerns its whole table.
pub(super) async fn overwritten(client: &Client, open: &Open) -> Result<KeyOps, Failure> {
    let batches: BTreeSet<(Uuid, i64, i64)> = open.entries.iter().map(|e| (e.op, e.lane, e.batch)).collect();
    let ops: Vec<Uuid> = batches.iter().map(|(op, _, _)| *op).collect();
    let lanes: Vec<i64> = batches.iter().map(|(_, lane, _)| *lane).collect();
    let numbers: Vec<i64> = batches.iter().map(|(_, _, batch)| *batch).collect();
    let rows = client
        .query(
            "-- merge::overwritten()
WITH u AS (SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS u(op, lane, batch)),              mine AS (SELECT j.n, j.tbl, j.kind, k.key FROM kambana.journal AS j                CROSS JOIN LATERAL (VALUES (j.key), (j.old_key)) AS k(key)                WHERE (j.op, j.lane, j.batch) IN (SELECT u.op, u.lane, u.batch FROM u) AND k.key IS NOT NULL),              later AS (SELECT j.n, j.tbl, j.kind, k.key, j.op FROM kambana.journal AS j                CROSS JOIN LATERAL (VALUES (j.key), (j.old_key)) AS k(key)                WHERE j.lane <> 0 AND j.n > (SELECT min(n) FROM mine) AND k.key IS NOT NULL                  AND NOT EXISTS (SELECT FROM u WHERE (u.op, u.lane, u.batch) = (j.op, j.lane, j.batch)))              SELECT l.tbl, l.key, l.op FROM mine AS m JOIN later AS l ON (l.tbl, l.key) = (m.tbl, m.key) AND l.n > m.n              UNION SELECT l.tbl, l.key, l.op FROM mine AS m JOIN later AS l ON l.tbl = m.tbl AND l.n > m.n                WHERE m.kind = 'T' OR l.kind = 'T'",
            &[&ops, &lanes, &numbers],
        )
        .await?;
    let mut keys = KeyOps::new();
    for row in rows {
        keys.entry((row.get(0), row.get(1))).or_default().push(row.get(2));
    }
    Ok(keys)
}

/// Which of these operations a side has, and in which batch.
pub(super) async fn present(client: &Client, open: &Open) -> Result<HashMap<Uuid, (i64, i64)>, Failure> {
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
pub(super) fn keep_missing(open: &mut Open, present: &HashMap<Uuid, (i64, i64)>) {
    open.ops
        .retain(|o| present.get(&o.op) != Some(&(o.lane, o.batch)));
    open.entries
        .retain(|e| e.lane == 0 || present.get(&e.op) != Some(&(e.lane, e.batch)));
}
