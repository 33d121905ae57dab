//! Clients that write through HTTP and remember every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

/// What all clients know together.
#[derive(Default)]
pub struct History {
    /// Rows that were inserted, acknowledged and never asked to be deleted.
    pub kept: Mutex<BTreeSet<i64>>,
    /// Rows whose deletion was acknowledged.
    pub deleted: Mutex<BTreeSet<i64>>,
    /// Operations that were answered 2xx.
    pub acknowledged: Mutex<Vec<Uuid>>,
    /// Operations that were answered "not applied".
    pub refused: Mutex<Vec<Uuid>>,
    /// Every answer that is neither success nor an honest "gone" or "changed".
    pub failures: Mutex<Vec<String>>,
    /// The row in each slot, by the client's knowledge.
    slots: Mutex<BTreeMap<usize, i64>>,
    last_success: Mutex<Option<Instant>>,
    worst_gap: Mutex<Duration>,
    sent: AtomicU64,
}

impl History {
    fn succeeded(&self) {
        let now = Instant::now();
        if let Some(before) = self.last_success.lock().unwrap().replace(now) {
            let mut worst = self.worst_gap.lock().unwrap();
            *worst = (*worst).max(now - before);
        }
    }

    /// The longest time between two successful writes of anybody.
    pub fn worst_gap(&self) -> Duration {
        *self.worst_gap.lock().unwrap()
    }

    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}

/// Running clients.
pub struct Load {
    pub history: Arc<History>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

/// A small generator of its own, so that a run can be repeated from its seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

impl Load {
    /// `count` clients that insert, update and delete the same `slots` rows, each alternating between `urls`.
    pub fn start(urls: Vec<String>, count: u64, slots: u64, retry: bool) -> Load {
        let history = Arc::new(History::default());
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..count)
            .map(|seed| {
                let (urls, history, stop) = (urls.clone(), Arc::clone(&history), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut client = Client {
                        http: http(),
                        urls,
                        history,
                        dice: Dice::new(seed + 1),
                        slots,
                        retry,
                    };
                    while !stop.load(Ordering::Relaxed) {
                        client.step().await;
                    }
                })
            })
            .collect();
        Load {
            history,
            stop,
            clients,
        }
    }

    /// Waits until so many more writes were acknowledged.
    pub async fn more(&self, count: usize) {
        let goal = self.history.acknowledged_count() + count;
        let history = Arc::clone(&self.history);
        crate::support::eventually("more acknowledged writes", Duration::from_secs(30), || async {
            history.acknowledged_count() >= goal
        })
        .await;
    }

    pub async fn stop(self) -> Arc<History> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        println!(
            "acknowledged {}, failures {}, worst gap {:?}",
            self.history.acknowledged_count(),
            self.history.failures.lock().unwrap().len(),
            self.history.worst_gap()
        );
        self.history
    }
}

pub fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(25))
        .build()
        .unwrap()
}

struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    history: Arc<History>,
    dice: Dice,
    slots: u64,
    /// Whether an unanswered request is sent again under its name, as a careful client does.
    retry: bool,
}

impl Client {
    async fn step(&mut self) {
        // A person thinks; and two cores must have time for heartbeats too.
        tokio::time::sleep(Duration::from_millis(self.dice.below(20))).await;
        let slot = self.dice.below(self.slots) as usize;
        let row = self.history.slots.lock().unwrap().get(&slot).copied();
        let n = self.history.sent.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "name": format!("slot {slot}"), "content": format!("write {n}") });
        match (row, self.dice.below(10)) {
            (None, _) => {
                if let Some((201, answer)) = self.send("POST", "/api/items", Some(&body)).await {
                    let id = answer["id"].as_i64().unwrap();
                    self.history.slots.lock().unwrap().insert(slot, id);
                    self.history.kept.lock().unwrap().insert(id);
                }
            }
            (Some(id), 0) => {
                self.history.kept.lock().unwrap().remove(&id);
                if let Some((status, _)) = self.send("DELETE", &format!("/api/items/{id}"), None).await {
                    assert!(status == 204 || status == 404, "{status}");
                    self.history.deleted.lock().unwrap().insert(id);
                    let mut slots = self.history.slots.lock().unwrap();
                    if slots.get(&slot) == Some(&id) {
                        slots.remove(&slot);
                    }
                }
            }
            (Some(id), _) => {
                if let Some((404, _)) = self.send("PUT", &format!("/api/items/{id}"), Some(&body)).await {
                    let mut slots = self.history.slots.lock().unwrap();
                    if slots.get(&slot) == Some(&id) {
                        slots.remove(&slot);
                    }
                }
            }
        }
    }

    /// One operation: its status and answer, or nothing if it failed.
    async fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let op = Uuid::now_v7();
        let mut tries = 0;
        loop {
            tries += 1;
            let url = &self.urls[self.dice.below(self.urls.len() as u64) as usize];
            let mut request = self
                .http
                .request(method.parse().unwrap(), format!("{url}{path}"))
                .header("Idempotency-Key", op.to_string());
            if let Some(body) = body {
                request = request.json(body);
            }
            let failure = match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let text = answer.text().await.unwrap_or_default();
                    match status {
                        200 | 201 | 204 => {
                            self.history.acknowledged.lock().unwrap().push(op);
                            self.history.succeeded();
                            return Some((status, serde_json::from_str(&text).unwrap_or_default()));
                        }
                        404 | 409 => return Some((status, Value::Null)),
                        503 => {
                            self.history.refused.lock().unwrap().push(op);
                            format!("{method} {path}: 503 {text}")
                        }
                        _ => format!("{method} {path}: {status} {text}"),
                    }
                }
                Err(error) => format!("{method} {path}: {error:?}"),
            };
            if self.retry && tries < 200 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            self.history.failures.lock().unwrap().push(failure);
            return None;
        }
    }
}

/// Invariants after a run, asked by SQL on both sides: what was acknowledged is there, what was refused is not, no
/// deleted row returned, and nothing is left over.
pub async fn check(stack: &kambana::local::Stack, history: &History) {
    crate::support::assert_identical(stack).await;
    for name in ["a", "b"] {
        let client = crate::support::connect(&stack.dsn(crate::support::side(name)))
            .await
            .unwrap();
        let rows: BTreeSet<i64> = client
            .query("SELECT id::bigint FROM items", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let deleted = history.deleted.lock().unwrap().clone();
        let kept: BTreeSet<i64> = history
            .kept
            .lock()
            .unwrap()
            .difference(&deleted)
            .copied()
            .collect();
        let lost: Vec<_> = kept.difference(&rows).collect();
        let back: Vec<_> = deleted.intersection(&rows).collect();
        assert!(lost.is_empty(), "acknowledged rows missing on {name}: {lost:?}");
        assert!(back.is_empty(), "deleted rows came back on {name}: {back:?}");
        let (acknowledged, refused) = (
            history.acknowledged.lock().unwrap().clone(),
            history.refused.lock().unwrap().clone(),
        );
        let count = |ops: Vec<Uuid>| {
            let client = &client;
            async move {
                let sql = "SELECT count(*) FROM kambana.op WHERE op = ANY($1) AND applied";
                client.query_one(sql, &[&ops]).await.unwrap().get::<_, i64>(0) as usize
            }
        };
        assert_eq!(
            count(acknowledged.clone()).await,
            acknowledged.len(),
            "acknowledged operations on {name}"
        );
        let refused: Vec<Uuid> = refused
            .into_iter()
            .filter(|op| !acknowledged.contains(op))
            .collect();
        assert_eq!(count(refused).await, 0, "refused operations on {name}");
    }
}
