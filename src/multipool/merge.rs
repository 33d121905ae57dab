//! Bringing two sides together under both fences: what is open on one side only is copied, row state by row state.
//!
//! Images are read anew from the side that has them, never taken from the journal: a journal row may be older than the
//! row. Nothing is in flight while both fences are held, so what is missing is missing for good. If we die between the
//! two commits, the next merge finds the rest: presence is asked from the data, not remembered.

mod copy;
mod ledger;
mod open;
mod stage;

use std::collections::BTreeSet;

use uuid::Uuid;

use super::connection::{Conn, Failure};
use super::epoch::{self, Epoch, Fence};
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::{SideId, sequences};
use copy::no_foreign_write;
pub(super) use copy::{Copying, Keys, collect_keys, copy, widen_truncates};
use ledger::{Batches, keep_conflicts, ledger, settle};
use open::{keep_missing, keys_with_ops, losers, open, open_keys, present};

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
pub(super) async fn sweep(inner: &Inner, epoch: &Epoch) -> Result<u64, (SideId, Failure)> {
    let Some(leader) = epoch.members.leader() else {
        return Ok(0);
    };
    let mut copied = 0;
    for other in epoch.members.iter().filter(|side| *side != leader) {
        copied += merge(inner, epoch, leader, other, Purpose::Sweep).await?;
    }
    Ok(copied)
}

/// Merges `other` with the authority `lead` in one transaction a side. Returns the number of rows copied.
pub(super) async fn merge(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    other: SideId,
    purpose: Purpose,
) -> Result<u64, (SideId, Failure)> {
    let a = Conn::open(&inner.sides[lead].writes)
        .await
        .map_err(|f| (lead, f))?;
    let b = Conn::open(&inner.sides[other].writes)
        .await
        .map_err(|f| (other, f))?;
    let (mut tries, mut pause) = (0, std::time::Duration::from_millis(5));
    a.set_busy(true);
    b.set_busy(true);
    let (fence_a, fence_b) = loop {
        let at_a = a.client().map_err(|f| (lead, f))?;
        let at_b = b.client().map_err(|f| (other, f))?;
        let fence_a = match Fence::take(at_a).await {
            Ok(fence) => Some(fence),
            Err(Failure::Repeat(_)) if tries < FENCE_TRIES => None,
            Err(failure) => return Err((lead, failure)),
        };
        if let Some(fence_a) = fence_a {
            match Fence::take(at_b).await {
                Ok(fence_b) => break (fence_a, fence_b),
                Err(Failure::Repeat(_)) if tries < FENCE_TRIES => {
                    fence_a.release().await.map_err(|f| (lead, f))?;
                }
                Err(failure) => return Err((other, failure)),
            }
        }
        tries += 1;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_millis(100));
    };
    reach(Point::MergeFenced).await.map_err(|f| (lead, f))?;
    let (copied, batches) = under_fences(inner, epoch, (lead, &fence_a), (other, &fence_b), &purpose).await?;
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
        settle(client, lead, other, &batches)
            .await
            .map_err(|f| (side, f))?;
        conn.set_busy(false);
    }
    Ok(copied)
}

fn moved(side: SideId, found: &Epoch) -> (SideId, Failure) {
    tracing::debug!(%side, n = found.n, "the epoch moved before a merge");
    (side, Failure::Repeat(super::connection::Repeat::Contention))
}

async fn under_fences(
    inner: &Inner,
    epoch: &Epoch,
    (lead, fence_a): (SideId, &Fence<'_>),
    (other, fence_b): (SideId, &Fence<'_>),
    purpose: &Purpose,
) -> Result<(u64, Batches), (SideId, Failure)> {
    let (a, b) = (fence_a.client(), fence_b.client());
    let (at_a, at_b) = (|f: Failure| (lead, f), |f: Failure| (other, f));
    let stored_a = epoch::read(a).await.map_err(at_a)?;
    if !stored_a.same_as(epoch) {
        return Err(moved(lead, &stored_a));
    }
    let stored_b = epoch::read(b).await.map_err(at_b)?;
    let fits = match purpose {
        Purpose::Sweep => stored_b.same_as(epoch),
        Purpose::Readmit { token, .. } => stored_b.n == epoch.n && stored_b.generation == *token,
        Purpose::Align => stored_b.n < epoch.n && epoch.members.contains(other),
    };
    if !fits {
        return Err(moved(other, &stored_b));
    }
    for (client, say) in [
        (a, &at_a as &(dyn Fn(Failure) -> (SideId, Failure) + Sync)),
        (b, &at_b),
    ] {
        client
            .batch_execute(
                "SET LOCAL statement_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '60s'; \
                 SELECT set_config('kambana.apply', 'on', true)",
            )
            .await
            .map_err(|e| say(e.into()))?;
    }
    let since = match purpose {
        Purpose::Readmit { snapshot, .. } => snapshot.as_deref(),
        Purpose::Sweep | Purpose::Align => None,
    };
    let catalog = super::catalog::load(a).await.map_err(at_a)?;
    let mut open_a = open(a, other, since).await.map_err(at_a)?;
    let mut open_b = open(b, lead, None).await.map_err(at_b)?;
    let on_b = present(b, &open_a).await.map_err(at_b)?;
    let on_a = present(a, &open_b).await.map_err(at_a)?;
    keep_missing(&mut open_a, &on_b);
    // An operation that was repeated in a later epoch is on the authority under another batch: that one counts.
    let elsewhere = |op: &Uuid, at: (i64, i64)| on_a.get(op).is_some_and(|there| *there != at);
    let repeated: BTreeSet<Uuid> = open_b
        .ops
        .iter()
        .map(|o| (o.op, (o.lane, o.batch)))
        .chain(open_b.entries.iter().map(|e| (e.op, (e.lane, e.batch))))
        .filter(|(op, at)| elsewhere(op, *at))
        .map(|(op, _)| op)
        .collect();
    keep_missing(&mut open_b, &on_a);

    let lost = if open_b.entries.is_empty() {
        BTreeSet::new()
    } else {
        let changed_on_a = match purpose {
            Purpose::Sweep => keys_with_ops(open_a.entries.iter()),
            // Here it is not enough to look at what the last pass has left: the side was out for longer.
            Purpose::Readmit { .. } | Purpose::Align => {
                open_keys(a, other, &open_b.entries).await.map_err(at_a)?
            }
        };
        losers(&open_b, &repeated, &changed_on_a)
    };
    let (mut to_b, mut to_a) = (Keys::new(), Keys::new());
    collect_keys(&mut to_b, open_a.entries.iter());
    collect_keys(&mut to_b, open_b.entries.iter().filter(|e| lost.contains(&e.op)));
    collect_keys(&mut to_a, open_b.entries.iter().filter(|e| !lost.contains(&e.op)));
    widen_truncates(b, &catalog, &mut to_b, open_a.entries.iter())
        .await
        .map_err(at_b)?;
    widen_truncates(
        a,
        &catalog,
        &mut to_a,
        open_b.entries.iter().filter(|e| !lost.contains(&e.op)),
    )
    .await
    .map_err(at_a)?;

    for (side, client) in [(lead, a), (other, b)] {
        // A truncate that gives way is undone: every row the authority has, and none that it has not.
        widen_truncates(
            client,
            &catalog,
            &mut to_b,
            open_b.entries.iter().filter(|e| lost.contains(&e.op)),
        )
        .await
        .map_err(|f| (side, f))?;
    }

    let losing = open_b
        .entries
        .iter()
        .filter(|e| lost.contains(&e.op) && !repeated.contains(&e.op));
    keep_conflicts(&catalog, (lead, a), (other, b), losing).await?;
    let copied = copy(&catalog, (lead, a), (other, b), &to_b).await?
        + copy(&catalog, (other, b), (lead, a), &to_a).await?;
    // After the copy, in a later statement: whoever held these rows has committed by now.
    for (side, client, keys, open) in [(lead, a, &to_a, &open_a), (other, b, &to_b, &open_b)] {
        no_foreign_write(client, keys, open)
            .await
            .map_err(|f| (side, f))?;
    }
    let batches = ledger(inner, epoch, (lead, a), (other, b), open_a, open_b, &lost).await?;

    match purpose {
        Purpose::Sweep => {}
        Purpose::Align => fence_b.write(epoch, "readmission finished").await.map_err(at_b)?,
        Purpose::Readmit { next, .. } => {
            let reason = format!("side {other} readmitted");
            fence_a.write(next, &reason).await.map_err(at_a)?;
            fence_b.write(next, &reason).await.map_err(at_b)?;
        }
    }
    if !matches!(purpose, Purpose::Sweep) {
        for (side, client) in [(lead, a), (other, b)] {
            sequences::align_if_possible(client, side, inner.sides.count())
                .await
                .map_err(|f| (side, f))?;
        }
    }
    Ok((copied, batches))
}
