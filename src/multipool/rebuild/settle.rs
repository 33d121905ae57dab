//! The end of the copy: the others learn which batches it holds, and the marker goes.
//!
//! If we die before the marker goes, the next repairer finds every table complete and does this again.

use super::structure::same_structure;
use super::{LONG, SHORT, Stop, Work, within};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Conn, Failure};
use crate::multipool::install::GROWING;
use crate::multipool::journal::place;

/// Settles and unmarks.
pub(super) async fn finish(work: &Work<'_>) -> Result<(), Stop> {
    within(work.lead, SHORT, work.source.batch_execute("ROLLBACK")).await?;
    same_structure(work).await?;
    // The operations were copied first, from a snapshot no younger than any table's: what they name, the tables hold.
    let sql = "-- rebuild::finish()\nSELECT l.lane, greatest((SELECT max(o.batch) FROM kambana.op AS o WHERE o.lane = l.lane), \
               (SELECT max(j.batch) FROM kambana.journal AS j WHERE j.lane = l.lane)) AS batch FROM kambana.lane AS l";
    let rows = within(work.other, LONG, work.target.query(sql, &[])).await?;
    let (lanes, batches): (Vec<i64>, Vec<i64>) = rows
        .iter()
        .filter_map(|row| Some((row.get::<_, i64>(0), row.get::<_, Option<i64>>(1)?)))
        .unzip();
    for side in work.epoch.members.iter() {
        let told = async {
            let conn = Conn::open(&work.inner.sides[side].writes).await?;
            conn.client()?
                .execute(
                    "-- rebuild::finish()\nUPDATE kambana.lane AS l \
                     SET confirmed[$1] = greatest(coalesce(l.confirmed[$1], 0), u.batch) \
                     FROM unnest($2::bigint[], $3::bigint[]) AS u(lane, batch) WHERE l.lane = u.lane",
                    &[&place(work.other), &lanes, &batches],
                )
                .await?;
            Ok::<_, Failure>(())
        };
        within(side, SHORT, told).await?;
    }
    work.begin().await?;
    let unmark = "DELETE FROM kambana.rebuild";
    within(work.other, SHORT, work.target.batch_execute(unmark)).await?;
    work.commit().await
}

/// Gives the planner something to go by; nothing depends on it.
pub(super) async fn analyze(work: &Work<'_>, catalog: &Catalog) {
    for table in GROWING
        .into_iter()
        .chain(catalog.values().map(|table| table.ident.as_str()))
    {
        let analyze = format!("ANALYZE {table}");
        let done = tokio::time::timeout(LONG, work.target.batch_execute(&analyze)).await;
        if !matches!(done, Ok(Ok(()))) {
            tracing::debug!(table, "not analysed");
        }
    }
}
