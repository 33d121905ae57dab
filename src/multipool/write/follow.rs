//! Step 3 on a follower: apply the leader's images in its order, then names, journal and guard in one call (`kambana.follow`).
//! Names that turn out to be taken, or an epoch that has moved, undo the images with the rest.
//!
//! Repeating images row by row is quick and nearly always right. The leader's statements may have checked their
//! constraints at other moments, though (one statement that writes two tables, a swap), and a cascade may have changed a
//! row after its image was taken. Then the rows are read from the leader's open transaction and written as a whole.

use futures::future::BoxFuture;

use super::attempt::{AS_USUAL_SQL, Collected, FOLLOWER_FENCE_SQL, Reply, Sql, Stop, in_order, stop_own};
use super::enter::{Entering, TAKE_NAMES_SQL, fresh};
use super::guard::{About, Doubtful, GUARD_SQL, answered, doubtful};
use super::{Again, Job, Lane};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Failure, Repeat};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, ApplyParams, Arrays, Entry};
use crate::multipool::merge::{self, Keys, collect_keys, widen_truncates};
use crate::multipool::{SideFault, SideId};

/// Names, journal and guard of a batch whose images are written.
const FOLLOW_SQL: &str = "-- write::follow()
SELECT kambana.follow($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";

/// How repeating the images ended.
enum Repeated {
    /// Done; the leader must be asked about these batches.
    Done(Doubtful),
    /// The side refuses the images, perhaps only in this order.
    Refused,
}

/// Whether the last captured image of a row may not be the row: a key that comes twice where a cascade or a trigger may
/// have changed it in the middle of a statement, or a key that can only be moved by deleting and inserting.
fn may_be_stale(catalog: &Catalog, entries: &[Entry]) -> bool {
    if !catalog.values().any(|t| t.links.nested || t.links.fixed_key) {
        return false;
    }
    let mut seen = std::collections::HashSet::new();
    entries.iter().any(|entry| {
        catalog.get(&entry.table).is_some_and(|table| {
            (table.links.fixed_key && entry.old_key.is_some())
                || (table.links.nested && !entry.keys().all(|key| seen.insert((entry.table.as_str(), key))))
        })
    })
}

impl Lane {
    /// Step 3 on one follower: rows, names, journal, **then** the guard. Returns the batches that the leader must be asked
    /// about.
    pub(super) async fn follow(
        &self,
        epoch: &Epoch,
        leader: SideId,
        side: SideId,
        jobs: &[Job],
        collected: &Collected,
        catalog: &Catalog,
    ) -> Result<Doubtful, Stop> {
        if !may_be_stale(catalog, &collected.entries)
            && let Repeated::Done(batches) =
                self.repeat(epoch, leader, side, jobs, collected, catalog).await?
        {
            return Ok(batches);
        }
        self.take_over(epoch, leader, side, jobs, collected, catalog)
            .await
    }

    /// In one round trip: the images in the leader's order.
    async fn repeat(
        &self,
        epoch: &Epoch,
        leader: SideId,
        side: SideId,
        jobs: &[Job],
        collected: &Collected,
        catalog: &Catalog,
    ) -> Result<Repeated, Stop> {
        let own = |failure| stop_own(side, failure);
        let conn = self.conn(side)?;
        let client = conn.client().map_err(own)?;
        reach(Point::FollowBefore).await.map_err(own)?;
        let plan = journal::plan(catalog, &collected.entries).map_err(|_| Stop::Again(Again::Catalog))?;
        let follow = conn.prepare(FOLLOW_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(plan.len());
        for apply in &plan {
            prepared.push(conn.prepare(apply.sql).await.map_err(|f| refused(side, f))?);
        }
        let entering = Entering::new(self, epoch, jobs);
        let rows = Arrays::new(&collected.entries);
        let about = About::new(self, leader);
        let params: Vec<Sql<'_>> = entering
            .on_follower(&collected.results)
            .into_iter()
            .chain(rows.rows())
            .chain(about.params())
            .collect();

        let mut work: Vec<BoxFuture<'_, Result<Reply, Failure>>> = Vec::with_capacity(plan.len() + 3);
        let deferrable = catalog.values().any(|table| table.links.deferrable);
        if deferrable {
            // The leader's transaction may have put these checks off; here they are made at its end in any case.
            work.push(Box::pin(async {
                Ok(Reply::Nothing(
                    client.batch_execute("SET CONSTRAINTS ALL DEFERRED").await?,
                ))
            }));
        }
        for (apply, prepared) in plan.iter().zip(&prepared) {
            work.push(Box::pin(async move {
                Ok(Reply::Count(match &apply.params {
                    ApplyParams::Many(values) => client.execute(prepared, &[values]).await?,
                    ApplyParams::Move(image, old_key) => client.execute(prepared, &[image, old_key]).await?,
                }))
            }));
        }
        let followed = work.len();
        work.push(Box::pin(async {
            Ok(Reply::Rows(client.query(&follow, &params).await?))
        }));
        if deferrable {
            work.push(Box::pin(async {
                Ok(Reply::Nothing(
                    client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?,
                ))
            }));
        }

        let mut answer = None;
        for (n, reply) in in_order(work).await.into_iter().enumerate() {
            match reply {
                Ok(Reply::Rows(rows)) => {
                    let row = rows.first().ok_or(Stop::Again(Again::Contention))?;
                    answer = row.get::<_, Option<Vec<i64>>>(0);
                    check_entered(answer.as_ref().and_then(|answer| answer.first().copied()), jobs)?;
                }
                Ok(Reply::Nothing(()) | Reply::Count(_)) => {}
                // Whether this is still the epoch and the names are new is not known: from the beginning, in the other way.
                Err(Failure::Rejected(_)) => return Ok(Repeated::Refused),
                Err(failure) if n == followed => return Err(own(failure)),
                Err(failure) => return Err(refused(side, failure)),
            }
        }
        reach(Point::FollowApplied).await.map_err(own)?;
        let found = answer.unwrap_or_default();
        #[cfg(mutant = "skip_guard")]
        let found = vec![found[0]];
        Ok(Repeated::Done(doubtful(found.get(1..).unwrap_or_default())))
    }

    /// The changed rows as they are at the end of the leader's transaction, written as a whole.
    async fn take_over(
        &self,
        epoch: &Epoch,
        leader: SideId,
        side: SideId,
        jobs: &[Job],
        collected: &Collected,
        catalog: &Catalog,
    ) -> Result<Doubtful, Stop> {
        let own = |failure| stop_own(side, failure);
        let client = self.conn_client(side).map_err(own)?;
        // Begun anew: after a refusal, and planned for whole tables instead of a few keys.
        client
            .batch_execute(&format!("ROLLBACK; {FOLLOWER_FENCE_SQL}"))
            .await
            .map_err(|e| own(e.into()))?;
        let entering = Entering::new(self, epoch, jobs);
        let entered = client
            .query(TAKE_NAMES_SQL, &entering.on_follower(&collected.results))
            .await
            .map_err(|e| own(e.into()))?;
        check_entered(fresh(&entered).map(|fresh| fresh as i64), jobs)?;
        client
            .batch_execute(AS_USUAL_SQL)
            .await
            .map_err(|e| own(e.into()))?;
        let mut keys = Keys::new();
        collect_keys(&mut keys, collected.entries.iter());
        widen_truncates(client, catalog, &mut keys, collected.entries.iter())
            .await
            .map_err(own)?;
        let from = self.conn_client(leader).map_err(|f| stop_own(leader, f))?;
        merge::copy(catalog, (leader, from), (side, client), &keys)
            .await
            .map_err(|(at, failure)| refused(at, failure))?;
        journal::insert(client, &collected.entries).await.map_err(own)?;
        let (rows, about) = (Arrays::new(&collected.entries), About::new(self, leader));
        let answer = client
            .query_one(GUARD_SQL, &self.guard_params(rows.keys(), &about))
            .await
            .map_err(|e| own(e.into()))?;
        client
            .batch_execute("SET CONSTRAINTS ALL IMMEDIATE")
            .await
            .map_err(|e| own(e.into()))?;
        reach(Point::FollowApplied).await.map_err(own)?;
        Ok(answered(&answer))
    }
}

/// A follower that refuses what the leader took is not its twin, or holds a poisoned row.
fn refused(side: SideId, failure: Failure) -> Stop {
    match failure {
        // Behind the names, a lock that is not given is somebody else's lock on the rows, as on the leader.
        Failure::Repeat(Repeat::Locked) => Again::Locked.into(),
        // It is not its twin, or holds a poisoned row.
        Failure::Rejected(r) => {
            let why = format!("{} (SQLSTATE {})", r.message, r.sqlstate);
            Again::Refused(side, SideFault::Unfit(why)).into()
        }
        failure => stop_own(side, failure),
    }
}

/// What entering found on a follower: how many names were new, or that the epoch is another one.
fn check_entered(fresh: Option<i64>, jobs: &[Job]) -> Result<(), Stop> {
    match fresh {
        Some(fresh) if fresh == jobs.len() as i64 || cfg!(mutant = "no_dedup") => Ok(()),
        // The follower knows a name that the leader does not: another instance died between two commits.
        Some(_) => Err(Again::Merge.into()),
        None => Err(Again::EpochMoved.into()),
    }
}
