//! Operations, journal rows and lanes of a merge: what both sides write down about it.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use uuid::Uuid;

use super::open::{MERGE_LANE, Open};
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
    if cfg!(mutant = "settle_for_all") {
        let sql = "UPDATE kambana.lane AS l SET confirmed = array_fill(u.batch, ARRAY[array_length(l.confirmed, 1)]) \
                   FROM unnest($1::bigint[], $2::bigint[]) AS u(lane, batch) WHERE l.lane = u.lane";
        client.execute(sql, &[lanes, batches]).await?;
        return Ok(());
    }
    client
        .execute(
            "-- merge::settle()\nUPDATE kambana.lane AS l \
             SET confirmed[$1] = greatest(coalesce(l.confirmed[$1], 0), u.batch), \
                 confirmed[$2] = greatest(coalesce(l.confirmed[$2], 0), u.batch) \
             FROM unnest($3::bigint[], $4::bigint[]) AS u(lane, batch) JOIN kambana.lane_settled AS k ON k.lane = u.lane \
             WHERE l.lane = u.lane AND u.batch > least(coalesce(k.confirmed[$1], 0), coalesce(k.confirmed[$2], 0))",
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
    let mut named_foreign = [BTreeSet::new(), BTreeSet::new()];
    for ((at, client, open), names) in [(lead, a, &mut open_a), (other, b, &mut open_b)]
        .into_iter()
        .zip(&mut named_foreign)
    {
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
        names.extend(ops.iter().copied());
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
    // One that came from a third side keeps its name, as it does there.
    let gone: BTreeSet<Uuid> = lost.on_lead.intersection(&named_foreign[0]).copied().collect();
    forget(a, &mut open_a, &gone).await.map_err(at_a)?;
    forget(b, &mut open_b, &lost.on_other).await.map_err(at_b)?;
    // What was repeated in a later epoch was just deleted on the other side and comes back from the authority.
    insert_ops(b, &open_a.ops).await.map_err(at_b)?;
    journal::insert(b, &open_a.entries).await.map_err(at_b)?;
    insert_ops(a, &open_b.ops).await.map_err(at_a)?;
    journal::insert(a, &open_b.entries).await.map_err(at_a)?;
    let [from_a, from_b] = named_foreign;
    if inner.sides.count() > 2 {
        stamp((lead, a), (other, b), lane, &from_a).await?;
        stamp((other, b), (lead, a), lane, &from_b).await?;
    }

    let stored = [lanes(a).await.map_err(at_a)?, lanes(b).await.map_err(at_b)?];
    let mut lanes = stored[0].clone();
    for (lane, (instance, confirmed)) in &stored[1] {
        let known = lanes
            .entry(*lane)
            .or_insert_with(|| (instance.clone(), vec![0; confirmed.len()]));
        raise(&mut known.1, confirmed);
    }
    if inner.sides.count() > 2 {
        // What one of them has closed, the other may still hold open for a third side, having been out meanwhile.
        for (at, client) in [(lead, a), (other, b)] {
            for (lane, confirmed) in closed(client, &lanes).await.map_err(|f| (at, f))? {
                if let Some((_, known)) = lanes.get_mut(&lane) {
                    raise(known, &confirmed);
                }
            }
        }
    }
    if foreign {
        lanes.insert(lane, (MERGE_LANE.into(), vec![0; inner.sides.count()]));
    }
    for ((at, client), stored) in [(lead, a), (other, b)].into_iter().zip(&stored) {
        let news = lanes
            .iter()
            .filter(|(lane, known)| stored.get(lane) != Some(known));
        let news: Lanes = news.map(|(lane, known)| (*lane, known.clone())).collect();
        insert_lanes(client, &news).await.map_err(|f| (at, f))?;
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

/// A third side may have changed the same rows: which write is newer is asked of those that made them. `lane` holds the
/// foreign writes by now.
async fn stamp(
    (side, from): (SideId, &Client),
    (at, to): (SideId, &Client),
    lane: i64,
    ops: &BTreeSet<Uuid>,
) -> Result<(), (SideId, Failure)> {
    if ops.is_empty() {
        return Ok(());
    }
    let ops: Vec<Uuid> = ops.iter().copied().collect();
    let rows = from
        .query(
            "-- merge::stamp()\nSELECT j.op, coalesce(max(j.epoch), 0), \
               coalesce(max(j.clock), (extract(epoch FROM max(j.at)) * 1000000)::bigint) \
             FROM kambana.journal AS j WHERE j.lane = $1 AND j.batch = 1 AND j.op = ANY($2) GROUP BY j.op",
            &[&lane, &ops],
        )
        .await
        .map_err(|e| (side, e.into()))?;
    let ops: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let epochs: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
    let clocks: Vec<i64> = rows.iter().map(|row| row.get(2)).collect();
    to.execute(
        "-- merge::stamp()\nUPDATE kambana.journal AS j SET epoch = u.epoch, clock = u.clock \
         FROM unnest($2::uuid[], $3::bigint[], $4::bigint[]) AS u(op, epoch, clock) \
         WHERE j.lane = $1 AND j.batch = 1 AND j.op = u.op",
        &[&lane, &ops, &epochs, &clocks],
    )
    .await
    .map_err(|e| (at, e.into()))?;
    Ok(())
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

fn raise(known: &mut [i64], confirmed: &[i64]) {
    for (ours, theirs) in known.iter_mut().zip(confirmed) {
        *ours = (*ours).max(*theirs);
    }
}

/// Which of these lanes a side has closed, and what it knew of them then.
async fn closed(client: &Client, lanes: &Lanes) -> Result<Vec<(i64, Vec<i64>)>, Failure> {
    let lanes: Vec<i64> = lanes.keys().copied().collect();
    let sql = "-- merge::closed()\nSELECT lane, confirmed FROM kambana.lane WHERE closed AND lane = ANY($1)";
    let rows = client.query(sql, &[&lanes]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

pub(super) async fn lanes(client: &Client) -> Result<Lanes, Failure> {
    let rows = client
        .query(
            "-- merge::lanes()\nSELECT lane, instance, confirmed FROM kambana.lane_settled WHERE NOT closed",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect())
}
