//! Taking the steps of a list, then judging.

use std::time::Duration;

use kambana::config::PoolConfig;
use kambana::local::{Action, ServiceState, Target};
use kambana::multipool::{MultiPool, OpId, Value as Bound, WriteError};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Op;
use super::model::{Answer, Model, Row};
use crate::faults::stage::applied;
use crate::support::{Running, assert_identical, connect, eventually, full, healed, number, side, whole};

const RETURN: Duration = Duration::from_secs(90);
/// Longer than an instance takes to answer whatever happens.
const PATIENCE: Duration = Duration::from_secs(14);

/// A stack with everything that one list needs.
struct Scene {
    stack: Running,
    http: reqwest::Client,
    pool: MultiPool,
    model: Model,
    step: usize,
}

/// Takes the steps on a fresh stack.
///
/// # Errors
/// What did not hold.
pub async fn attempt(ops: Vec<Op>) -> Result<(), String> {
    let run = tokio::spawn(async move {
        let mut scene = Scene::new().await;
        for op in ops {
            scene.step += 1;
            scene.take(op).await;
        }
        scene.finish().await;
    });
    run.await.map_err(|panic| {
        let panic = panic.into_panic();
        let text = panic.downcast_ref::<String>().cloned();
        text.or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "it failed".to_owned())
    })
}

fn side_of(number: u64) -> &'static str {
    ["a", "b"][number as usize % 2]
}

impl Scene {
    async fn new() -> Scene {
        let stack = full().await;
        let mut config = PoolConfig::new(stack.side_configs(), "program");
        config.state_dir = stack.place().dir.join("program");
        Scene {
            pool: MultiPool::connect(config).await.unwrap(),
            http: reqwest::Client::builder().timeout(PATIENCE).build().unwrap(),
            model: Model::default(),
            step: 0,
            stack,
        }
    }

    fn side_state(&self, number: u64) -> ServiceState {
        self.stack.record().sides[side_of(number)].state.clone()
    }

    fn web_state(&self, number: u64) -> ServiceState {
        let name = Target::Web(number as usize % 2).to_string();
        self.stack.record().instances[&name].state.clone()
    }

    async fn take(&mut self, op: Op) {
        println!("  {}: {op:?}", self.step);
        let value = format!("value {}", self.step);
        match op {
            Op::Insert { web } => self.insert(web, value).await,
            Op::Update { row, web } => self.change(row, web, Some(value)).await,
            Op::Delete { row, web } => self.change(row, web, None).await,
            Op::Transaction { one, other } => self.transaction(one, other, value).await,
            Op::Foreign { side, update } => self.foreign(side_of(side), update, value).await,
            Op::Crash { side } => self.act(side, Action::Crash).await,
            Op::Freeze { side } => self.act(side, Action::Freeze).await,
            Op::Mend { side } => self.mend(side).await,
            Op::Kill { web } => {
                if self.web_state(web) == ServiceState::Running {
                    let target = Target::Web(web as usize % 2);
                    self.stack.act(Action::Crash, target).await.unwrap();
                }
            }
            Op::Start { web } => self.start(web).await,
            Op::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    async fn act(&self, number: u64, action: Action) {
        if self.side_state(number) == ServiceState::Running {
            let target = Target::Side(side(side_of(number)));
            self.stack.act(action, target).await.unwrap();
        }
    }

    async fn mend(&self, number: u64) {
        let action = match self.side_state(number) {
            ServiceState::Running => return,
            ServiceState::Frozen => Action::Thaw,
            _ => Action::Start,
        };
        let target = Target::Side(side(side_of(number)));
        self.stack.act(action, target).await.unwrap();
    }

    /// An instance that finds no side to serve from does not become ready: then it stays away.
    async fn start(&self, web: u64) {
        let running = |n| self.side_state(n) == ServiceState::Running;
        if self.web_state(web) != ServiceState::Running && running(0) && running(1) {
            let target = Target::Web(web as usize % 2);
            self.stack.act(Action::Start, target).await.unwrap();
        }
    }

    /// Sends one request and remembers its answer; nothing if it was not sent.
    async fn send(
        &mut self,
        web: u64,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(Answer, Value)> {
        if self.web_state(web) != ServiceState::Running {
            return None;
        }
        let op = Uuid::now_v7();
        let url = format!("{}{path}", self.stack.instance_url(web as usize % 2));
        let mut request = self
            .http
            .request(method.parse().unwrap(), url)
            .header("Idempotency-Key", op.to_string());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let (answer, body) = match request.send().await {
            Err(_) => (Answer::Unknown, Value::Null),
            Ok(answer) => {
                let status = answer.status().as_u16();
                let body: Value = answer.json().await.unwrap_or_default();
                match status {
                    200 | 201 | 204 => (Answer::Applied, body),
                    202 => (Answer::Unknown, body),
                    404 => (Answer::Gone, body),
                    503 => (Answer::Refused, body),
                    _ => panic!("{method} {path}: {status} {body}"),
                }
            }
        };
        println!("     {answer:?}");
        self.model.answered.insert(op, answer);
        Some((answer, body))
    }

    async fn insert(&mut self, web: u64, value: String) {
        let name = format!("row {}", self.step);
        let body = json!({ "name": name, "content": value });
        let Some((answer, body)) = self.send(web, "POST", "/api/items", Some(body)).await else {
            return;
        };
        self.model.rows.push(Row {
            name,
            id: body["id"].as_i64().filter(|_| answer == Answer::Applied),
            may_be: [None].into(),
        });
        self.model.note(self.model.rows.len() - 1, Some(value), answer);
    }

    async fn change(&mut self, row: u64, web: u64, value: Option<String>) {
        let Some(row) = self.model.known(row) else { return };
        let path = format!("/api/items/{}", self.model.rows[row].id.unwrap());
        let body = value
            .as_ref()
            .map(|value| json!({ "name": self.model.rows[row].name, "content": value }));
        let method = if body.is_some() { "PUT" } else { "DELETE" };
        let Some((answer, _)) = self.send(web, method, &path, body).await else {
            return;
        };
        self.model.note(row, value, answer);
    }

    /// Through the general door, of a program of its own: both rows get the value, or neither.
    async fn transaction(&mut self, one: u64, other: u64, value: String) {
        let (Some(one), Some(other)) = (self.model.known(one), self.model.known(other)) else {
            return;
        };
        let ids = [one, other].map(|row| self.model.rows[row].id.unwrap().to_string());
        let (op, text) = (OpId::new(), value.clone());
        let done = self.pool.transaction(op, move |tx| {
            let (ids, text) = (ids.clone(), text.clone());
            Box::pin(async move {
                let sql = "UPDATE items SET content = $1 WHERE id::text IN ($2, $3)";
                let params = [&text, &ids[0], &ids[1]].map(|text| Bound::from(text.as_str()));
                tx.execute(sql, &params).await
            })
        });
        let answer = match done.await {
            Ok(_) => Answer::Applied,
            Err(WriteError::Unknown(_)) => Answer::Unknown,
            Err(WriteError::NotApplied(_)) => Answer::Refused,
            Err(error) => panic!("{error}"),
        };
        println!("     {answer:?}");
        self.model.answered.insert(op.uuid(), answer);
        for row in [one, other] {
            let may_be = &mut self.model.rows[row].may_be;
            // A row that is not there stays away.
            let there = |was: &Option<String>| was.as_ref().map(|_| value.clone());
            let after: Vec<Option<String>> = may_be.iter().map(there).collect();
            match answer {
                Answer::Applied => *may_be = after.into_iter().collect(),
                Answer::Unknown => may_be.extend(after),
                Answer::Refused | Answer::Gone => {}
            }
        }
    }

    async fn foreign(&mut self, on: &'static str, update: bool, value: String) {
        if self.stack.record().sides[on].state != ServiceState::Running {
            return;
        }
        let start = format!("foreign {on} ");
        let last = self
            .model
            .foreign
            .keys()
            .rfind(|name| name.starts_with(&start))
            .cloned();
        let (name, sql) = match last.filter(|_| update) {
            Some(name) => (name, "UPDATE items SET content = $2 WHERE name = $1"),
            None => (
                format!("{start}{:03}", self.step),
                "INSERT INTO items (name, content) VALUES ($1, $2)",
            ),
        };
        let client = connect(&self.stack.dsn(side(on))).await.unwrap();
        let changed = client.execute(sql, &[&name, &value]).await.unwrap();
        assert_eq!(changed, 1, "`{name}` is gone on side {on}");
        self.model.foreign.insert(name, value);
    }

    /// Mends everything, waits until all is quiet, and judges.
    async fn finish(self) {
        for number in [0, 1] {
            self.mend(number).await;
        }
        for web in [0, 1] {
            self.start(web).await;
        }
        whole(&self.stack, RETURN).await;
        healed(&self.stack, RETURN).await;
        self.final_answers().await;
        healed(&self.stack, RETURN).await;
        assert_identical(&self.stack).await;
        for name in ["a", "b"] {
            self.judge(name).await;
        }
        self.pool.close().await;
        self.stack.stop().await.unwrap();
    }

    async fn judge(&self, name: &str) {
        let client = connect(&self.stack.dsn(side(name))).await.unwrap();
        let found = client
            .query("SELECT name, content FROM items", &[])
            .await
            .unwrap();
        let found: Vec<(String, Option<String>)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
        let sql = "SELECT coalesce(lost_image, '') FROM kambana.conflict";
        let conflicts = client.query(sql, &[]).await.unwrap();
        let conflicts: Vec<String> = conflicts.iter().map(|row| row.get(0)).collect();
        self.model.judge(name, &found, &conflicts);
        let done = self.model.ops(Answer::Applied);
        assert_eq!(applied(&self.stack, name, &done).await, done.len() as i64);
        let refused = self.model.ops(Answer::Refused);
        assert_eq!(applied(&self.stack, name, &refused).await, 0, "refused on {name}");
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' \
                    AND state_change < now() - interval '5 s'";
        assert_eq!(
            number(&self.stack.dsn(side(name)), idle).await,
            0,
            "left over on {name}"
        );
    }

    /// Every outcome is final, and both instances say the same, three times.
    async fn final_answers(&self) {
        for op in self.model.ops(Answer::Unknown) {
            let ask = async |web: usize| {
                let url = format!("{}/api/ops/{op}", self.stack.instance_url(web));
                let answer = self.http.get(url).send().await.unwrap();
                answer.json::<Value>().await.unwrap()["outcome"].clone()
            };
            eventually("the outcome is final", RETURN, || async {
                ask(0).await != "pending" && ask(1).await != "pending"
            })
            .await;
            let first = ask(0).await;
            for web in [1, 0, 1] {
                assert_eq!(ask(web).await, first, "operation {op}");
            }
            let on = [
                applied(&self.stack, "a", &[op]).await,
                applied(&self.stack, "b", &[op]).await,
            ];
            let wanted = i64::from(first == "applied");
            assert_eq!(on, [wanted, wanted], "operation {op} is {first}");
        }
    }
}
