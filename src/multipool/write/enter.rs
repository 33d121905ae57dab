//! Entering a side: behind the fence the epoch is checked and the batch takes its names (`kambana.enter`, in `install.sql`).

use uuid::Uuid;

use super::attempt::Sql;
use super::{Job, Lane, Work};
use crate::multipool::epoch::Epoch;

/// On the leader, for changes that the triggers capture. A structure that this instance has not read counts as an epoch that
/// has moved.
pub(super) const ENTER_SQL: &str = "-- write::enter()
SELECT kambana.enter($1, $9, $2, $3, $4, $5, $6, $7, NULL, $8),
    set_config('kambana.lane', $2::bigint::text, true), set_config('kambana.batch', $5::bigint::text, true),
    set_config('kambana.declared', 'off', true)";

/// On the leader, for statements that answer with the images of their rows.
pub(super) const DECLARE_SQL: &str = "-- write::enter()
SELECT kambana.enter($1, $9, $2, $3, $4, $5, $6, $7, NULL, $8), set_config('kambana.declared', 'on', true)";

/// On a follower, where the names come before the rows.
pub(super) const TAKE_NAMES_SQL: &str =
    "-- write::follow()\nSELECT kambana.enter($1, NULL, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Whose the changes are that the triggers capture from now on.
pub(super) const SET_OP_SQL: &str =
    "-- write::set_op()\nSELECT set_config('kambana.op', $1::uuid::text, true)";

/// What a batch says of itself when it enters a side.
pub(super) struct Entering<'a> {
    epoch: i64,
    lane: i64,
    batch: i64,
    instance: &'a str,
    ids: Vec<Uuid>,
    digests: Vec<i64>,
    confirmed: Vec<i64>,
    applied: bool,
}

impl<'a> Entering<'a> {
    pub fn new(lane: &'a Lane, epoch: &Epoch, jobs: &[Job]) -> Entering<'a> {
        let (ids, digests) = jobs.iter().map(|job| (job.op.uuid(), job.digest)).unzip();
        Entering {
            epoch: epoch.n,
            lane: lane.id,
            batch: lane.batch,
            instance: &lane.inner.config.instance,
            ids,
            digests,
            confirmed: lane.confirmed_array(),
            applied: !jobs.iter().any(|job| matches!(job.work, Work::Tombstone)),
        }
    }

    /// Names of the batch's operations, in its order.
    pub fn ids(&self) -> &[Uuid] {
        &self.ids
    }

    /// Parameters of [`ENTER_SQL`] and [`DECLARE_SQL`].
    pub fn on_leader<'b>(&'b self, structure: &'b i64) -> [Sql<'b>; 9] {
        [
            &self.epoch,
            &self.lane,
            &self.instance,
            &self.confirmed,
            &self.batch,
            &self.ids,
            &self.digests,
            &self.applied,
            structure,
        ]
    }

    /// Parameters of [`TAKE_NAMES_SQL`], and the first ones of `kambana.follow`.
    pub fn on_follower<'b>(&'b self, results: &'b Vec<Option<String>>) -> [Sql<'b>; 9] {
        [
            &self.epoch,
            &self.lane,
            &self.instance,
            &self.confirmed,
            &self.batch,
            &self.ids,
            &self.digests,
            results,
            &self.applied,
        ]
    }
}

/// How many names were new; `None` if the epoch is another one by now.
pub(super) fn fresh(entered: &[tokio_postgres::Row]) -> Option<usize> {
    entered
        .first()?
        .get::<_, Option<i32>>(0)
        .map(|count| count as usize)
}
