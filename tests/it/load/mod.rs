//! Clients that write and read through HTTP and remember every question and every answer.

mod history;
pub mod order;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kambana::local::Stack;
use serde_json::{Value, json};
use uuid::Uuid;

pub use history::{History, check, nothing_left_over};
use order::{Record, RowOp};

use crate::support::healed;

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
    /// `count` clients that insert, update, swap, read and delete the same `slots` rows, each alternating between `urls`.
    pub fn start(urls: Vec<String>, count: u64, slots: u64, retry: bool) -> Load {
        let history = Arc::new(History::default());
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let clients = (0..count)
            .map(|seed| {
                let (urls, history, stop) = (urls.clone(), Arc::clone(&history), Arc::clone(&stop));
                let sent = Arc::clone(&sent);
                tokio::spawn(async move {
                    let mut client = Client {
                        http: http(),
                        urls,
                        history,
                        sent,
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

    /// Stops it; once nothing is open any more, every answer was true.
    pub async fn judged(self, stack: &Stack, limit: Duration) -> Arc<History> {
        let history = self.stop().await;
        healed(stack, limit).await;
        check(stack, &history).await;
        history
    }

    /// As [`Load::judged`], and no request has failed.
    pub async fn all_served(self, stack: &Stack, limit: Duration) -> Arc<History> {
        let history = self.judged(stack, limit).await;
        assert_eq!(*history.failures.lock().unwrap(), Vec::<String>::new());
        history
    }

    pub async fn stop(self) -> Arc<History> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        println!(
            "acknowledged {}, failures {}, worst gap of writes {:?}, of reads {:?}",
            self.history.acknowledged_count(),
            self.history.failures.lock().unwrap().len(),
            self.history.worst_gap(),
            self.history.worst_read_gap(),
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
    sent: Arc<AtomicU64>,
    dice: Dice,
    slots: u64,
    /// Whether an unanswered request is sent again under its name, as a careful client does.
    retry: bool,
}

/// What became of a request.
enum Heard {
    /// A final answer: status, ETag, body.
    Answer(u16, String, Value),
    /// "Not applied".
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Client {
    async fn step(&mut self) {
        // A person thinks; and two cores must have time for heartbeats too.
        tokio::time::sleep(Duration::from_millis(self.dice.below(20))).await;
        let slot = self.dice.below(self.slots) as usize;
        let row = self.history.slots.lock().unwrap().get(&slot).copied();
        // Every content is written once only, so that a read says which write it saw.
        let content = format!("write {}", self.sent.fetch_add(1, Ordering::Relaxed));
        match (row, self.dice.below(10)) {
            (None, _) => self.create(slot, content).await,
            (Some(id), 0) => self.delete(slot, id).await,
            (Some(id), 1..4) => self.swap(slot, id, content).await,
            (Some(id), 4..6) => {
                self.read(slot, id).await;
            }
            (Some(id), _) => self.put(slot, id, content).await,
        }
    }

    async fn create(&mut self, slot: usize, content: String) {
        let body = json!({ "name": format!("slot {slot}"), "content": content });
        let invoked = Instant::now();
        if let Heard::Answer(201, _, answer) = self.send("POST", "/api/items", Some(&body), None).await {
            let id = answer["id"].as_i64().unwrap();
            self.record(id, invoked, true, RowOp::Create(content));
            self.history.slots.lock().unwrap().insert(slot, id);
            self.history.kept.lock().unwrap().insert(id);
        }
    }

    async fn delete(&mut self, slot: usize, id: i64) {
        self.history.kept.lock().unwrap().remove(&id);
        let invoked = Instant::now();
        match self.send("DELETE", &format!("/api/items/{id}"), None, None).await {
            Heard::Answer(status, ..) => {
                assert!(status == 204 || status == 404, "{status}");
                let op = if status == 204 {
                    RowOp::Delete
                } else {
                    RowOp::Missing
                };
                self.record(id, invoked, true, op);
                self.history.deleted.lock().unwrap().insert(id);
                self.forget(slot, id);
            }
            Heard::Unknown => self.record(id, invoked, false, RowOp::Delete),
            Heard::Refused => {}
        }
    }

    async fn put(&mut self, slot: usize, id: i64, content: String) {
        let body = json!({ "name": format!("slot {slot}"), "content": content });
        let invoked = Instant::now();
        match self
            .send("PUT", &format!("/api/items/{id}"), Some(&body), None)
            .await
        {
            Heard::Answer(200, ..) => self.record(id, invoked, true, RowOp::Put(content)),
            Heard::Answer(404, ..) => {
                self.record(id, invoked, true, RowOp::Missing);
                self.forget(slot, id);
            }
            Heard::Answer(status, ..) => panic!("PUT answered {status}"),
            Heard::Unknown => self.record(id, invoked, false, RowOp::Put(content)),
            Heard::Refused => {}
        }
    }

    /// Reads, and writes only if the row is still what was read.
    async fn swap(&mut self, slot: usize, id: i64, content: String) {
        let Some((expected, tag)) = self.read(slot, id).await else {
            return;
        };
        let body = json!({ "name": format!("slot {slot}"), "content": content });
        let invoked = Instant::now();
        match self
            .send("PUT", &format!("/api/items/{id}"), Some(&body), Some(&tag))
            .await
        {
            Heard::Answer(200, ..) => self.record(id, invoked, true, RowOp::Swap { expected, content }),
            Heard::Answer(409, ..) => self.record(id, invoked, true, RowOp::Changed { expected }),
            Heard::Answer(404, ..) => {
                self.record(id, invoked, true, RowOp::Missing);
                self.forget(slot, id);
            }
            Heard::Answer(status, ..) => panic!("PUT with If-Match answered {status}"),
            Heard::Unknown => self.record(id, invoked, false, RowOp::Swap { expected, content }),
            Heard::Refused => {}
        }
    }

    /// Content and tag of a row.
    async fn read(&mut self, slot: usize, id: i64) -> Option<(String, String)> {
        let invoked = Instant::now();
        match self.send("GET", &format!("/api/items/{id}"), None, None).await {
            Heard::Answer(200, tag, row) => {
                let content = row["content"].as_str().unwrap().to_owned();
                self.record(id, invoked, true, RowOp::Read(content.clone()));
                Some((content, tag))
            }
            Heard::Answer(404, ..) => {
                self.record(id, invoked, true, RowOp::Missing);
                self.forget(slot, id);
                None
            }
            Heard::Answer(status, ..) => panic!("GET answered {status}"),
            // A read that was not answered changes nothing.
            Heard::Refused | Heard::Unknown => None,
        }
    }

    fn forget(&self, slot: usize, id: i64) {
        let mut slots = self.history.slots.lock().unwrap();
        if slots.get(&slot) == Some(&id) {
            slots.remove(&slot);
        }
    }

    fn record(&self, id: i64, invoked: Instant, heard: bool, op: RowOp) {
        let returned = heard.then(Instant::now);
        self.history.record(
            id,
            Record {
                invoked,
                returned,
                op,
            },
        );
    }

    /// One operation to its end: sent again under its name where that is wanted.
    async fn send(&mut self, method: &str, path: &str, body: Option<&Value>, tag: Option<&str>) -> Heard {
        let op = Uuid::now_v7();
        let reads = method == "GET";
        let mut tries = 0;
        // Once a try was not answered, "not applied" to a later one is no answer to the first.
        let mut doubtful = false;
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
            if let Some(tag) = tag {
                request = request.header("If-Match", tag);
            }
            let mut refused = false;
            let failure = match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let etag = answer.headers().get("etag");
                    let etag = etag.and_then(|tag| tag.to_str().ok()).unwrap_or("").to_owned();
                    let text = answer.text().await.unwrap_or_default();
                    match status {
                        200 | 201 | 204 => {
                            self.history.succeeded(op, reads);
                            return Heard::Answer(
                                status,
                                etag,
                                serde_json::from_str(&text).unwrap_or_default(),
                            );
                        }
                        404 | 409 => return Heard::Answer(status, etag, Value::Null),
                        503 => {
                            refused = true;
                            format!("{method} {path}: 503 {text}")
                        }
                        _ => {
                            doubtful = true;
                            if status == 202 {
                                self.history.unknown.lock().unwrap().push(op);
                            }
                            format!("{method} {path}: {status} {text}")
                        }
                    }
                }
                Err(error) => {
                    doubtful = true;
                    format!("{method} {path}: {error:?}")
                }
            };
            if self.retry && tries < 200 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            self.history.failures.lock().unwrap().push(failure);
            if refused && !doubtful && !reads {
                self.history.refused.lock().unwrap().push(op);
            }
            return if doubtful { Heard::Unknown } else { Heard::Refused };
        }
    }
}
