//! Whether this process has stood still (SIGSTOP, a suspended machine, no processor for a while). What it knows of the
//! membership is as old as the standstill then: others may have moved on, and the database that it remembers as the leader may
//! have died, returned, and not been caught up yet. A write notices at the epoch; a read is answered only if no other side has moved on.
//!
//! Nothing here is stored: a new process knows nothing to begin with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::SideId;
use super::connection::{self, Failure, Purpose};
use super::epoch::{self, Epoch};
use super::inner::{Inner, lock};

/// How often the pulse is felt.
const BEAT: Duration = Duration::from_millis(100);
/// A pulse that is late by so much was a standstill: no side is left out sooner after it fell silent or died, and has come back.
const STANDSTILL: Duration = Duration::from_millis(400);

/// When this process was last seen to run, and when it went on after its latest standstill.
#[derive(Debug)]
pub(super) struct Pulse {
    felt: Mutex<(Instant, Option<Instant>)>,
    /// When a reader began to ask a side that did not answer: the next one need not wait for it again.
    unanswered: Mutex<BTreeMap<SideId, Instant>>,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse {
            felt: Mutex::new((Instant::now(), None)),
            unanswered: Mutex::default(),
        }
    }
}

impl Pulse {
    /// It runs now. When it went on after its latest standstill, if it ever stood still.
    fn feel(&self, now: Instant) -> Option<Instant> {
        let mut pulse = lock(&self.felt);
        let (before, resumed) = *pulse;
        let resumed = match now.saturating_duration_since(before) > STANDSTILL {
            true => Some(now),
            false => resumed,
        };
        *pulse = (now.max(before), resumed);
        resumed
    }

    /// Whether a side was asked since then and did not answer.
    fn is_silent(&self, side: SideId, resumed: Instant) -> bool {
        lock(&self.unanswered)
            .get(&side)
            .is_some_and(|asked| *asked > resumed)
    }
}

/// The named background task `pulse`.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        inner.pulse.feel(Instant::now());
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            () = inner.closed() => return,
        }
    }
}

/// Whether another side has moved on to a later epoch than `believed` while this process stood still; asked after a read from
/// `side` that was begun in that belief: by now this instance may have moved on, too, and the answer is from before. The side
/// that says so is asked for a heartbeat, so that this instance moves on. One that does not answer says nothing.
pub(super) async fn moved_on_without_us(inner: &Inner, side: SideId, believed: i64) -> bool {
    let Some(resumed) = inner
        .pulse
        .feel(Instant::now())
        .filter(|_| !cfg!(mutant = "trust_the_past"))
    else {
        return false;
    };
    // Not only its members: a side that was out then may have returned, and gone on alone.
    for other in inner.sides.ids().filter(|other| *other != side) {
        let known = inner.health(other);
        let stored = match known.asked {
            // What a probe that failed has left behind is older.
            Some(asked) if asked > resumed && known.is_well() => known.epoch,
            _ if inner.pulse.is_silent(other, resumed) => None,
            _ => {
                let began = Instant::now();
                let asked = timeout(inner.config.probe_deadline, ask(inner, other)).await;
                let stored = asked.ok().and_then(Result::ok);
                if stored.is_none() {
                    lock(&inner.pulse.unanswered).insert(other, began);
                }
                stored
            }
        };
        if stored.is_some_and(|stored| stored.n > believed) {
            inner.doubt(other);
            return true;
        }
    }
    false
}

/// The epoch that a side stores, over a connection of its own: those of the pools are refused until the prober has looked at
/// a server that was started anew, and a server that was started anew is just who may know more.
async fn ask(inner: &Inner, side: SideId) -> Result<Epoch, Failure> {
    let client = connection::connect(&inner.config, side, Purpose::Read).await?;
    epoch::read(&client).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_pulse_is_a_standstill() {
        let pulse = Pulse::default();
        let begun = lock(&pulse.felt).0;
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(pulse.feel(at(100)), None);
        assert_eq!(pulse.feel(at(500)), None);
        assert_eq!(pulse.feel(at(2000)), Some(at(2000)));
        assert_eq!(pulse.feel(at(2100)), Some(at(2000)));
        // Two that feel it at once may come in the wrong order.
        assert_eq!(pulse.feel(at(2050)), Some(at(2000)));
    }
}
