//! Steps 1 and 2 on the leader: take the names, run, then collect. Row locks taken here order all writers.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value as Json;

use super::attempt::{
    CALLERS_FENCE_SQL, Collected, FENCE_SQL, Reply, Sql, Stop, in_order, names, stop_at, stop_own,
};
use super::{Again, Job, Lane, Work};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Conn, Failure, Rejection};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, Entry, OpRow};
use crate::multipool::statement::{self, Step};
use crate::multipool::{OpId, SideId, Tx, WriteError};

/// On the leader, in a statement after the fence: its snapshot is younger than the lock. A structure that this instance has
/// not read counts as an epoch that has moved.
const ENTER_SQL: &str = "-- write::enter()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1 AND structure = $9),
l AS (INSERT INTO kambana.lane AS l (lane, instance, confirmed) SELECT $2, $3, $4::bigint[] FROM e
    ON CONFLICT (lane) DO UPDATE SET confirmed = EXCLUDED.confirmed, closed = false),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied) SELECT u.op, u.digest, $2, $5, e.n, $8
    FROM e, unnest($6::uuid[], $7::bigint[]) AS u(op, digest) ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o),
    set_config('kambana.lane', $2::text, true), set_config('kambana.batch', $5::text, true)";

const SET_OP_SQL: &str = "-- write::set_op()\nSELECT set_config('kambana.op', $1::uuid::text, true)";

/// Rows written to tables that nobody captures, counted since some moment of this connection.
const UNWATCHED_SQL: &str = "-- write::unwatched()
SELECT format('%I.%I', s.schemaname, s.relname), s.n_tup_ins + s.n_tup_upd + s.n_tup_del
FROM pg_stat_xact_user_tables AS s
WHERE s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0 AND s.schemaname NOT LIKE 'pg\\_%' AND s.schemaname <> 'kambana'
  AND NOT (s.schemaname = 'public' AND s.relname IN (SELECT tbl FROM kambana.watched))";

/// The server's counters may still hold what an earlier transaction of this connection did: only growth counts.
async fn unwatched_writes(client: &tokio_postgres::Client) -> Result<BTreeMap<String, i64>, Failure> {
    let rows = client.query(UNWATCHED_SQL, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn refusal(sqlstate: &str, message: &str) -> Failure {
    Failure::Rejected(Rejection {
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
        constraint: None,
        column: None,
    })
}

impl Lane {
    /// Step 1 and 2 on the leader. Row locks taken here order all writers.
    pub(super) async fn lead(
        &self,
        epoch: &Epoch,
        leader: SideId,
        jobs: &[Job],
        (catalog, structure): (&Catalog, i64),
    ) -> Result<Collected, Stop> {
        let conn = self.conn(leader)?;
        let own = |failure| stop_own(leader, failure);
        reach(Point::LeadBefore).await.map_err(own)?;
        let collected = match jobs {
            [
                Job {
                    work: Work::Transaction(closure),
                    op,
                    ..
                },
            ] => {
                self.lead_transaction(epoch, leader, jobs, (*op, structure), closure)
                    .await
            }
            _ => {
                self.lead_changes(epoch, leader, conn, jobs, (catalog, structure))
                    .await
            }
        }?;
        reach(Point::LeadCollected).await.map_err(own)?;
        Ok(collected)
    }

    /// All statements of all declarative jobs in one round trip.
    async fn lead_changes(
        &self,
        epoch: &Epoch,
        leader: SideId,
        conn: &Conn,
        jobs: &[Job],
        (catalog, structure): (&Catalog, i64),
    ) -> Result<Collected, Stop> {
        let alone = jobs.len() == 1;
        let own = |failure| stop_own(leader, failure);
        let mut steps: Vec<(usize, Step)> = Vec::new();
        for (place, job) in jobs.iter().enumerate() {
            if let Work::Change(changes) = &job.work {
                let made = statement::steps(catalog, changes).map_err(Stop::Refused)?;
                steps.extend(made.into_iter().map(|step| (place, step)));
            }
        }
        let client = conn.client().map_err(own)?;
        let enter = conn.prepare(ENTER_SQL).await.map_err(own)?;
        let set_op = conn.prepare(SET_OP_SQL).await.map_err(own)?;
        let collect = conn.prepare(journal::COLLECT_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(steps.len());
        for (_, step) in &steps {
            prepared.push(
                conn.prepare(&step.sql)
                    .await
                    .map_err(|f| stop_at(leader, f, alone))?,
            );
        }
        let (ids, digests) = names(jobs);
        let confirmed = self.confirmed_array();
        let instance = &self.inner.config.instance;
        let applied = !jobs.iter().any(|j| matches!(j.work, Work::Tombstone));
        let enter_params: [Sql<'_>; 9] = [
            &epoch.n,
            &self.id,
            instance,
            &confirmed,
            &self.batch,
            &ids,
            &digests,
            &applied,
            &structure,
        ];
        let collect_params: [Sql<'_>; 2] = [&self.id, &self.batch];

        let mut changed: Vec<BoxFuture<'_, Result<Reply, Failure>>> = Vec::with_capacity(2 * steps.len() + 4);
        changed.push(Box::pin(async {
            Ok(Reply::Nothing(client.batch_execute(FENCE_SQL).await?))
        }));
        changed.push(Box::pin(async {
            Ok(Reply::Rows(client.query(&enter, &enter_params).await?))
        }));
        let mut last = None;
        for ((place, step), prepared) in steps.iter().zip(&prepared) {
            if last.replace(place) != Some(place) {
                let (client, set_op, id) = (client, &set_op, &ids[*place]);
                changed.push(Box::pin(async move {
                    Ok(Reply::Rows(client.query(set_op, &[id]).await?))
                }));
            }
            changed.push(Box::pin(async move {
                Ok(Reply::Count(
                    client.execute(prepared, &step.params.as_sql()).await?,
                ))
            }));
        }
        changed.push(Box::pin(async {
            Ok(Reply::Nothing(
                client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?,
            ))
        }));
        changed.push(Box::pin(async {
            Ok(Reply::Rows(client.query(&collect, &collect_params).await?))
        }));

        let mut replies = in_order(changed).await.into_iter();
        replies.next().unwrap_or(Ok(Reply::Count(0))).map_err(own)?;
        let entered = replies.next().unwrap_or(Ok(Reply::Count(0))).map_err(own)?.rows();
        self.check_entered(leader, &entered, jobs).await?;
        let mut counts = Vec::with_capacity(steps.len());
        let mut collected = Vec::new();
        for reply in replies {
            match reply.map_err(|failure| stop_at(leader, failure, alone))? {
                Reply::Count(count) => counts.push(count),
                Reply::Rows(rows) => collected = rows,
                Reply::Nothing(()) => {}
            }
        }
        for ((_, step), count) in steps.iter().zip(counts) {
            if let (Some(target), 0) = (&step.target, count) {
                return Err(if alone {
                    self.missed(leader, conn, target, catalog).await
                } else {
                    Stop::Split
                });
            }
        }
        Ok(Collected {
            entries: collected.iter().map(Entry::from_row).collect(),
            results: vec![None; jobs.len()],
            values: vec![Json::Null; jobs.len()],
        })
    }

    /// What entering found: the epoch, and whether all names were new.
    async fn check_entered(
        &self,
        leader: SideId,
        entered: &[tokio_postgres::Row],
        jobs: &[Job],
    ) -> Result<(), Stop> {
        let Some(row) = entered.first() else {
            return Err(Again::EpochMoved.into());
        };
        if row.get::<_, Option<i64>>(0).is_none() {
            return Err(Again::EpochMoved.into());
        }
        if row.get::<_, i64>(1) == jobs.len() as i64 || cfg!(mutant = "no_dedup") {
            return Ok(());
        }
        let [job] = jobs else {
            return Err(Stop::Split);
        };
        let stored = async {
            // The transaction may have failed in the meantime on the operation's own statements.
            let client = self.conn_client(leader)?;
            client.batch_execute("ROLLBACK").await?;
            let sql = format!(
                "-- write::stored()\nSELECT {} FROM kambana.op AS o WHERE o.op = $1",
                journal::OP_COLUMNS
            );
            Ok(client.query_opt(&sql, &[&job.op.uuid()]).await?)
        };
        match stored.await.map_err(|failure| stop_own(leader, failure))? {
            Some(row) => Err(Stop::Known(OpRow::from_row(&row))),
            None => Err(Again::Contention.into()),
        }
    }

    /// An update or delete hit no row: is it gone, or not what the caller had seen?
    async fn missed(
        &self,
        leader: SideId,
        conn: &Conn,
        target: &statement::Target,
        catalog: &Catalog,
    ) -> Stop {
        let look = async {
            let params: Vec<Sql<'_>> = target.key.iter().map(|v| v as _).collect();
            Ok(conn.client()?.query_opt(&target.look_sql, &params).await?)
        };
        let key: Vec<&str> = target.key.iter().filter_map(|v| v.as_text()).collect();
        let (table, key) = (target.table.clone(), format!("({})", key.join(",")));
        match look.await {
            Err(failure) => stop_at(leader, failure, true),
            Ok(None) => Stop::Refused(WriteError::NotFound { table, key }),
            Ok(Some(row)) => {
                let image: String = row.get(0);
                let current = catalog
                    .get(&table)
                    .map(|t| t.image_fields(&image))
                    .unwrap_or_default();
                Stop::Refused(WriteError::EditConflict { table, key, current })
            }
        }
    }

    /// The general door: statement by statement, as the closure likes.
    async fn lead_transaction(
        &self,
        epoch: &Epoch,
        leader: SideId,
        jobs: &[Job],
        (op, structure): (OpId, i64),
        closure: &super::job::Closure,
    ) -> Result<Collected, Stop> {
        let conn = self.conn(leader)?;
        let own = |failure| stop_own(leader, failure);
        let (ids, digests) = names(jobs);
        let entered = async {
            let client = conn.client()?;
            let enter = conn.prepare(ENTER_SQL).await?;
            client.batch_execute(CALLERS_FENCE_SQL).await?;
            let rows = client
                .query(
                    &enter,
                    &[
                        &epoch.n,
                        &self.id,
                        &self.inner.config.instance,
                        &self.confirmed_array(),
                        &self.batch,
                        &ids,
                        &digests,
                        &true,
                        &structure,
                    ],
                )
                .await?;
            client.query(SET_OP_SQL, &[&op.uuid()]).await?;
            Ok(rows)
        }
        .await
        .map_err(own)?;
        self.check_entered(leader, &entered, jobs).await?;
        reach(Point::LeadEntered).await.map_err(own)?;
        let unwatched = async { unwatched_writes(conn.client()?).await };
        let before = unwatched.await.map_err(own)?;
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
            let client = conn.client()?;
            client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
            let row = client
                .query_one(
                    "-- write::same_transaction()\nSELECT current_setting('kambana.op', true)",
                    &[],
                )
                .await?;
            if row.get::<_, Option<String>>(0).as_deref() != Some(&op.to_string()) {
                return Err(refusal(
                    "25000",
                    "the closure ended its transaction; it must not run BEGIN, COMMIT or ROLLBACK",
                ));
            }
            let after = unwatched_writes(client).await?;
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
            if result.is_some() {
                client
                    .execute(
                        "-- write::keep_result()\nUPDATE kambana.op SET result = $2 WHERE op = $1",
                        &[&op.uuid(), &result],
                    )
                    .await?;
            }
            Ok(client
                .query(journal::COLLECT_SQL, &[&self.id, &self.batch])
                .await?)
        };
        let rows = finished.await.map_err(|failure| stop_at(leader, failure, true))?;
        Ok(Collected {
            entries: rows.iter().map(Entry::from_row).collect(),
            results: vec![result],
            values: vec![value],
        })
    }
}
