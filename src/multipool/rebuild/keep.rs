//! Rows that the lost side holds and the living one has not, or has otherwise: their images are kept as conflicts.
//!
//! Kept on every active side and on the lost one, before it is overwritten. Up to [`MOST`] rows; when there are more, a
//! person is asked, for it is a database with a life of its own.

use std::time::SystemTime;

use uuid::Uuid;

use super::claim::Plan;
use super::{LONG, SHORT, Stop, Work, within};
use crate::multipool::catalog::{Table, ident, key_type, literal, row_type};
use crate::multipool::connection::{Conn, Failure};
use crate::multipool::{Loss, SideId};

/// So many differing rows of a table are kept without asking.
pub(in crate::multipool) const MOST: i64 = 10_000;

/// So many bytes of images of a table are kept without asking.
const MOST_BYTES: i64 = 64 * 1024 * 1024;

/// Rows written to a side in one statement.
const STROKE: usize = 500;

/// The refusal when there are more.
pub(super) fn too_many(other: SideId) -> Stop {
    Stop::Refused {
        why: format!(
            "it holds more than {MOST} rows that the living side has not, or has otherwise; to overwrite them, and keep the \
             first {MOST} of each table as conflicts: kambana rebuild {other} --replace"
        ),
        asks: true,
    }
}

/// The copy of a table that waits beside it.
pub(super) fn copy_name(table: &Table) -> String {
    format!("kambana.{}", ident(&format!("copy_{}", table.name)))
}

/// Whether every differing row is kept, or only those that somebody changed here: a side that was only away holds old
/// rows of the one history, and the journal knows who replaced them.
fn keeps_all(loss: Loss) -> bool {
    !matches!(loss, Loss::TooOld | Loss::Empty)
}

/// Keeps the differing rows of one table, of which the copy is complete. In the caller's transaction on the lost side.
pub(super) async fn differences(work: &Work<'_>, plan: &Plan, table: &Table) -> Result<(), Stop> {
    let find = find_sql(table, keeps_all(plan.loss));
    let target = &work.target;
    work.at_target(
        LONG,
        &format!("table {} cannot be compared", table.name),
        target.batch_execute(&find),
    )
    .await?;
    let sql = "-- rebuild::differences()\nSELECT count(*), coalesce(sum(octet_length(lost)), 0)::bigint FROM kambana.kept";
    let row = within(work.other, SHORT, target.query_one(sql, &[])).await?;
    let (rows, bytes): (i64, i64) = (row.get(0), row.get(1));
    if (rows > MOST || bytes > MOST_BYTES) && !plan.consent {
        return Err(too_many(work.other));
    }
    let sql = "-- rebuild::differences()\nSELECT key, kept, lost FROM kambana.kept LIMIT $1";
    let found = within(work.other, LONG, target.query(sql, &[&MOST])).await?;
    for rows in found.chunks(STROKE) {
        let keys: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let kept: Vec<Option<&str>> = rows.iter().map(|row| row.get(1)).collect();
        let lost: Vec<Option<&str>> = rows.iter().map(|row| row.get(2)).collect();
        let names = (work.lead.to_string(), work.other.to_string());
        let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let at = SystemTime::now();
        let ids: Vec<String> = keys
            .iter()
            .zip(kept.iter().zip(&lost))
            .map(|(key, images)| conflict_id(work.other, &table.name, key, images))
            .collect();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 10] = [
            &table.name,
            &names.0,
            &names.1,
            &work.token,
            &columns,
            &at,
            &ids,
            &keys,
            &kept,
            &lost,
        ];
        for side in work.epoch.members.iter() {
            let stored = async {
                let conn = Conn::open(&work.inner.sides[side].writes).await?;
                conn.client()?.execute(STORE_SQL, &params).await?;
                Ok::<_, Failure>(())
            };
            within(side, SHORT, stored).await?;
        }
        within(work.other, SHORT, target.execute(STORE_SQL, &params)).await?;
    }
    if rows > 0 {
        tracing::warn!(side = %work.other, table = table.name, rows, "differing rows are kept as conflicts");
    }
    within(work.other, SHORT, target.batch_execute("DROP TABLE kambana.kept")).await
}

/// The same whoever finds it.
fn conflict_id(other: SideId, table: &str, key: &str, images: (&Option<&str>, &Option<&str>)) -> String {
    let what = format!("rebuild {other} {table} {key} {images:?}");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, what.as_bytes()).to_string()
}

/// Names are made from what is lost: a rebuild that was interrupted has kept the same rows before.
const STORE_SQL: &str = "-- rebuild::keep()
INSERT INTO kambana.conflict (id, tbl, key, kept_side, kept_image, lost_side, lost_image, lost_op, columns, rule, state, at)
SELECT u.id, $1, u.key, $2, u.kept, $3, u.lost, $4, $5, 'return', 'rule', $6
FROM unnest($7::text[], $8::text[], $9::text[], $10::text[]) AS u(id, key, kept, lost) ON CONFLICT (id) DO NOTHING";

fn find_sql(table: &Table, all: bool) -> String {
    let list = |alias: &str, names: &mut dyn Iterator<Item = &str>| {
        names
            .map(|name| format!("{alias}.{}", ident(name)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let image = |alias: &str| {
        let columns = list(alias, &mut table.columns.iter().map(|c| c.name.as_str()));
        format!("ROW({columns})::{}::text", row_type(&table.name))
    };
    let key = format!(
        "ROW({})::{}::text",
        list("t", &mut table.key.iter().map(String::as_str)),
        key_type(&table.name)
    );
    let on: Vec<String> = table
        .key
        .iter()
        .map(|k| format!("t.{0} = c.{0}", ident(k)))
        .collect();
    let missing = format!(
        "c.{} IS NULL",
        ident(table.key.first().map_or("", String::as_str))
    );
    let which = match all {
        true => String::new(),
        false => format!(
            "AND EXISTS (SELECT FROM kambana.journal AS j WHERE j.lane = 0 AND j.tbl = {} AND {key} IN (j.key, j.old_key))",
            literal(&table.name)
        ),
    };
    format!(
        "-- rebuild::differences()\nCREATE UNLOGGED TABLE kambana.kept AS \
         SELECT {key} AS key, CASE WHEN {missing} THEN NULL ELSE {kept} END AS kept, {lost} AS lost \
         FROM {table} AS t LEFT JOIN {copy} AS c ON {on} \
         WHERE ({missing} OR {kept} <> {lost}) {which} LIMIT {limit}",
        kept = image("c"),
        lost = image("t"),
        table = table.ident,
        copy = copy_name(table),
        on = on.join(" AND "),
        limit = MOST + 1,
    )
}
