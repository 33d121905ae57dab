//! Bringing two sides together under both fences: what is open on one side only is copied, row state by row state.
//!
//! Where both have changed a row, [`clash`] decides who gives way and [`keep`] keeps both images. A key that the other side
//! refuses is left open and held by itself ([`apart`], [`held`]): it holds up no other.
//!
//! Images are read anew from the side that has them, never taken from the journal: a journal row may be older than the
//! row. Nothing is in flight while both fences are held, so what is missing is missing for good. If we die between the
//! two commits, the next merge finds the rest: presence is asked from the data, not remembered.

mod apart;
mod both;
mod clash;
mod copy;
mod held;
mod keep;
mod ledger;
mod open;
mod stage;
mod together;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;

use super::catalog::Catalog;
use super::connection::{Conn, Failure, Rejection, Repeat, keep_awake};
use super::epoch::{self, Epoch, Fence};
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::{Happened, Loss, Reason, SideFault, SideId, conflicts, sequences, votes};
use apart::{Copied, Stuck};
use both::Both;
use clash::Verdict;
pub(super) use copy::{Copying, Keys, collect_keys, copy, widen_truncates};
use held::Held;
use keep::{Losing, align_conflicts, keep_conflicts};
use ledger::{Batches, Lost, ledger, settle};
use open::{Open, Resting, join_clocks, keep_missing, keys_with_ops, open, open_keys, overwritten, present};
use together::Together;

type At = (SideId, Failure);

/// A foreign writer changed a row while it was copied: the sweep begins anew at once, so often at most.
const SWEEP_TRIES: u32 = 6;

/// How long a merge tries to get both fences before it gives up and is started anew.
const FENCE_TRIES: u32 = 30;

/// What a merge is for.
pub(super) enum Purpose {
    /// Both are active; an instance died or a foreign write is on its way.
    Sweep,
    /// The other side was caught up to this snapshot and becomes active in the new epoch.
    Readmit {
        next: Epoch,
        snapshot: Option<String>,
        token: Uuid,
    },
    /// The other side is a member of the epoch but has not stored it yet: somebody died while readmitting it.
    Align,
}

/// Brings every other active side together with the leader.
///
/// # Errors
/// The side in trouble; nothing is half done that the next merge would not find.
pub(super) async fn sweep(inner: &Inner, epoch: &Epoch) -> Result<u64, At> {
    let Some(leader) = epoch.members.leader() else {
        return Ok(0);
    };
    let others: Vec<SideId> = epoch.members.iter().filter(|side| *side != leader).collect();
    let mut copied = 0;
    // What one of them has brought, those before it lack.
    let mut behind = 0;
    for (place, other) in others.iter().enumerate() {
        let rows = sweep_one(inner, epoch, leader, *other).await?;
        if rows > 0 {
            behind = place;
        }
        copied += rows;
    }
    for other in &others[..behind] {
        copied += sweep_one(inner, epoch, leader, *other).await?;
    }
    Ok(copied)
}

async fn sweep_one(inner: &Inner, epoch: &Epoch, leader: SideId, other: SideId) -> Result<u64, At> {
    let mut tries = 0;
    loop {
        match merge(inner, epoch, leader, other, Purpose::Sweep).await {
            Err((_, Failure::Repeat(Repeat::Contention))) if tries < SWEEP_TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

/// Merges `other` with the authority `lead` in one transaction a side. Returns the number of rows copied.
pub(super) async fn merge(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    other: SideId,
    purpose: Purpose,
) -> Result<u64, At> {
    let a = Conn::open(&inner.sides[lead].writes)
        .await
        .map_err(|f| (lead, f))?;
    let b = Conn::open(&inner.sides[other].writes)
        .await
        .map_err(|f| (other, f))?;
    let (mut tries, mut pause) = (0, Duration::from_millis(5));
    a.set_busy(true);
    b.set_busy(true);
    let (fence_a, fence_b) = loop {
        let at_a = a.client().map_err(|f| (lead, f))?;
        let at_b = b.client().map_err(|f| (other, f))?;
        // Both at once: a writer asks for both at once too. One after the other, the writers that queue behind us for the
        // first would hold the second, and under load we would never get it.
        let (fence_a, fence_b) = tokio::join!(Fence::take(at_a), Fence::take(at_b));
        let failed = match (fence_a, fence_b) {
            (Ok(fence_a), Ok(fence_b)) => break (fence_a, fence_b),
            (Ok(fence_a), Err(failure)) => {
                fence_a.release().await.map_err(|f| (lead, f))?;
                (other, failure)
            }
            (Err(failure), Ok(fence_b)) => {
                fence_b.release().await.map_err(|f| (other, f))?;
                (lead, failure)
            }
            (Err(failure), Err(_)) => (lead, failure),
        };
        if !matches!(failed.1, Failure::Repeat(_)) || tries >= FENCE_TRIES {
            return Err(failed);
        }
        tries += 1;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    };
    reach(Point::MergeFenced).await.map_err(|f| (lead, f))?;
    let merged = tokio::select! {
        merged = under_fences(inner, epoch, (lead, &fence_a), (other, &fence_b), &purpose) => merged?,
        // One side may have to wait for the other; a repairer that stands still loses both fences instead.
        never = keep_awake(fence_a.client()) => match never {},
        never = keep_awake(fence_b.client()) => match never {},
    };
    reach(Point::MergeBefore).await.map_err(|f| (lead, f))?;
    match purpose {
        // The survivor first: if we die in between, the other side stays behind and is aligned by anyone.
        Purpose::Readmit { .. } | Purpose::Align => {
            fence_a.commit().await.map_err(|f| (lead, f))?;
            reach(Point::MergeBetween).await.map_err(|f| (other, f))?;
            fence_b.commit().await.map_err(|f| (other, f))?;
        }
        Purpose::Sweep => {
            fence_b.commit().await.map_err(|f| (other, f))?;
            reach(Point::MergeBetween).await.map_err(|f| (lead, f))?;
            fence_a.commit().await.map_err(|f| (lead, f))?;
        }
    }
    reach(Point::MergeAfter).await.map_err(|f| (lead, f))?;
    // Only now, with both answers: what a side is said to have, it has. If we die before this, the next merge compares
    // the same batches once more and finds nothing missing.
    for (side, conn) in [(lead, &a), (other, &b)] {
        let client = conn.client().map_err(|f| (side, f))?;
        settle(client, lead, other, &merged.batches)
            .await
            .map_err(|f| (side, f))?;
        conn.set_busy(false);
    }
    for what in merged.news {
        inner.event(what);
    }
    Ok(merged.copied)
}

/// Whether the journal of this side no longer holds what `other` misses.
pub(super) async fn given_up(client: &Client, other: SideId) -> Result<bool, Failure> {
    let row = client
        .query_opt(
            "-- merge::given_up()\nSELECT given_up FROM kambana.mark WHERE side = $1",
            &[&other.to_string()],
        )
        .await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// As [`given_up`], asked at a side; what is found is remembered for the next decision.
pub(super) async fn is_given_up(inner: &Inner, at: SideId, other: SideId) -> Result<bool, Failure> {
    let conn = Conn::open(&inner.sides[at].writes).await?;
    let found = given_up(conn.client()?, other).await?;
    inner.sides[other].given_up.store(found, Ordering::Release);
    Ok(found)
}

/// Keeps both images of everything that only `other` has, for its journal is about to be lost. `None`: there are more
/// than `most` rows.
pub(super) async fn keep_open(
    catalog: &Catalog,
    (lead, a): (SideId, &Client),
    (other, b): (SideId, &Client),
    most: i64,
) -> Result<Option<()>, (SideId, Failure)> {
    if open::count(b, lead, most).await.map_err(|f| (other, f))? > most {
        return Ok(None);
    }
    let held = Held::load(a, lead, other).await.map_err(|f| (lead, f))?.all_due();
    let (mut open_b, _) = open(b, lead, None, &held).await.map_err(|f| (other, f))?;
    let on_a = present(a, &open_b).await.map_err(|f| (lead, f))?;
    keep_missing(&mut open_b, &on_a);
    let losing = Losing {
        entries: open_b.entries.iter().collect(),
        reasons: &BTreeMap::new(),
    };
    keep_conflicts(catalog, (lead, a), (other, b), &losing).await?;
    Ok(Some(()))
}

fn moved(side: SideId, found: &Epoch) -> (SideId, Failure) {
    tracing::debug!(%side, n = found.n, "the epoch moved before a merge");
    (side, Failure::Repeat(Repeat::Contention))
}

/// What a merge did.
struct Merged {
    copied: u64,
    batches: Batches,
    news: Vec<Happened>,
}

async fn under_fences(
    inner: &Inner,
    epoch: &Epoch,
    (lead, fence_a): (SideId, &Fence<'_>),
    (other, fence_b): (SideId, &Fence<'_>),
    purpose: &Purpose,
) -> Result<Merged, At> {
    let (a, b) = (fence_a.client(), fence_b.client());
    let (at_a, at_b) = (|f: Failure| (lead, f), |f: Failure| (other, f));
    check_epochs(epoch, (lead, a), (other, b), purpose).await?;
    if matches!(purpose, Purpose::Readmit { .. }) && given_up(a, other).await.map_err(at_a)? {
        return Err((other, Failure::Side(SideFault::Lost(Loss::TooOld))));
    }
    prepare(a, purpose).await.map_err(at_a)?;
    prepare(b, purpose).await.map_err(at_b)?;
    let catalog = super::catalog::load(a).await.map_err(at_a)?;
    let held = Held::load(a, lead, other).await.map_err(at_a)?;
    let (since, held) = match purpose {
        Purpose::Sweep => (None, held),
        Purpose::Align => (None, held.all_due()),
        Purpose::Readmit { snapshot, .. } => (snapshot.as_deref(), held.all_due()),
    };
    let (mut open_a, mut resting) = open(a, other, since, &held).await.map_err(at_a)?;
    let (mut open_b, resting_b) = open(b, lead, None, &held).await.map_err(at_b)?;
    rest_more(&mut resting, resting_b);
    let on_b = present(b, &open_a).await.map_err(at_b)?;
    let on_a = present(a, &open_b).await.map_err(at_a)?;
    keep_missing(&mut open_a, &on_b);
    let repeated = repeated(&open_b, &on_a);
    keep_missing(&mut open_b, &on_a);

    let mut verdict = verdict((lead, a), (other, b), &open_a, &open_b, purpose).await?;
    let mut lost = Lost {
        on_lead: verdict.on_lead.keys().copied().collect(),
        on_other: verdict
            .on_other
            .keys()
            .copied()
            .chain(repeated.iter().copied())
            .collect(),
    };
    let seen = [open_a.foreign(), open_b.foreign()];
    let together = Together {
        catalog: &catalog,
        held: &held,
        a: (lead, a),
        b: (other, b),
        seen: &seen,
    };
    together.decide(&open_a, &open_b, &mut lost, &mut verdict).await?;
    let mut both = Both {
        catalog: &catalog,
        held: &held,
        a: (lead, a),
        b: (other, b),
        to_a: Copied::default(),
        to_b: Copied::default(),
    };
    let copied = both.copy(&open_a, &open_b, &lost, &seen).await?;
    if let Some(stuck) = both.to_b.first_lack()
        && !matches!(purpose, Purpose::Sweep)
    {
        // A side must not become active without what the others have acknowledged.
        return Err(at_b(refused(&stuck)));
    }
    let news = both.keep(&open_a, &open_b, &verdict).await?;
    let blocked = both.blocked(open_a.entries.iter().chain(&open_b.entries));
    rest_more(&mut resting, open_a.leave_out(&blocked));
    rest_more(&mut resting, open_b.leave_out(&blocked));
    lost.on_lead.retain(|op| !blocked.contains(op));
    lost.on_other.retain(|op| !blocked.contains(op));
    let news = news.into_iter().chain(both.hold().await?).collect();
    if !(seen[0].is_empty() && seen[1].is_empty()) {
        join_clocks((lead, a), (other, b)).await?;
    }
    align_conflicts((lead, a), (other, b)).await?;
    let mut batches = ledger(inner, epoch, (lead, a), (other, b), open_a, open_b, &lost).await?;
    for (lane, batch) in batches.0.iter().zip(batches.1.iter_mut()) {
        if let Some(first) = resting.get(lane) {
            *batch = (*batch).min(first - 1);
        }
    }
    write_epoch(inner, epoch, (lead, fence_a), (other, fence_b), purpose).await?;
    Ok(Merged {
        copied,
        batches,
        news,
    })
}

fn refused(stuck: &Stuck) -> Failure {
    Failure::Rejected(Rejection {
        sqlstate: "P0001".into(),
        message: format!(
            "row {} of {} cannot be brought there: {}",
            stuck.key, stuck.table, stuck.reason
        ),
        constraint: None,
        column: None,
    })
}

fn rest_more(resting: &mut Resting, more: Resting) {
    for (lane, batch) in more {
        let first = resting.entry(lane).or_insert(batch);
        *first = batch.min(*first);
    }
}

/// Operations of the other side that were repeated in a later epoch: they are on the authority under another batch, and
/// that one counts.
fn repeated(open_b: &Open, on_a: &HashMap<Uuid, (i64, i64)>) -> BTreeSet<Uuid> {
    let elsewhere = |op: &Uuid, at: (i64, i64)| on_a.get(op).is_some_and(|there| *there != at);
    let ops = open_b.ops.iter().map(|o| (o.op, (o.lane, o.batch)));
    ops.chain(open_b.entries.iter().map(|e| (e.op, (e.lane, e.batch))))
        .filter(|(op, at)| elsewhere(op, *at))
        .map(|(op, _)| op)
        .collect()
}

/// Whether both sides are where this merge was asked for.
async fn check_epochs(
    epoch: &Epoch,
    (lead, a): (SideId, &Client),
    (other, b): (SideId, &Client),
    purpose: &Purpose,
) -> Result<(), At> {
    let stored_a = epoch::read(a).await.map_err(|f| (lead, f))?;
    if !stored_a.same_as(epoch) {
        return Err(moved(lead, &stored_a));
    }
    let stored_b = epoch::read(b).await.map_err(|f| (other, f))?;
    let fits = match purpose {
        Purpose::Sweep => stored_b.same_as(epoch),
        Purpose::Readmit { token, .. } => stored_b.n == epoch.n && stored_b.generation == *token,
        Purpose::Align => stored_b.n < epoch.n && epoch.members.contains(other),
    };
    match fits {
        true => Ok(()),
        false => Err(moved(other, &stored_b)),
    }
}

/// Capture off; and no foreign lock may make all writers wait while everything goes well otherwise.
async fn prepare(client: &Client, purpose: &Purpose) -> Result<(), Failure> {
    let lock_timeout = match purpose {
        Purpose::Sweep => "100ms",
        Purpose::Readmit { .. } | Purpose::Align => "2s",
    };
    let sql = format!(
        "SET LOCAL statement_timeout = '30s'; \
         SET LOCAL lock_timeout = '{lock_timeout}'; SELECT set_config('kambana.apply', 'on', true)"
    );
    Ok(client.batch_execute(&sql).await?)
}

/// Reads what [`clash::decide`] needs and asks it.
async fn verdict(
    (lead, a): (SideId, &Client),
    (other, b): (SideId, &Client),
    open_a: &Open,
    open_b: &Open,
    purpose: &Purpose,
) -> Result<Verdict, At> {
    if open_b.entries.is_empty() {
        return Ok(Verdict::default());
    }
    let sweep = matches!(purpose, Purpose::Sweep);
    let on_lead = match sweep {
        true => keys_with_ops(open_a.entries.iter()),
        false => {
            // Here it is not enough to look at what the last pass has left: the side was out for longer.
            let mut keys = open_keys(a, other, &open_b.entries)
                .await
                .map_err(|f| (lead, f))?;
            // Nor at what is open: a pass may have copied what was settled afterwards.
            let settled = overwritten(b, open_b).await.map_err(|f| (other, f))?;
            for (key, ops) in settled {
                keys.entry(key).or_default().extend(ops);
            }
            keys
        }
    };
    if on_lead.is_empty() {
        return Ok(Verdict::default());
    }
    let rules = conflicts::rules(a).await.map_err(|f| (lead, f))?;
    // A side that was out gives way: the survivors' epoch is the higher one.
    let mut may_yield = BTreeSet::new();
    if sweep {
        may_yield = open_a.foreign();
        // With three sides a foreign write may have come to the leader from another one just now: it has a lane by then.
        may_yield.extend(open::brought(a, open_a).await.map_err(|f| (lead, f))?);
    }
    let ops = on_lead.values().flatten().copied().collect();
    let mut versions = open::versions(a, &ops).await.map_err(|f| (lead, f))?;
    let ops = open_b.entries.iter().map(|e| e.op).collect();
    versions.extend(open::versions(b, &ops).await.map_err(|f| (other, f))?);
    Ok(clash::decide(&clash::Sides {
        other,
        on_lead: &on_lead,
        on_other: &open_b.entries,
        may_yield: &may_yield,
        rules: &rules,
        versions: &versions,
    }))
}

/// A returning side stores the membership it becomes a member of.
async fn write_epoch(
    inner: &Inner,
    epoch: &Epoch,
    (lead, fence_a): (SideId, &Fence<'_>),
    (other, fence_b): (SideId, &Fence<'_>),
    purpose: &Purpose,
) -> Result<(), At> {
    let (at_a, at_b) = (|f: Failure| (lead, f), |f: Failure| (other, f));
    match purpose {
        Purpose::Sweep => return Ok(()),
        Purpose::Align => fence_b
            .write(epoch, &Reason::Finished.to_string())
            .await
            .map_err(at_b)?,
        Purpose::Readmit { next, .. } => {
            let reason = Reason::Readmitted(other).to_string();
            fence_a.write(next, &reason).await.map_err(at_a)?;
            fence_b.write(next, &reason).await.map_err(at_b)?;
        }
    }
    let n = match purpose {
        Purpose::Readmit { next, .. } => next.n,
        Purpose::Sweep | Purpose::Align => epoch.n,
    };
    let admitted = votes::admit(fence_a.client(), fence_b.client(), other, n).await;
    admitted.map_err(|(at_lead, f)| (if at_lead { lead } else { other }, f))?;
    for (side, fence) in [(lead, fence_a), (other, fence_b)] {
        sequences::align_if_possible(fence.client(), side, inner.sides.count())
            .await
            .map_err(|f| (side, f))?;
    }
    Ok(())
}
