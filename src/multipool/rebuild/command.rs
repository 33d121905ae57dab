//! `kambana rebuild`: a person asks for what the instances do by themselves, or agrees to what they do not.
//!
//! Works beside running instances, under the same lease; whoever has it copies, the command shows how far it is.

use std::time::Duration;

use tokio::time::Instant;

use super::{Order, Rebuilt, SHORT, marker, open, rebuild as copy, within};
use crate::config::PoolConfig;
use crate::multipool::connection::{Conn, Failure, words};
use crate::multipool::epoch::Epoch;
use crate::multipool::inner::Inner;
use crate::multipool::{ConnectError, Loss, MultiPool, Peers, Progress, SideFault, SideId, SideSet};

/// How often it looks again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A copied side is readmitted by an instance within seconds, if one runs.
const INSTANCES_PATIENCE: Duration = Duration::from_secs(15);

/// An instance puts a side out that was marked within this time.
const EJECT_PATIENCE: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The side is active again.
    Active,
    /// Everything is copied; an instance will make it active, but none runs.
    Copied,
    /// Nothing was overwritten; the reason, and what to do.
    Refused(String),
}

/// Rebuilds a side from a living one and waits until it is active. `replace`: whatever it holds may be overwritten.
///
/// # Errors
/// No living side, or trouble that does not pass.
pub async fn rebuild(
    config: PoolConfig,
    side: SideId,
    replace: bool,
    tell: impl Fn(&Progress),
) -> Result<Ended, ConnectError> {
    if config.sides.get(side).is_none() {
        return Err(ConnectError(format!(
            "there is no side {side}; DB{}_* names none",
            side.index() + 1
        )));
    }
    // What stands in the place of the side may be somebody else's.
    let (pool, _) = MultiPool::probing(config, Peers::default(), SideSet::EMPTY.with(side)).await?;
    let done = match pool.probed().await {
        Ok(()) => attempt(pool.inner(), side, replace, &tell).await,
        Err(error) => Err(error),
    };
    pool.close().await;
    forget(pool.inner()).await;
    done
}

/// Takes the command's heartbeats away: it is no instance.
async fn forget(inner: &Inner) {
    for side in inner.well().iter() {
        let forgotten = async {
            let conn = Conn::open(&inner.sides[side].writes).await?;
            let sql = "-- rebuild::forget()\nDELETE FROM kambana.heartbeat WHERE instance = $1";
            conn.client()?.execute(sql, &[&inner.config.instance]).await?;
            Ok::<_, Failure>(())
        };
        if !matches!(tokio::time::timeout(SHORT, forgotten).await, Ok(Ok(()))) {
            tracing::debug!(%side, "the command's heartbeat row stays");
        }
    }
}

/// The membership that the sides which answer know, and the side to copy from.
fn authority(inner: &Inner, but: SideId) -> Option<(Epoch, SideId)> {
    let newest = inner
        .well()
        .iter()
        .filter_map(|side| inner.health(side).epoch)
        .max_by_key(|epoch| epoch.n)?;
    let current = |side: &SideId| inner.health(*side).epoch.is_some_and(|e| e.same_as(&newest));
    let others = newest.members.and(inner.well()).minus(SideSet::EMPTY.with(but));
    let lead = others.iter().find(current)?;
    Some((newest, lead))
}

async fn attempt(
    inner: &Inner,
    side: SideId,
    replace: bool,
    tell: &impl Fn(&Progress),
) -> Result<Ended, ConnectError> {
    let mut replace = replace;
    let mut copied: Option<Instant> = None;
    let (mut trouble, mut since) = (String::new(), Instant::now());
    // When an active side was marked, and the epoch of then.
    let mut marked: Option<(Instant, i64)> = None;
    loop {
        let Some((epoch, lead)) = authority(inner, side) else {
            return Err(ConnectError(format!(
                "no living side to copy from: every side but {side} must answer and be active in the newest epoch; see `kambana status`"
            )));
        };
        let health = inner.health(side);
        if let Some(progress) = &health.rebuild {
            tell(progress);
        }
        let failure = match (epoch.members.contains(side), &health.fault) {
            // Put out and let in again, or let in after it was copied.
            (true, None) if copied.is_some() || marked.is_some_and(|(_, n)| epoch.n > n + 1) => {
                return Ok(Ended::Active);
            }
            (true, _) if marked.is_none() && !replace => {
                return Ok(Ended::Refused(format!(
                    "side {side} is active: there is nothing to rebuild. To copy it anew all the same: kambana rebuild {side} --replace"
                )));
            }
            (true, _) => match marked {
                None => {
                    marked = Some((Instant::now(), epoch.n));
                    mark(inner, side).await
                }
                Some((at, _)) if at.elapsed() > EJECT_PATIENCE => {
                    return Ok(Ended::Refused(format!(
                        "side {side} is marked as one to be rebuilt, but no instance puts it out; start one"
                    )));
                }
                Some(_) => None,
            },
            (false, Some(SideFault::Down(_) | SideFault::Silent | SideFault::Refused(_))) => {
                return Err(ConnectError(format!(
                    "side {side} {}",
                    health.fault.clone().unwrap_or(SideFault::Silent)
                )));
            }
            (false, None) if copied.is_some_and(|at| at.elapsed() < INSTANCES_PATIENCE) => None,
            // A change of the active sides needs votes, and the command has none.
            (false, None) if copied.is_some() => return Ok(Ended::Copied),
            (false, Some(SideFault::Unfit(why))) if !replace => return Ok(Ended::Refused(why.clone())),
            (false, fault) => {
                let loss = match fault {
                    Some(SideFault::Lost(loss)) => *loss,
                    _ => Loss::Asked,
                };
                let order = Order {
                    loss,
                    consent: replace,
                };
                match copy_shown(inner, &epoch, lead, side, order, tell).await {
                    Ok(Rebuilt::Copied { .. }) => {
                        copied = Some(Instant::now());
                        // What was agreed to has happened.
                        replace = false;
                        None
                    }
                    // He who copies also finishes; and he may overwrite what was marked.
                    Ok(Rebuilt::ByAnother) if !replace || marked.is_some() => {
                        copied = Some(Instant::now());
                        None
                    }
                    Ok(Rebuilt::ByAnother) => None,
                    Ok(Rebuilt::Refused(why)) => return Ok(Ended::Refused(why)),
                    Err((at, failure)) => Some(format!("side {at}: {}", words(&failure))),
                }
            }
        };
        match failure {
            Some(text) if text == trouble && since.elapsed() > EJECT_PATIENCE => {
                return Err(ConnectError(text));
            }
            Some(text) if text != trouble => (trouble, since) = (text, Instant::now()),
            _ => {}
        }
        inner.doubt(side);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Copies, and shows how far it is.
async fn copy_shown(
    inner: &Inner,
    epoch: &Epoch,
    lead: SideId,
    side: SideId,
    order: Order,
    tell: &impl Fn(&Progress),
) -> Result<Rebuilt, (SideId, Failure)> {
    let mut health = inner.sides[side].health.subscribe();
    let mut copying = std::pin::pin!(copy(inner, epoch, lead, side, order));
    loop {
        tokio::select! {
            done = &mut copying => return done,
            _ = health.changed() => {
                let rebuild = health.borrow_and_update().rebuild.clone();
                if let Some(progress) = rebuild {
                    tell(&progress);
                }
            }
        }
    }
}

/// Marks an active side: every instance sees that and puts it out.
async fn mark(inner: &Inner, side: SideId) -> Option<String> {
    let marked = async {
        let client = open(inner, side, side).await?;
        let sql = "-- rebuild::mark()\nINSERT INTO kambana.rebuild (token, loss, consent) VALUES (gen_random_uuid(), $1, true) \
                   ON CONFLICT (one) DO NOTHING";
        within(side, SHORT, client.execute(sql, &[&marker::code(Loss::Asked)])).await
    };
    marked.await.err().map(|stop| format!("side {side}: {stop:?}"))
}
