//! What all clients know together, and whether the databases agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kambana::local::Stack;
use uuid::Uuid;

use super::order::{Record, RowOp, is_linearizable};
use crate::support::{assert_identical, connect, names, side};

/// Questions, answers and what follows from them.
#[derive(Default)]
pub struct History {
    /// Rows that were inserted, acknowledged and never asked to be deleted.
    pub kept: Mutex<BTreeSet<i64>>,
    /// Rows whose deletion was acknowledged.
    pub deleted: Mutex<BTreeSet<i64>>,
    /// Operations that were answered 2xx.
    pub acknowledged: Mutex<Vec<Uuid>>,
    /// Operations that were answered "not applied", and nothing else.
    pub refused: Mutex<Vec<Uuid>>,
    /// Operations that were answered "unknown" at least once.
    pub unknown: Mutex<Vec<Uuid>>,
    /// Every answer that is neither success nor an honest "gone" or "changed".
    pub failures: Mutex<Vec<String>>,
    /// The row in each slot, by the clients' knowledge.
    pub slots: Mutex<BTreeMap<usize, i64>>,
    rows: Mutex<BTreeMap<i64, Vec<Record>>>,
    writes: Gaps,
    reads: Gaps,
}

/// Time between successes of anybody.
#[derive(Default)]
struct Gaps(Mutex<(Option<Instant>, Duration)>);

impl Gaps {
    fn success(&self) {
        let now = Instant::now();
        let mut gaps = self.0.lock().unwrap();
        if let Some(before) = gaps.0.replace(now) {
            gaps.1 = gaps.1.max(now - before);
        }
    }

    fn worst(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

impl History {
    pub(super) fn succeeded(&self, op: Uuid, read: bool) {
        if read {
            return self.reads.success();
        }
        self.acknowledged.lock().unwrap().push(op);
        self.writes.success();
    }

    pub(super) fn record(&self, row: i64, record: Record) {
        self.rows.lock().unwrap().entry(row).or_default().push(record);
    }

    /// The longest time between two successful writes of anybody.
    pub fn worst_gap(&self) -> Duration {
        self.writes.worst()
    }

    /// The longest time between two successful reads of anybody.
    pub fn worst_read_gap(&self) -> Duration {
        self.reads.worst()
    }

    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Every row's answers, and what is in the row at the end, are those of one copy.
    fn check_order(&self, last: &BTreeMap<i64, String>, name: &str) {
        let rows = self.rows.lock().unwrap();
        for (id, records) in rows.iter() {
            let mut records = records.clone();
            let now = Instant::now();
            records.push(Record {
                invoked: now,
                returned: Some(now + Duration::from_nanos(1)),
                op: last
                    .get(id)
                    .map_or(RowOp::Missing, |content| RowOp::Read(content.clone())),
            });
            if is_linearizable(&records) {
                continue;
            }
            let start = records.iter().map(|record| record.invoked).min().unwrap_or(now);
            records.sort_by_key(|record| record.invoked);
            let list: Vec<String> = records
                .iter()
                .map(|r| {
                    format!(
                        "{:?} to {:?}: {:?}",
                        r.invoked - start,
                        r.returned.map(|at| at - start),
                        r.op
                    )
                })
                .collect();
            panic!(
                "row {id}, ending on {name}, has no one history:\n{}",
                list.join("\n")
            );
        }
        let operations: usize = rows.values().map(Vec::len).sum();
        println!(
            "{} rows with {operations} operations have one history on {name}",
            rows.len()
        );
    }
}

/// Invariants after a run, asked by SQL on all sides: what was acknowledged is there, what was refused is not, no
/// deleted row returned, every row has one history, and nothing is left over.
pub async fn check(stack: &Stack, history: &History) {
    assert_identical(stack).await;
    for name in &names(stack) {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        let rows: BTreeMap<i64, String> = client
            .query("SELECT id::bigint, coalesce(content, '') FROM items", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let deleted = history.deleted.lock().unwrap().clone();
        let kept: BTreeSet<i64> = history
            .kept
            .lock()
            .unwrap()
            .difference(&deleted)
            .copied()
            .collect();
        let lost: Vec<_> = kept.iter().filter(|id| !rows.contains_key(id)).collect();
        let back: Vec<_> = deleted.iter().filter(|id| rows.contains_key(id)).collect();
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
        assert_eq!(count(refused).await, 0, "refused operations on {name}");
        history.check_order(&rows, name);
    }
    nothing_left_over(stack).await;
}

/// No transaction stands idle, nobody waits for a lock, on any side.
pub async fn nothing_left_over(stack: &Stack) {
    for name in &names(stack) {
        let dsn = stack.dsn(side(name));
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'kambana%' AND xact_start < now() - interval '2 s'
                    AND pid <> pg_backend_pid()";
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        crate::support::eventually(
            &format!("no transaction or lock left over on {name}"),
            Duration::from_secs(10),
            || async {
                crate::support::number(&dsn, left).await == 0
                    && crate::support::number(&dsn, waiting).await == 0
            },
        )
        .await;
    }
}
