//! The guard: once a batch has written its rows, has one side a change of them that the other lacks?
//!
//! Asked on both, behind the journal rows of the batch and in one call with them (`kambana.store`, `kambana.follow`). A side
//! knows which batches of which lanes the other is known to have; where that leaves a doubt, the other is asked ([`Lane::ask`]).

use futures::future::join_all;

use super::attempt::{Collected, Sql, Stop, stop_own};
use super::{Again, Lane};
use crate::multipool::SideId;
use crate::multipool::connection::Failure;
use crate::multipool::journal::{Arrays, place};

/// On the leader: its journal rows, unless its triggers have written them, and other batches of the pool that changed these
/// keys and are not known to be on this follower. Their effect is in the images, their names are not. Foreign writes have
/// no names to repeat: a busy foreign writer holds up nobody.
const STORE_SQL: &str =
    "-- write::store()\nSELECT kambana.store($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, false)";
const GUARD_LEADER_SQL: &str =
    "-- write::guard_leader()\nSELECT kambana.guard($1, $2, $3, $4, $5, $6, $7, $8, false)";

/// On a follower: other batches, or foreign writes, that changed these keys here and are not known to be on the leader.
pub(super) const GUARD_SQL: &str =
    "-- write::guard()\nSELECT kambana.guard($1, $2, $3, $4, $5, $6, $7, $8, true)";

/// How many of these batches a side lacks.
const LACKING_SQL: &str = "-- write::lacking()
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS p(lane, batch)
WHERE NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.lane = p.lane AND o.batch = p.batch)";

/// Lane and number of batches that one side has and another may lack.
pub(super) type Doubtful = Vec<(i64, i64)>;

/// What `kambana.guard` answers: the lanes, then the numbers.
pub(super) fn doubtful(found: &[i64]) -> Doubtful {
    let (lanes, batches) = found.split_at(found.len() / 2);
    lanes.iter().copied().zip(batches.iter().copied()).collect()
}

/// Which side is asked about, and what the lanes of this instance know that side to have answered.
pub(super) struct About {
    other: i32,
    siblings: Vec<i64>,
    answered: Vec<i64>,
}

impl About {
    pub fn new(lane: &Lane, other: SideId) -> About {
        let (siblings, answered) = lane.inner.answered.by(other);
        About {
            other: place(other),
            siblings,
            answered,
        }
    }

    pub fn params(&self) -> [Sql<'_>; 3] {
        [&self.other, &self.siblings, &self.answered]
    }
}

impl Lane {
    /// Parameters of [`GUARD_SQL`] and [`GUARD_LEADER_SQL`].
    pub(super) fn guard_params<'a>(&'a self, rows: &'a Arrays<'_>, about: &'a About) -> [Sql<'a>; 8] {
        let [tables, keys, old_keys] = rows.keys();
        let [other, siblings, answered] = about.params();
        [
            &self.id,
            &self.batch,
            tables,
            keys,
            old_keys,
            other,
            siblings,
            answered,
        ]
    }

    /// The leader's journal rows, where no trigger has written them, and its half of the guard, while the followers do their
    /// part: no effect may get to a follower without the name it belongs to. What each follower must be asked about.
    pub(super) async fn store_guarded(
        &self,
        leader: SideId,
        followers: &[SideId],
        collected: &Collected,
    ) -> Result<Vec<Doubtful>, Stop> {
        if collected.entries.is_empty() {
            return Ok(followers.iter().map(|_| Vec::new()).collect());
        }
        let rows = Arrays::new(&collected.entries);
        // With the question about the first follower, or alone.
        let stores = |n: usize| n == 0 && !collected.captured;
        let asked: Vec<SideId> = match followers.is_empty() && !collected.captured {
            true => vec![leader],
            false => followers.to_vec(),
        };
        let found = asked.iter().enumerate().map(|(n, side)| {
            let (rows, stores) = (&rows, stores(n));
            async move {
                let about = About::new(self, *side);
                let conn = self.conns[leader].as_ref().ok_or_else(no_connection)?;
                let client = conn.client()?;
                let answer = if stores {
                    let [ops, tables, kinds, keys, old_keys, images] = rows.rows();
                    let [other, siblings, answered] = about.params();
                    let statement = conn.prepare(STORE_SQL).await?;
                    let params: [Sql<'_>; 11] = [
                        &self.id,
                        &self.batch,
                        ops,
                        tables,
                        kinds,
                        keys,
                        old_keys,
                        images,
                        other,
                        siblings,
                        answered,
                    ];
                    client.query_one(&statement, &params).await?
                } else {
                    let statement = conn.prepare(GUARD_LEADER_SQL).await?;
                    client
                        .query_one(&statement, &self.guard_params(rows, &about))
                        .await?
                };
                let found: Option<Vec<i64>> = answer.get(0);
                Ok::<_, Failure>(found.map(|found| doubtful(&found)).unwrap_or_default())
            }
        });
        let found: Result<Vec<Doubtful>, Failure> = join_all(found).await.into_iter().collect();
        let found = found.map_err(|failure| stop_own(leader, failure))?;
        #[cfg(mutant = "one_way_guard")]
        let found: Vec<Doubtful> = found.into_iter().map(|_| Vec::new()).collect();
        Ok(found)
    }

    /// The second half of the guard: a change of these rows that only one side has must be brought to the other first.
    pub(super) async fn ask(&self, side: SideId, doubtful: Doubtful) -> Result<(), Stop> {
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

fn no_connection() -> Failure {
    Failure::Side(crate::multipool::SideFault::Down("no connection".into()))
}
