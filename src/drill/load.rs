//! Clients that insert, change, read and delete rows of their own through HAProxy, and write down what they are told. They
//! never touch a row that they did not make.
//!
//! A careful client repeats what was not answered, under the same name; some take the first "not applied" for what it says.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::history::{Act, Failure, History, Operation, Read, RowName, Seen, Sort, Told};
use super::plan::Dice;
use crate::local::http::{self, Request};

/// A person who waits longer than this for an answer has stopped waiting.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long an operation is repeated under its name.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Plain rows that are there at once.
const PLAIN_ROWS: usize = 150;
/// Logs that are written at once.
const LOGS: usize = 4;
/// A log with so many entries is left as it is, and a new one begun.
const LONGEST_LOG: usize = 60;
/// So many operations at most are made in a run of any length: each is remembered.
const MOST_OPERATIONS: u64 = 1_000_000;
/// The longest text of a failure that is kept.
const LONGEST_TEXT: usize = 300;
/// Failures beyond so many are only repetitions.
const MOST_FAILURES: usize = 20_000;

/// How much to ask of the cluster.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Base URL.
    pub url: String,
    /// Beginning of the names of the rows.
    pub mark: String,
    /// Clients at once.
    pub clients: usize,
    /// Decides what they do.
    pub seed: u64,
    /// For how long they are going to run; the rate follows from it.
    pub planned: Duration,
}

/// A row that clients know.
#[derive(Clone, Copy, Debug)]
struct Known {
    row: RowName,
    id: i64,
}

struct Shared {
    options: LoadOptions,
    begun: Instant,
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    last_success_ms: AtomicU64,
    history: Mutex<History>,
    rows: Mutex<Vec<Known>>,
    logs: Mutex<Vec<Known>>,
}

/// Running clients.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// A poisoned lock only means that another client panicked, which stopping it reports.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Starts the clients; `begun` is the time from which all times are counted.
    pub fn start(options: LoadOptions, begun: Instant) -> Load {
        let shared = Arc::new(Shared {
            begun,
            stop: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            last_success_ms: AtomicU64::new(0),
            history: Mutex::default(),
            rows: Mutex::default(),
            logs: Mutex::default(),
            options,
        });
        let clients = (0..shared.options.clients)
            .map(|n| {
                let seed = shared.options.seed ^ (n as u64 + 1).rotate_left(32);
                let mut client = Client {
                    shared: Arc::clone(&shared),
                    dice: Dice::new(seed),
                };
                tokio::spawn(async move {
                    while !client.shared.stop.load(Ordering::Relaxed) {
                        client.step().await;
                    }
                })
            })
            .collect();
        Load { shared, clients }
    }

    /// Changes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// When the latest change was acknowledged.
    pub fn last_success(&self) -> Duration {
        Duration::from_millis(self.shared.last_success_ms.load(Ordering::Relaxed))
    }

    /// Looks at what the clients know so far.
    pub fn peek<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&lock(&self.shared.history))
    }

    /// Lets every client finish the operation it is at, and hands over what they know.
    ///
    /// # Errors
    /// A client panicked: a mistake of the drill itself.
    pub async fn stop(mut self) -> Result<History, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.await.map_err(|e| format!("a client of the drill: {e}"))?;
        }
        Ok(std::mem::take(&mut *lock(&self.shared.history)))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

struct Client {
    shared: Arc<Shared>,
    dice: Dice,
}

impl Client {
    /// One thing that a client does, after a moment of thinking.
    async fn step(&mut self) {
        tokio::time::sleep(self.thinking()).await;
        let rows = lock(&self.shared.rows).len();
        match self.dice.below(100) {
            0..20 => self.read().await,
            20..40 => self.append().await,
            40..60 if rows < PLAIN_ROWS => self.insert(Sort::Plain).await,
            _ if rows == 0 => self.insert(Sort::Plain).await,
            60..74 => self.delete().await,
            _ => self.update().await,
        }
    }

    /// Two cores must have time for heartbeats too, and what is remembered must have a bound.
    fn thinking(&mut self) -> Duration {
        let planned = self.shared.options.planned.as_millis() as u64;
        let bound = self.shared.options.clients as u64 * planned / MOST_OPERATIONS;
        Duration::from_micros(self.dice.below(20_000)) + Duration::from_millis(bound)
    }

    fn now(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    fn any(&mut self, of: fn(&Shared) -> &Mutex<Vec<Known>>) -> Option<Known> {
        let rows = lock(of(&self.shared));
        rows.get(self.dice.below(rows.len() as u64) as usize).copied()
    }

    async fn insert(&mut self, sort: Sort) {
        let op = Uuid::now_v7();
        let body = self.body(sort, op, &op.to_string());
        let draft = self.draft(op, op, sort, Act::Insert, None);
        let (told, answer) = self
            .change(draft, "POST", "/api/items".into(), Some(&body), None)
            .await;
        if let (Told::Acknowledged, Some(id)) = (told, answer["id"].as_i64()) {
            let rows = match sort {
                Sort::Plain => &self.shared.rows,
                Sort::Log => &self.shared.logs,
            };
            lock(rows).push(Known { row: op, id });
        }
    }

    async fn update(&mut self) {
        let Some(Known { row, id }) = self.any(|shared| &shared.rows) else {
            return;
        };
        let op = Uuid::now_v7();
        let body = self.body(Sort::Plain, row, &op.to_string());
        let draft = self.draft(op, row, Sort::Plain, Act::Update, Some(id));
        self.change(draft, "PUT", format!("/api/items/{id}"), Some(&body), None)
            .await;
    }

    async fn delete(&mut self) {
        let Some(Known { row, id }) = self.any(|shared| &shared.rows) else {
            return;
        };
        let draft = self.draft(Uuid::now_v7(), row, Sort::Plain, Act::Delete, Some(id));
        self.change(draft, "DELETE", format!("/api/items/{id}"), None, None)
            .await;
        // Only now: until here others may be changing it at the same time.
        lock(&self.shared.rows).retain(|known| known.row != row);
    }

    async fn append(&mut self) {
        let full = lock(&self.shared.logs).len() >= LOGS;
        let Some(log) = self.any(|shared| &shared.logs).filter(|_| full) else {
            return self.insert(Sort::Log).await;
        };
        let Some((tag, content)) = self.look(Sort::Log, log).await else {
            return;
        };
        if content.lines().count() >= LONGEST_LOG {
            lock(&self.shared.logs).retain(|known| known.row != log.row);
            return;
        }
        let op = Uuid::now_v7();
        let body = self.body(Sort::Log, log.row, &format!("{content}\n{op}"));
        let draft = self.draft(op, log.row, Sort::Log, Act::Append, Some(log.id));
        let path = format!("/api/items/{}", log.id);
        self.change(draft, "PUT", path, Some(&body), Some(&tag)).await;
    }

    async fn read(&mut self) {
        let log = self.dice.below(5) == 0;
        let (sort, known) = match log {
            true => (Sort::Log, self.any(|shared| &shared.logs)),
            false => (Sort::Plain, self.any(|shared| &shared.rows)),
        };
        if let Some(known) = known {
            self.look(sort, known).await;
        }
    }

    /// Reads a row and notes what was seen; its tag and content if it is there.
    async fn look(&mut self, sort: Sort, known: Known) -> Option<(String, String)> {
        let start = self.now();
        let answer = self
            .send("GET", &format!("/api/items/{}", known.id), None, &[])
            .await;
        let end = self.now();
        let note = |seen| {
            let row = known.row;
            lock(&self.shared.history).reads.push(Read {
                row,
                start,
                end,
                seen,
            });
        };
        let (status, body, tag) = match answer {
            Ok((status @ (200 | 404), body, tag)) => (status, body, tag),
            Ok((status, body, _)) => {
                self.fail(start, format!("GET item {}: {status} {body}", known.id));
                return None;
            }
            Err(why) => {
                self.fail(start, format!("GET item {}: {why}", known.id));
                return None;
            }
        };
        if status == 404 {
            note(Seen::Gone);
            return None;
        }
        let content = body["content"].as_str().unwrap_or("").to_owned();
        note(match sort {
            Sort::Plain => Seen::Written(content.parse().unwrap_or(Uuid::nil())),
            Sort::Log => Seen::Entries(content.lines().count()),
        });
        Some((tag?, content))
    }

    fn body(&self, sort: Sort, row: RowName, content: &str) -> String {
        let sort = match sort {
            Sort::Plain => "row",
            Sort::Log => "log",
        };
        let name = format!("{}{sort} {row}", self.shared.options.mark);
        json!({ "name": name, "content": content }).to_string()
    }

    fn draft(&self, op: Uuid, row: RowName, sort: Sort, act: Act, id: Option<i64>) -> Operation {
        Operation {
            op,
            row,
            sort,
            act,
            id,
            start: self.now(),
            end: Duration::ZERO,
            told: Told::Nothing,
            doubtful: false,
        }
    }

    /// Sends a change until its outcome is known, and writes it down.
    async fn change(
        &mut self,
        mut operation: Operation,
        method: &str,
        path: String,
        body: Option<&str>,
        tag: Option<&str>,
    ) -> (Told, Value) {
        let op = operation.op.to_string();
        let mut headers = vec![("Idempotency-Key", op.as_str())];
        headers.extend(tag.map(|tag| ("If-Match", tag)));
        let takes_no_for_an_answer = self.dice.below(4) == 0;
        let mut answered = Value::Null;
        for tries in 1.. {
            let start = self.now();
            let failure = match self.send(method, &path, body, &headers).await {
                Ok((200 | 201 | 204, answer, _)) => {
                    operation.told = Told::Acknowledged;
                    answered = answer;
                    break;
                }
                Ok((status @ (404 | 409 | 412 | 422), _, _)) => {
                    operation.told = Told::Refused(status);
                    break;
                }
                Ok((503, answer, _)) => {
                    self.fail(start, format!("{method} {op}: 503 {answer}"));
                    if takes_no_for_an_answer && !operation.doubtful {
                        operation.told = Told::Refused(503);
                        break;
                    }
                    continue_after(tries).await;
                    None
                }
                Ok((status, answer, _)) => Some(format!("{status} {answer}")),
                Err(why) => Some(why),
            };
            if let Some(why) = failure {
                operation.doubtful = true;
                self.fail(start, format!("{method} {op}: {why}"));
                continue_after(tries).await;
            }
            if self.now() > operation.start + PATIENCE {
                break;
            }
        }
        operation.end = self.now();
        if operation.told == Told::Acknowledged {
            operation.id = operation.id.or(answered["id"].as_i64());
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            let ms = operation.end.as_millis() as u64;
            self.shared.last_success_ms.fetch_max(ms, Ordering::Relaxed);
        }
        let told = operation.told;
        lock(&self.shared.history).operations.push(operation);
        (told, answered)
    }

    /// One attempt: status, body and tag of the answer, or why there was none.
    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value, Option<String>), String> {
        let request = Request {
            method,
            url: &format!("{}{path}", self.shared.options.url),
            headers,
            body,
        };
        let answer = http::send(&request, REQUEST_DEADLINE).await?;
        let tag = answer.header("etag").map(str::to_owned);
        let text = || String::from_utf8_lossy(&answer.body).trim().to_owned();
        let body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| Value::String(text()));
        Ok((answer.status, body, tag))
    }

    fn fail(&self, start: Duration, mut what: String) {
        let end = self.now();
        if let Some((at, _)) = what.char_indices().nth(LONGEST_TEXT) {
            what.truncate(at);
        }
        let failures = &mut lock(&self.shared.history).failures;
        if failures.len() < MOST_FAILURES {
            failures.push(Failure { start, end, what });
        }
    }
}

/// Longer after more attempts, so that a cluster that refuses everything is not flooded.
async fn continue_after(tries: u32) {
    tokio::time::sleep(PAUSE * tries.min(10)).await;
}

/// Asks for the outcome of everything that was not answered for good, until it is final, or `limit` has passed.
pub async fn settle(url: &str, history: &mut History, begun: Instant, limit: Duration) {
    let deadline = Instant::now() + limit;
    for operation in history.operations.iter_mut().filter(|o| o.told == Told::Nothing) {
        let mut answers = Vec::new();
        while Instant::now() < deadline {
            let url = format!("{url}/api/ops/{}", operation.op);
            let outcome = match http::get(&url, REQUEST_DEADLINE).await {
                Ok(answer) => serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
                Err(_) => Value::Null,
            };
            let told = match outcome["outcome"].as_str() {
                Some("applied") => Some(Told::Acknowledged),
                Some("not_applied") => Some(Told::Refused(503)),
                // No side has seen it, and its request is not on its way any more.
                Some("unseen") => Some(Told::Refused(404)),
                _ => None,
            };
            match told {
                Some(told) => answers.push(told),
                None => tokio::time::sleep(PAUSE).await,
            }
            // Final is what is answered the same three times, by whichever instance.
            if let [.., x, y, z] = answers[..]
                && x == y
                && y == z
            {
                operation.told = x;
                operation.end = begun.elapsed();
                break;
            }
        }
    }
}

/// Deletes the rows with these ids; how many are left.
pub async fn clean_up(url: &str, ids: std::collections::BTreeSet<i64>) -> usize {
    let mut left = 0;
    for id in ids {
        let request = Request {
            method: "DELETE",
            url: &format!("{url}/api/items/{id}"),
            headers: &[],
            body: None,
        };
        match http::send(&request, REQUEST_DEADLINE).await {
            Ok(answer) if matches!(answer.status, 204 | 404) => {}
            _ => left += 1,
        }
    }
    left
}
