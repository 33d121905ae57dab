//! Digests of a table by bucket, and the keys behind buckets that differ. Memory is bounded whatever the table's size.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::{At, same};
use crate::multipool::PerSide;
use crate::multipool::catalog::{Table, ident, key_type, row_type};
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

fn parts(table: &Table) -> (String, String) {
    let values: Vec<String> = table
        .columns
        .iter()
        .map(|c| format!("t.{}", ident(&c.name)))
        .collect();
    let key: Vec<String> = table.key.iter().map(|k| format!("t.{}", ident(k))).collect();
    (
        format!("ROW({})::{}::text", key.join(", "), key_type(&table.name)),
        format!("ROW({})::{}::text", values.join(", "), row_type(&table.name)),
    )
}

fn bucket(key: &str) -> String {
    format!("(('x' || left(md5({key}), 8))::bit(32)::int & {})", BUCKETS - 1)
}

/// Digests of one table in the client's snapshot.
pub(in crate::multipool) async fn digests(client: &Client, table: &Table) -> Result<Digests, Failure> {
    let (key, image) = parts(table);
    let sql = format!(
        "-- compare::digests()\nSELECT bucket, count(*), sum(('x' || left(digest, 15))::bit(60)::bigint)::text \
         FROM (SELECT {bucket} AS bucket, md5({image}) AS digest FROM {table} AS t) AS r GROUP BY bucket",
        bucket = bucket(&key),
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
    buckets: &[i32],
) -> Result<Vec<String>, At> {
    let (key, image) = parts(table);
    let sql = format!(
        "-- compare::keys()\nSELECT {key}, md5({image}) FROM {table} AS t WHERE {bucket} = ANY($1)",
        bucket = bucket(&key),
        table = table.ident,
    );
    let mut found: PerSide<BTreeMap<String, String>> = clients.map(|_, _| BTreeMap::new());
    for (side, client) in clients.iter() {
        let rows = client
            .query(&sql, &[&buckets])
            .await
            .map_err(|e| (side, e.into()))?;
        found[side] = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    }
    Ok(differing(&found))
}

/// Keys that are not mapped to the same value everywhere.
fn differing(found: &PerSide<BTreeMap<String, String>>) -> Vec<String> {
    let keys: BTreeSet<&String> = found.iter().flat_map(|(_, rows)| rows.keys()).collect();
    keys.into_iter()
        .filter(|key| !same(found.iter().map(|(_, rows)| rows.get(*key))))
        .cloned()
        .collect()
}

/// Images of some rows on every side.
pub(super) async fn images(
    clients: &PerSide<Client>,
    table: &Table,
    keys: &[String],
) -> Result<BTreeMap<String, PerSide<Option<String>>>, At> {
    let nothing = || clients.map(|_, _| None);
    let mut images: BTreeMap<String, PerSide<Option<String>>> =
        keys.iter().map(|key| (key.clone(), nothing())).collect();
    for (side, client) in clients.iter() {
        let rows = client
            .query(&table.images_sql, &[&keys])
            .await
            .map_err(|e| (side, e.into()))?;
        for row in &rows {
            if let Some(image) = images.get_mut(row.get::<_, &str>(0)) {
                image[side] = row.get(1);
            }
        }
    }
    Ok(images)
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
    let bytes = hash.finalize();
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
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
