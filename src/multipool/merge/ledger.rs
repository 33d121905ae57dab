//! Operations, journal rows and lanes of a merge: what both sides write down about it.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use uuid::Uuid;

use super::open::Open;
use crate::multipool::SideId;
use crate::multipool::connection::Failure;
use crate::multipool::epoch::Epoch;
use crate::multipool::inner::Inner;
use crate::multipool::journal::{self, Lanes, OpRow, insert_lanes, insert_ops, place};

/// The last batch of every lane that is open.
pub(super) type Batches = (Vec<i64>, Vec<i64>);

pub(super) async fn settle(
    client: &Client,
    lead: SideId,
    other: SideId,
    (lanes, batches): &Batches,
) -> Result<(), Failure> {
    client
        .execute(
            "-- merge::settle()\nUPDATE kambana.lane AS l \
             SET confirmed[$1] = greatest(coalesce(l.confirmed[$1], 0), u.batch), \
                 confirmed[$2] = greatest(coalesce(l.confirmed[$2], 0), u.batch) \
             FROM unnest($3::bigint[], $4::bigint[]) AS u(lane, batch) WHERE l.lane = u.lane",
            &[&place(lead), &place(other), lanes, batches],
        )
        .await?;
    Ok(())
}

/// Operations that gave way, on each of the two sides.
pub(super) struct Lost {
    pub on_lead: BTreeSet<Uuid>,
    pub on_other: BTreeSet<Uuid>,
}

/// Gives both sides the same operations and journal rows. Returns what may be settled once both have committed.
pub(super) async fn ledger(
    inner: &Inner,
    epoch: &Epoch,
    (lead, a): (SideId, &Client),
    (other, b): (SideId, &Client),
    mut open_a: Open,
    mut open_b: Open,
    lost: &Lost,
) -> Result<Batches, (SideId, Failure)> {
    let (at_a, at_b) = (|f: Failure| (lead, f), |f: Failure| (other, f));
    // Foreign rows get a lane of their own, so that a third side that is out still finds them open.
    let lane = journal::new_lane();
    let foreign = [&open_a, &open_b]
        .iter()
        .any(|open| open.entries.iter().any(|e| e.lane == 0));
    for (at, client, open) in [(lead, a, &mut open_a), (other, b, &mut open_b)] {
        let mut ops: Vec<Uuid> = Vec::new();
        for entry in open.entries.iter_mut().filter(|e| e.lane == 0) {
            (entry.lane, entry.batch) = (lane, 1);
            ops.push(entry.op);
        }
        // Exactly these: a foreign writer may have committed another one since they were read.
        client
            .execute(
                "-- merge::ledger()\nUPDATE kambana.journal SET lane = $1, batch = 1 WHERE lane = 0 AND op = ANY($2)",
                &[&lane, &ops],
            )
            .await
            .map_err(|e| (at, e.into()))?;
        // From now on they are operations like others: asked for by name, and trimmed with their lane.
        let named = ops.into_iter().map(|op| OpRow {
            op,
            digest: 0,
            lane,
            batch: 1,
            epoch: epoch.n,
            applied: true,
            result: None,
            at: std::time::SystemTime::now(),
        });
        let named: Vec<OpRow> = named.collect();
        insert_ops(client, &named).await.map_err(|f| (at, f))?;
        open.ops.extend(named);
    }
    forget(a, &mut open_a, &lost.on_lead).await.map_err(at_a)?;
    forget(b, &mut open_b, &lost.on_other).await.map_err(at_b)?;
    // What was repeated in a later epoch was just deleted on the other side and comes back from the authority.
    insert_ops(b, &open_a.ops).await.map_err(at_b)?;
    journal::insert(b, &open_a.entries).await.map_err(at_b)?;
    insert_ops(a, &open_b.ops).await.map_err(at_a)?;
    journal::insert(a, &open_b.entries).await.map_err(at_a)?;

    let mut lanes = lanes(a).await.map_err(at_a)?;
    for (lane, (instance, confirmed)) in self::lanes(b).await.map_err(at_b)? {
        let known = lanes
            .entry(lane)
            .or_insert_with(|| (instance, vec![0; confirmed.len()]));
        for (ours, theirs) in known.1.iter_mut().zip(confirmed) {
            *ours = (*ours).max(theirs);
        }
    }
    if foreign {
        lanes.insert(lane, ("merge".into(), vec![0; inner.sides.count()]));
    }
    for (at, client) in [(lead, a), (other, b)] {
        insert_lanes(client, &lanes).await.map_err(|f| (at, f))?;
    }
    let rows = a
        .query(
            "-- merge::ledger()\nSELECT l.lane, greatest( \
               (SELECT max(o.batch) FROM kambana.op AS o WHERE o.lane = l.lane), \
               (SELECT max(j.batch) FROM kambana.journal AS j WHERE j.lane = l.lane), 0) \
             FROM kambana.lane AS l WHERE NOT l.closed",
            &[],
        )
        .await
        .map_err(|e| at_a(e.into()))?;
    Ok(rows
        .iter()
        .map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)))
        .unzip())
}

/// Takes what gave way out of a side's journal. Only the losing batches: the other side's own version of a repeated
/// operation may be here already.
async fn forget(client: &Client, open: &mut Open, lost: &BTreeSet<Uuid>) -> Result<(), Failure> {
    let batches = open.ops.iter().map(|o| (o.op, o.lane, o.batch));
    let batches = batches.chain(open.entries.iter().map(|e| (e.op, e.lane, e.batch)));
    let gone: BTreeSet<(Uuid, i64, i64)> = batches.filter(|(op, _, _)| lost.contains(op)).collect();
    if !gone.is_empty() {
        let ops: Vec<Uuid> = gone.iter().map(|(op, _, _)| *op).collect();
        let lanes: Vec<i64> = gone.iter().map(|(_, lane, _)| *lane).collect();
        let batches: Vec<i64> = gone.iter().map(|(_, _, batch)| *batch).collect();
        for table in ["journal", "op"] {
            let sql = format!(
                "-- merge::forget()\nDELETE FROM kambana.{table} AS t \
                 USING unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS u(op, lane, batch) \
                 WHERE t.op = u.op AND t.lane = u.lane AND t.batch = u.batch"
            );
            client.execute(&sql, &[&ops, &lanes, &batches]).await?;
        }
    }
    open.ops.retain(|o| !lost.contains(&o.op));
    open.entries.retain(|e| !lost.contains(&e.op));
    Ok(())
}

pub(super) async fn lanes(client: &Client) -> Result<Lanes, Failure> {
    let rows = client
        .query(
            "-- merge::lanes()\nSELECT lane, instance, confirmed FROM kambana.lane WHERE NOT closed",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect())
}
