//! Repairs, which run beside the decisions: finishing a readmission, catching a side up, bringing leftovers together.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::change::{self, Changed, adopt, note_epoch};
use super::decide::Action;
use crate::multipool::catch_up::{self, Caught};
use crate::multipool::connection::Failure;
use crate::multipool::epoch::Epoch;
use crate::multipool::inner::Inner;
use crate::multipool::merge::{self, Purpose};
use crate::multipool::rebuild::{self, Order, Rebuilt};
use crate::multipool::{Loss, SideId, SideSet};

/// How a repair ended that did not fail.
pub(super) enum Repaired {
    Done,
    /// It must wait, for this reason.
    Waits(String),
}

pub(super) type Ended = Result<Repaired, (SideId, Failure)>;

/// A repair in progress.
pub(super) struct Repair {
    pub handle: JoinHandle<Ended>,
    pub what: String,
    /// The side that is brought back or aligned.
    pub side: Option<SideId>,
    /// In which epoch it was begun.
    pub epoch: i64,
}

/// What a repair does.
#[derive(Clone, Copy)]
enum Work {
    Align { side: SideId, from: SideId },
    CatchUp { side: SideId, from: SideId },
    Rebuild { side: SideId, from: SideId, loss: Loss },
    Sweep,
}

/// Starts the repair that `action` asks for.
pub(super) fn start(inner: &Arc<Inner>, epoch: Epoch, action: &Action) -> Repair {
    let leader = epoch.members.leader();
    let (what, work) = match (action, leader) {
        (Action::Align { side, from }, _) => (
            format!("finishing the readmission of side {side}"),
            Work::Align {
                side: *side,
                from: *from,
            },
        ),
        (Action::CatchUp(side), Some(from)) => {
            inner.view.send_modify(|view| view.catching_up = Some(*side));
            (
                format!("catch-up of side {side}"),
                Work::CatchUp { side: *side, from },
            )
        }
        (Action::Rebuild(side, loss), Some(from)) => (
            format!("the rebuild of side {side}"),
            Work::Rebuild {
                side: *side,
                from,
                loss: *loss,
            },
        ),
        _ => ("the sweep".to_owned(), Work::Sweep),
    };
    let busy = match work {
        Work::Align { side, from } | Work::CatchUp { side, from } => SideSet::EMPTY.with(side).with(from),
        // The side itself is in trouble all the while.
        Work::Rebuild { from, .. } => SideSet::EMPTY.with(from),
        Work::Sweep => epoch.members,
    };
    let task = {
        let inner = Arc::clone(inner);
        async move {
            // A side that falls silent in the middle must not hold the repairer.
            let done = tokio::select! {
                done = repair(&inner, epoch, work) => done,
                (side, fault) = inner.trouble(busy) => Err((side, Failure::Side(fault))),
            };
            inner.stir.notify_one();
            done
        }
    };
    Repair {
        handle: tokio::spawn(task),
        what,
        side: match work {
            Work::CatchUp { side, .. } | Work::Align { side, .. } => Some(side),
            Work::Rebuild { .. } | Work::Sweep => None,
        },
        epoch: epoch.n,
    }
}

async fn repair(inner: &Inner, epoch: Epoch, work: Work) -> Ended {
    match work {
        Work::Align { side, from } => {
            merge::merge(inner, &epoch, from, side, Purpose::Align).await?;
            note_epoch(inner, SideSet::EMPTY.with(side), epoch, "readmission finished");
            inner.event(format!("side {side} stores the current epoch again"));
        }
        Work::CatchUp { side, from } => match catch_up::catch_up(inner, &epoch, from, side).await? {
            Caught::Up { epoch, keys } => {
                note_epoch(inner, SideSet::EMPTY.with(from).with(side), epoch, "");
                // The other members store what was decided, as after an ejection; until they do, nobody can write.
                for other in epoch
                    .members
                    .iter()
                    .filter(|other| *other != from && *other != side)
                {
                    if let Err((at, _)) = change::advance(inner, &epoch, other).await {
                        inner.doubt(at);
                    }
                }
                adopt(inner, epoch).await;
                inner.event(format!(
                    "side {side} is up to date ({keys} keys copied) and active again"
                ));
            }
            Caught::ByAnother => tracing::debug!(%side, "another instance is catching it up"),
            Caught::Voted(verdict) => match change::follow(inner, &epoch, verdict).await? {
                Changed::Moved => {}
                Changed::Later => return Ok(Repaired::Waits(String::new())),
                Changed::Refused(why) => {
                    return Ok(Repaired::Waits(format!(
                        "side {side} is up to date but cannot be active yet: {why}"
                    )));
                }
            },
        },
        Work::Rebuild { side, from, loss } => {
            tracing::info!(%side, %from, %loss, "a side is rebuilt");
            let order = Order { loss, consent: false };
            match rebuild::rebuild(inner, &epoch, from, side, order).await? {
                Rebuilt::Copied { rows, loss } => inner.event(format!(
                    "side {side} was rebuilt from side {from}: {rows} rows copied ({loss})"
                )),
                Rebuilt::ByAnother => tracing::debug!(%side, "another instance is rebuilding it"),
                Rebuilt::Refused(why) => {
                    return Ok(Repaired::Waits(format!("side {side} is not rebuilt: {why}")));
                }
            }
        }
        Work::Sweep => {
            let copied = merge::sweep(inner, &epoch).await?;
            if copied > 0 {
                inner.event(format!(
                    "{copied} rows that were on one side only were brought together"
                ));
            }
        }
    }
    Ok(Repaired::Done)
}
