//! Proof that the sides are identical, while writes go on.
//!
//! Writers wait for the milliseconds in which every side takes its snapshot (`snapshot`). What differs in the snapshots
//! is found by digests (`digest`). A differing row whose change is open in one of the snapshots is *explained*: it is on
//! its way, and is looked at again in later snapshots (`explain`) until it was equal once, or nothing explains it any more.
//! Nothing is written on any side; if we die, nothing is left.

mod digest;
mod explain;
mod images;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Client;

use super::catalog::{self, Catalog, Table};
use super::connection::{Failure, words};
use super::{ConnectError, PerSide, SideId};
use crate::config::PoolConfig;
pub(super) use digest::{Digests, count, digests, hashing};
use digest::{Hashing, differing_keys, fold};
use explain::Explanations;
use snapshot::Snapshots;

type At = (SideId, Failure);

/// How many differing rows of a table are listed.
pub const MAX_DIFFERENCES: usize = 100;

/// Explained rows that are looked at again; beyond, they are only counted.
const MAX_LOOKED_AT_AGAIN: usize = 10_000;

/// How long explained rows are looked at again, and how often.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

/// A row that is not the same everywhere, and nothing explains it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Record text of the key.
    pub key: String,
    /// Names of the columns that differ; all of them where the row is missing on a side.
    pub columns: Vec<String>,
    /// Record text of the row on each side; `None` where it is missing. Where the images of a table are longer than 8 MiB
    /// together, long values of the further ones are shortened, with their length and digest.
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
    /// Rows that were still on their way when this comparison stopped looking.
    pub explained: usize,
}

/// The result of comparing every watched table on every side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Epoch it was made in.
    pub epoch: i64,
    /// Whether every row was the same everywhere, at one moment or, if it was on its way then, a moment later.
    pub identical: bool,
    /// One entry a watched table.
    pub tables: Vec<TableComparison>,
    /// The longest time that writers had to wait, in milliseconds.
    pub pause_ms: f64,
    /// How long all of it took, in milliseconds.
    pub took_ms: f64,
}

impl Comparison {
    /// Rows that differ without an explanation.
    pub fn differing(&self) -> usize {
        self.tables.iter().map(|t| t.differing).sum()
    }

    /// Rows that were still on their way.
    pub fn explained(&self) -> usize {
        self.tables.iter().map(|t| t.explained).sum()
    }

    /// Rows of all tables, as on the first side.
    pub fn rows(&self) -> i64 {
        let first = |rows: &PerSide<i64>| rows.iter().next().map_or(0, |(_, rows)| *rows);
        self.tables.iter().map(|t| first(&t.rows)).sum()
    }

    /// One short text for all tables, as on the first side.
    pub fn digest(&self) -> String {
        let first = |t: &TableComparison| {
            let digest = t.digest.iter().next().map_or("", |(_, digest)| digest);
            format!("{} {digest}\n", t.table)
        };
        digest::short(self.tables.iter().map(first))
    }
}

/// Compares every watched table while writes go on.
///
/// # Errors
/// A side that does not answer or is not installed, by name.
pub async fn compare(config: &PoolConfig) -> Result<Comparison, ConnectError> {
    let say = |(side, failure): At| ConnectError(format!("side {side}: {}", words(&failure)));
    compare_sides(config).await.map_err(say)
}

/// Rows of one table that are looked at again.
type Waiting = BTreeMap<String, BTreeSet<String>>;

async fn compare_sides(config: &PoolConfig) -> Result<Comparison, At> {
    let began = Instant::now();
    let mut snapshots = Snapshots::connect(config).await?;
    snapshots.take().await?;
    let (epoch, catalog) = structure(snapshots.clients()).await?;
    let hashing = hashing(snapshots.clients()).await?;
    let mut waiting = Waiting::new();
    let mut tables = Vec::new();
    for table in catalog.values() {
        tables.push(compare_table(snapshots.clients(), table, hashing, &mut waiting).await?);
    }
    let until = Instant::now() + PATIENCE;
    while !waiting.is_empty() && Instant::now() < until {
        tokio::time::sleep(PAUSE).await;
        snapshots.take().await?;
        look_again(snapshots.clients(), &catalog, &mut tables, &mut waiting).await?;
    }
    snapshots.end().await?;
    let identical = tables.iter().all(|t| t.differing == 0 && t.explained == 0);
    Ok(Comparison {
        epoch,
        identical,
        tables,
        pause_ms: snapshots.pause.as_secs_f64() * 1000.0,
        took_ms: began.elapsed().as_secs_f64() * 1000.0,
    })
}

/// The newest epoch that a side stores, and the watched tables.
async fn structure(clients: &PerSide<Client>) -> Result<(i64, Catalog), At> {
    let mut epoch = 0;
    let mut catalog = None;
    for (side, client) in clients.iter() {
        let row = client
            .query_one("-- compare::epoch()\nSELECT n FROM kambana.epoch", &[])
            .await
            .map_err(|e| (side, e.into()))?;
        epoch = row.get::<_, i64>(0).max(epoch);
        if catalog.is_none() {
            catalog = Some(catalog::load(client).await.map_err(|f| (side, f))?);
        }
    }
    Ok((epoch, catalog.unwrap_or_default()))
}

/// One table in the snapshots; what is explained is added to `waiting`.
async fn compare_table(
    clients: &PerSide<Client>,
    table: &Table,
    hashing: Hashing,
    waiting: &mut Waiting,
) -> Result<TableComparison, At> {
    let asked = clients.iter().map(|(side, client)| async move {
        let found = digests(client, table, hashing).await;
        found.map_err(|f| (side, f))
    });
    let found = futures::future::try_join_all(asked).await?;
    let found = PerSide::new(clients.count(), |side| found[side.index()].clone());
    let mut compared = TableComparison {
        table: table.name.clone(),
        columns: table.columns.iter().map(|c| c.name.clone()).collect(),
        rows: found.map(|_, digests| count(digests)),
        digest: found.map(|_, digests| fold(digests)),
        differences: Vec::new(),
        differing: 0,
        explained: 0,
    };
    let mut explanations = None;
    for group in digest::groups(&found) {
        let keys = differing_keys(clients, table, hashing, &group).await?;
        if keys.is_empty() {
            continue;
        }
        let known = match &explanations {
            Some(known) => known,
            None => explanations.insert(Explanations::read(clients, &table.name).await?),
        };
        let (on_their_way, different): (Vec<String>, Vec<String>) =
            keys.into_iter().partition(|key| known.explains(key));
        compared.explained += on_their_way.len();
        let again = waiting.entry(table.name.clone()).or_default();
        again.extend(
            on_their_way
                .into_iter()
                .take(MAX_LOOKED_AT_AGAIN.saturating_sub(again.len())),
        );
        report(clients, table, &mut compared, &different).await?;
    }
    waiting.retain(|_, keys| !keys.is_empty());
    Ok(compared)
}

/// Adds rows that differ without an explanation.
async fn report(
    clients: &PerSide<Client>,
    table: &Table,
    compared: &mut TableComparison,
    keys: &[String],
) -> Result<(), At> {
    compared.differing += keys.len();
    let room = MAX_DIFFERENCES - compared.differences.len();
    let keys = &keys[..keys.len().min(room)];
    if !keys.is_empty() {
        let images = images::images(clients, table, keys).await?;
        let listed = keys.iter().map(|key| Difference {
            key: key.clone(),
            columns: differing_columns(table, &images[key]),
            images: images[key].clone(),
        });
        compared.differences.extend(listed);
    }
    Ok(())
}

/// Explained rows in fresh snapshots: those that are equal now are done with, those that nothing explains differ.
async fn look_again(
    clients: &PerSide<Client>,
    catalog: &Catalog,
    tables: &mut [TableComparison],
    waiting: &mut Waiting,
) -> Result<(), At> {
    for compared in tables.iter_mut() {
        let (Some(keys), Some(table)) = (waiting.get_mut(&compared.table), catalog.get(&compared.table))
        else {
            continue;
        };
        let asked: Vec<String> = keys.iter().cloned().collect();
        let known = Explanations::read(clients, &table.name).await?;
        let images = images::sizes(clients, table, &asked).await?;
        let mut different = Vec::new();
        for key in asked {
            let differs = images
                .get(&key)
                .is_some_and(|images| !same(images.iter().map(|(_, image)| image)));
            if differs && known.explains(&key) {
                continue;
            }
            keys.remove(&key);
            compared.explained -= 1;
            if differs {
                different.push(key);
            }
        }
        report(clients, table, compared, &different).await?;
    }
    waiting.retain(|_, keys| !keys.is_empty());
    Ok(())
}

fn same<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    let first = values.next();
    values.all(|value| Some(&value) == first.as_ref())
}

/// Names of the columns in which these images differ.
fn differing_columns(table: &Table, images: &PerSide<Option<String>>) -> Vec<String> {
    let fields = images.map(|_, image| image.as_deref().map(catalog::parse_record));
    let differs = |place: usize| {
        !same(
            fields
                .iter()
                .map(|(_, fields)| fields.as_ref().map(|fields| fields.get(place))),
        )
    };
    let columns = table.columns.iter().enumerate();
    columns
        .filter(|(place, _)| differs(*place))
        .map(|(_, column)| column.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Column;
    use super::*;

    #[test]
    fn the_differing_columns_are_named() {
        let column = |name: &str| Column::plain(name, "text");
        let table = Table::new(
            "t",
            vec![column("id"), column("x"), column("y")],
            vec!["id".into()],
        );
        let images = |a: Option<&str>, b: Option<&str>| {
            let both = [a.map(str::to_owned), b.map(str::to_owned)];
            differing_columns(&table, &PerSide::new(2, |side| both[side.index()].clone()))
        };
        assert_eq!(images(Some("(1,a,)"), Some("(1,b,)")), ["x"]);
        assert_eq!(images(Some("(1,a,)"), None), ["id", "x", "y"]);
        assert_eq!(
            images(Some("(1,,\"\")"), Some("(1,,)")),
            ["y"],
            "empty is not NULL"
        );
    }
}
