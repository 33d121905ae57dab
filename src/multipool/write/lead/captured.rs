//! Declarative changes of tables with triggers or cascades, changes of keys, and the caller's own statements: one statement
//! each, captured by the triggers, then the journal rows are read back.

use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::timeout;

use super::free::{BRIEFLY_AS_USUAL_SQL, BY_KEY_AGAIN_SQL, CHECK_NOW_SQL, UNWATCHED_SQL, only_watched};
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
use crate::multipool::write::queue::Mixed;
use crate::multipool::write::{Again, Job, Lane, Work};

/// How long statements of several callers may take together: nobody else's can begin before.
const TOGETHER: Duration = Duration::from_millis(500);

impl Lane {
    /// All statements of all jobs in one round trip. `mixed`: there are statements of several callers among them.
    pub(super) async fn lead_captured(
        &self,
        epoch: &Epoch,
        leader: SideId,
        conn: &Conn,
        jobs: &[Job],
        (catalog, structure): (&Catalog, i64),
        mixed: Option<Mixed<'_>>,
    ) -> Result<Collected, Stop> {
        let alone = jobs.len() == 1;
        let own = |failure| stop_own(leader, failure);
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
        let several = mixed.is_some();
        // Who of several is to blame is put aside.
        let at = |place: Option<usize>, failure| match (stop_at(leader, failure, alone), place) {
            (Stop::Split(_), place) => Stop::Split(place),
            (Stop::Again(Again::Locked), Some(place)) if several => Stop::Split(Some(place)),
            // It speaks of another server, which a statement has asked.
            (Stop::Again(Again::Trouble(..)), Some(place)) if several && conn.client().is_ok() => {
                Stop::Split(Some(place))
            }
            (stop, _) => stop,
        };
        let client = conn.client().map_err(own)?;
        let enter = conn.prepare(ENTER_SQL).await.map_err(own)?;
        let set_op = conn.prepare(SET_OP_SQL).await.map_err(own)?;
        let unwatched = conn.prepare(UNWATCHED_SQL).await.map_err(own)?;
        let collect = conn.prepare(journal::COLLECT_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(steps.len());
        for (place, step) in &steps {
            let statement = conn.prepare_foreign(&step.sql).await;
            prepared.push(statement.map_err(|failure| at(Some(*place), failure))?);
        }
        let entering = Entering::new(self, epoch, jobs);
        let enter_params = entering.on_leader(&structure);
        let collect_params: [Sql<'_>; 2] = [&self.id, &self.batch];

        // Each with the place of the job it is for.
        let mut sent: Vec<(Option<usize>, Sent<'_>)> = Vec::with_capacity(3 * steps.len() + 7);
        sent.push((None, send_batch(client, BEGIN_SQL)));
        sent.push((None, send_query(client, &enter, &enter_params)));
        if foreign {
            let as_usual = if alone { AS_USUAL_SQL } else { BRIEFLY_AS_USUAL_SQL };
            sent.push((None, send_batch(client, as_usual)));
            sent.push((None, send_query(client, &unwatched, &[])));
        }
        let deferrable = several && catalog.values().any(|table| table.links.deferrable);
        let mut last = None;
        for ((place, step), prepared) in steps.iter().zip(&prepared) {
            let before = last.replace(*place);
            if before != Some(*place) {
                if deferrable && before.is_some() {
                    // What is put off is done under the name of who has put it off.
                    sent.push((before, send_batch(client, CHECK_NOW_SQL)));
                }
                let (client, set_op, id) = (client, &set_op, &entering.ids()[*place]);
                let set = async move { Ok(Reply::Rows(client.query(set_op, &[id]).await?)) };
                sent.push((None, Box::pin(set)));
            }
            let run = async move {
                Ok(Reply::Count(
                    client.execute(prepared, &step.params.as_sql()).await?,
                ))
            };
            sent.push((Some(*place), Box::pin(run)));
        }
        sent.push((None, send_batch(client, CHECK_NOW_SQL)));
        if foreign {
            sent.push((None, send_query(client, &unwatched, &[])));
            sent.push((None, send_batch(client, BY_KEY_AGAIN_SQL)));
        }
        sent.push((None, send_query(client, &collect, &collect_params)));

        let (places, sent): (Vec<Option<usize>>, Vec<Sent<'_>>) = sent.into_iter().unzip();
        let answers = match several {
            true => timeout(TOGETHER, in_order(sent))
                .await
                .map_err(|_| Stop::Overdue)?,
            false => in_order(sent).await,
        };
        // Who waits for these rows is not waited for.
        drop(mixed);
        let mut replies = places.into_iter().zip(answers);
        let mut next = || replies.next().map_or(Ok(Reply::Count(0)), |(_, reply)| reply);
        next().map_err(own)?;
        let entered = next().map_err(own)?.rows();
        self.check_entered(leader, &entered, jobs).await?;
        let mut counts = Vec::with_capacity(steps.len());
        let mut answers = Vec::with_capacity(steps.len() + 3);
        for (place, reply) in replies {
            match reply.map_err(|failure| at(place, failure))? {
                Reply::Count(count) => counts.push(count),
                Reply::Rows(rows) => answers.push(rows),
                Reply::Nothing(()) => {}
            }
        }
        let collected = answers.pop().unwrap_or_default();
        if let (true, Some(before), Some(after)) = (foreign, answers.first(), answers.last()) {
            only_watched(before, after).map_err(|failure| at(None, failure))?;
        }
        for ((place, step), count) in steps.iter().zip(counts) {
            if let (Some(target), 0) = (&step.target, count) {
                return Err(if alone {
                    self.missed(leader, conn, target, catalog).await
                } else {
                    Stop::Split(Some(*place))
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
