//! The rows: from one snapshot of the source into the lost side, table by table, as a stream.
//!
//! A table is complete in one transaction or not at all, together with its note in the marker. What is in memory is one
//! piece of the stream.

use std::io::Cursor;
use std::pin::pin;
use std::time::Instant;

use futures::{SinkExt, StreamExt};
use tokio_postgres::Client;

use super::claim::Plan;
use super::keep::{copy_name, differences};
use super::ties::Ties;
use super::{LONG, SHORT, Stop, Work, marker, refused, within};
use crate::multipool::Progress;
use crate::multipool::catalog::{Table, ident};
use crate::multipool::connection::Failure;

/// The stream is sent in pieces of this many bytes: the server sends every row by itself.
const PIECE: usize = 128 * 1024;

/// How often the progress is noted.
const NOTE_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// Under this name the pool's own tables are noted as complete.
const OWN: &str = "kambana";

/// The pool's own tables that are the same on every side, with what is copied of them and in which order.
const OWN_TABLES: [(&str, &str, &str); 6] = [
    ("op", "", ""),
    // Foreign rows that no twin has yet are brought by the merge.
    ("journal", "WHERE lane <> 0", "ORDER BY n"),
    ("lane", "", ""),
    ("settled", "", ""),
    ("conflict", "", ""),
    ("certificate", "", ""),
];

/// The pool's own tables that speak of one side only, or are filled otherwise.
#[cfg(test)]
const NOT_COPIED: [&str; 11] = [
    "identity",
    "epoch",
    "fence",
    "watched",
    "heartbeat",
    "repair",
    "mark",
    "rebuild",
    // Made anew, filled by the readmission.
    "vote",
    "voter",
    // Between two active sides.
    "held",
];

/// One snapshot for everything that is copied.
pub(super) async fn take_snapshot(work: &Work<'_>) -> Result<(), Stop> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_current_snapshot()";
    within(work.lead, SHORT, work.source.batch_execute(begin)).await
}

/// The operations, the journal and the conflicts, as the snapshot shows them: they say which batches the copy holds.
pub(super) async fn own_tables(work: &Work<'_>, plan: &Plan) -> Result<u64, Stop> {
    if plan.done.contains(OWN) {
        return Ok(0);
    }
    work.begin().await?;
    let mut rows = 0;
    for (name, which, order) in OWN_TABLES {
        let columns = own_columns(&work.source, name);
        let columns = within(work.lead, SHORT, columns).await?;
        let stream = Stream {
            name: format!("kambana.{name}"),
            count: format!("SELECT count(*) FROM kambana.{name} {which}"),
            out: format!("(SELECT {columns} FROM kambana.{name} {which} {order})"),
            into: format!("kambana.{name} ({columns})"),
            freeze: false,
        };
        rows += stream.run(work).await?;
    }
    complete(work, &[OWN.to_owned()]).await?;
    work.commit().await?;
    Ok(rows)
}

/// The columns that mean the same on every side: no numbers of this server's own making.
async fn own_columns(client: &Client, name: &str) -> Result<String, Failure> {
    let sql = "-- rebuild::own_columns()\nSELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
               WHERE attrelid = to_regclass('kambana.' || quote_ident($1)) AND attnum > 0 AND NOT attisdropped \
                 AND attidentity = '' AND attgenerated = '' AND atttypid <> 'xid8'::regtype";
    Ok(client.query_one(sql, &[&name]).await?.get(0))
}

async fn complete(work: &Work<'_>, names: &[String]) -> Result<(), Stop> {
    let sql = "-- rebuild::complete()\nUPDATE kambana.rebuild SET done = done || $2::text[] WHERE token = $1";
    within(
        work.other,
        SHORT,
        work.target.execute(sql, &[&work.token, &names]),
    )
    .await?;
    Ok(())
}

/// Copies the tables of one unit.
pub(super) async fn unit(work: &Work<'_>, plan: &Plan, tables: &[&Table]) -> Result<u64, Stop> {
    if tables.iter().all(|table| plan.done.contains(&table.name)) {
        return Ok(0);
    }
    let idents: Vec<&str> = tables.iter().map(|table| table.ident.as_str()).collect();
    let idents = idents.join(", ");
    let each = |sql: &dyn Fn(&Table) -> String| {
        tables
            .iter()
            .map(|table| sql(table))
            .collect::<Vec<_>>()
            .join("; ")
    };
    work.begin().await?;
    let quiet = format!(
        "LOCK TABLE {idents} IN ACCESS EXCLUSIVE MODE; {}",
        each(&|table| format!("ALTER TABLE {} DISABLE TRIGGER USER", table.ident))
    );
    work.at_target(
        SHORT,
        "the tables cannot be locked",
        work.target.batch_execute(&quiet),
    )
    .await?;
    let ties = Ties::loosen(work, tables).await?;
    let empty = format!(
        "-- rebuild::unit()\nSELECT {}",
        tables
            .iter()
            .map(|table| format!("NOT EXISTS (SELECT FROM {})", table.ident))
            .collect::<Vec<_>>()
            .join(" AND ")
    );
    let empty: bool = within(work.other, SHORT, work.target.query_one(&empty, &[]))
        .await?
        .get(0);
    let rows = match empty {
        true => straight(work, tables, &idents).await?,
        false => beside(work, plan, tables, &idents).await?,
    };
    let loud = format!(
        "SET CONSTRAINTS ALL IMMEDIATE; {}",
        each(&|table| format!("ALTER TABLE {} ENABLE TRIGGER USER", table.ident))
    );
    work.at_target(
        LONG,
        "the copied rows are not accepted",
        work.target.batch_execute(&loud),
    )
    .await?;
    ties.fasten(work).await?;
    let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
    complete(work, &names).await?;
    work.commit().await?;
    Ok(rows)
}

fn columns(table: &Table) -> String {
    let columns: Vec<String> = table.columns.iter().map(|c| ident(&c.name)).collect();
    columns.join(", ")
}

fn stream_of(table: &Table, into: &str, freeze: bool) -> Stream {
    let columns = columns(table);
    Stream {
        name: table.name.clone(),
        count: format!("SELECT count(*) FROM {}", table.ident),
        out: format!("{} ({columns})", table.ident),
        into: format!("{into} ({columns})"),
        freeze,
    }
}

/// Into empty tables.
async fn straight(work: &Work<'_>, tables: &[&Table], idents: &str) -> Result<u64, Stop> {
    // Truncated in the same transaction, their rows may be written as old ones: nobody has to look at them again.
    let truncate = format!("TRUNCATE {idents}");
    work.at_target(
        SHORT,
        "the tables cannot be emptied",
        work.target.batch_execute(&truncate),
    )
    .await?;
    let mut rows = 0;
    for table in tables {
        rows += stream_of(table, &table.ident, true).run(work).await?;
    }
    Ok(rows)
}

/// Beside tables that have rows: what differs is kept before it is overwritten.
async fn beside(work: &Work<'_>, plan: &Plan, tables: &[&Table], idents: &str) -> Result<u64, Stop> {
    let mut rows = 0;
    for table in tables {
        let copy = copy_name(table);
        let make = format!(
            "CREATE UNLOGGED TABLE {copy} AS SELECT {} FROM {} WITH NO DATA",
            columns(table),
            table.ident
        );
        work.at_target(
            SHORT,
            "a copy cannot be put beside",
            work.target.batch_execute(&make),
        )
        .await?;
        rows += stream_of(table, &copy, false).run(work).await?;
        differences(work, plan, table).await?;
    }
    let truncate = format!("TRUNCATE {idents}");
    work.at_target(
        SHORT,
        "the tables cannot be emptied",
        work.target.batch_execute(&truncate),
    )
    .await?;
    for table in tables {
        let columns = columns(table);
        let (ident, copy) = (&table.ident, copy_name(table));
        let fill = format!(
            "INSERT INTO {ident} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {copy}; DROP TABLE {copy}"
        );
        work.at_target(
            LONG,
            &format!("table {} cannot be filled", table.name),
            work.target.batch_execute(&fill),
        )
        .await?;
    }
    Ok(rows)
}

/// One `COPY` from the source to the lost side.
struct Stream {
    /// For the progress.
    name: String,
    count: String,
    out: String,
    into: String,
    freeze: bool,
}

impl Stream {
    /// Returns the number of rows, which is the same on both sides.
    async fn run(&self, work: &Work<'_>) -> Result<u64, Stop> {
        let count = format!("-- rebuild::count()\n{}", self.count);
        let about: i64 = within(work.lead, LONG, work.source.query_one(&count, &[]))
            .await?
            .get(0);
        let mut progress = Progress {
            table: self.name.clone(),
            rows: 0,
            about,
        };
        let format = if binary(work).await? { "binary" } else { "text" };
        let freeze = if self.freeze { ", FREEZE" } else { "" };
        let out = format!("COPY {} TO STDOUT (FORMAT {format})", self.out);
        let into = format!("COPY {} FROM STDIN (FORMAT {format}{freeze})", self.into);
        let rows = within(work.lead, SHORT, work.source.copy_out(&out)).await?;
        let sink = work.at_target(
            SHORT,
            &self.name,
            work.target.copy_in::<_, Cursor<Vec<u8>>>(&into),
        );
        let (mut rows, mut sink) = (pin!(rows), pin!(sink.await?));
        let mut piece = Vec::with_capacity(PIECE + PIECE / 8);
        let mut noted: Option<Instant> = None;
        loop {
            let row = match tokio::time::timeout(SHORT, rows.next()).await {
                Ok(Some(row)) => Some(row.map_err(|e| Stop::At(work.lead, e.into()))?),
                Ok(None) => None,
                Err(_) => {
                    return Err(Stop::At(
                        work.lead,
                        Failure::Side(crate::multipool::SideFault::Silent),
                    ));
                }
            };
            if let Some(row) = &row {
                piece.extend_from_slice(row);
                progress.rows += 1;
            }
            if piece.len() >= PIECE || (row.is_none() && !piece.is_empty()) {
                let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE + PIECE / 8));
                work.at_target(SHORT, &self.name, sink.send(Cursor::new(full)))
                    .await?;
                if noted.is_none_or(|at| at.elapsed() > NOTE_EVERY) {
                    noted = Some(Instant::now());
                    within(
                        work.other,
                        SHORT,
                        marker::note(&work.notes, work.token, &progress),
                    )
                    .await?;
                }
            }
            if row.is_none() {
                break;
            }
        }
        let written = work.at_target(LONG, &self.name, sink.as_mut().finish()).await?;
        match i64::try_from(written) == Ok(about) {
            true => Ok(written),
            false => Err(refused(format!(
                "{}: {about} rows were read and {written} arrived",
                self.name
            ))),
        }
    }
}

/// The servers' own format, where both are of one major version: it saves writing and reading text.
async fn binary(work: &Work<'_>) -> Result<bool, Stop> {
    let sql = "-- rebuild::binary()\nSELECT current_setting('server_version_num')::int / 10000, NOT EXISTS ( \
               SELECT FROM kambana.watched AS w JOIN pg_class AS c ON c.relname = w.tbl AND c.relnamespace = 'public'::regnamespace \
               JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               JOIN pg_type AS t ON t.oid = a.atttypid WHERE t.typsend = 0 OR t.typreceive = 0)";
    let ours = within(work.lead, SHORT, work.source.query_one(sql, &[])).await?;
    let theirs = within(work.other, SHORT, work.target.query_one(sql, &[])).await?;
    let same = ours.get::<_, i32>(0) == theirs.get::<_, i32>(0);
    Ok(same && ours.get(1) && theirs.get(1))
}

/// The lost side must not hand out a number again that was used and deleted; its own place among the numbers is given by
/// the readmission.
pub(super) async fn sequences(work: &Work<'_>) -> Result<(), Stop> {
    let values = within(
        work.lead,
        SHORT,
        crate::multipool::sequences::values(&work.source),
    )
    .await?;
    let raised = crate::multipool::sequences::raise(&work.target, &values);
    work.at_target(SHORT, "the sequences cannot be moved", raised)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_the_pool_is_copied_or_known_not_to_be() {
        let made = crate::multipool::install::INSTALL_SQL
            .split("CREATE TABLE IF NOT EXISTS kambana.")
            .skip(1)
            .filter_map(|rest| rest.split([' ', '(']).next());
        for table in made {
            let copied = OWN_TABLES.iter().any(|(name, _, _)| *name == table);
            assert!(
                copied != NOT_COPIED.contains(&table),
                "kambana.{table}: is it the same on every side?"
            );
        }
    }
}
