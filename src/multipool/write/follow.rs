//! Step 3 on a follower: apply the leader's images in its order, then the guard.

use futures::future::BoxFuture;

use super::attempt::{Collected, Reply, Sql, Stop, in_order, names, stop_own};
use super::{Again, Job, Lane, Work};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Failure, Repeat};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, ApplyParams, Arrays, place};
use crate::multipool::{SideFault, SideId};

/// On a follower, after the leader's part is done: with the leader's results, capture switched off.
const FOLLOW_SQL: &str = "-- write::follow()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1),
l AS (INSERT INTO kambana.lane AS l (lane, instance, confirmed) SELECT $2, $3, $4::bigint[] FROM e
    ON CONFLICT (lane) DO UPDATE SET confirmed = EXCLUDED.confirmed, closed = false),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied, result)
    SELECT u.op, u.digest, $2, $5, e.n, $9, u.result
    FROM e, unnest($6::uuid[], $7::bigint[], $8::text[]) AS u(op, digest, result)
    ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o), set_config('kambana.apply', 'on', true)";

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

impl Lane {
    /// Step 3 on one follower, in one round trip: names, images in the leader's order, journal, **then** the guard.
    /// Returns the batches that the leader must be asked about.
    pub(super) async fn follow(
        &self,
        epoch: &Epoch,
        leader: SideId,
        side: SideId,
        jobs: &[Job],
        collected: &Collected,
        catalog: &Catalog,
    ) -> Result<Vec<(i64, i64)>, Stop> {
        let own = |failure| stop_own(side, failure);
        // Behind the names, a lock that is not given is somebody else's lock on the rows, as on the leader.
        let at_rows = |failure| match failure {
            Failure::Repeat(Repeat::Locked) => Again::Locked.into(),
            // It is not its twin, or holds a poisoned row.
            Failure::Rejected(r) => {
                let why = format!("{} (SQLSTATE {})", r.message, r.sqlstate);
                Again::Refused(side, SideFault::Unfit(why)).into()
            }
            other => stop_own(side, other),
        };
        let conn = self.conn(side)?;
        let client = conn.client().map_err(own)?;
        reach(Point::FollowBefore).await.map_err(own)?;
        let plan = journal::plan(catalog, &collected.entries).map_err(|_| Stop::Again(Again::Catalog))?;
        let follow = conn.prepare(FOLLOW_SQL).await.map_err(own)?;
        let insert = conn.prepare(journal::INSERT_SQL).await.map_err(own)?;
        let guard = conn.prepare(GUARD_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(plan.len());
        for apply in &plan {
            prepared.push(conn.prepare(apply.sql).await.map_err(at_rows)?);
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
            Some((Some(_), fresh)) if fresh == jobs.len() as i64 || cfg!(mutant = "no_dedup") => {}
            // The follower knows a name that the leader does not: another instance died between two commits.
            Some((Some(_), _)) => return Err(Again::Merge.into()),
            _ => return Err(Again::EpochMoved.into()),
        }
        let mut doubtful = Vec::new();
        for reply in replies {
            if let Reply::Rows(rows) = reply.map_err(at_rows)? {
                doubtful.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
            }
        }
        reach(Point::FollowApplied).await.map_err(own)?;
        #[cfg(mutant = "skip_guard")]
        doubtful.clear();
        Ok(doubtful)
    }

    /// The second half of the guard: a change of these rows that only a follower has must not be overwritten.
    pub(super) async fn ask_leader(&self, leader: SideId, doubtful: Vec<(i64, i64)>) -> Result<(), Stop> {
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
}
