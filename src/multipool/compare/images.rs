//! Rows that differ, on every side: as digests, or as images in bounded memory.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use tokio_postgres::{Client, Row};

use super::At;
use crate::multipool::PerSide;
use crate::multipool::catalog::{Table, ident, key_type};
use crate::multipool::connection::Failure;

/// Images of a table that are shown whole, in bytes on all sides; the long values of further ones are shortened.
const WHOLE_BYTES: i64 = 8 << 20;

/// A value of so many bytes is not long.
const SHORT_VALUE: usize = 200;

/// One value a side, `None` where there is no row.
pub(super) type OnSides<T> = PerSide<Option<T>>;

/// Length and digest of the images of some rows.
pub(super) async fn sizes(
    clients: &PerSide<Client>,
    table: &Table,
    keys: &[String],
) -> Result<BTreeMap<String, OnSides<(i32, String)>>, At> {
    let sql = format!(
        "-- compare::sizes()\nSELECT i.key, octet_length(i.image), md5(i.image) FROM (\n{}\n) AS i(key, image)",
        table.images_sql
    );
    let value = |row: &Row| {
        let bytes: Option<i32> = row.get(1);
        bytes.map(|bytes| (bytes, row.get(2)))
    };
    ask(clients, &sql, keys, value).await
}

/// Images of some rows. Whole ones come first, in the order of `keys`, as long as there is room for them.
pub(super) async fn images(
    clients: &PerSide<Client>,
    table: &Table,
    keys: &[String],
) -> Result<BTreeMap<String, OnSides<String>>, At> {
    let sizes = sizes(clients, table, keys).await?;
    let bytes = |key: &String| -> i64 {
        let of_sides = sizes.get(key).into_iter().flat_map(|s| s.iter());
        of_sides
            .filter_map(|(_, size)| size.as_ref())
            .map(|(bytes, _)| i64::from(*bytes))
            .sum()
    };
    let mut room = WHOLE_BYTES;
    let (whole, long): (Vec<String>, Vec<String>) = keys.iter().cloned().partition(|key| {
        let fits = bytes(key) <= room;
        room -= if fits { bytes(key) } else { 0 };
        fits
    });
    let image = |row: &Row| row.get(1);
    let mut found = ask(clients, &table.images_sql, &whole, image).await?;
    found.extend(ask(clients, &shortened_sql(table), &long, image).await?);
    Ok(found)
}

/// As `images_sql` of a table, but of a long value only its beginning and its digest.
fn shortened_sql(table: &Table) -> String {
    let value = |name: &str| {
        let text = format!("t.{}::text", ident(name));
        format!(
            "CASE WHEN octet_length({text}) > {SHORT_VALUE} THEN left({text}, {SHORT_VALUE} / 4) || '… (' || octet_length({text}) \
             || ' bytes, md5 ' || md5({text}) || ')' ELSE {text} END"
        )
    };
    let values: Vec<String> = table.columns.iter().map(|c| value(&c.name)).collect();
    let on: Vec<String> = table
        .key
        .iter()
        .map(|k| format!("t.{0} = k.{0}", ident(k)))
        .collect();
    format!(
        "-- compare::shortened()\nSELECT u.key, CASE WHEN t.{first} IS NULL THEN NULL ELSE ROW({values})::text END \
         FROM unnest($1::text[]) AS u(key) CROSS JOIN LATERAL (SELECT (u.key::{key_type}).*) AS k \
         LEFT JOIN {table} AS t ON {on}",
        first = ident(table.key.first().map_or("", String::as_str)),
        values = values.join(", "),
        key_type = key_type(&table.name),
        table = table.ident,
        on = on.join(" AND "),
    )
}

/// Asks every side for a value of each key.
async fn ask<T: Clone>(
    clients: &PerSide<Client>,
    sql: &str,
    keys: &[String],
    value: impl Fn(&Row) -> Option<T>,
) -> Result<BTreeMap<String, OnSides<T>>, At> {
    let nothing = || clients.map(|_, _| None);
    let mut found: BTreeMap<String, OnSides<T>> = keys.iter().map(|key| (key.clone(), nothing())).collect();
    if keys.is_empty() {
        return Ok(found);
    }
    let asked = clients.iter().map(|(side, client)| async move {
        let rows = client.query(sql, &[&keys]).await;
        rows.map(|rows| (side, rows))
            .map_err(|e| (side, Failure::from(e)))
    });
    for (side, rows) in try_join_all(asked).await? {
        for row in &rows {
            if let Some(values) = found.get_mut(row.get::<_, &str>(0)) {
                values[side] = value(row);
            }
        }
    }
    Ok(found)
}
