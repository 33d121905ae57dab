//! Proof: counts and digests per table, then the differing rows. The comparison itself is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use super::catalog::{self, Table, ident, key_type, row_type};
use super::connection::{Failure, connect_all, words};
use super::{ConnectError, PerSide, SideId};
use crate::config::PoolConfig;

/// Rows are digested in this many buckets by key, so that a difference is found without moving the table.
const BUCKETS: i32 = 256;

/// Per bucket: number of rows and the sum of their digests.
pub(super) type Digests = BTreeMap<i32, (i64, String)>;

/// Rows counted by a set of digests.
pub(super) fn count(digests: &Digests) -> i64 {
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

/// Digests of one table in the client's snapshot.
pub(super) async fn digests(client: &Client, table: &Table) -> Result<Digests, Failure> {
    let (key, image) = parts(table);
    let sql = format!(
        "-- compare::digests()\nSELECT bucket, count(*), sum(('x' || left(digest, 15))::bit(60)::bigint)::text \
         FROM (SELECT ('x' || left(md5({key}), 8))::bit(32)::int & {mask} AS bucket, md5({image}) AS digest \
               FROM {table} AS t) AS r GROUP BY bucket",
        mask = BUCKETS - 1,
        table = table.ident,
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2)))).collect())
}

/// Key and image of every row in some buckets.
async fn rows_of(
    client: &Client,
    table: &Table,
    buckets: &[i32],
) -> Result<BTreeMap<String, String>, Failure> {
    let (key, image) = parts(table);
    let sql = format!(
        "-- compare::rows_of()\nSELECT {key}, {image} FROM {table} AS t \
         WHERE (('x' || left(md5({key}), 8))::bit(32)::int & {mask}) = ANY($1)",
        mask = BUCKETS - 1,
        table = table.ident,
    );
    let rows = client.query(&sql, &[&buckets]).await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// A row that is not the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Record text of the key.
    pub key: String,
    /// Record text of the row on each side; `None` where it is missing.
    pub images: PerSide<Option<String>>,
}

/// One table of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableComparison {
    /// Its name.
    pub table: String,
    /// Names of the columns of an image, in its order.
    pub columns: Vec<String>,
    /// Rows on each side.
    pub rows: PerSide<i64>,
    /// Digest of all rows on each side.
    pub digest: PerSide<String>,
    /// The differing rows, at most [`MAX_DIFFERENCES`].
    pub differences: Vec<Difference>,
    /// Number of differing rows, all of them.
    pub differing: usize,
}

/// The result of comparing every watched table on every side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Epoch it was made in.
    pub epoch: i64,
    /// Whether every table is identical everywhere.
    pub identical: bool,
    /// One entry a watched table.
    pub tables: Vec<TableComparison>,
}

/// How many differing rows of a table are listed.
pub const MAX_DIFFERENCES: usize = 100;

/// Rows that differ between sides.
fn differences(rows: &PerSide<BTreeMap<String, String>>) -> Vec<Difference> {
    let keys: BTreeSet<&String> = rows.iter().flat_map(|(_, side)| side.keys()).collect();
    keys.into_iter()
        .map(|key| Difference {
            key: key.clone(),
            images: rows.map(|_, side| side.get(key).cloned()),
        })
        .filter(|d| {
            let mut images = d.images.iter().map(|(_, image)| image);
            let first = images.next();
            images.any(|image| Some(image) != first)
        })
        .collect()
}

/// Compares every watched table while writes go on: the fence is held for the moment in which each side takes its
/// snapshot, so that no write of the pool is on one side only.
///
/// # Errors
/// A side that does not answer or is not installed, by name.
pub async fn compare(config: &PoolConfig) -> Result<Comparison, ConnectError> {
    let say = |(side, failure): (SideId, Failure)| ConnectError(format!("side {side}: {}", words(&failure)));
    let fences = connect_all(config).await.map_err(say)?;
    let snapshots = connect_all(config).await.map_err(say)?;
    let mut tries = 0;
    while let Err((side, failure)) = take_snapshots(&fences, &snapshots).await {
        tries += 1;
        if !matches!(failure, Failure::Repeat(_)) || tries == MAX_TRIES {
            return Err(say((side, failure)));
        }
        roll_back(&snapshots).await;
        tokio::time::sleep(Duration::from_millis(10 * tries)).await;
    }
    compare_snapshots(&snapshots).await.map_err(say)
}

/// How often the fence is tried for 100 ms each before a comparison gives up.
const MAX_TRIES: u64 = 50;

async fn roll_back(clients: &PerSide<Client>) {
    for (side, client) in clients.iter() {
        if let Err(error) = client.batch_execute("ROLLBACK").await {
            tracing::debug!(%side, %error, "rollback of a comparison");
        }
    }
}

async fn take_snapshots(
    fences: &PerSide<Client>,
    snapshots: &PerSide<Client>,
) -> Result<(), (SideId, Failure)> {
    let taken = async {
        for (side, client) in fences.iter() {
            client
                .batch_execute(
                    "BEGIN; SET LOCAL lock_timeout = '100ms'; LOCK TABLE kambana.fence IN EXCLUSIVE MODE",
                )
                .await
                .map_err(|e| (side, e.into()))?;
        }
        // The SELECT takes the snapshot; BEGIN alone does not.
        for (side, client) in snapshots.iter() {
            client
                .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
                .await
                .map_err(|e| (side, e.into()))?;
        }
        Ok(())
    }
    .await;
    roll_back(fences).await;
    taken
}

async fn compare_snapshots(snapshots: &PerSide<Client>) -> Result<Comparison, (SideId, Failure)> {
    let mut epoch = 0;
    let mut catalog = None;
    for (side, client) in snapshots.iter() {
        let row = client
            .query_one("-- compare::epoch()\nSELECT n FROM kambana.epoch", &[])
            .await
            .map_err(|e| (side, e.into()))?;
        epoch = row.get::<_, i64>(0).max(epoch);
        if catalog.is_none() {
            catalog = Some(catalog::load(client).await.map_err(|f| (side, f))?);
        }
    }
    let mut tables = Vec::new();
    for table in catalog.unwrap_or_default().values() {
        let found = futures::future::try_join_all(
            snapshots
                .iter()
                .map(|(side, client)| async move { digests(client, table).await.map_err(|f| (side, f)) }),
        )
        .await?;
        let buckets: Vec<i32> = (0..BUCKETS)
            .filter(|b| found.iter().any(|d| d.get(b) != found[0].get(b)))
            .collect();
        let mut rows = snapshots.map(|_, _| BTreeMap::new());
        if !buckets.is_empty() {
            for (side, client) in snapshots.iter() {
                rows[side] = rows_of(client, table, &buckets).await.map_err(|f| (side, f))?;
            }
        }
        let mut differences = differences(&rows);
        let differing = differences.len();
        differences.truncate(MAX_DIFFERENCES);
        tables.push(TableComparison {
            table: table.name.clone(),
            columns: table.columns.iter().map(|c| c.name.clone()).collect(),
            rows: snapshots.map(|side, _| count(&found[side.index()])),
            digest: snapshots.map(|side, _| fold(&found[side.index()])),
            differences,
            differing,
        });
    }
    Ok(Comparison {
        epoch,
        identical: tables.iter().all(|t| t.differing == 0),
        tables,
    })
}

/// One short text for all buckets.
fn fold(digests: &Digests) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for (bucket, (rows, sum)) in digests {
        hash.update(format!("{bucket} {rows} {sum}\n"));
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
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
        let a = side(&[("(1)", "x"), ("(2)", "y"), ("(3)", "z")]);
        let b = side(&[("(1)", "x"), ("(2)", "Y"), ("(4)", "z")]);
        let both = [a, b];
        let found = differences(&PerSide::new(2, |s| both[s.index()].clone()));
        let keys: Vec<&str> = found.iter().map(|d| d.key.as_str()).collect();
        assert_eq!(keys, ["(2)", "(3)", "(4)"]);
        let same = [both[0].clone(), both[0].clone()];
        assert!(differences(&PerSide::new(2, |s| same[s.index()].clone())).is_empty());
    }
}
