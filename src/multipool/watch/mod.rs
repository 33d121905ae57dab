//! `kambana watch` on one side: which tables can be kept identical, and the capture triggers of those.
//!
//! Works in the caller's transaction: a table that is refused leaves nothing behind.

use tokio_postgres::Client;

use super::catalog::{self, Table, ident, literal};
use super::connection::{Failure, words};

const CAPTURE_SQL: &str = include_str!("capture.sql");
const REFUSALS_SQL: &str = include_str!("refusals.sql");

/// A name becomes part of other names (`capture_…`), of which PostgreSQL keeps 63 bytes.
const MAX_NAME_BYTES: usize = 50;

/// The longest row image in bytes of text. A row passes through memory several times, and so does its journal row;
/// docs/tables.md says what that costs.
pub(super) const MAX_IMAGE_BYTES: usize = 32 << 20;

/// Watches these tables, together: they may refer to each other.
///
/// # Errors
/// The reason why one of them cannot be watched, as a sentence.
pub(super) async fn watch(client: &Client, names: &[&str]) -> Result<(), String> {
    let say = |name: &str, failure: Failure| format!("table `{name}`: {}", words(&failure));
    for name in names {
        exists(client, name).await?;
        client
            .execute(
                "-- watch::watch()\nINSERT INTO kambana.watched (tbl) VALUES ($1) ON CONFLICT DO NOTHING",
                &[name],
            )
            .await
            .map_err(|e| say(name, e.into()))?;
    }
    for name in names {
        if let Some(reason) = refusal(client, name).await.map_err(|f| say(name, f))? {
            return Err(format!("table `{name}` {reason}"));
        }
        capture(client, name).await.map_err(|f| say(name, f))?;
    }
    Ok(())
}

/// Refuses a name that no watched table can have.
async fn exists(client: &Client, name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "table `{name}`: names longer than {MAX_NAME_BYTES} bytes are not supported"
        ));
    }
    if name.matches('.').count() > 1 {
        return Err(format!(
            "table `{name}`: the point stands between schema and table; names with a point of their own are not supported"
        ));
    }
    let sql = "-- watch::exists()\nSELECT kambana.rel($1) IS NOT NULL, $1 LIKE 'public.%'";
    let row = client
        .query_one(sql, &[&name])
        .await
        .map_err(|e| words(&e.into()))?;
    match (row.get(0), row.get(1)) {
        (true, false) => Ok(()),
        (true, true) => Err(format!(
            "table `{name}`: leave out `public.`; one table must not be watched under two names"
        )),
        (false, _) if name.contains('.') => Err(format!(
            "table `{name}` is missing; its name is read as SCHEMA.TABLE, exactly as it is spelled"
        )),
        (false, _) => Err(format!(
            "table `{name}` is missing in schema public; apply schema.sql first"
        )),
    }
}

/// Why a table cannot be kept identical.
async fn refusal(client: &Client, name: &str) -> Result<Option<String>, Failure> {
    let row = client.query_opt(REFUSALS_SQL, &[&name]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Installs capture, unless it is there and fits.
async fn capture(client: &Client, name: &str) -> Result<(), Failure> {
    if !capture_is_stale(client, name).await? {
        return Ok(());
    }
    let catalog = catalog::load(client).await?;
    let table = catalog
        .get(name)
        .ok_or_else(|| super::journal::unknown_table(name))?;
    let owner: String = client
        .query_one("-- watch::capture()\nSELECT current_user::text", &[])
        .await?
        .get(0);
    client.batch_execute(&capture_sql(table, &owner)).await?;
    Ok(())
}

/// Whether there is no capture, or the table's columns are no longer those of its image type.
async fn capture_is_stale(client: &Client, name: &str) -> Result<bool, Failure> {
    let row = client
        .query_one(
            "-- watch::capture_is_stale()
             SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgname = '!kambana' AND tgqual IS NOT NULL)
                 OR (SELECT array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) ORDER BY attname COLLATE \"C\")
                     FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '')
                 IS DISTINCT FROM
                    (SELECT array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) ORDER BY attname COLLATE \"C\")
                     FROM pg_attribute WHERE attrelid = to_regclass($2) AND attnum > 0 AND NOT attisdropped)
             FROM pg_class c WHERE c.oid = kambana.rel($1)",
            &[&name, &catalog::row_type(name)],
        )
        .await?;
    Ok(row.get(0))
}

fn capture_sql(table: &Table, owner: &str) -> String {
    let each = |columns: &mut dyn Iterator<Item = &str>, prefix: &str| {
        columns
            .map(|c| format!("{prefix}{}", ident(c)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let all = || table.columns.iter().map(|c| c.name.as_str());
    let key = || table.key.iter().map(String::as_str);
    let typed = |columns: &mut dyn Iterator<Item = &str>| {
        columns
            .filter_map(|c| table.column(c))
            .map(|c| format!("{} {}", ident(&c.name), c.sql_type))
            .collect::<Vec<_>>()
            .join(", ")
    };
    CAPTURE_SQL
        .replace("{table}", &table.ident)
        .replace("{capture}", &ident(&format!("capture_{}", table.name)))
        .replace("{limit}", &MAX_IMAGE_BYTES.to_string())
        .replace(
            "{row_type}",
            catalog::row_type(&table.name).trim_start_matches("kambana."),
        )
        .replace(
            "{key_type}",
            catalog::key_type(&table.name).trim_start_matches("kambana."),
        )
        .replace("{row_columns}", &typed(&mut all()))
        .replace("{key_columns}", &typed(&mut key()))
        .replace("{old_key_values}", &each(&mut key(), "OLD."))
        .replace("{new_key_values}", &each(&mut key(), "NEW."))
        .replace("{new_values}", &each(&mut all(), "NEW."))
        .replace("{owner}", &literal(owner))
        .replace("{name}", &literal(&table.name))
}
