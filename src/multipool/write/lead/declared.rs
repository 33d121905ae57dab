//! Declarative changes of ordinary tables: equal ones share a statement, which answers with the images of its rows.

use serde_json::Value as Json;

use super::{Sent, send_batch, send_query};
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Conn, Failure};
use crate::multipool::epoch::Epoch;
use crate::multipool::journal::{Entry, Kind};
use crate::multipool::watch::MAX_IMAGE_BYTES;
use crate::multipool::write::attempt::{BEGIN_SQL, Collected, Sql, Stop, in_order, stop_at, stop_own};
use crate::multipool::write::enter::{DECLARE_SQL, Entering};
use crate::multipool::write::group::{Asked, Found, Group};
use crate::multipool::write::{Again, Job, Lane};
use crate::multipool::{SideFault, SideId, WriteError, statement};

/// As the capture trigger says it.
fn too_long(table: &str, length: usize) -> WriteError {
    WriteError::Rejected {
        sqlstate: "54000".into(),
        message: format!(
            "a row of table {table} has {length} bytes as text, more than the {MAX_IMAGE_BYTES} that Kambana carries; \
             nothing was changed"
        ),
        constraint: None,
        column: None,
    }
}

impl Lane {
    /// All groups in one round trip.
    pub(super) async fn lead_declared(
        &self,
        epoch: &Epoch,
        leader: SideId,
        conn: &Conn,
        jobs: &[Job],
        groups: &[Group<'_>],
        (catalog, structure): (&Catalog, i64),
    ) -> Result<Collected, Stop> {
        let alone = jobs.len() == 1;
        let own = |failure| stop_own(leader, failure);
        let client = conn.client().map_err(own)?;
        let enter = conn.prepare(DECLARE_SQL).await.map_err(own)?;
        let mut prepared = Vec::with_capacity(groups.len());
        for group in groups {
            let statement = conn.prepare(group.sql()).await;
            prepared.push(statement.map_err(|failure| stop_at(leader, failure, alone))?);
        }
        let entering = Entering::new(self, epoch, jobs);
        let enter_params = entering.on_leader(&structure);
        let numbers: Vec<Vec<i32>> = groups
            .iter()
            .map(|g| (0..g.rows.len() as i32).collect())
            .collect();
        let params: Vec<Vec<Sql<'_>>> = groups
            .iter()
            .zip(&numbers)
            .map(|(group, numbers)| {
                [numbers as Sql<'_>]
                    .into_iter()
                    .chain(group.columns.iter().map(|c| c as _))
                    .collect()
            })
            .collect();

        let mut sent: Vec<Sent<'_>> = Vec::with_capacity(groups.len() + 3);
        sent.push(send_batch(client, BEGIN_SQL));
        sent.push(send_query(client, &enter, &enter_params));
        for (statement, params) in prepared.iter().zip(&params) {
            sent.push(send_query(client, statement, params));
        }
        let deferrable = |group: &Group<'_>| {
            catalog
                .get(group.table())
                .is_none_or(|table| table.links.deferrable)
        };
        if groups.iter().any(deferrable) {
            sent.push(send_batch(client, "SET CONSTRAINTS ALL IMMEDIATE"));
        }
        let mut replies = in_order(sent).await.into_iter();
        let mut next = || {
            replies
                .next()
                .unwrap_or_else(|| Err(Failure::Side(SideFault::Down("no answer".into()))))
        };
        next().map_err(own)?;
        let entered = next().map_err(own)?.rows();
        self.check_entered(leader, &entered, jobs).await?;
        // All of them first: after one that failed nothing more can be asked.
        let mut answers = Vec::with_capacity(groups.len());
        for reply in replies {
            answers.push(reply.map_err(|failure| stop_at(leader, failure, alone))?.rows());
        }
        let mut entries = Vec::new();
        for (group, answer) in groups.iter().zip(&answers) {
            for (asked, found) in group.rows.iter().zip(group.found(answer)) {
                match found {
                    Some(found) => entries.push(self.entry(jobs, group, asked, found)?),
                    None => return Err(self.not_found(leader, conn, jobs, asked, catalog).await),
                }
            }
        }
        Ok(Collected {
            captured: false,
            entries,
            results: vec![None; jobs.len()],
            values: vec![Json::Null; jobs.len()],
        })
    }

    fn entry(
        &self,
        jobs: &[Job],
        group: &Group<'_>,
        asked: &Asked,
        (key, image, fresh): Found,
    ) -> Result<Entry, Stop> {
        if let Some(length) = image.as_ref().map(String::len).filter(|n| *n > MAX_IMAGE_BYTES) {
            return Err(match jobs {
                [_] => Stop::Refused(too_long(group.table(), length)),
                _ => Stop::Split(None),
            });
        }
        Ok(Entry {
            lane: self.id,
            batch: self.batch,
            op: jobs[asked.job].op.uuid(),
            table: group.table().to_owned(),
            kind: match (asked.deletes, fresh) {
                (true, _) => Kind::Delete,
                (false, true) => Kind::Insert,
                (false, false) => Kind::Update,
            },
            key,
            old_key: None,
            image,
        })
    }

    /// A row that a change names was not there.
    async fn not_found(
        &self,
        leader: SideId,
        conn: &Conn,
        jobs: &[Job],
        asked: &Asked,
        catalog: &Catalog,
    ) -> Stop {
        let [job] = jobs else { return Stop::Split(None) };
        // A trigger that we do not know of yet has swallowed the row, or changed its key.
        if !asked.by_key {
            return Again::Catalog.into();
        }
        let steps = statement::steps(catalog, job.changes().unwrap_or_default());
        match steps
            .as_ref()
            .map(|steps| steps.get(asked.change).and_then(|step| step.target.as_ref()))
        {
            Ok(Some(target)) => self.missed(leader, conn, target, catalog).await,
            _ => Again::Catalog.into(),
        }
    }
}
