//! Declarative changes of tables with triggers or cascades, changes of keys, and the caller's own statements: one statement
//! each, captured by the triggers, then the journal rows are read back.

use serde_json::Value as Json;

use super::free::{BRIEFLY_AS_USUAL_SQL, BY_KEY_AGAIN_SQL, UNWATCHED_SQL, only_watched};
use super::{Sent, send_batch, send_query};
use crate::multipool::SideId;
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::Conn;
use crate::multipool::epoch::Epoch;
use crate::multipool::journal::{self, Entry};
use crate::multipool::statement::{self, Step};
use crate::multipool::write::attempt::{
    AS_USUAL_SQL, BEGIN_SQL, Collected, Reply, Sql, Stop, in_order, stop_at, stop_own,
};
use crate::multipool::write::enter::{ENTER_SQL, Entering, SET_OP_SQL};
use crate::multipool::write::{Job, Lane, Work};

impl Lane {
    /// All statements of all jobs in one round trip.
    pub(super) async fn lead_captured(
        &self,
        epoch: &Epoch,
        leader: SideId,
        conn: &Conn,
        jobs: &[Job],
        (catalog, structure): (&Catalog, i64),
    ) -> Result<Collected, Stop> {
        let alone = jobs.len() == 1;
        let own = |failure| stop_own(leader, failure);
        let at = |failure| stop_at(leader, failure, alone);
        let mut steps: Vec<(usize, Step)> = Vec::new();
        for (place, job) in jobs.iter().enumerate() {
            match &job.work {
                Work::Change(changes) => {
                    let made = statement::steps(catalog, changes).map_err(Stop::Refused)?;
                    steps.extend(made.into_iter().map(|step| (place, step)));
                }
                Work::Statement(sql, params) => steps.push((place, Step::foreign(sql, params))),
                Work::Transaction(_) | Work::Tombstone => {}
            }
        }
        let foreign = jobs.iter().any(Job::is_statement);
        let client = conn.client().map_err(own)?;
        let enter = conn.prepare(ENTER_SQL).await.map_err(own)?;
        let set_op = conn.prepare(SET_OP_SQL).await.map_err(own)?;
        let unwatched = conn.prepare(UNWATCHED_SQL).await.map_err(own)?;
        let collect = conn.prepare(journal::COLLECT_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(steps.len());
        for (_, step) in &steps {
            prepared.push(conn.prepare_foreign(&step.sql).await.map_err(at)?);
        }
        let entering = Entering::new(self, epoch, jobs);
        let enter_params = entering.on_leader(&structure);
        let collect_params: [Sql<'_>; 2] = [&self.id, &self.batch];

        let mut sent: Vec<Sent<'_>> = Vec::with_capacity(2 * steps.len() + 7);
        sent.push(send_batch(client, BEGIN_SQL));
        sent.push(send_query(client, &enter, &enter_params));
        if foreign {
            let as_usual = if alone { AS_USUAL_SQL } else { BRIEFLY_AS_USUAL_SQL };
            sent.push(send_batch(client, as_usual));
            sent.push(send_query(client, &unwatched, &[]));
        }
        let mut last = None;
        for ((place, step), prepared) in steps.iter().zip(&prepared) {
            if last.replace(place) != Some(place) {
                let (client, set_op, id) = (client, &set_op, &entering.ids()[*place]);
                sent.push(Box::pin(async move {
                    Ok(Reply::Rows(client.query(set_op, &[id]).await?))
                }));
            }
            sent.push(Box::pin(async move {
                Ok(Reply::Count(
                    client.execute(prepared, &step.params.as_sql()).await?,
                ))
            }));
        }
        if foreign {
            sent.push(send_query(client, &unwatched, &[]));
            sent.push(send_batch(client, BY_KEY_AGAIN_SQL));
        } else {
            sent.push(send_batch(client, "SET CONSTRAINTS ALL IMMEDIATE"));
        }
        sent.push(send_query(client, &collect, &collect_params));

        // Only until its rows are locked: who then waits for them is not waited for.
        let mixed = match foreign && !alone {
            true => Some(self.queue.mixed().await),
            false => None,
        };
        let mut replies = in_order(sent).await.into_iter();
        drop(mixed);
        replies.next().unwrap_or(Ok(Reply::Count(0))).map_err(own)?;
        let entered = replies.next().unwrap_or(Ok(Reply::Count(0))).map_err(own)?.rows();
        self.check_entered(leader, &entered, jobs).await?;
        let mut counts = Vec::with_capacity(steps.len());
        let mut answers = Vec::with_capacity(steps.len() + 3);
        for reply in replies {
            match reply.map_err(at)? {
                Reply::Count(count) => counts.push(count),
                Reply::Rows(rows) => answers.push(rows),
                Reply::Nothing(()) => {}
            }
        }
        let collected = answers.pop().unwrap_or_default();
        if let (true, Some(before), Some(after)) = (foreign, answers.first(), answers.last()) {
            only_watched(before, after).map_err(at)?;
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
            captured: true,
            entries: collected.iter().map(Entry::from_row).collect(),
            results: vec![None; jobs.len()],
            values: vec![Json::Null; jobs.len()],
        })
    }
}
