//! Two or three databases, two instances that reach them over links, failpoints; what was asked and answered; the final judgement.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kambana::local::{Action, Fault, Link, Patience, StackOptions, Target};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::points::{Points, with_failpoints};
use crate::load::{http, nothing_left_over};
use crate::support::{
    Running, assert_identical, connect, eventually, healed, names, number, program, rows, side, start,
};

/// Budgets of the design hold on a machine that is free; the tests share two cores with others.
pub const CROWDED: u32 = 3;

/// What a crash may cost.
pub const CRASH: Duration = Duration::from_secs(1);
/// What a freeze or a black hole may cost, or an instance that dies with row locks.
pub const FREEZE: Duration = Duration::from_secs(3);

/// How long the sides may take to be whole again.
pub const HEAL: Duration = Duration::from_secs(30);

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Told {
    pub op: Uuid,
    /// `None`: no answer came.
    pub status: Option<u16>,
    pub body: Value,
    pub took: Duration,
}

impl Told {
    pub fn applied(&self) -> bool {
        matches!(self.status, Some(200 | 201 | 204))
    }
}

/// A case's world.
#[derive(Clone)]
pub struct Scene(Arc<Inner>);

struct Inner {
    stack: Running,
    http: reqwest::Client,
    told: Mutex<Vec<Told>>,
}

impl std::ops::Deref for Scene {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.0.stack
    }
}

impl Scene {
    /// With two instances.
    pub async fn set() -> Scene {
        Scene::with(|options| options).await
    }

    /// With what `more` adds.
    pub async fn with(more: impl FnOnce(StackOptions) -> StackOptions) -> Scene {
        let stack =
            start(|options| more(with_failpoints(options.with_instances(&program()).with_links()))).await;
        Scene(Arc::new(Inner {
            stack,
            http: http(),
            told: Mutex::default(),
        }))
    }

    pub fn wire(&self, web: usize, name: &str) -> &Link {
        self.link(web, side(name)).unwrap()
    }

    pub fn points(&self, web: usize) -> Points {
        Points::of(self, web)
    }

    pub async fn sql(&self, name: &str) -> Client {
        connect(&self.dsn(side(name))).await.unwrap()
    }

    /// Sends one request under a name, once; remembers the answer.
    pub async fn send(&self, web: usize, op: Uuid, method: &str, path: &str, body: Option<Value>) -> Told {
        let started = Instant::now();
        let url = format!("{}{path}", self.instance_url(web));
        let mut request = self.0.http.request(method.parse().unwrap(), url);
        request = request.header("Idempotency-Key", op.to_string());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let mut told = Told {
            op,
            status: None,
            body: Value::Null,
            took: Duration::ZERO,
        };
        if let Ok(answer) = request.send().await {
            told.status = Some(answer.status().as_u16());
            let text = answer.text().await.unwrap_or_default();
            told.body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        }
        told.took = started.elapsed();
        if method != "GET" {
            self.0.told.lock().unwrap().push(told.clone());
        }
        told
    }

    /// Makes a row; it must succeed.
    pub async fn make(&self, web: usize, content: &str) -> i64 {
        let body = json!({ "name": "row", "content": content });
        let told = self
            .send(web, Uuid::now_v7(), "POST", "/api/items", Some(body))
            .await;
        assert_eq!(told.status, Some(201), "{told:?}");
        told.body["id"].as_i64().unwrap()
    }

    /// Makes a row, in a task of its own: the answer may never come.
    pub fn create(&self, web: usize, content: &str) -> (Uuid, tokio::task::JoinHandle<Told>) {
        let (scene, op) = (self.clone(), Uuid::now_v7());
        let body = json!({ "name": "row", "content": content });
        let asking = tokio::spawn(async move { scene.send(web, op, "POST", "/api/items", Some(body)).await });
        (op, asking)
    }

    /// Waits until every side has exactly one row with this content.
    pub async fn exactly_one(&self, content: &str) {
        let sql = format!("SELECT count(*) FROM items WHERE content = '{content}'");
        for name in &names(self) {
            assert_eq!(
                number(&self.dsn(side(name)), &sql).await,
                1,
                "rows `{content}` on {name}"
            );
        }
    }

    /// Gives a row a new content, in a task of its own: the answer may never come.
    pub fn put(&self, web: usize, row: i64, content: &str) -> (Uuid, tokio::task::JoinHandle<Told>) {
        let op = Uuid::now_v7();
        let (scene, content) = (self.clone(), content.to_owned());
        let asking = tokio::spawn(async move { scene.put_as(web, op, row, &content).await });
        (op, asking)
    }

    /// Gives a row a new content under a given name.
    pub async fn put_as(&self, web: usize, op: Uuid, row: i64, content: &str) -> Told {
        let body = json!({ "name": "row", "content": content });
        self.send(web, op, "PUT", &format!("/api/items/{row}"), Some(body))
            .await
    }

    /// Gives a row a new content as a careful client does: again and again under one name, until it is applied.
    pub async fn must_put(&self, web: usize, row: i64, content: &str) -> Duration {
        let (started, op) = (Instant::now(), Uuid::now_v7());
        loop {
            let told = self.put_as(web, op, row, content).await;
            if told.applied() {
                return started.elapsed();
            }
            assert!(started.elapsed() < HEAL, "never applied: {told:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a reader of an instance sees in a row.
    pub async fn seen(&self, web: usize, row: i64) -> Option<String> {
        let told = self
            .send(web, Uuid::now_v7(), "GET", &format!("/api/items/{row}"), None)
            .await;
        assert!(matches!(told.status, Some(200 | 404)), "{told:?}");
        told.body["content"].as_str().map(str::to_owned)
    }

    /// What is in a row on a side, by the test's own SQL.
    pub async fn content(&self, name: &str, row: i64) -> Option<String> {
        let sql = "SELECT content FROM items WHERE id = $1";
        let client = self.sql(name).await;
        let found = client.query_opt(sql, &[&(row as i32)]).await.unwrap();
        found.and_then(|row| row.get(0))
    }

    /// How often an operation is applied on a side, by the test's own SQL.
    pub async fn has(&self, name: &str, op: Uuid) -> bool {
        let sql = "SELECT count(*) FROM kambana.op WHERE op = $1 AND applied";
        self.sql(name)
            .await
            .query_one(sql, &[&op])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 1
    }

    /// Number and members (a is 1, b is 2) of the epoch that a side stores.
    pub async fn epoch(&self, name: &str) -> (i64, i32) {
        let row = self
            .sql(name)
            .await
            .query_one("SELECT n, members FROM kambana.epoch", &[])
            .await
            .unwrap();
        (row.get(0), row.get(1))
    }

    /// Waits until a row is the same on every side and is this.
    pub async fn both_have(&self, row: i64, content: &str, limit: Duration) {
        eventually(&format!("every side has `{content}`"), limit, || async {
            for name in &names(self) {
                if self.content(name, row).await.as_deref() != Some(content) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    pub async fn side_act(&self, action: Action, name: &str) {
        self.act(action, Target::Side(side(name))).await.unwrap();
    }

    /// A superuser of a side.
    async fn superuser(&self, name: &str) -> Client {
        let record = &self.record().sides[name];
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&record.socket_dir)
            .port(record.port)
            .user("postgres")
            .dbname("postgres");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// From now on a COMMIT on this side reaches the disk and then takes for ever, as on a disk that stalls: it waits for a
    /// standby that does not exist.
    pub async fn stall(&self, name: &str) {
        self.standby(name, "SET synchronous_standby_names = 'nobody'", "nobody")
            .await;
    }

    /// The stalled COMMITs are answered.
    pub async fn unstall(&self, name: &str) {
        self.standby(name, "RESET synchronous_standby_names", "").await;
    }

    async fn standby(&self, name: &str, order: &str, shown: &str) {
        let client = self.superuser(name).await;
        client
            .batch_execute(&format!("ALTER SYSTEM {order}"))
            .await
            .unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually("the setting is read", FREEZE, || async {
            let row = client
                .query_one("SHOW synchronous_standby_names", &[])
                .await
                .unwrap();
            row.get::<_, String>(0) == shown
        })
        .await;
    }

    /// Whether somebody's COMMIT stalls.
    pub async fn is_stalled(&self, name: &str, within: &str) -> bool {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%{within}%'"
        );
        number(&self.dsn(side(name)), &sql).await > 0
    }

    pub async fn web_act(&self, action: Action, web: usize) {
        self.act(action, Target::Web(web)).await.unwrap();
    }

    /// What an instance says about the pool.
    pub async fn status(&self, web: usize) -> Value {
        let url = format!("{}/api/status", self.instance_url(web));
        self.0.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Waits until an instance's status page and `/api/status` say that a side is out, or active again.
    pub async fn status_says(&self, web: usize, name: &str, state: &str, limit: Duration) {
        eventually(
            &format!("web{} says that {name} is {state}", web + 1),
            limit,
            || async { self.status(web).await["sides"][name]["state"] == state },
        )
        .await;
        let page = self
            .0
            .http
            .get(format!("{}/cluster?lang=en", self.instance_url(web)));
        let text = page.send().await.unwrap().text().await.unwrap();
        let says_out = text.contains(&format!("Database {name} is out"));
        assert_eq!(
            says_out,
            state != "active",
            "the page of web{} about {name}: {text}",
            web + 1
        );
    }

    /// What an instance answers at `/api/ops/{op}`, three times, once it is final.
    async fn outcome(&self, web: usize, op: Uuid) -> String {
        let path = format!("/api/ops/{op}");
        let mut patience = Patience::new(HEAL);
        loop {
            let mut answers = Vec::new();
            for _ in 0..3 {
                let told = self.send(web, op, "GET", &path, None).await;
                answers.push(told.body["outcome"].as_str().unwrap_or("?").to_owned());
            }
            if answers.iter().any(|answer| answer == "pending" || answer == "?") {
                assert!(patience.pause().await, "{op} does not become final: {answers:?}");
                continue;
            }
            assert!(
                answers.iter().all(|answer| *answer == answers[0]),
                "{op}: {answers:?}"
            );
            return answers.remove(0);
        }
    }

    /// After the last fault: all sides equal, what was acknowledged is there once, what was refused nowhere, what was
    /// unknown is final, nothing is left over, and both instances say so.
    pub async fn judge(&self) {
        for web in 0..2 {
            for name in &names(self) {
                self.wire(web, name).heal();
            }
        }
        healed(self, HEAL).await;
        assert_identical(self).await;
        let told = self.0.told.lock().unwrap().clone();
        for name in &names(self) {
            let applied = rows(&self.dsn(side(name)), "SELECT op FROM kambana.op WHERE applied").await;
            for Told { op, status, body, .. } in &told {
                let here = applied.contains(&format!("({op})"));
                let applied_later = told.iter().any(|other| other.op == *op && other.applied());
                match status {
                    Some(200 | 201 | 204) => assert!(here, "{op} was acknowledged and is not on {name}"),
                    Some(404 | 409 | 422 | 503) if !applied_later => {
                        let doubtful = told
                            .iter()
                            .any(|other| other.op == *op && matches!(other.status, None | Some(202)));
                        assert!(
                            !here || doubtful,
                            "{op} was refused ({status:?} {body}) and is on {name}"
                        );
                    }
                    _ => {}
                }
            }
        }
        for Told { op, status, .. } in &told {
            if matches!(status, None | Some(202)) {
                let on_a = self.has("a", *op).await;
                let expected: &[&str] = match (on_a, status) {
                    (true, _) => &["applied"],
                    // Nobody may have got it at all.
                    (false, None) => &["not_applied", "unseen"],
                    (false, _) => &["not_applied"],
                };
                for web in 0..2 {
                    let outcome = self.outcome(web, *op).await;
                    assert!(
                        expected.contains(&outcome.as_str()),
                        "{op} on web{}: {outcome}",
                        web + 1
                    );
                }
            }
        }
        nothing_left_over(self).await;
        for web in 0..2 {
            for name in &names(self) {
                self.status_says(web, name, "active", Duration::from_secs(5))
                    .await;
            }
        }
    }

    /// As [`Scene::judge`], and the end.
    pub async fn finish(self) {
        self.judge().await;
        self.stop().await.unwrap();
    }
}

/// What a held statement is let go with after its instance has died: it was on the wire, and the goodbye follows it.
pub fn let_go(link: &Link) {
    link.set(Fault::None);
    link.release();
}
