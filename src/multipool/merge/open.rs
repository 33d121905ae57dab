//! What one side has and another is not known to have, and which of two sides gives way.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Client;
use uuid::Uuid;

use crate::multipool::SideId;
use crate::multipool::connection::Failure;
use crate::multipool::journal::{COLUMNS, Entry, Kind, OP_COLUMNS, OpRow, place};

/// What was found on one side and may be missing on the other.
pub(super) struct Open {
    pub ops: Vec<OpRow>,
    pub entries: Vec<Entry>,
}

/// What the side of `client` has that `other` is not known to have. `since`: only what this snapshot does not show.
pub(super) async fn open(client: &Client, other: SideId, since: Option<&str>) -> Result<Open, Failure> {
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

/// How many journal rows may be missing on `other`; counting stops above `most`.
pub(super) async fn count(client: &Client, other: SideId, most: i64) -> Result<i64, Failure> {
    let sql = "-- merge::count()\nSELECT count(*) FROM (SELECT FROM kambana.lane AS l JOIN kambana.journal AS j \
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

/// Operations of the other side that must give way: repeated in a later epoch, or touching a key that the authority
/// has changed too. An operation gives way as a whole.
pub(super) fn losers(open_b: &Open, repeated: &BTreeSet<Uuid>, changed_on_a: &KeyOps) -> BTreeSet<Uuid> {
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
