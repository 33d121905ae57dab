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

/// The answer of `kambana.guard` or `kambana.store`.
pub(super) fn answered(row: &tokio_postgres::Row) -> Doubtful {
    doubtful(&row.get::<_, Option<Vec<i64>>>(0).unwrap_or_default())
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
    /// Parameters of the guard: this batch, its rows (or their keys), and who is asked about.
    pub(super) fn guard_params<'a>(
        &'a self,
        rows: impl IntoIterator<Item = Sql<'a>>,
        about: &'a About,
    ) -> Vec<Sql<'a>> {
        let batch: [Sql<'a>; 2] = [&self.id, &self.batch];
        batch.into_iter().chain(rows).chain(about.params()).collect()
    }

    /// The leader's journal rows, where no trigger has written them, and its half of the guard, while the followers do their
    /// part: no effect may get to a follower without the name it belongs to. What each follower must be asked about.
    pub(super) async fn store_guarded(
        &self,
        leader: SideId,
        followers: &[SideId],
        collected: &Collected,
    ) -> Result<Vec<Doubtful>, Stop> {
        if collected.entries.is_empty() || (collected.captured && followers.is_empty()) {
            return Ok(vec![Vec::new(); followers.len()]);
        }
        let conn = self.conn(leader)?;
        let rows = Arrays::new(&collected.entries);
        // The rows are stored with the question about the first follower. Without one the question is about the leader
        // itself, and nobody looks at the answer.
        let alone = [leader];
        let asked = if followers.is_empty() {
            &alone[..]
        } else {
            followers
        };
        let found = asked.iter().enumerate().map(|(n, side)| {
            let (conn, rows) = (conn, &rows);
            async move {
                let about = About::new(self, *side);
                let (sql, params) = match n == 0 && !collected.captured {
                    true => (STORE_SQL, self.guard_params(rows.rows(), &about)),
                    false => (GUARD_LEADER_SQL, self.guard_params(rows.keys(), &about)),
                };
                let statement = conn.prepare(sql).await?;
                Ok(answered(&conn.client()?.query_one(&statement, &params).await?))
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
        let conn = self.conn(side)?;
        let lacking = async {
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
