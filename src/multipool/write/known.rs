//! A name that the leader knows already: the stored outcome, once every member has it.

use serde_json::Value as Json;
use tokio::time::timeout;

use super::attempt::{FENCE_SQL, Stop, stop_own};
use super::{Again, Attempt, Job, Lane, Work};
use crate::multipool::connection::{Conn, Failure};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, Entry, OpRow};
use crate::multipool::{Applied, NotApplied, OpId, SideFault, SideId, WriteError};

/// Asks by inserting, which waits for a COMMIT in flight; a plain SELECT would not see it.
const PROBE_SQL: &str = "-- write::probe()
WITH e AS (SELECT n FROM kambana.epoch WHERE n = $1),
o AS (INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied)
    SELECT $2, 0, 0, 0, e.n, false FROM e ON CONFLICT (op) DO NOTHING RETURNING op)
SELECT (SELECT n FROM e), (SELECT count(*) FROM o)";

impl Lane {
    /// The leader has this name. It is answered from there once every other member has it too.
    pub(super) async fn known(
        &mut self,
        epoch: &Epoch,
        leader: SideId,
        jobs: &[Job],
        stored: OpRow,
    ) -> Attempt {
        let [job] = jobs else {
            return Attempt::Split(None);
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
            reach(Point::Probe).await?;
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
}
