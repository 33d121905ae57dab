//! Entering a side: behind the fence, in a statement of its own, the epoch is checked and the batch takes its names.

use uuid::Uuid;

use super::attempt::Sql;
use super::{Job, Lane, Work};
use crate::multipool::epoch::Epoch;

/// On the leader, in a statement after the fence: its snapshot is younger than the lock. A structure that this instance has
/// not read counts as an epoch that has moved.
pub(super) const ENTER_SQL: &str = "-- write::enter()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1 AND structure = $9),
l AS (INSERT INTO kambana.lane AS l (lane, instance, confirmed) SELECT $2, $3, $4::bigint[] FROM e
    ON CONFLICT (lane) DO UPDATE SET confirmed = EXCLUDED.confirmed, closed = false),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied) SELECT u.op, u.digest, $2, $5, e.n, $8
    FROM e, unnest($6::uuid[], $7::bigint[]) AS u(op, digest) ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o),
    set_config('kambana.lane', $2::text, true), set_config('kambana.batch', $5::text, true),
    set_config('kambana.declared', $10, true)";

/// On a follower, after the leader's part is done: with the leader's results, capture switched off.
pub(super) const FOLLOW_SQL: &str = "-- write::follow()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1),
l AS (INSERT INTO kambana.lane AS l (lane, instance, confirmed) SELECT $2, $3, $4::bigint[] FROM e
    ON CONFLICT (lane) DO UPDATE SET confirmed = EXCLUDED.confirmed, closed = false),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied, result)
    SELECT u.op, u.digest, $2, $5, e.n, $9, u.result
    FROM e, unnest($6::uuid[], $7::bigint[], $8::text[]) AS u(op, digest, result)
    ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o), set_config('kambana.apply', 'on', true)";

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
            confirmed: lane.confirmed.iter().map(|(_, batch)| *batch).collect(),
            applied: !jobs.iter().any(|job| matches!(job.work, Work::Tombstone)),
        }
    }

    /// Names of the batch's operations, in its order.
    pub fn ids(&self) -> &[Uuid] {
        &self.ids
    }

    /// Parameters of [`ENTER_SQL`]. `declared`: `on` for statements that answer with their images.
    pub fn on_leader<'b>(&'b self, structure: &'b i64, declared: &'b &'static str) -> [Sql<'b>; 10] {
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
            declared,
        ]
    }

    /// Parameters of [`FOLLOW_SQL`].
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
