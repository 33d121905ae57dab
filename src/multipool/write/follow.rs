//! Step 3 on a follower: apply the leader's images in its order, then the guard, which looks both ways.
//!
//! Repeating images row by row is quick and nearly always right. The leader's statements may have checked their
//! constraints at other moments, though (one statement that writes two tables, a swap), and a cascade may have changed a
//! row after its image was taken. Then the rows are read from the leader's open transaction and written as a whole.

use futures::future::{BoxFuture, join};

use super::attempt::{AS_USUAL_SQL, Collected, FENCE_SQL, Reply, Sql, Stop, in_order, stop_own};
use super::enter::{Entering, FOLLOW_SQL, fresh};
use super::{Again, Job, Lane};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Failure, Repeat};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, ApplyParams, Arrays, Entry, place};
use crate::multipool::merge::{self, Keys, collect_keys, widen_truncates};
use crate::multipool::{SideFault, SideId};

/// Other batches, or foreign writes, that changed these keys here and are not known to be on the leader.
const GUARD_SQL: &str =
    "-- write::guard()\nSELECT g.lane, g.batch FROM kambana.guard($1, $2, $3, $4, $5, $6, $7, true) AS g";

/// On the leader: other batches of the pool that changed these keys and are not known to be on this follower. Their effect
/// is in the images, their names are not. Foreign writes have no names to repeat: a busy foreign writer holds up nobody.
const GUARD_LEADER_SQL: &str = "-- write::guard_leader()\nSELECT g.lane, g.batch FROM kambana.guard($1, $2, $3, $4, $5, $6, $7, false) AS g";

/// How many of these batches a side lacks.
const LACKING_SQL: &str = "-- write::lacking()
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS p(lane, batch)
WHERE NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.lane = p.lane AND o.batch = p.batch)";

/// How repeating the images ended.
enum Repeated {
    /// Done; the leader must be asked about these batches.
    Doubtful(Vec<(i64, i64)>),
    /// A constraint refuses the images in this order.
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
    /// Step 3 on one follower, while the leader answers its half of the guard. Returns the batches that the leader must be
    /// asked about.
    pub(super) async fn follow_guarded(
        &self,
        epoch: &Epoch,
        leader: SideId,
        side: SideId,
        jobs: &[Job],
        collected: &Collected,
        catalog: &Catalog,
    ) -> Result<Vec<(i64, i64)>, Stop> {
        let (on_follower, on_leader) = join(
            self.follow(epoch, leader, side, jobs, collected, catalog),
            self.guard_leader(leader, side, collected),
        )
        .await;
        let (on_follower, on_leader) = (on_follower?, on_leader?);
        // Only now: the follower's rows are locked, so whoever was in flight there has committed or never will.
        self.ask(side, on_leader).await?;
        Ok(on_follower)
    }

    /// Names, rows, journal, **then** the guard.
    async fn follow(
        &self,
        epoch: &Epoch,
        leader: SideId,
        side: SideId,
        jobs: &[Job],
        collected: &Collected,
        catalog: &Catalog,
    ) -> Result<Vec<(i64, i64)>, Stop> {
        if !may_be_stale(catalog, &collected.entries)
            && let Repeated::Doubtful(batches) =
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
        let insert = conn.prepare(journal::INSERT_SQL).await.map_err(own)?;
        let guard = conn.prepare(GUARD_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(plan.len());
        for apply in &plan {
            prepared.push(conn.prepare(apply.sql).await.map_err(|f| refused(side, f))?);
        }
        let entering = Entering::new(self, epoch, jobs);
        let follow_params = entering.on_follower(&collected.results);
        let arrays = Arrays::new(&collected.entries);
        let guarded = Guarded::new(self, leader, &collected.entries);
        let guard_params = guarded.params(self);

        let mut work: Vec<BoxFuture<'_, Result<Reply, Failure>>> = Vec::with_capacity(plan.len() + 5);
        work.push(Box::pin(async {
            Ok(Reply::Rows(client.query(&follow, &follow_params).await?))
        }));
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
        if !collected.entries.is_empty() {
            work.push(Box::pin(async {
                Ok(Reply::Count(client.execute(&insert, &arrays.params()).await?))
            }));
            work.push(Box::pin(async {
                Ok(Reply::Rows(client.query(&guard, &guard_params).await?))
            }));
        }
        if deferrable {
            work.push(Box::pin(async {
                Ok(Reply::Nothing(
                    client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?,
                ))
            }));
        }

        let mut replies = in_order(work).await.into_iter();
        let entered = replies.next().unwrap_or(Ok(Reply::Count(0))).map_err(own)?.rows();
        check_entered(&entered, jobs)?;
        let mut doubtful = Vec::new();
        for reply in replies {
            match reply {
                Ok(Reply::Rows(rows)) => doubtful.extend(rows.iter().map(|row| (row.get(0), row.get(1)))),
                Ok(Reply::Nothing(()) | Reply::Count(_)) => {}
                Err(failure) if failure.breaks_constraint() => return Ok(Repeated::Refused),
                Err(failure) => return Err(refused(side, failure)),
            }
        }
        reach(Point::FollowApplied).await.map_err(own)?;
        #[cfg(mutant = "skip_guard")]
        doubtful.clear();
        Ok(Repeated::Doubtful(doubtful))
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
    ) -> Result<Vec<(i64, i64)>, Stop> {
        let own = |failure| stop_own(side, failure);
        let client = self.conn_client(side).map_err(own)?;
        // Begun anew: after a refusal, and planned for whole tables instead of a few keys.
        client
            .batch_execute(&format!("ROLLBACK; {FENCE_SQL}"))
            .await
            .map_err(|e| own(e.into()))?;
        let entering = Entering::new(self, epoch, jobs);
        let entered = client
            .query(FOLLOW_SQL, &entering.on_follower(&collected.results))
            .await
            .map_err(|e| own(e.into()))?;
        check_entered(&entered, jobs)?;
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
        let guarded = Guarded::new(self, leader, &collected.entries);
        let rows = client
            .query(GUARD_SQL, &guarded.params(self))
            .await
            .map_err(|e| own(e.into()))?;
        client
            .batch_execute("SET CONSTRAINTS ALL IMMEDIATE")
            .await
            .map_err(|e| own(e.into()))?;
        reach(Point::FollowApplied).await.map_err(own)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// The leader's half of the guard: no effect may get to this follower without the name it belongs to.
    async fn guard_leader(
        &self,
        leader: SideId,
        side: SideId,
        collected: &Collected,
    ) -> Result<Vec<(i64, i64)>, Stop> {
        if collected.entries.is_empty() || cfg!(mutant = "one_way_guard") {
            return Ok(Vec::new());
        }
        let guarded = Guarded::new(self, side, &collected.entries);
        let found = async {
            let conn = self.conns[leader].as_ref().ok_or_else(no_connection)?;
            let client = conn.client()?;
            let guard = conn.prepare(GUARD_LEADER_SQL).await?;
            Ok(client.query(&guard, &guarded.params(self)).await?)
        };
        let rows = found.await.map_err(|failure| stop_own(leader, failure))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// The second half of the guard: a change of these rows that only one side has must be brought to the other first.
    pub(super) async fn ask(&self, side: SideId, doubtful: Vec<(i64, i64)>) -> Result<(), Stop> {
        if doubtful.is_empty() {
            return Ok(());
        }
        let (lanes, batches): (Vec<i64>, Vec<i64>) = doubtful.into_iter().unzip();
        let lacking = async {
            let conn = self.conns[side].as_ref().ok_or_else(no_connection)?;
            let statement = conn.prepare(LACKING_SQL).await?;
            Ok(conn
                .client()?
                .query_one(&statement, &[&lanes, &batches])
                .await?
                .get::<_, i64>(0))
        };
        match lacking.await.map_err(|failure| stop_own(side, failure))? {
            0 => Ok(()),
            _ => Err(Again::Merge.into()),
        }
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

/// Parameters of [`GUARD_SQL`] and [`GUARD_LEADER_SQL`]. Which side is asked about, which keys, and what the lanes of this
/// instance know that side to have answered.
struct Guarded<'a> {
    other: i32,
    tables: Vec<&'a str>,
    keys: Vec<&'a str>,
    siblings: Vec<i64>,
    answered: Vec<i64>,
}

impl<'a> Guarded<'a> {
    fn new(lane: &Lane, other: SideId, entries: &'a [Entry]) -> Guarded<'a> {
        let (tables, keys) = entries
            .iter()
            .flat_map(|e| e.keys().map(|key| (e.table.as_str(), key)))
            .unzip();
        let (siblings, answered) = lane.inner.answered.by(other);
        Guarded {
            other: place(other),
            tables,
            keys,
            siblings,
            answered,
        }
    }

    fn params<'b>(&'b self, lane: &'b Lane) -> [Sql<'b>; 7] {
        [
            &self.other,
            &self.tables,
            &self.keys,
            &lane.id,
            &lane.batch,
            &self.siblings,
            &self.answered,
        ]
    }
}

/// What entering found on a follower: the epoch, and whether all names were new.
fn check_entered(entered: &[tokio_postgres::Row], jobs: &[Job]) -> Result<(), Stop> {
    match fresh(entered) {
        Some(fresh) if fresh == jobs.len() || cfg!(mutant = "no_dedup") => Ok(()),
        // The follower knows a name that the leader does not: another instance died between two commits.
        Some(_) => Err(Again::Merge.into()),
        None => Err(Again::EpochMoved.into()),
    }
}

fn no_connection() -> Failure {
    Failure::Side(SideFault::Down("no connection".into()))
}
