//! The compensation journal: rows of `kambana.journal` and `kambana.op`, how they are read and written.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::catalog::Catalog;
use super::connection::{Failure, Rejection};
use super::{ChangedRow, RowChange, SideId};

/// One captured row change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub lane: i64,
    pub batch: i64,
    pub op: Uuid,
    pub table: String,
    pub kind: Kind,
    pub key: String,
    pub old_key: Option<String>,
    pub image: Option<String>,
}

/// What happened to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
    /// All rows of the table; the key is empty.
    Truncate,
}

impl Kind {
    pub fn letter(self) -> &'static str {
        match self {
            Kind::Insert => "I",
            Kind::Update => "U",
            Kind::Delete => "D",
            Kind::Truncate => "T",
        }
    }

    fn from_letter(letter: &str) -> Kind {
        match letter {
            "I" => Kind::Insert,
            "U" => Kind::Update,
            "T" => Kind::Truncate,
            _ => Kind::Delete,
        }
    }
}

/// Columns of an [`Entry`], for every statement that reads some.
pub(super) const COLUMNS: &str = "j.lane, j.batch, j.op, j.tbl, j.kind::text, j.key, j.old_key, j.image";

impl Entry {
    /// From a row that starts with [`COLUMNS`].
    pub fn from_row(row: &Row) -> Entry {
        Entry {
            lane: row.get(0),
            batch: row.get(1),
            op: row.get(2),
            table: row.get(3),
            kind: Kind::from_letter(row.get(4)),
            key: row.get(5),
            old_key: row.get(6),
            image: row.get(7),
        }
    }

    /// The keys whose rows this entry concerns.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.old_key.as_deref().into_iter().chain([self.key.as_str()])
    }
}

/// The journal rows of one batch, in the leader's order.
pub(super) const COLLECT_SQL: &str = "-- journal::collect()
SELECT j.lane, j.batch, j.op, j.tbl, j.kind::text, j.key, j.old_key, j.image
FROM kambana.journal AS j WHERE j.lane = $1 AND j.batch = $2 ORDER BY j.n";

/// Stores the same rows on another side.
pub(super) const INSERT_SQL: &str = "-- journal::insert()
INSERT INTO kambana.journal (lane, batch, op, tbl, kind, key, old_key, image)
SELECT u.lane, u.batch, u.op, u.tbl, u.kind::\"char\", u.key, u.old_key, u.image
FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
    WITH ORDINALITY AS u(lane, batch, op, tbl, kind, key, old_key, image, place)
ORDER BY u.place";

/// Columns of many entries, as the parameters of [`INSERT_SQL`]; of the entries of one batch also those of `kambana.store`.
pub(super) struct Arrays<'a> {
    lanes: Vec<i64>,
    batches: Vec<i64>,
    ops: Vec<Uuid>,
    tables: Vec<&'a str>,
    kinds: Vec<&'static str>,
    keys: Vec<&'a str>,
    old_keys: Vec<Option<&'a str>>,
    images: Vec<Option<&'a str>>,
}

impl<'a> Arrays<'a> {
    pub fn new(entries: &'a [Entry]) -> Arrays<'a> {
        Arrays {
            lanes: entries.iter().map(|e| e.lane).collect(),
            batches: entries.iter().map(|e| e.batch).collect(),
            ops: entries.iter().map(|e| e.op).collect(),
            tables: entries.iter().map(|e| e.table.as_str()).collect(),
            kinds: entries.iter().map(|e| e.kind.letter()).collect(),
            keys: entries.iter().map(|e| e.key.as_str()).collect(),
            old_keys: entries.iter().map(|e| e.old_key.as_deref()).collect(),
            images: entries.iter().map(|e| e.image.as_deref()).collect(),
        }
    }

    pub fn params(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 8] {
        let [ops, tables, kinds, keys, old_keys, images] = self.rows();
        [
            &self.lanes,
            &self.batches,
            ops,
            tables,
            kinds,
            keys,
            old_keys,
            images,
        ]
    }

    /// Without lane and batch: operations, tables, kinds, keys, old keys, images.
    pub fn rows(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 6] {
        [
            &self.ops,
            &self.tables,
            &self.kinds,
            &self.keys,
            &self.old_keys,
            &self.images,
        ]
    }

    /// Tables, keys and old keys.
    pub fn keys(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 3] {
        [&self.tables, &self.keys, &self.old_keys]
    }
}

/// Stores entries on a side, inside the caller's transaction.
pub(super) async fn insert(client: &Client, entries: &[Entry]) -> Result<(), Failure> {
    if !entries.is_empty() {
        client.execute(INSERT_SQL, &Arrays::new(entries).params()).await?;
    }
    Ok(())
}

/// One operation as `kambana.op` stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpRow {
    pub op: Uuid,
    pub digest: i64,
    pub lane: i64,
    pub batch: i64,
    pub epoch: i64,
    pub applied: bool,
    pub result: Option<String>,
    pub at: SystemTime,
}

/// Columns of an [`OpRow`].
pub(super) const OP_COLUMNS: &str = "o.op, o.digest, o.lane, o.batch, o.epoch, o.applied, o.result, o.at";

impl OpRow {
    /// From a row that starts with [`OP_COLUMNS`].
    pub fn from_row(row: &Row) -> OpRow {
        OpRow {
            op: row.get(0),
            digest: row.get(1),
            lane: row.get(2),
            batch: row.get(3),
            epoch: row.get(4),
            applied: row.get(5),
            result: row.get(6),
            at: row.get(7),
        }
    }
}

/// Stores operations of the authority on a side that may have its own version of some.
pub(super) async fn insert_ops(client: &Client, ops: &[OpRow]) -> Result<(), Failure> {
    if ops.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = ops.iter().map(|o| o.op).collect();
    let digests: Vec<i64> = ops.iter().map(|o| o.digest).collect();
    let lanes: Vec<i64> = ops.iter().map(|o| o.lane).collect();
    let batches: Vec<i64> = ops.iter().map(|o| o.batch).collect();
    let epochs: Vec<i64> = ops.iter().map(|o| o.epoch).collect();
    let applied: Vec<bool> = ops.iter().map(|o| o.applied).collect();
    let results: Vec<Option<&str>> = ops.iter().map(|o| o.result.as_deref()).collect();
    let times: Vec<SystemTime> = ops.iter().map(|o| o.at).collect();
    client
        .execute(
            "-- journal::insert_ops()\nINSERT INTO kambana.op (op, digest, lane, batch, epoch, applied, result, at) \
             SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bool[], \
             $7::text[], $8::timestamptz[]) ON CONFLICT (op) DO UPDATE SET (digest, lane, batch, epoch, applied, result) = \
             (EXCLUDED.digest, EXCLUDED.lane, EXCLUDED.batch, EXCLUDED.epoch, EXCLUDED.applied, EXCLUDED.result)",
            &[&ids, &digests, &lanes, &batches, &epochs, &applied, &results, &times],
        )
        .await?;
    Ok(())
}

/// A name for a new lane: positive, and as good as certainly nobody else's. 0 is for foreign writes.
pub(super) fn new_lane() -> i64 {
    (Uuid::new_v4().as_u128() as i64) & i64::MAX
}

/// Known batches of writers, per side, as `kambana.lane` stores them.
pub(super) type Lanes = BTreeMap<i64, (String, Vec<i64>)>;

/// Stores lanes on a side, never lowering what is confirmed there.
pub(super) async fn insert_lanes(client: &Client, lanes: &Lanes) -> Result<(), Failure> {
    for (lane, (instance, confirmed)) in lanes {
        client
            .execute(
                "-- journal::insert_lanes()\nINSERT INTO kambana.lane AS l (lane, instance, confirmed) VALUES ($1, $2, $3) \
                 ON CONFLICT (lane) DO UPDATE SET confirmed = kambana.max_each(l.confirmed, EXCLUDED.confirmed)",
                &[lane, instance, confirmed],
            )
            .await?;
    }
    Ok(())
}

/// A changed row for the caller.
pub(super) fn changed_row(catalog: &Catalog, entry: &Entry) -> ChangedRow {
    ChangedRow {
        table: entry.table.clone(),
        change: match entry.kind {
            Kind::Insert => RowChange::Insert,
            Kind::Update => RowChange::Update,
            Kind::Delete | Kind::Truncate => RowChange::Delete,
        },
        key: catalog
            .get(&entry.table)
            .map(|t| t.key_fields(&entry.key))
            .unwrap_or_default(),
    }
}

/// Place of a side in the arrays of `kambana.lane`, counted from 1 as PostgreSQL does.
pub(super) fn place(side: SideId) -> i32 {
    side.index() as i32 + 1
}

/// One statement that repeats captured changes on a follower, with its array parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Apply<'a> {
    pub sql: &'a str,
    pub params: ApplyParams<'a>,
}

/// Parameters of an [`Apply`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApplyParams<'a> {
    /// One array of images or keys.
    Many(Vec<&'a str>),
    /// Image and old key.
    Move(&'a str, &'a str),
}

/// Turns entries into statements, in the leader's order: one for each run of the same table and kind with distinct
/// keys (one statement cannot touch a row twice).
///
/// # Errors
/// A table that the catalogue does not know (yet).
pub(super) fn plan<'a>(catalog: &'a Catalog, entries: &'a [Entry]) -> Result<Vec<Apply<'a>>, Failure> {
    let mut plan: Vec<Apply<'a>> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut run: Option<(&str, bool)> = None;
    for entry in entries {
        let table = catalog
            .get(&entry.table)
            .ok_or_else(|| unknown_table(&entry.table))?;
        if let (Some(old_key), Some(image)) = (&entry.old_key, &entry.image) {
            run = None;
            // The row with the old key may be missing here; the upsert makes both cases end the same.
            plan.push(Apply {
                sql: &table.move_sql,
                params: ApplyParams::Move(image, old_key),
            });
            plan.push(Apply {
                sql: &table.upsert_sql,
                params: ApplyParams::Many(vec![image]),
            });
            continue;
        }
        if entry.kind == Kind::Truncate {
            run = None;
            plan.push(Apply {
                sql: &table.clear_sql,
                params: ApplyParams::Many(vec![]),
            });
            continue;
        }
        let (sql, value, deletes) = match &entry.image {
            Some(image) => (&table.upsert_sql, image.as_str(), false),
            None => (&table.delete_sql, entry.key.as_str(), true),
        };
        let same_run = run == Some((entry.table.as_str(), deletes)) && seen.insert(entry.key.as_str());
        match plan.last_mut() {
            Some(Apply {
                params: ApplyParams::Many(values),
                ..
            }) if same_run => values.push(value),
            _ => {
                seen.clear();
                seen.insert(entry.key.as_str());
                run = Some((entry.table.as_str(), deletes));
                plan.push(Apply {
                    sql,
                    params: ApplyParams::Many(vec![value]),
                });
            }
        }
    }
    Ok(plan)
}

/// A table of the journal that is not in the catalogue.
pub(super) fn unknown_table(table: &str) -> Failure {
    Failure::Rejected(Rejection {
        sqlstate: "42P01".into(),
        message: format!("table {table} is captured but not known as watched"),
        constraint: None,
        column: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::catalog::{Column, Table};
    use super::*;

    fn entry(kind: Kind, key: &str, old_key: Option<&str>) -> Entry {
        Entry {
            lane: 1,
            batch: 1,
            op: Uuid::nil(),
            table: "t".into(),
            kind,
            key: key.into(),
            old_key: old_key.map(str::to_owned),
            image: (kind != Kind::Delete && kind != Kind::Truncate).then(|| format!("image {key}")),
        }
    }

    #[test]
    fn runs_keep_the_order_and_never_touch_a_row_twice() {
        let id = Column::plain("id", "integer");
        let catalog = Catalog::from([("t".to_owned(), Table::new("t", vec![id], vec!["id".into()]))]);
        let entries = [
            entry(Kind::Insert, "(1)", None),
            entry(Kind::Update, "(2)", None),
            entry(Kind::Update, "(1)", None),
            entry(Kind::Delete, "(2)", None),
            entry(Kind::Update, "(9)", Some("(1)")),
            entry(Kind::Truncate, "", None),
            entry(Kind::Insert, "(3)", None),
        ];
        let plan = plan(&catalog, &entries).unwrap();
        let shape: Vec<(bool, usize)> = plan
            .iter()
            .map(|a| match &a.params {
                ApplyParams::Many(values) => (a.sql.contains("DELETE"), values.len()),
                ApplyParams::Move(..) => (false, 100),
            })
            .collect();
        assert_eq!(
            shape,
            [
                (false, 2),
                (false, 1),
                (true, 1),
                (false, 100),
                (false, 1),
                (true, 0),
                (false, 1)
            ]
        );
    }
}
