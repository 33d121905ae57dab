//! Row states from one side to another, by key.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures::TryStreamExt;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::held::Held;
use super::stage::{Staged, State};
use crate::multipool::SideId;
use crate::multipool::catalog::{Catalog, Table};
use crate::multipool::connection::{Failure, Repeat};
use crate::multipool::journal::{self, Entry, Kind};

/// Keys per table.
pub(in crate::multipool) type Keys = BTreeMap<String, BTreeSet<String>>;

/// Rows written by one statement, and about how many bytes of them: a copy takes this much memory, however long it is
/// (and once more what the longest row takes).
const PORTION_ROWS: usize = 2000;
const PORTION_BYTES: usize = 4 << 20;

/// Adds the keys of entries.
pub(in crate::multipool) fn collect_keys<'a>(keys: &mut Keys, entries: impl Iterator<Item = &'a Entry>) {
    for entry in entries.filter(|e| e.kind != Kind::Truncate) {
        let of_table = keys.entry(entry.table.clone()).or_default();
        of_table.extend(entry.keys().map(str::to_owned));
    }
}

/// A truncated table: every key of the side that still has rows is looked at.
pub(in crate::multipool) async fn widen_truncates<'a>(
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
pub(in crate::multipool) async fn images(
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

/// Makes rows of the target what they are on the source, in the transactions of both clients. Rows that others depend on
/// are put aside until [`finish`](Copying::finish).
pub(in crate::multipool) struct Copying<'a> {
    catalog: &'a Catalog,
    source: (SideId, &'a Client),
    target: (SideId, &'a Client),
    staged: Staged,
}

impl<'a> Copying<'a> {
    pub fn new(catalog: &'a Catalog, source: (SideId, &'a Client), target: (SideId, &'a Client)) -> Self {
        Copying {
            catalog,
            source,
            target,
            staged: Staged::default(),
        }
    }

    /// Copies the rows of `keys`, or puts them aside. Returns how many.
    pub async fn rows(&mut self, keys: &Keys) -> Result<u64, (SideId, Failure)> {
        let (source, from) = self.source;
        let mut copied = 0;
        for (name, keys) in keys {
            let table = self
                .catalog
                .get(name)
                .ok_or_else(|| (source, journal::unknown_table(name)))?;
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            copied += keys.len() as u64;
            let params: [&(dyn ToSql + Sync); 1] = [&keys];
            let states = from.query_raw(table.images_sql.as_str(), params).await;
            let mut states = pin!(states.map_err(|e| (source, e.into()))?);
            let (mut portion, mut bytes) = (Vec::new(), 0);
            while let Some(row) = states.try_next().await.map_err(|e| (source, e.into()))? {
                let state: State = (row.get(0), row.get(1));
                drop(row);
                bytes += state.0.len() + state.1.as_ref().map_or(0, String::len);
                portion.push(state);
                if bytes >= PORTION_BYTES || portion.len() == PORTION_ROWS {
                    self.write(table, std::mem::take(&mut portion)).await?;
                    bytes = 0;
                }
            }
            self.write(table, portion).await?;
        }
        Ok(copied)
    }

    async fn write(&mut self, table: &Table, states: Vec<State>) -> Result<(), (SideId, Failure)> {
        let (target, to) = self.target;
        let written = match table.links.constrained() {
            true => self.staged.add(to, table, &states).await,
            false => write_states(to, table, states).await,
        };
        written.map_err(|failure| (target, failure))
    }

    /// Whether rows wait for [`finish`](Copying::finish).
    pub fn waits(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Writes what was put aside.
    pub async fn finish(self) -> Result<(), (SideId, Failure)> {
        let (target, to) = self.target;
        let applied = self.staged.apply(to, self.catalog).await;
        applied.map_err(|failure| (target, failure))
    }
}

/// Copies the rows of `keys` as a whole.
pub(in crate::multipool) async fn copy(
    catalog: &Catalog,
    source: (SideId, &Client),
    target: (SideId, &Client),
    keys: &Keys,
) -> Result<u64, (SideId, Failure)> {
    let mut copying = Copying::new(catalog, source, target);
    let copied = copying.rows(keys).await?;
    copying.finish().await?;
    Ok(copied)
}

/// Writes rows that nothing depends on.
async fn write_states(to: &Client, table: &Table, states: Vec<State>) -> Result<(), Failure> {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for (key, image) in states {
        match image {
            Some(image) => there.push(image),
            None => gone.push(key),
        }
    }
    if !gone.is_empty() && !cfg!(mutant = "forget_deletes") {
        to.execute(&table.delete_sql, &[&gone]).await?;
    }
    if !there.is_empty() {
        to.execute(&table.upsert_sql, &[&there]).await?;
    }
    Ok(())
}

/// Foreign writers do not take the fence: one that changed a row we have just overwritten must not be lost. What is held
/// was left out knowingly.
pub(super) async fn no_foreign_write(
    client: &Client,
    keys: &Keys,
    seen: &BTreeSet<Uuid>,
    held: &Held,
) -> Result<(), Failure> {
    let (tables, keys): (Vec<&str>, Vec<&str>) = keys
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(move |key| (table.as_str(), key.as_str())))
        .unzip();
    let seen: Vec<Uuid> = seen.iter().copied().collect();
    let (held_tables, held_keys) = held.resting();
    let row = client
        .query_one(
            "-- merge::no_foreign_write()\nSELECT count(*) FROM kambana.journal AS j WHERE j.lane = 0 \
             AND NOT j.op = ANY($3) AND EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS k(tbl, key) \
               WHERE j.tbl = k.tbl AND (j.key IN (k.key, '') OR j.old_key = k.key)) \
             AND NOT EXISTS (SELECT FROM unnest($4::text[], $5::text[]) AS h(tbl, key) \
               WHERE h.tbl = j.tbl AND (h.key = '' OR h.key IN (j.key, j.old_key)))",
            &[&tables, &keys, &seen, &held_tables, &held_keys],
        )
        .await?;
    match row.get::<_, i64>(0) {
        0 => Ok(()),
        _ => Err(Failure::Repeat(Repeat::Contention)),
    }
}
