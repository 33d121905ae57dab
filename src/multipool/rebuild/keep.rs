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

/// Rows written to a side in one statement, and about how many bytes of them (or one row, if it is longer).
const STROKE: usize = 500;
const STROKE_BYTES: i64 = 4 << 20;

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
    // First how long they are and where they lie: together they may be longer than the memory.
    let sql = "-- rebuild::differences()\nSELECT ctid::text, (octet_length(lost) + coalesce(octet_length(kept), 0))::bigint \
               FROM kambana.kept LIMIT $1";
    let found = within(work.other, LONG, target.query(sql, &[&MOST])).await?;
    let places: Vec<(String, i64)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
    for places in strokes(&places) {
        let sql = "-- rebuild::differences()\nSELECT key, kept, lost FROM kambana.kept WHERE ctid = ANY($1::text[]::tid[])";
        let rows = within(work.other, LONG, target.query(sql, &[&places])).await?;
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

/// Rows that are written at a time.
fn strokes(rows: &[(String, i64)]) -> Vec<Vec<&str>> {
    let mut strokes: Vec<Vec<&str>> = Vec::new();
    let mut room = 0;
    for (place, bytes) in rows {
        match strokes.last_mut() {
            Some(stroke) if stroke.len() < STROKE && *bytes <= room => stroke.push(place),
            _ => {
                strokes.push(vec![place]);
                room = STROKE_BYTES;
            }
        }
        room -= bytes;
    }
    strokes
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_are_bounded_in_rows_and_bytes() {
        let sizes = |sizes: &[i64]| -> Vec<usize> {
            let rows: Vec<(String, i64)> = sizes.iter().map(|bytes| (String::new(), *bytes)).collect();
            strokes(&rows).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[10; 1200]), [500, 500, 200]);
        assert_eq!(sizes(&[3 << 20, 1 << 20, 1, 20 << 20, 5, 6]), [2, 1, 1, 2]);
        assert!(sizes(&[]).is_empty());
    }
}
