//! Row states from one side to another, by key.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use uuid::Uuid;

use super::held::Held;
use crate::multipool::SideId;
use crate::multipool::catalog::{Catalog, Table};
use crate::multipool::connection::{Failure, Repeat};
use crate::multipool::journal::{self, Entry, Kind};

/// Keys per table.
pub(in crate::multipool) type Keys = BTreeMap<String, BTreeSet<String>>;

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

/// Makes the rows of `keys` on the target what they are on the source, in the transactions of both clients.
pub(in crate::multipool) async fn copy(
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
pub(in crate::multipool) type Found<'a> = Vec<(&'a Table, (Vec<String>, Vec<String>))>;

/// Writes images and deletions on a side. Deletions first: a new row may reuse a unique value of a deleted one.
pub(in crate::multipool) async fn write_images(to: &Client, found: &Found<'_>) -> Result<(), Failure> {
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
