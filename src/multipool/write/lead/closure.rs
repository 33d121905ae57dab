//! The general door: statement by statement, as the closure likes. What comes before and after it is one round trip each.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use serde_json::Value as Json;
use tokio_postgres::Row;

use super::free::{BY_KEY_AGAIN_SQL, CHECK_NOW_SQL, UNWATCHED_SQL, only_watched, refusal};
use super::{send_batch, send_query};
use crate::multipool::connection::Failure;
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

const SAME_TRANSACTION_SQL: &str = "-- write::same_transaction()\nSELECT current_setting('kambana.op', true)";

const KEEP_RESULT_SQL: &str =
    "-- write::keep_result()\nUPDATE kambana.op SET result = $2 WHERE op = $1 AND result IS DISTINCT FROM $2";

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
                send_batch(client, CHECK_NOW_SQL),
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
            only_watched(&begun[4], &finished[2])?;
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
