//! The general door: statement by statement, as the closure likes. What comes before and after it is one round trip each.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use serde_json::Value as Json;
use tokio_postgres::Row;

use super::{send_batch, send_query};
use crate::multipool::connection::{Failure, Rejection};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, Entry};
use crate::multipool::write::attempt::{
    AS_USUAL_SQL, BEGIN_SQL, Collected, Reply, Stop, in_order, stop_at, stop_own,
};
use crate::multipool::write::enter::{ENTER_SQL, Entering, SET_OP_SQL};
use crate::multipool::write::job::Closure;
use crate::multipool::write::{Job, Lane};
use crate::multipool::{OpId, SideId, Tx, WriteError};

/// What follows a closure is ours again, and planned by key.
const BY_KEY_AGAIN_SQL: &str = "SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL plan_cache_mode = force_generic_plan; \
    SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

const SAME_TRANSACTION_SQL: &str = "-- write::same_transaction()\nSELECT current_setting('kambana.op', true)";

const KEEP_RESULT_SQL: &str =
    "-- write::keep_result()\nUPDATE kambana.op SET result = $2 WHERE op = $1 AND result IS DISTINCT FROM $2";

/// Rows written to tables that nobody captures, counted since some moment of this connection.
const UNWATCHED_SQL: &str = "-- write::unwatched()
SELECT format('%I.%I', n.nspname, c.relname), s.written
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
    + pg_stat_get_xact_tuples_deleted(c.oid)) AS s(written)
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('kambana', 'information_schema')
  AND c.oid <> ALL (ARRAY(SELECT kambana.rel(w.tbl)::oid FROM kambana.watched AS w)) AND s.written > 0";

/// The server's counters may still hold what an earlier transaction of this connection did: only growth counts.
fn counted(rows: &[Row]) -> BTreeMap<String, i64> {
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn refusal(sqlstate: &str, message: &str) -> Failure {
    Failure::Rejected(Rejection {
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
        constraint: None,
        column: None,
    })
}

/// The rows of every reply, or the first failure.
fn all(replies: Vec<Result<Reply, Failure>>) -> Result<Vec<Vec<Row>>, Failure> {
    replies.into_iter().map(|reply| Ok(reply?.rows())).collect()
}

impl Lane {
    pub(super) async fn lead_transaction(
        &self,
        epoch: &Epoch,
        leader: SideId,
        jobs: &[Job],
        (op, structure): (OpId, i64),
        closure: &Closure,
    ) -> Result<Collected, Stop> {
        let conn = self.conn(leader)?;
        let own = |failure| stop_own(leader, failure);
        let client = conn.client().map_err(own)?;
        let enter = conn.prepare(ENTER_SQL).await.map_err(own)?;
        let set_op = conn.prepare(SET_OP_SQL).await.map_err(own)?;
        let unwatched = conn.prepare(UNWATCHED_SQL).await.map_err(own)?;
        let entering = Entering::new(self, epoch, jobs);
        let replies = in_order(vec![
            send_batch(client, BEGIN_SQL),
            send_query(client, &enter, &entering.on_leader(&structure)),
            send_query(client, &set_op, &[&op.uuid()]),
            send_batch(client, AS_USUAL_SQL),
            send_query(client, &unwatched, &[]),
        ])
        .await;
        let begun = all(replies).map_err(own)?;
        self.check_entered(leader, &begun[1], jobs).await?;
        reach(Point::LeadEntered).await.map_err(own)?;
        let before = counted(&begun[4]);
        let tx = Tx::new(conn, leader);
        let returned = AssertUnwindSafe(async { closure(&tx).await })
            .catch_unwind()
            .await;
        let returned = returned.unwrap_or_else(|_| Err(WriteError::Closure("the closure panicked".into())));
        tx.end();
        // The first failed statement says more than what the closure made of it.
        if let Some(failure) = tx.failure() {
            return Err(stop_at(leader, failure, true));
        }
        let value = returned.map_err(Stop::Refused)?;
        let result = (value != Json::Null).then(|| value.to_string());
        let finished = async {
            let same = conn.prepare(SAME_TRANSACTION_SQL).await?;
            let keep = conn.prepare(KEEP_RESULT_SQL).await?;
            let collect = conn.prepare(journal::COLLECT_SQL).await?;
            let replies = in_order(vec![
                send_query(client, &same, &[]),
                send_query(client, &unwatched, &[]),
                send_batch(client, BY_KEY_AGAIN_SQL),
                send_query(client, &keep, &[&op.uuid(), &result]),
                send_query(client, &collect, &[&self.id, &self.batch]),
            ])
            .await;
            let mut finished = all(replies)?;
            let op_then: Option<String> = finished[0].first().and_then(|row| row.get(0));
            if op_then.as_deref() != Some(&op.to_string()) {
                return Err(refusal(
                    "25000",
                    "the closure ended its transaction; it must not run BEGIN, COMMIT or ROLLBACK",
                ));
            }
            let after = counted(&finished[1]);
            let written = after
                .iter()
                .find(|(table, count)| before.get(*table).is_none_or(|b| b < *count));
            if let Some((tables, _)) = written {
                return Err(refusal(
                    "0A000",
                    &format!(
                        "table {tables} is not watched, so the other sides would not get this change; see `kambana watch`"
                    ),
                ));
            }
            Ok(finished.pop().unwrap_or_default())
        };
        let rows = finished.await.map_err(|failure| stop_at(leader, failure, true))?;
        Ok(Collected {
            captured: true,
            entries: rows.iter().map(Entry::from_row).collect(),
            results: vec![result],
            values: vec![value],
        })
    }
}
