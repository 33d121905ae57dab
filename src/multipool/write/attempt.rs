//! One attempt at a batch: leader, followers, commit. The step names are those of the protocol's model.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures::FutureExt;
use futures::future::{BoxFuture, join, join_all};
use serde_json::Value as Json;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::NoTls;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Again, Attempt, Job, Lane, Work};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Conn, Failure, Rejection, Repeat};
use crate::multipool::epoch::Epoch;
use crate::multipool::journal::{self, ApplyParams, Arrays, Entry, OpRow, place};
use crate::multipool::statement::{self, Step};
use crate::multipool::{Applied, NotApplied, OpId, SideFault, SideId, SideSet, Tx, WriteError};

/// How long a side that is well may take to roll back before its connection is thrown away.
const ROLLBACK_DEADLINE: std::time::Duration = std::time::Duration::from_millis(300);

const FENCE_SQL: &str = "BEGIN; LOCK TABLE kambana.fence IN ROW SHARE MODE";

/// For a transaction of the general door: its closure may take as long as the operation's deadline allows.
const LONG_FENCE_SQL: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '60s'; \
    LOCK TABLE kambana.fence IN ROW SHARE MODE";

/// On the leader, in a statement after the fence: its snapshot is younger than the lock.
const ENTER_SQL: &str = "-- write::enter()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1),
l AS (INSERT INTO kambana.lane AS l (lane, instance, confirmed) SELECT $2, $3, $4::bigint[] FROM e
    ON CONFLICT (lane) DO UPDATE SET confirmed = kambana.max_each(l.confirmed, EXCLUDED.confirmed), closed = false),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied) SELECT u.op, u.digest, $2, $5, e.n, $8
    FROM e, unnest($6::uuid[], $7::bigint[]) AS u(op, digest) ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o),
    set_config('kambana.lane', $2::text, true), set_config('kambana.batch', $5::text, true)";

/// On a follower, after the leader's part is done: with the leader's results, capture switched off.
const FOLLOW_SQL: &str = "-- write::follow()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1),
l AS (INSERT INTO kambana.lane AS l (lane, instance, confirmed) SELECT $2, $3, $4::bigint[] FROM e
    ON CONFLICT (lane) DO UPDATE SET confirmed = kambana.max_each(l.confirmed, EXCLUDED.confirmed), closed = false),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied, result)
    SELECT u.op, u.digest, $2, $5, e.n, $9, u.result
    FROM e, unnest($6::uuid[], $7::bigint[], $8::text[]) AS u(op, digest, result)
    ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o), set_config('kambana.apply', 'on', true)";

const SET_OP_SQL: &str = "-- write::set_op()\nSELECT set_config('kambana.op', $1::uuid::text, true)";

/// Batches of other writers that changed these keys here and are not known to be on the leader.
const GUARD_SQL: &str = "-- write::guard()
WITH k AS (SELECT * FROM unnest($2::text[], $3::text[]) AS k(tbl, key)),
o AS (SELECT j.lane, j.batch, j.tbl, j.key, j.old_key FROM kambana.lane AS l
    JOIN kambana.journal AS j ON j.lane = l.lane AND j.batch > coalesce(l.confirmed[$1], 0)
    WHERE NOT l.closed AND l.lane <> $4)
SELECT o.lane, o.batch FROM o JOIN k ON (o.tbl, o.key) = (k.tbl, k.key)
UNION SELECT o.lane, o.batch FROM o JOIN k ON (o.tbl, o.old_key) = (k.tbl, k.key)
UNION SELECT 0, 0 FROM k JOIN kambana.journal AS j ON j.lane = 0 AND (j.tbl, j.key) = (k.tbl, k.key)
UNION SELECT 0, 0 FROM kambana.journal AS j JOIN k ON j.tbl = k.tbl AND (j.old_key = k.key OR j.kind = 'T')
    WHERE j.lane = 0";

/// How many of these batches the leader lacks.
const LACKING_SQL: &str = "-- write::lacking()
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS p(lane, batch)
WHERE NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.lane = p.lane AND o.batch = p.batch)";

/// Asks by inserting, which waits for a COMMIT in flight; a plain SELECT would not see it.
const PROBE_SQL: &str = "-- write::probe()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied)
    SELECT $2, 0, 0, 0, e.n, false FROM e ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o)";

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

/// How the transactions of these jobs begin.
fn fence_sql(jobs: &[Job]) -> &'static str {
    match jobs {
        [
            Job {
                work: Work::Transaction(_),
                ..
            },
        ] => LONG_FENCE_SQL,
        _ => FENCE_SQL,
    }
}

/// Why an attempt ended before the first COMMIT.
enum Stop {
    Split,
    Refused(WriteError),
    Again(Again),
    /// The leader knows the only job's name already.
    Known(OpRow),
}

impl From<Again> for Stop {
    fn from(again: Again) -> Stop {
        Stop::Again(again)
    }
}

/// What the leader did: to be repeated on the followers.
struct Collected {
    entries: Vec<Entry>,
    results: Vec<Option<String>>,
    values: Vec<Json>,
}

type Sql<'a> = &'a (dyn ToSql + Sync);

/// Polls futures in the order given, so that their requests go out in this order and without waiting in between.
async fn in_order<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut first_open = 0;
    std::future::poll_fn(move |context| {
        for place in first_open..futures.len() {
            if results[place].is_none()
                && let Poll::Ready(value) = Pin::new(&mut futures[place]).poll(context)
            {
                results[place] = Some(value);
            }
        }
        while results.get(first_open).is_some_and(Option::is_some) {
            first_open += 1;
        }
        match first_open == results.len() {
            true => Poll::Ready(results.drain(..).flatten().collect()),
            false => Poll::Pending,
        }
    })
    .await
}

/// A failure at a side before the first COMMIT.
fn stop_at(side: SideId, failure: Failure, alone: bool) -> Stop {
    match failure {
        Failure::Side(fault) => Again::Trouble(side, fault).into(),
        Failure::Repeat(Repeat::Locked) => Again::Locked.into(),
        Failure::Repeat(Repeat::Busy) => Again::Contention.into(),
        Failure::Repeat(Repeat::Contention) if alone => Again::Contention.into(),
        Failure::Repeat(Repeat::Cancelled) if alone => {
            Stop::Refused(WriteError::NotApplied(NotApplied::Deadline))
        }
        Failure::Rejected(r) if alone => Stop::Refused(WriteError::Rejected {
            sqlstate: r.sqlstate,
            message: r.message,
            constraint: r.constraint,
            column: r.column,
        }),
        Failure::Repeat(_) | Failure::Rejected(_) => Stop::Split,
    }
}

/// A failure of the protocol's own statements: waiting for the fence or for a name means that something moves.
fn stop_own(side: SideId, failure: Failure) -> Stop {
    match failure {
        Failure::Repeat(Repeat::Locked) => Again::EpochMoved.into(),
        Failure::Repeat(_) => Again::Contention.into(),
        // A follower that refuses what the leader took is not its twin.
        Failure::Rejected(r) => Again::Trouble(
            side,
            SideFault::Unfit(format!("{} (SQLSTATE {})", r.message, r.sqlstate)),
        )
        .into(),
        Failure::Side(fault) => Again::Trouble(side, fault).into(),
    }
}

impl Lane {
    /// Runs the batch once in this epoch.
    pub(super) async fn attempt(&mut self, epoch: Epoch, jobs: &[Job], until: Instant) -> Attempt {
        self.enter_epoch(&epoch);
        self.batch += 1;
        let Some(leader) = epoch.members.leader() else {
            return Attempt::Again(Again::EpochMoved);
        };
        if let Err((side, fault)) = self.open(epoch.members).await {
            return Attempt::Again(Again::Trouble(side, fault));
        }
        for (_, conn) in self.conns.iter() {
            if let Some(conn) = conn {
                conn.set_busy(true);
            }
        }
        let prepared = {
            let inner = Arc::clone(&self.inner);
            let before = self.before_commit(&epoch, leader, jobs);
            tokio::select! {
                result = timeout_at(until, before) => result.map_err(|_| None),
                (side, fault) = inner.trouble(epoch.members) => Err(Some((side, fault))),
            }
        };
        match prepared {
            Err(interrupted) => {
                self.abandon(epoch.members).await;
                match interrupted {
                    Some((side, fault)) => Attempt::Again(Again::Trouble(side, fault)),
                    None if jobs.len() == 1 => Attempt::Refused(WriteError::NotApplied(NotApplied::Deadline)),
                    None => Attempt::Split,
                }
            }
            Ok(Ok(collected)) => self.commit(&epoch, leader, jobs, collected).await,
            Ok(Err(stop)) => {
                self.roll_back(epoch.members).await;
                match stop {
                    Stop::Split => Attempt::Split,
                    Stop::Refused(error) if jobs.len() == 1 => Attempt::Refused(error),
                    Stop::Refused(_) => Attempt::Split,
                    Stop::Again(again) => Attempt::Again(again),
                    Stop::Known(stored) => self.known(&epoch, leader, jobs, stored).await,
                }
            }
        }
    }

    /// Takes a connection to every member.
    async fn open(&mut self, members: SideSet) -> Result<(), (SideId, SideFault)> {
        for side in self.inner.sides.ids() {
            if !members.contains(side) {
                self.conns[side] = None;
                continue;
            }
            if self.conns[side]
                .as_ref()
                .is_some_and(|conn| conn.client().is_ok())
            {
                continue;
            }
            let opening = Conn::open(&self.inner.sides[side].writes);
            match timeout(self.inner.config.probe_deadline, opening).await {
                Ok(Ok(conn)) => self.conns[side] = Some(Arc::new(conn)),
                Ok(Err(Failure::Side(fault))) => return Err((side, fault)),
                Ok(Err(failure)) => {
                    return Err((
                        side,
                        SideFault::Down(crate::multipool::connection::words(&failure)),
                    ));
                }
                Err(_) => return Err((side, SideFault::Silent)),
            }
        }
        Ok(())
    }

    fn conn(&self, side: SideId) -> Result<&Arc<Conn>, Stop> {
        self.conns[side]
            .as_ref()
            .ok_or_else(|| Again::Trouble(side, SideFault::Down("no connection".into())).into())
    }

    /// Steps 1 to 3: run and collect on the leader, apply and guard on the followers. Nothing is committed.
    async fn before_commit(&self, epoch: &Epoch, leader: SideId, jobs: &[Job]) -> Result<Collected, Stop> {
        let catalog = self.inner.catalog();
        let followers: Vec<SideId> = epoch.members.iter().filter(|side| *side != leader).collect();
        let fence_sql = fence_sql(jobs);
        let fences = join_all(followers.iter().map(|side| async move {
            let fenced = async { Ok(self.conn_client(*side)?.batch_execute(fence_sql).await?) };
            fenced.await.map_err(|failure| stop_own(*side, failure))
        }));
        let (collected, fenced) = match jobs {
            // The closure takes its time; the followers' fences are not held for it.
            [
                Job {
                    work: Work::Transaction(_),
                    ..
                },
            ] => {
                let collected = self.lead(epoch, leader, jobs, &catalog).await?;
                (Ok(collected), fences.await)
            }
            _ => join(self.lead(epoch, leader, jobs, &catalog), fences).await,
        };
        let collected = collected?;
        fenced.into_iter().collect::<Result<(), Stop>>()?;
        let followed = join_all(
            followers
                .iter()
                .map(|side| self.follow(epoch, leader, *side, jobs, &collected, &catalog)),
        )
        .await;
        let mut doubtful = Vec::new();
        for found in followed {
            doubtful.extend(found?);
        }
        self.ask_leader(leader, doubtful).await?;
        // A side that has gone in the meantime must be found before the first COMMIT, not by it.
        for side in epoch.members.iter() {
            self.conn_client(side)
                .map_err(|failure| stop_own(side, failure))?;
        }
        Ok(collected)
    }

    fn conn_client(&self, side: SideId) -> Result<&tokio_postgres::Client, Failure> {
        match &self.conns[side] {
            Some(conn) => conn.client(),
            None => Err(Failure::Side(SideFault::Down("no connection".into()))),
        }
    }

    /// Step 1 and 2 on the leader. Row locks taken here order all writers.
    async fn lead(
        &self,
        epoch: &Epoch,
        leader: SideId,
        jobs: &[Job],
        catalog: &Catalog,
    ) -> Result<Collected, Stop> {
        let conn = self.conn(leader)?;
        match jobs {
            [
                Job {
                    work: Work::Transaction(closure),
                    op,
                    ..
                },
            ] => self.lead_transaction(epoch, leader, jobs, *op, closure).await,
            _ => self.lead_changes(epoch, leader, conn, jobs, catalog).await,
        }
    }

    /// All statements of all declarative jobs in one round trip.
    async fn lead_changes(
        &self,
        epoch: &Epoch,
        leader: SideId,
        conn: &Conn,
        jobs: &[Job],
        catalog: &Catalog,
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
        let enter_params: [Sql<'_>; 8] = [
            &epoch.n,
            &self.id,
            instance,
            &confirmed,
            &self.batch,
            &ids,
            &digests,
            &applied,
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
        if row.get::<_, i64>(1) == jobs.len() as i64 {
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
        op: OpId,
        closure: &super::job::Closure,
    ) -> Result<Collected, Stop> {
        let conn = self.conn(leader)?;
        let own = |failure| stop_own(leader, failure);
        let (ids, digests) = names(jobs);
        let entered = async {
            let client = conn.client()?;
            let enter = conn.prepare(ENTER_SQL).await?;
            client.batch_execute(LONG_FENCE_SQL).await?;
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
                    ],
                )
                .await?;
            client.query(SET_OP_SQL, &[&op.uuid()]).await?;
            Ok(rows)
        }
        .await
        .map_err(own)?;
        self.check_entered(leader, &entered, jobs).await?;
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

    /// Step 3 on one follower, in one round trip: names, images in the leader's order, journal, **then** the guard.
    /// Returns the batches that the leader must be asked about.
    async fn follow(
        &self,
        epoch: &Epoch,
        leader: SideId,
        side: SideId,
        jobs: &[Job],
        collected: &Collected,
        catalog: &Catalog,
    ) -> Result<Vec<(i64, i64)>, Stop> {
        let own = |failure| stop_own(side, failure);
        let conn = self.conn(side)?;
        let client = conn.client().map_err(own)?;
        let plan = journal::plan(catalog, &collected.entries).map_err(|_| Stop::Again(Again::Catalog))?;
        let follow = conn.prepare(FOLLOW_SQL).await.map_err(own)?;
        let insert = conn.prepare(journal::INSERT_SQL).await.map_err(own)?;
        let guard = conn.prepare(GUARD_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(plan.len());
        for apply in &plan {
            prepared.push(conn.prepare(apply.sql).await.map_err(own)?);
        }
        let (ids, digests) = names(jobs);
        let confirmed = self.confirmed_array();
        let applied = !jobs.iter().any(|j| matches!(j.work, Work::Tombstone));
        let follow_params: [Sql<'_>; 9] = [
            &epoch.n,
            &self.id,
            &self.inner.config.instance,
            &confirmed,
            &self.batch,
            &ids,
            &digests,
            &collected.results,
            &applied,
        ];
        let arrays = Arrays::new(&collected.entries);
        let (tables, keys): (Vec<&str>, Vec<&str>) = collected
            .entries
            .iter()
            .flat_map(|e| e.keys().map(|key| (e.table.as_str(), key)))
            .unzip();
        let leader_place = place(leader);
        let guard_params: [Sql<'_>; 4] = [&leader_place, &tables, &keys, &self.id];

        let mut work: Vec<BoxFuture<'_, Result<Reply, Failure>>> = Vec::with_capacity(plan.len() + 4);
        work.push(Box::pin(async {
            Ok(Reply::Rows(client.query(&follow, &follow_params).await?))
        }));
        for (apply, prepared) in plan.iter().zip(&prepared) {
            work.push(Box::pin(async move {
                Ok(Reply::Count(match &apply.params {
                    ApplyParams::Many(values) => client.execute(prepared, &[values]).await?,
                    ApplyParams::Move(image, old_key) => client.execute(prepared, &[image, old_key]).await?,
                }))
            }));
        }
        if !collected.entries.is_empty() {
            work.push(Box::pin(async {
                Ok(Reply::Count(client.execute(&insert, &arrays.params()).await?))
            }));
            work.push(Box::pin(async {
                Ok(Reply::Rows(client.query(&guard, &guard_params).await?))
            }));
        }
        work.push(Box::pin(async {
            Ok(Reply::Nothing(
                client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?,
            ))
        }));

        let mut replies = in_order(work).await.into_iter();
        let entered = replies.next().unwrap_or(Ok(Reply::Count(0))).map_err(own)?.rows();
        match entered
            .first()
            .map(|row| (row.get::<_, Option<i64>>(0), row.get::<_, i64>(1)))
        {
            Some((Some(_), fresh)) if fresh == jobs.len() as i64 => {}
            // The follower knows a name that the leader does not: another instance died between two commits.
            Some((Some(_), _)) => return Err(Again::Merge.into()),
            _ => return Err(Again::EpochMoved.into()),
        }
        let mut doubtful = Vec::new();
        for reply in replies {
            if let Reply::Rows(rows) = reply.map_err(own)? {
                doubtful.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
            }
        }
        #[cfg(mutant = "skip_guard")]
        doubtful.clear();
        Ok(doubtful)
    }

    /// The second half of the guard: a change of these rows that only a follower has must not be overwritten.
    async fn ask_leader(&self, leader: SideId, doubtful: Vec<(i64, i64)>) -> Result<(), Stop> {
        if doubtful.is_empty() {
            return Ok(());
        }
        let (lanes, batches): (Vec<i64>, Vec<i64>) = doubtful.into_iter().unzip();
        let lacking = async {
            let conn = match &self.conns[leader] {
                Some(conn) => conn,
                None => return Err(Failure::Side(SideFault::Down("no connection".into()))),
            };
            let statement = conn.prepare(LACKING_SQL).await?;
            Ok(conn
                .client()?
                .query_one(&statement, &[&lanes, &batches])
                .await?
                .get::<_, i64>(0))
        };
        match lacking.await.map_err(|failure| stop_own(leader, failure))? {
            0 => Ok(()),
            _ => Err(Again::Merge.into()),
        }
    }

    /// Step 4 and 5: COMMIT on all sides at once, the followers' first on the wire; acknowledge when all answered.
    async fn commit(&mut self, epoch: &Epoch, leader: SideId, jobs: &[Job], collected: Collected) -> Attempt {
        let order: Vec<SideId> = epoch
            .members
            .iter()
            .filter(|side| *side != leader)
            .chain([leader])
            .collect();
        let answers = {
            let (lane, inner) = (&*self, &self.inner);
            let commits = order.iter().map(|side| async move {
                let sent = async { Ok(lane.conn_client(*side)?.batch_execute("COMMIT").await?) };
                tokio::select! {
                    answer = sent => (*side, answer),
                    (_, fault) = inner.trouble(SideSet::EMPTY.with(*side)) => (*side, Err(Failure::Side(fault))),
                    () = tokio::time::sleep(inner.config.op_deadline) => (*side, Err(Failure::Side(SideFault::Silent))),
                }
            });
            in_order(
                commits
                    .map(|commit| Box::pin(commit) as BoxFuture<'_, _>)
                    .collect(),
            )
            .await
        };
        let mut doubt = None;
        for (side, answer) in answers {
            match answer {
                Ok(()) => {
                    self.confirmed[side] = self.batch;
                    self.unsettled = true;
                    if let Some(conn) = &self.conns[side] {
                        conn.set_busy(false);
                    }
                }
                // An error at COMMIT does not mean "not committed".
                Err(failure) => {
                    self.conns[side] = None;
                    let fault = match failure {
                        Failure::Side(fault) => fault,
                        other => SideFault::Down(crate::multipool::connection::words(&other)),
                    };
                    doubt = Some((side, fault));
                }
            }
        }
        if let Some((side, fault)) = doubt {
            // The next attempt asks every member of the epoch of then by taking the same names again.
            return Attempt::InDoubt(side, fault);
        }
        let catalog = self.inner.catalog();
        let outcomes = jobs.iter().zip(collected.values).map(|(job, value)| {
            let rows = collected
                .entries
                .iter()
                .filter(|e| e.op == job.op.uuid())
                .map(|e| journal::changed_row(&catalog, e))
                .collect();
            Ok((
                Applied {
                    op_id: job.op,
                    rows,
                    replayed: false,
                },
                value,
            ))
        });
        Attempt::Done(outcomes.collect())
    }

    /// The leader has this name. It is answered from there once every other member has it too.
    async fn known(&mut self, epoch: &Epoch, leader: SideId, jobs: &[Job], stored: OpRow) -> Attempt {
        let [job] = jobs else {
            return Attempt::Split;
        };
        if stored.digest != job.digest && !matches!(job.work, Work::Tombstone) && stored.applied {
            return Attempt::Refused(WriteError::OpReused(job.op));
        }
        for side in epoch.members.iter().filter(|side| *side != leader) {
            match self.has(epoch, side, job.op).await {
                Ok(Some(true)) => {}
                Ok(Some(false)) => return Attempt::Again(Again::Merge),
                Ok(None) => return Attempt::Again(Again::EpochMoved),
                Err(failure) => {
                    return match stop_own(side, failure) {
                        Stop::Again(again) => Attempt::Again(again),
                        _ => Attempt::Again(Again::Contention),
                    };
                }
            }
        }
        if !stored.applied {
            return match job.work {
                Work::Tombstone => Attempt::Done(vec![Ok((
                    Applied {
                        op_id: job.op,
                        rows: vec![],
                        // It is a tombstone that was there, not the operation.
                        replayed: false,
                    },
                    Json::Null,
                ))]),
                _ => Attempt::Refused(WriteError::NotApplied(NotApplied::Abandoned)),
            };
        }
        let rows = async {
            let sql = format!(
                "-- write::known()\nSELECT {} FROM kambana.journal AS j \
                 WHERE j.lane = $1 AND j.batch = $2 AND j.op = $3 ORDER BY j.n",
                journal::COLUMNS
            );
            Ok(self
                .conn_client(leader)?
                .query(&sql, &[&stored.lane, &stored.batch, &stored.op])
                .await?)
        };
        let rows = match timeout(self.inner.config.probe_deadline * 2, rows).await {
            Ok(rows) => rows,
            Err(_) => Err(Failure::Side(SideFault::Silent)),
        };
        match rows {
            Ok(rows) => {
                let catalog = self.inner.catalog();
                let rows = rows
                    .iter()
                    .map(|r| journal::changed_row(&catalog, &Entry::from_row(r)))
                    .collect();
                let value = stored
                    .result
                    .and_then(|r| serde_json::from_str(&r).ok())
                    .unwrap_or(Json::Null);
                Attempt::Done(vec![Ok((
                    Applied {
                        op_id: job.op,
                        rows,
                        replayed: true,
                    },
                    value,
                ))])
            }
            Err(failure) => match stop_own(leader, failure) {
                Stop::Again(again) => Attempt::Again(again),
                _ => Attempt::Again(Again::Contention),
            },
        }
    }

    /// Whether a side has an operation; `None` when its epoch moved. Waits for a COMMIT in flight.
    async fn has(&self, epoch: &Epoch, side: SideId, op: OpId) -> Result<Option<bool>, Failure> {
        let probe = async {
            let conn = Conn::open(&self.inner.sides[side].writes).await?;
            conn.set_busy(true);
            let client = conn.client()?;
            client.batch_execute(FENCE_SQL).await?;
            let row = client.query_one(PROBE_SQL, &[&epoch.n, &op.uuid()]).await?;
            client.batch_execute("ROLLBACK").await?;
            conn.set_busy(false);
            Ok(row.get::<_, Option<i64>>(0).map(|_| row.get::<_, i64>(1) == 0))
        };
        match timeout(self.inner.config.probe_deadline, probe).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Side(SideFault::Silent)),
        }
    }

    /// Ends the open transactions of an attempt that stopped by itself.
    async fn roll_back(&mut self, members: SideSet) {
        let conns: Vec<(SideId, Arc<Conn>)> = members
            .iter()
            .filter_map(|side| Some((side, self.conns[side].clone()?)))
            .collect();
        let ended = join_all(conns.iter().map(|(side, conn)| async move {
            let end = async { Ok::<_, Failure>(conn.client()?.batch_execute("ROLLBACK").await?) };
            (*side, matches!(timeout(ROLLBACK_DEADLINE, end).await, Ok(Ok(()))))
        }))
        .await;
        for (side, ok) in ended {
            match &self.conns[side] {
                Some(conn) if ok => conn.set_busy(false),
                _ => self.conns[side] = None,
            }
        }
    }

    /// Ends an attempt in the middle of its statements: the sides that are well must not go on waiting for a lock with
    /// the fence in their hands. The connections are closed, so that a late cancel request hits nothing else.
    async fn abandon(&mut self, members: SideSet) {
        let tokens: Vec<_> = members
            .and(self.inner.well())
            .iter()
            .filter_map(|side| Some(self.conns[side].as_ref()?.client().ok()?.cancel_token()))
            .collect();
        let cancelled = join_all(
            tokens
                .iter()
                .map(|token| timeout(ROLLBACK_DEADLINE, token.cancel_query(NoTls))),
        );
        for result in cancelled.await {
            if let Ok(Err(error)) = result {
                tracing::debug!(%error, "cancel request");
            }
        }
        for side in members.iter() {
            self.conns[side] = None;
        }
    }
}

/// What one statement of a pipeline answered.
enum Reply {
    Nothing(()),
    Count(u64),
    Rows(Vec<tokio_postgres::Row>),
}

impl Reply {
    fn rows(self) -> Vec<tokio_postgres::Row> {
        match self {
            Reply::Rows(rows) => rows,
            Reply::Nothing(()) | Reply::Count(_) => Vec::new(),
        }
    }
}

fn refusal(sqlstate: &str, message: &str) -> Failure {
    Failure::Rejected(Rejection {
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
        constraint: None,
        column: None,
    })
}

fn names(jobs: &[Job]) -> (Vec<Uuid>, Vec<i64>) {
    jobs.iter().map(|job| (job.op.uuid(), job.digest)).unzip()
}
