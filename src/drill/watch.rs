//! What the instances say about the membership while the run goes on: for the person at the terminal, for the timeline, and
//! to know when the cluster is whole again. The verdict does not rest on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::faults::Stage;
use super::history::as_ms;
use crate::local::http;

/// How often every instance is asked.
const INTERVAL: Duration = Duration::from_millis(150);
/// One that takes longer shows nothing.
const DEADLINE: Duration = Duration::from_millis(700);

/// The membership, as one instance sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Number of the epoch.
    pub epoch: i64,
    /// Names of the active sides.
    pub active: Vec<String>,
    /// Whether every side is active and writes are accepted.
    pub whole: bool,
}

impl Sight {
    fn read(status: &Value) -> Option<Sight> {
        let sides = status["sides"].as_object()?;
        let is_active = |side: &Value| side["state"] == "active";
        let active: Vec<String> = sides
            .iter()
            .filter(|(_, side)| is_active(side))
            .map(|(name, _)| name.clone())
            .collect();
        Some(Sight {
            epoch: status["epoch"].as_i64()?,
            whole: active.len() == sides.len() && status["writable"] == true,
            active,
        })
    }
}

/// A membership, from when on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EpochSeen {
    /// When it was first seen.
    #[serde(rename = "at_ms", serialize_with = "as_ms")]
    pub at: Duration,
    /// Its number.
    pub epoch: i64,
    /// Names of the active sides.
    pub active: Vec<String>,
}

#[derive(Default)]
struct Seen {
    /// When the instances were last asked.
    asked: Duration,
    /// The present sight of every instance; none for one that does not answer.
    now: BTreeMap<String, Option<Sight>>,
    epochs: Vec<EpochSeen>,
}

/// Asks all instances, again and again, until it is dropped.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Starts asking; `begun` is the time from which all times are counted.
    pub fn start(stage: Arc<Stage>, begun: Instant, tell: impl Fn(&str) + Send + 'static) -> Watch {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let writer = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let asked = begun.elapsed();
                let now = look(&stage).await;
                let news = writer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .note(now, asked);
                if let Some(news) = news {
                    tell(&format!("epoch {}, active: {}", news.epoch, shown(&news.active)));
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Watch { seen, task }
    }

    /// Whether every instance sees every side active, in one epoch.
    pub fn is_whole(&self) -> bool {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_whole()
    }

    /// As [`Watch::is_whole`], by answers to questions asked after `time`: an instance tells its latest knowledge.
    pub fn is_whole_since(&self, time: Duration) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.asked > time && seen.is_whole()
    }

    /// The latest epoch that was seen.
    pub fn epoch(&self) -> i64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.epochs.last().map_or(0, |seen| seen.epoch)
    }

    /// Every membership that was seen.
    pub fn epochs(&self) -> Vec<EpochSeen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .epochs
            .clone()
    }
}

impl Seen {
    /// Notes what is seen now; the membership, if it is a new one.
    fn note(&mut self, now: BTreeMap<String, Option<Sight>>, at: Duration) -> Option<EpochSeen> {
        (self.now, self.asked) = (now, at);
        let newest = self.now.values().flatten().max_by_key(|sight| sight.epoch)?;
        if self.epochs.last().is_some_and(|last| last.epoch >= newest.epoch) {
            return None;
        }
        let seen = EpochSeen {
            at,
            epoch: newest.epoch,
            active: newest.active.clone(),
        };
        self.epochs.push(seen.clone());
        Some(seen)
    }

    fn is_whole(&self) -> bool {
        let mut sights = self.now.values();
        let Some(Some(first)) = sights.next() else {
            return false;
        };
        first.whole && sights.all(|sight| sight.as_ref().is_some_and(|s| s.whole && s.epoch == first.epoch))
    }
}

/// Names of sides, for people.
pub fn shown(active: &[String]) -> String {
    match active.is_empty() {
        true => "none".to_owned(),
        false => active.join(", "),
    }
}

async fn look(stage: &Stage) -> BTreeMap<String, Option<Sight>> {
    let instances = stage.record().map(|record| record.instances).unwrap_or_default();
    let asked = instances.into_iter().map(|(name, instance)| async move {
        let url = format!("{}/api/status", instance.url);
        let answer = http::get(&url, DEADLINE).await.ok();
        let status = answer.and_then(|answer| serde_json::from_slice(&answer.body).ok());
        (name, status.and_then(|status| Sight::read(&status)))
    });
    futures::future::join_all(asked).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sight(epoch: i64, b: &str) -> Option<Sight> {
        Sight::read(
            &json!({"epoch": epoch, "writable": true, "sides": {"a": {"state": "active"}, "b": {"state": b}}}),
        )
    }

    #[test]
    fn whole_is_what_all_instances_see() {
        let mut seen = Seen::default();
        let mut whole = |web1, web2| {
            seen.note(
                [("web1".into(), web1), ("web2".into(), web2)].into(),
                Duration::ZERO,
            );
            seen.is_whole()
        };
        assert!(whole(sight(1, "active"), sight(1, "active")));
        assert!(!whole(sight(1, "active"), sight(2, "active")));
        assert!(!whole(sight(2, "active"), sight(2, "out")));
        assert!(!whole(sight(2, "active"), None));
        let epochs: Vec<i64> = seen.epochs.iter().map(|seen| seen.epoch).collect();
        assert_eq!(epochs, [1, 2]);
        assert!(!Seen::default().is_whole());
    }
}
