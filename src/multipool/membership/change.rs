//! Changing the members: first the votes, then the fence, then the next epoch.
//!
//! Crash rule: before the decision nothing has happened; after it, and before the child is written, the next candidate
//! of the same parent gets the same child and writes it; after it is written on one side, the others are members that have not
//! stored it yet, and anyone aligns them.

use std::time::Duration;

use super::decide::may_advance;
use crate::multipool::connection::{Conn, Failure};
use crate::multipool::epoch::{self, Epoch, Fence};
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::inner::Inner;
use crate::multipool::votes::{Child, Verdict, decide};
use crate::multipool::{Happened, NotApplied, Reason, SideId, SideSet, catalog, health, sequences};

/// How long a change tries to get the fence of a side.
const FENCE_DEADLINE: Duration = Duration::from_secs(4);

/// How a change of the members ended.
pub(super) enum Changed {
    /// There is a newer epoch, ours or another.
    Moved,
    /// It cannot be made now, for this reason.
    Refused(NotApplied),
    /// Another candidate is at it.
    Later,
}

type At = (SideId, Failure);

/// Asks for votes for an epoch with these members, and writes what was decided.
pub(super) async fn change(
    inner: &Inner,
    parent: &Epoch,
    members: SideSet,
    reason: String,
) -> Result<Changed, At> {
    let wish = Child {
        epoch: parent.next(members),
        reason,
    };
    let verdict = decide(inner, parent, wish).await;
    follow(inner, parent, verdict).await
}

/// What follows from a vote. The child that was decided may be another one than was wished for.
pub(super) async fn follow(inner: &Inner, parent: &Epoch, verdict: Verdict) -> Result<Changed, At> {
    match verdict {
        Verdict::Decided(child) => {
            let carriers = carriers(inner, parent, &child);
            tokio::select! {
                done = write(inner, parent, &child) => done,
                (side, fault) = inner.trouble(carriers) => Err((side, Failure::Side(fault))),
            }
        }
        Verdict::Newer(epoch) => {
            // With the reason, if a side has it already: it may name a side that takes no writes.
            inner.refresh().await;
            adopt(inner, epoch).await;
            Ok(Changed::Moved)
        }
        Verdict::Missing(missing) => Ok(Changed::Refused(NotApplied::NoVotes {
            given: missing.given,
            needed: missing.needed,
            missing: missing.who.join("; "),
        })),
        Verdict::Busy => Ok(Changed::Later),
    }
}

/// Where the child may be written first: a side that has every write of the parent and belongs to both.
fn carriers(inner: &Inner, parent: &Epoch, child: &Child) -> SideSet {
    parent.members.and(child.epoch.members).and(inner.well())
}

/// Writes the child on every carrier under its fence. From the first one on no write of the parent's epoch can be
/// acknowledged any more: it would need that side.
async fn write(inner: &Inner, parent: &Epoch, child: &Child) -> Result<Changed, At> {
    let mut written = SideSet::EMPTY;
    for side in carriers(inner, parent, child).iter() {
        match store(inner, parent, child, side).await {
            Ok(Stored::Child) => {
                note_epoch(inner, SideSet::EMPTY.with(side), child.epoch, &child.reason);
                written = written.with(side);
            }
            Ok(Stored::Newer(epoch)) => {
                note_epoch(inner, SideSet::EMPTY.with(side), epoch, "");
                adopt(inner, epoch).await;
                return Ok(Changed::Moved);
            }
            // It lacks the parent: it will be aligned.
            Ok(Stored::Behind) => {}
            Err(failure) if written.is_empty() => return Err((side, failure)),
            Err(_) => inner.doubt(side),
        }
    }
    if written.is_empty() {
        return Ok(Changed::Refused(NotApplied::DecidedFor(child.epoch.members)));
    }
    inner.event(Happened::Changed {
        why: Reason::read(&child.reason),
        members: child.epoch.members,
    });
    adopt(inner, child.epoch).await;
    Ok(Changed::Moved)
}

/// Lets a member of both epochs, which stores the parent, store the current one: it lacks nothing else. Says whether it
/// was so.
///
/// # Errors
/// The side in trouble.
pub(super) async fn advance(inner: &Inner, epoch: &Epoch, side: SideId) -> Result<bool, At> {
    let Some(parent) = inner.health(side).epoch.filter(|e| may_advance(side, e, epoch)) else {
        return Ok(false);
    };
    let reason = inner.sides.iter().find_map(|(_, other)| {
        let health = other.health.borrow();
        health
            .epoch
            .is_some_and(|e| e.same_as(epoch))
            .then(|| health.reason.clone())
    });
    let child = Child {
        epoch: *epoch,
        reason: reason.unwrap_or_default(),
    };
    let stored = tokio::select! {
        stored = store(inner, &parent, &child, side) => stored.map_err(|f| (side, f))?,
        (side, fault) = inner.trouble(SideSet::EMPTY.with(side)) => return Err((side, Failure::Side(fault))),
    };
    match stored {
        Stored::Child => note_epoch(inner, SideSet::EMPTY.with(side), child.epoch, &child.reason),
        Stored::Newer(found) => note_epoch(inner, SideSet::EMPTY.with(side), found, ""),
        Stored::Behind => inner.doubt(side),
    }
    Ok(true)
}

/// What became of the child on one side.
enum Stored {
    Child,
    Newer(Epoch),
    Behind,
}

async fn store(inner: &Inner, parent: &Epoch, child: &Child, side: SideId) -> Result<Stored, Failure> {
    let conn = Conn::open(&inner.sides[side].writes).await?;
    conn.set_busy(true);
    let client = conn.client()?;
    let fence = Fence::take_within(client, FENCE_DEADLINE, Duration::from_millis(20)).await?;
    reach(Point::EjectFenced).await?;
    let stored = epoch::read(client).await?;
    if !stored.same_as(parent) {
        fence.release().await?;
        conn.set_busy(false);
        return Ok(match stored.n > parent.n {
            true => Stored::Newer(stored),
            false => Stored::Behind,
        });
    }
    fence.write(&child.epoch, &child.reason).await?;
    if Some(side) == child.epoch.members.leader() {
        sequences::align_if_possible(client, side, inner.sides.count()).await?;
    }
    reach(Point::EjectBefore).await?;
    fence.commit().await?;
    conn.set_busy(false);
    reach(Point::EjectAfter).await?;
    Ok(Stored::Child)
}

/// Sides that have just stored this epoch, so that the next decision need not wait for their heartbeats.
pub(super) fn note_epoch(inner: &Inner, sides: SideSet, epoch: Epoch, reason: &str) {
    for side in sides.iter() {
        inner.sides[side].health.send_modify(|health| {
            health.epoch = Some(epoch);
            health.reason = reason.to_owned();
            health.leftovers = false;
        });
    }
}

/// Makes an epoch the current one of this instance: first on its disk, then for its writers.
pub(super) async fn adopt(inner: &Inner, epoch: Epoch) {
    let _ = reach(Point::AdoptBefore).await;
    if let Some(lineage) = inner.lineage.get()
        && let Err(error) = inner.state_file.store(*lineage, &epoch)
    {
        inner.event(Happened::NoMemory(error.to_string()));
    }
    let changed = inner.view.send_if_modified(|view| {
        let newer = epoch.n > view.epoch.n;
        if newer {
            view.epoch = epoch;
            view.adopted = Some(std::time::Instant::now());
        }
        newer
    });
    if changed {
        let why = inner.sides.iter().find_map(|(_, side)| {
            let health = side.health.borrow();
            (health.epoch.is_some_and(|e| e.same_as(&epoch)) && !health.reason.is_empty())
                .then(|| health.reason.clone())
        });
        let why = why.unwrap_or_default();
        inner.learn_refusals(&epoch, &why);
        inner.event(Happened::Epoch {
            number: epoch.n,
            members: epoch.members,
            why: Reason::read(&why),
        });
    }
}

impl Inner {
    /// Reads the tables anew if the leader has seen a migration since they were read.
    async fn reread(&self) {
        let Some(leader) = self.view().epoch.members.leader() else {
            return;
        };
        let asked = async {
            let conn = Conn::open(&self.sides[leader].writes).await?;
            catalog::structure(conn.client()?).await
        };
        let now = tokio::time::timeout(self.config.probe_deadline, asked).await;
        if let Ok(Ok(now)) = now
            && now != self.catalog_of().1
        {
            match self.load_catalog(leader).await {
                Ok(()) => self.event(Happened::StructureRead),
                Err(_) => self.doubt(leader),
            }
        }
    }

    /// Asks the sides for their epochs now and adopts a newer one: a writer has met an epoch it does not know.
    pub async fn refresh(&self) {
        for side in self.well().iter() {
            let asked =
                tokio::time::timeout(self.config.probe_interval, health::current_epoch(self, side)).await;
            if let Ok(Ok((found, reason))) = asked
                && found.n > self.view.borrow().epoch.n
            {
                note_epoch(self, SideSet::EMPTY.with(side), found, &reason);
                adopt(self, found).await;
            }
        }
        self.reread().await;
        self.stir.notify_one();
    }
}
