//! Digests of a table by bucket, and the keys behind buckets that differ. Memory is bounded whatever the table's size.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use tokio_postgres::Client;

use super::{At, same};
use crate::multipool::PerSide;
use crate::multipool::catalog::{Column, Table, ident, key_type, row_type};
use crate::multipool::connection::Failure;

/// Rows are digested in this many buckets by key: of a million rows, one differing row moves about 250.
const BUCKETS: i32 = 4096;

/// Rows of a side that are looked at together.
const GROUP: i64 = 20_000;

/// Per bucket: number of rows and the sum of their digests.
pub(in crate::multipool) type Digests = BTreeMap<i32, (i64, String)>;

/// Rows counted by a set of digests.
pub(in crate::multipool) fn count(digests: &Digests) -> i64 {
    digests.values().map(|(rows, _)| rows).sum()
}

/// How rows are hashed, the same way on every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::multipool) enum Hashing {
    /// PostgreSQL's own hash of texts, 64 bits a row: seven times as fast.
    Quick,
    /// `md5`, which is the same on all servers for ever.
    Md5,
}

/// PostgreSQL does not promise that its hash is the same in every version and on every machine (a big-endian one gives
/// other values). So every side is asked for the hashes of the same texts, of every length that is treated differently.
const SAMPLE_SQL: &str = "-- compare::sample()
SELECT string_agg(hashtextextended(left(repeat('Kambana, 0123456789 ', 4), n) COLLATE \"C\", n::bigint * 4294967311 - 7)::text, ' ' ORDER BY n)
FROM generate_series(0, 64) AS n";

/// The fastest way to hash that gives the same on all sides.
pub(in crate::multipool) async fn hashing(clients: &PerSide<Client>) -> Result<Hashing, At> {
    let asked = clients.iter().map(|(side, client)| async move {
        let row = client.query_one(SAMPLE_SQL, &[]).await;
        row.map(|row| row.get(0)).map_err(|e| (side, e.into()))
    });
    let samples: Vec<String> = try_join_all(asked).await?;
    Ok(match same(samples.iter()) {
        true => Hashing::Quick,
        false => Hashing::Md5,
    })
}

/// Types whose cast to text loses nothing, as that of `char(n)` loses blanks.
const PLAIN: [&str; 15] = [
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "real",
    "double precision",
    "text",
    "character varying",
    "uuid",
    "bytea",
    "date",
    "timestamp",
    "time",
    "jsonb",
];

/// So many columns are hashed one by one, an expression within another.
const MOST_NESTED: usize = 64;

fn is_plain(sql_type: &str) -> bool {
    // `numeric(10,2)`, `timestamp(3) without time zone`, but neither `text[]` nor a domain that is called `texts`.
    let starts = |name: &&str| {
        let rest = sql_type.strip_prefix(*name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['(', ' ']))
    };
    !sql_type.ends_with(']') && PLAIN.iter().any(starts)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("t.{}", ident(name))).collect();
    names.join(", ")
}

fn key_text(table: &Table) -> String {
    let key = listed(table.key.iter().map(String::as_str));
    format!("ROW({key})::{}::text", key_type(&table.name))
}

fn image_text(table: &Table) -> String {
    let values = listed(table.columns.iter().map(|c| c.name.as_str()));
    format!("ROW({values})::{}::text", row_type(&table.name))
}

/// PostgreSQL's hash of these columns: each is hashed with the hash of those before it as the seed, so that a value counts
/// at its place in its row only. Writing every row as a record would take three times as long.
fn quick<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    let (plain, other): (Vec<_>, Vec<_>) = columns
        .enumerate()
        .partition(|(n, column)| *n < MOST_NESTED && is_plain(&column.sql_type));
    let mut hash = "0".to_owned();
    for (_, column) in plain {
        // A value never looks like NULL.
        let text = format!("coalesce('=' || t.{}::text, '')", ident(&column.name));
        hash = format!("hashtextextended({text} COLLATE \"C\", {hash})");
    }
    if !other.is_empty() {
        let text = format!(
            "ROW({})::text",
            listed(other.iter().map(|(_, c)| c.name.as_str()))
        );
        hash = format!("hashtextextended({text} COLLATE \"C\", {hash})");
    }
    hash
}

impl Hashing {
    /// The hash of a row. Of 64 or 60 bits, so that a row that differs is overlooked once in 2^60 times; a bucket's sum
    /// is as good: two rows that differ hide each other as rarely. Sums do not depend on the order of rows.
    fn image(self, table: &Table) -> String {
        match self {
            Hashing::Quick => quick(table.columns.iter()),
            Hashing::Md5 => format!("('x' || left(md5({}), 15))::bit(60)::bigint", image_text(table)),
        }
    }

    fn bucket(self, table: &Table) -> String {
        let hash = match self {
            Hashing::Quick => quick(table.key.iter().filter_map(|name| table.column(name))),
            Hashing::Md5 => format!("('x' || left(md5({}), 8))::bit(32)::int", key_text(table)),
        };
        format!("({hash} & {})::int", BUCKETS - 1)
    }
}

/// Digests of one table in the client's snapshot.
pub(in crate::multipool) async fn digests(
    client: &Client,
    table: &Table,
    hashing: Hashing,
) -> Result<Digests, Failure> {
    let sql = format!(
        "-- compare::digests()\nSELECT bucket, count(*), sum(digest)::text \
         FROM (SELECT {bucket} AS bucket, {digest} AS digest FROM {table} AS t) AS r GROUP BY bucket",
        bucket = hashing.bucket(table),
        digest = hashing.image(table),
        table = table.ident,
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2)))).collect())
}

/// Buckets that differ, in groups of which no side has many rows.
pub(super) fn groups(found: &PerSide<Digests>) -> Vec<Vec<i32>> {
    let mut groups: Vec<(i64, Vec<i32>)> = Vec::new();
    for bucket in 0..BUCKETS {
        let here = || found.iter().map(|(_, digests)| digests.get(&bucket));
        if same(here()) {
            continue;
        }
        let rows = here().flatten().map(|(rows, _)| *rows).max().unwrap_or(0);
        match groups.last_mut() {
            Some((sum, group)) if *sum + rows <= GROUP => {
                *sum += rows;
                group.push(bucket);
            }
            _ => groups.push((rows, vec![bucket])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The keys in some buckets whose rows are not the same on every side.
pub(super) async fn differing_keys(
    clients: &PerSide<Client>,
    table: &Table,
    hashing: Hashing,
    buckets: &[i32],
) -> Result<Vec<String>, At> {
    let sql = format!(
        "-- compare::keys()\nSELECT {key}, md5({image}) FROM {table} AS t WHERE {bucket} = ANY($1)",
        key = key_text(table),
        image = image_text(table),
        bucket = hashing.bucket(table),
        table = table.ident,
    );
    let sql = &sql;
    let asked = clients.iter().map(|(side, client)| async move {
        let rows = client.query(sql, &[&buckets]).await;
        let rows = rows.map_err(|e| (side, Failure::from(e)))?;
        Ok::<_, At>(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
    });
    let found: Vec<BTreeMap<String, String>> = try_join_all(asked).await?;
    Ok(differing(&PerSide::new(clients.count(), |side| {
        found[side.index()].clone()
    })))
}

/// Keys that are not mapped to the same value everywhere.
fn differing(found: &PerSide<BTreeMap<String, String>>) -> Vec<String> {
    let keys: BTreeSet<&String> = found.iter().flat_map(|(_, rows)| rows.keys()).collect();
    keys.into_iter()
        .filter(|key| !same(found.iter().map(|(_, rows)| rows.get(*key))))
        .cloned()
        .collect()
}

/// One short text for all buckets.
pub(super) fn fold(digests: &Digests) -> String {
    short(
        digests
            .iter()
            .map(|(bucket, (rows, sum))| format!("{bucket} {rows} {sum}\n")),
    )
}

/// Sixteen hexadecimal digits of a hash of these lines.
pub(super) fn short(lines: impl Iterator<Item = String>) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    lines.for_each(|line| hash.update(line));
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_and_a_changed_row_are_differences() {
        let side = |rows: &[(&str, &str)]| -> BTreeMap<String, String> {
            rows.iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let both = [
            side(&[("(1)", "x"), ("(2)", "y"), ("(3)", "z")]),
            side(&[("(1)", "x"), ("(2)", "Y"), ("(4)", "z")]),
        ];
        let found = differing(&PerSide::new(2, |s| both[s.index()].clone()));
        assert_eq!(found, ["(2)", "(3)", "(4)"]);
        assert!(differing(&PerSide::new(2, |_| both[0].clone())).is_empty());
    }

    #[test]
    fn only_types_whose_cast_loses_nothing_are_hashed_by_themselves() {
        for plain in [
            "integer",
            "character varying(20)",
            "numeric(10,2)",
            "timestamp(3) without time zone",
        ] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in [
            "character(5)",
            "text[]",
            "numeric(10,2)[]",
            "texts",
            "textile",
            "inet",
            "\"text x\"",
        ] {
            assert!(!is_plain(other), "{other}");
        }
        let column = |name: &str, sql_type: &str| Column::plain(name, sql_type);
        let columns = [
            column("a", "text"),
            column("b", "character(5)"),
            column("c", "integer"),
            column("d", "inet"),
        ];
        assert_eq!(
            quick(columns.iter()),
            "hashtextextended(ROW(t.\"b\", t.\"d\")::text COLLATE \"C\", \
             hashtextextended(coalesce('=' || t.\"c\"::text, '') COLLATE \"C\", \
             hashtextextended(coalesce('=' || t.\"a\"::text, '') COLLATE \"C\", 0)))"
        );
    }

    #[test]
    fn groups_of_buckets_are_small() {
        let digests = |sum: &str| -> Digests {
            let bucket = |n| (n, (9000, if n == 7 { "same".into() } else { sum.to_owned() }));
            (0..10).map(bucket).collect()
        };
        let found = PerSide::new(2, |side| digests(if side.index() == 0 { "x" } else { "y" }));
        assert_eq!(
            groups(&found),
            [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 8], vec![9]]
        );
    }
}
