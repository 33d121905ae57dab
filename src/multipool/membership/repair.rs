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
use crate::multipool::{Happened, Loss, Reason, Repair, SideId, SideSet};

/// How a repair ended that did not fail.
pub(super) enum Repaired {
    Done,
    /// It must wait; what is to be told of it.
    Waits(Option<Happened>),
}

pub(super) type Ended = Result<Repaired, (SideId, Failure)>;

/// A repair in progress.
pub(super) struct Running {
    pub handle: JoinHandle<Ended>,
    pub repair: Repair,
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
pub(super) fn start(inner: &Arc<Inner>, epoch: Epoch, action: &Action) -> Running {
    let leader = epoch.members.leader();
    let (kind, work) = match (action, leader) {
        (Action::Align { side, from }, _) => (
            Repair::Align(*side),
            Work::Align {
                side: *side,
                from: *from,
            },
        ),
        (Action::CatchUp(side), Some(from)) => {
            inner.view.send_modify(|view| view.catching_up = Some(*side));
            (Repair::CatchUp(*side), Work::CatchUp { side: *side, from })
        }
        (Action::Rebuild(side, loss), Some(from)) => (
            Repair::Rebuild(*side),
            Work::Rebuild {
                side: *side,
                from,
                loss: *loss,
            },
        ),
        _ => (Repair::Sweep, Work::Sweep),
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
    Running {
        handle: tokio::spawn(task),
        repair: kind,
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
            note_epoch(
                inner,
                SideSet::EMPTY.with(side),
                epoch,
                &Reason::Finished.to_string(),
            );
            inner.event(Happened::Aligned(side));
        }
        Work::CatchUp { side, from } => match catch_up::catch_up(inner, &epoch, from, side).await? {
            Caught::Up { epoch, keys } => {
                let why = Reason::Readmitted(side).to_string();
                note_epoch(inner, SideSet::EMPTY.with(from).with(side), epoch, &why);
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
                inner.event(Happened::CaughtUp { side, keys });
            }
            Caught::ByAnother => tracing::debug!(%side, "another instance is catching it up"),
            Caught::Voted(verdict) => match change::follow(inner, &epoch, verdict).await? {
                Changed::Moved => {}
                Changed::Later => return Ok(Repaired::Waits(None)),
                Changed::Refused(why) => {
                    return Ok(Repaired::Waits(Some(Happened::NotReadmitted { side, why })));
                }
            },
        },
        Work::Rebuild { side, from, loss } => {
            tracing::info!(%side, %from, %loss, "a side is rebuilt");
            let order = Order { loss, consent: false };
            match rebuild::rebuild(inner, &epoch, from, side, order).await? {
                Rebuilt::Copied { rows, loss } => inner.event(Happened::Rebuilt {
                    side,
                    from,
                    rows,
                    loss,
                }),
                Rebuilt::ByAnother => tracing::debug!(%side, "another instance is rebuilding it"),
                Rebuilt::Refused(why) => {
                    return Ok(Repaired::Waits(Some(Happened::NotRebuilt { side, why })));
                }
            }
        }
        Work::Sweep => {
            let rows = merge::sweep(inner, &epoch).await?;
            if rows > 0 {
                inner.event(Happened::Swept { rows });
            }
        }
    }
    Ok(Repaired::Done)
}
