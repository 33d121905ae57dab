//! Steps 1 and 2 on the leader: take the names, run, then collect. Row locks taken here order all writers.

mod captured;
mod closure;
mod declared;
mod free;

use futures::future::BoxFuture;

use super::attempt::{Collected, Reply, Sql, Stop, stop_at, stop_own};
use super::enter::fresh;
use super::queue::Mixed;
use super::{Again, Job, Lane, Work, group};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Conn, Failure};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, OpRow};
use crate::multipool::{SideId, WriteError, statement};

/// One statement on its way, in a pipeline.
type Sent<'a> = BoxFuture<'a, Result<Reply, Failure>>;

fn send_batch<'a>(client: &'a tokio_postgres::Client, sql: &'a str) -> Sent<'a> {
    Box::pin(async move { Ok(Reply::Nothing(client.batch_execute(sql).await?)) })
}

fn send_query<'a>(
    client: &'a tokio_postgres::Client,
    statement: &'a tokio_postgres::Statement,
    params: &'a [Sql<'a>],
) -> Sent<'a> {
    Box::pin(async move { Ok(Reply::Rows(client.query(statement, params).await?)) })
}

impl Lane {
    /// Step 1 and 2 on the leader. Row locks taken here order all writers.
    pub(super) async fn lead(
        &self,
        epoch: &Epoch,
        leader: SideId,
        jobs: &[Job],
        (catalog, structure): (&Catalog, i64),
        mixed: Option<Mixed<'_>>,
    ) -> Result<Collected, Stop> {
        let conn = self.conn(leader)?;
        let own = |failure| stop_own(leader, failure);
        reach(Point::LeadBefore).await.map_err(own)?;
        let collected = match jobs {
            [
                Job {
                    work: Work::Transaction(closure),
                    op,
                    ..
                },
            ] => {
                self.lead_transaction(epoch, leader, jobs, (*op, structure), closure)
                    .await
            }
            _ => match group::groups(catalog, jobs.iter().map(Job::changes)) {
                Some(groups) => {
                    self.lead_declared(epoch, leader, conn, jobs, &groups, (catalog, structure))
                        .await
                }
                None => {
                    self.lead_captured(epoch, leader, conn, jobs, (catalog, structure), mixed)
                        .await
                }
            },
        }?;
        reach(Point::LeadCollected).await.map_err(own)?;
        Ok(collected)
    }

    /// What entering found: the epoch, and whether all names were new.
    async fn check_entered(
        &self,
        leader: SideId,
        entered: &[tokio_postgres::Row],
        jobs: &[Job],
    ) -> Result<(), Stop> {
        match fresh(entered) {
            None => return Err(Again::EpochMoved.into()),
            Some(fresh) if fresh == jobs.len() || cfg!(mutant = "no_dedup") => return Ok(()),
            Some(_) => {}
        }
        let [job] = jobs else {
            return Err(Stop::Split(None));
        };
        let stored = async {
            // The transaction may have failed in the meantime on the operation's own statements.
            let client = self.conn_client(leader)?;
            client.batch_execute("ROLLBACK").await?;
            let sql = format!(
                "-- write::stored()\nSELECT {} FROM kambana.op AS o WHERE o.op = $1",
                journal::OP_COLUMNS
            );
            Ok(client.query_opt(&sql, &[&job.op.uuid()]).await?)
        };
        match stored.await.map_err(|failure| stop_own(leader, failure))? {
            Some(row) => Err(Stop::Known(OpRow::from_row(&row))),
            None => Err(Again::Contention.into()),
        }
    }

    /// An update or delete hit no row: is it gone, or not what the caller had seen?
    async fn missed(
        &self,
        leader: SideId,
        conn: &Conn,
        target: &statement::Target,
        catalog: &Catalog,
    ) -> Stop {
        let look = async {
            let params: Vec<Sql<'_>> = target.key.iter().map(|v| v as _).collect();
            Ok(conn.client()?.query_opt(&target.look_sql, &params).await?)
        };
        let key: Vec<&str> = target.key.iter().filter_map(|v| v.as_text()).collect();
        let (table, key) = (target.table.clone(), format!("({})", key.join(",")));
        match look.await {
            Err(failure) => stop_at(leader, failure, true),
            Ok(None) => Stop::Refused(WriteError::NotFound { table, key }),
            Ok(Some(row)) => {
                let image: String = row.get(0);
                let current = catalog
                    .get(&table)
                    .map(|t| t.image_fields(&image))
                    .unwrap_or_default();
                Stop::Refused(WriteError::EditConflict { table, key, current })
            }
        }
    }
}
