//! Who may go on without whom: partitions, machines that burn, voters that forget. Every instance reaches every side and
//! every other instance over a wire of its own, which the test cuts.

mod machines;
mod memory;
mod partition;
mod wire;

use std::time::Duration;

use kambana::local::{Stack, StackOptions};
use serde_json::{Value, json};

use crate::load::http;
use crate::support::{Running, all_vote, connect, eventually, program, side, try_start};
use wire::Wire;

/// For what must come about on a crowded machine; budgets are for other tests.
const PATIENCE: Duration = Duration::from_secs(40);

/// The same for every instance and the witness.
const SECRET: &str = "one secret for all voters of a test, at least sixty-four characters long";

/// Two databases, two instances, and a wire between any two of them.
struct Net {
    stack: Running,
    /// How each instance reaches the other.
    peers: [Wire; 2],
}

impl Net {
    /// Everything runs, and every voter votes.
    async fn start(choose: impl FnOnce(StackOptions) -> StackOptions) -> Net {
        let peers = [Wire::open().await, Wire::open().await];
        // Nobody can vote before the wires lead somewhere.
        let stack = try_start(|options| {
            let options = options
                .with_instances(&program())
                .with_links()
                .with_setting("SESSION_SECRET", SECRET)
                .with_instance_setting(0, "PEERS", &peers[0].url())
                .with_instance_setting(1, "PEERS", &peers[1].url());
            choose(options)
        })
        .await
        .unwrap();
        let net = Net { stack, peers };
        net.aim();
        net
    }

    /// After an instance has moved to another port.
    fn aim(&self) {
        self.peers[0].aim(&self.stack.instance_url(1));
        self.peers[1].aim(&self.stack.instance_url(0));
    }

    async fn all_vote(&self) {
        all_vote(&self.stack).await;
    }

    async fn status(&self, index: usize) -> Value {
        status(&self.stack.instance_url(index)).await
    }

    /// Waits until the status of an instance is as wanted.
    async fn until(&self, index: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.status(index).await;
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert!(
            waited.is_ok(),
            "web{}: not within {PATIENCE:?}: {what}\n{last:#}",
            index + 1
        );
        last
    }

    /// Number and members of the epoch a side stores.
    async fn epoch(&self, name: &str) -> (i64, i32) {
        epoch(&self.stack, name).await
    }

    /// One new row through one instance.
    async fn write(&self, index: usize, name: &str) -> (u16, String) {
        let url = format!("{}/api/items", self.stack.instance_url(index));
        let answer = http()
            .post(url)
            .json(&json!({ "name": name }))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Waits until a write through one instance is applied.
    async fn written(&self, index: usize, name: &str) {
        eventually("a write is applied", PATIENCE, || async {
            self.write(index, name).await.0 == 201
        })
        .await;
    }
}

async fn status(url: &str) -> Value {
    match http().get(format!("{url}/api/status")).send().await {
        Ok(answer) => answer.json().await.unwrap_or_default(),
        Err(_) => Value::Null,
    }
}

async fn epoch(stack: &Stack, name: &str) -> (i64, i32) {
    let client = connect(&stack.dsn(side(name))).await.unwrap();
    let row = client
        .query_one("SELECT n, members FROM kambana.epoch", &[])
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

/// The voter of this name in a status.
fn voter<'a>(status: &'a Value, name: &str) -> &'a Value {
    let voters = status["votes"]["voters"].as_array().unwrap();
    let found = voters.iter().find(|voter| voter["name"] == name);
    found.unwrap_or_else(|| panic!("no voter {name}: {status:#}"))
}
