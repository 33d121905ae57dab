//! Taking the lost side: whose is it, may it be overwritten, was it begun before?
//!
//! If we die in here, either nothing has happened, or the marker stands.

use std::collections::BTreeSet;

use super::{LONG, Order, SHORT, Stop, Work, marker, refused, within};
use crate::multipool::connection::{Conn, Failure, Repeat};
use crate::multipool::epoch::{self, Fence};
use crate::multipool::install::{self, FirstEpoch, INSTALL_SQL};
use crate::multipool::{Loss, Reason, SideFault, SideId, lineage, merge, votes};

/// What the copy needs to know.
#[derive(Debug)]
pub(super) struct Plan {
    pub loss: Loss,
    pub consent: bool,
    /// Tables that an earlier repairer has completed.
    pub done: BTreeSet<String>,
}

/// Takes the side.
pub(super) async fn claim(work: &Work<'_>, order: Order) -> Result<Plan, Stop> {
    not_the_source(work).await?;
    let (inner, other) = (work.inner, work.other);
    let identity = within(other, SHORT, install::identity(&work.target)).await?;
    let pool = inner.lineage.get().copied().unwrap_or_default();
    let stranger = identity
        .as_ref()
        .and_then(|identity| install::wrong_identity(identity, other, pool));
    if let Some(why) = stranger.clone().filter(|_| !order.consent) {
        return Err(Stop::Refused { why, asks: true });
    }
    let ours = identity.is_some() && stranger.is_none();
    let mut begun = None;
    if ours {
        not_newer(work, order).await?;
        begun = within(other, SHORT, marker::read(&work.target)).await?;
    }
    if let Some(marker) = &begun {
        let consent = marker.consent || order.consent;
        let stored = within(other, SHORT, epoch::read(&work.target)).await?;
        // A side that a person has marked still holds what it held.
        if stored.generation == marker.token && !given_up(work).await? {
            take_over(work, consent).await?;
            return Ok(Plan {
                loss: marker.loss,
                consent,
                done: marker.done.iter().cloned().collect(),
            });
        }
    }
    if begun.is_none() && !order.consent && !still_lost(work, order.loss, identity.is_some()).await? {
        // Another repairer has finished it since this one looked.
        return Err(Stop::At(other, Failure::Repeat(Repeat::Contention)));
    }
    let loss = match (&begun, order.loss) {
        (Some(marker), _) => marker.loss,
        (None, loss) => loss,
    };
    let consent = order.consent || begun.as_ref().is_some_and(|marker| marker.consent);
    if ours {
        keep_open_changes(work, consent).await?;
    }
    begin_anew(work, loss, consent).await?;
    Ok(Plan {
        loss,
        consent,
        done: BTreeSet::new(),
    })
}

/// What the prober saw may have passed: asked again, now that nobody else repairs this side.
async fn still_lost(work: &Work<'_>, loss: Loss, installed: bool) -> Result<bool, Stop> {
    Ok(match loss {
        Loss::Empty | Loss::Stripped => !installed,
        Loss::Unfinished => false,
        Loss::TooOld => given_up(work).await?,
        Loss::Restored => {
            let looked = lineage::check(work.inner, work.other, &work.target);
            match tokio::time::timeout(SHORT, looked).await {
                Ok(Ok(())) => false,
                Ok(Err(Failure::Side(SideFault::Lost(_)))) => true,
                Ok(Err(failure)) => return Err(Stop::At(work.other, failure)),
                Err(_) => return Err(Stop::At(work.other, Failure::Side(SideFault::Silent))),
            }
        }
        Loss::Asked => true,
    })
}

/// The target must be another database than the source, whatever the settings say.
async fn not_the_source(work: &Work<'_>) -> Result<(), Stop> {
    // An advisory lock is seen by every session of one database and by no other.
    let nonce = (work.token.as_u128() as i64) & i64::MAX;
    let sql = "-- rebuild::not_the_source()\nSELECT pg_try_advisory_lock($1)";
    let mut got = Vec::new();
    for (side, client) in [(work.lead, &work.source), (work.other, &work.target)] {
        let row = within(side, SHORT, client.query_one(sql, &[&nonce])).await?;
        got.push(row.get::<_, bool>(0));
    }
    let unlock = "-- rebuild::not_the_source()\nSELECT pg_advisory_unlock_all()";
    within(work.lead, SHORT, work.source.batch_execute(unlock)).await?;
    within(work.other, SHORT, work.target.batch_execute(unlock)).await?;
    match got == [true, true] {
        true => Ok(()),
        false => Err(Stop::Refused {
            why: format!(
                "side {} is the same database as side {}; every DB*_NAME/HOST/PORT must name a different one",
                work.other, work.lead
            ),
            asks: true,
        }),
    }
}

/// A side that knows a newer membership than the source, or another one of the same number, may hold what nobody else does.
async fn not_newer(work: &Work<'_>, order: Order) -> Result<(), Stop> {
    let stored = within(work.other, SHORT, epoch::read(&work.target)).await?;
    let newer = stored.n > work.epoch.n
        || (stored.n == work.epoch.n && stored.members != work.epoch.members && stored.n > 0);
    if newer && !order.consent {
        return Err(Stop::Refused {
            why: format!(
                "it stores epoch {} with the sides {}, side {} stores epoch {} with {}: it may hold changes that nobody \
                 else has; if they may be lost: kambana rebuild {} --replace",
                stored.n, stored.members, work.lead, work.epoch.n, work.epoch.members, work.other
            ),
            asks: true,
        });
    }
    Ok(())
}

async fn given_up(work: &Work<'_>) -> Result<bool, Stop> {
    let found = merge::given_up(&work.source, work.other);
    within(work.lead, SHORT, found).await
}

/// Goes on where another repairer stopped: from now on nothing of his is committed any more.
async fn take_over(work: &Work<'_>, consent: bool) -> Result<(), Stop> {
    let taken = async {
        let fence = Fence::take(&work.target).await?;
        fence
            .write(&epoch_of(work), &Reason::Rebuilding.to_string())
            .await?;
        work.target
            .execute(
                "-- rebuild::take_over()\nUPDATE kambana.rebuild SET token = $1, consent = $2, refusal = NULL, \
                 asks = false, at = clock_timestamp()",
                &[&work.token, &consent],
            )
            .await?;
        fence.commit().await
    };
    within(work.other, SHORT, taken).await
}

/// The current membership with our token.
fn epoch_of(work: &Work<'_>) -> epoch::Epoch {
    epoch::Epoch {
        generation: work.token,
        ..work.epoch
    }
}

/// Changes that only this side has are lost with its journal: both images are kept first.
async fn keep_open_changes(work: &Work<'_>, consent: bool) -> Result<(), Stop> {
    let catalog = within(work.lead, SHORT, crate::multipool::catalog::load(&work.source)).await?;
    let kept = merge::keep_open(
        &catalog,
        (work.lead, &work.source),
        (work.other, &work.target),
        super::keep::MOST,
    );
    match tokio::time::timeout(LONG, kept).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Ok(None)) if consent => Ok(()),
        Ok(Ok(None)) => Err(super::keep::too_many(work.other)),
        Ok(Err((side, failure))) => Err(Stop::At(side, failure)),
        Err(_) => Err(Stop::At(work.other, Failure::Side(SideFault::Silent))),
    }
}

/// A new schema with the marker, in one transaction. What is in the tables stays until they are copied.
async fn begin_anew(work: &Work<'_>, loss: Loss, consent: bool) -> Result<(), Stop> {
    // From now on the journal keeps what is written, up to the limit.
    for side in work.epoch.members.iter() {
        within(side, SHORT, keep_again(work, side)).await?;
    }
    let mark = highest_mark(work).await? + lineage::JUMP;
    let (names, marks) = work.inner.marks_but(work.other);
    let pool = work.inner.lineage.get().copied().unwrap_or_default();
    let first = FirstEpoch {
        n: work.epoch.n,
        parent: work.epoch.parent,
        members: work.epoch.members,
    };
    let target = &work.target;
    let anew = async {
        target
            .batch_execute("BEGIN; SET LOCAL lock_timeout = '3s'; DROP SCHEMA IF EXISTS kambana CASCADE")
            .await?;
        target.batch_execute(INSTALL_SQL).await?;
        install::introduce(target, work.other, pool, &first, mark).await?;
        // No vote before it is readmitted: what it has promised before is forgotten.
        votes::introduce(target, work.other, false).await?;
        target
            .execute(
                "-- rebuild::begin_anew()\nUPDATE kambana.epoch SET generation = $1, reason = $2",
                &[&work.token, &Reason::Rebuilding.to_string()],
            )
            .await?;
        target
            .execute(
                "-- rebuild::begin_anew()\nINSERT INTO kambana.mark (side, mark) SELECT * FROM unnest($1::text[], $2::bigint[])",
                &[&names, &marks],
            )
            .await?;
        target
            .execute(
                "-- rebuild::begin_anew()\nINSERT INTO kambana.rebuild (token, loss, consent) VALUES ($1, $2, $3)",
                &[&work.token, &marker::code(loss), &consent],
            )
            .await?;
        target.batch_execute("COMMIT").await?;
        Ok::<_, Failure>(())
    };
    let done = work.at_target(SHORT, "schema kambana cannot be made", anew).await;
    if let Err(Stop::Refused { why, .. }) = &done {
        // Nothing has happened, so there is no marker to keep the reason in.
        within(work.other, SHORT, target.batch_execute("ROLLBACK")).await?;
        return Err(refused(why.clone()));
    }
    done
}

async fn keep_again(work: &Work<'_>, side: SideId) -> Result<(), Failure> {
    let conn = Conn::open(&work.inner.sides[side].writes).await?;
    conn.client()?
        .execute(
            "-- rebuild::keep_again()\nUPDATE kambana.mark SET given_up = false WHERE side = $1 AND given_up",
            &[&work.other.to_string()],
        )
        .await?;
    Ok(())
}

/// The highest mark that anybody remembers of the lost side.
async fn highest_mark(work: &Work<'_>) -> Result<i64, Stop> {
    let sql = "-- rebuild::highest_mark()\nSELECT coalesce(max(mark), 0) FROM kambana.mark WHERE side = $1";
    let name = work.other.to_string();
    let stored = within(work.lead, SHORT, work.source.query_one(sql, &[&name])).await?;
    Ok(stored.get::<_, i64>(0).max(work.inner.sides[work.other].mark()))
}
