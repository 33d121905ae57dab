//! One waiting operation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use serde_json::Value as Json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::multipool::{Applied, Change, OpId, Tx, Value, WriteError};

/// A transaction's closure, its value already turned into JSON.
pub(in crate::multipool) type Closure =
    Arc<dyn Fn(&Tx) -> BoxFuture<'static, Result<Json, WriteError>> + Send + Sync>;

/// What an operation does.
pub(in crate::multipool) enum Work {
    /// Declarative changes; may share a transaction with others.
    Change(Vec<Change>),
    /// One statement of the caller's that may share a transaction with others ([`may_share`]).
    Statement(String, Vec<Value>),
    /// Arbitrary SQL; runs alone.
    Transaction(Closure),
    /// Nothing but taking the name, so that the operation can never happen.
    Tombstone,
}

impl Work {
    /// About how long its values are.
    pub fn bytes(&self) -> usize {
        match self {
            Work::Change(changes) => changes.iter().map(Change::bytes).sum(),
            Work::Statement(sql, params) => {
                sql.len()
                    + params
                        .iter()
                        .filter_map(Value::as_text)
                        .map(str::len)
                        .sum::<usize>()
            }
            Work::Transaction(_) | Work::Tombstone => 0,
        }
    }
}

/// Whether a statement of the caller's may be in one transaction with those of others. It may not if it could end that
/// transaction, change its settings, lock whole tables or change their structure; what functions do that it calls is not seen.
pub(in crate::multipool) fn may_share(sql: &str) -> bool {
    if cfg!(mutant = "share_anything") {
        return true;
    }
    let lower = sql.to_ascii_lowercase();
    if ["set_config", "pg_advisory"]
        .iter()
        .any(|name| lower.contains(name))
    {
        return false;
    }
    let word = sql
        .split(|c: char| !c.is_ascii_alphabetic())
        .find(|word| !word.is_empty());
    let begins = sql.trim_start().starts_with(|c: char| c.is_ascii_alphabetic());
    let changes = ["INSERT", "UPDATE", "DELETE", "MERGE", "WITH"];
    begins && word.is_some_and(|word| changes.iter().any(|change| word.eq_ignore_ascii_case(change)))
}

/// How an operation ends for its caller.
pub(in crate::multipool) type Outcome = Result<(Applied, Json), WriteError>;

/// Operations that this instance has not answered for good yet.
#[derive(Clone, Default)]
pub(in crate::multipool) struct Pending(Arc<Mutex<HashMap<OpId, usize>>>);

/// Keeps an operation among the pending ones as long as it lives.
pub(in crate::multipool) struct PendingOp {
    op: OpId,
    pending: Pending,
}

impl Pending {
    pub fn enter(&self, op: OpId) -> PendingOp {
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(op)
            .or_default() += 1;
        PendingOp {
            op,
            pending: self.clone(),
        }
    }

    pub fn contains(&self, op: OpId) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&op)
    }
}

impl Drop for PendingOp {
    fn drop(&mut self) {
        let mut pending = self.pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The same name may be on its way twice (a double click).
        if let Some(count) = pending.get_mut(&self.op) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.op);
            }
        }
    }
}

/// One operation with the place its caller waits at.
pub(in crate::multipool) struct Job {
    pub op: OpId,
    pub digest: i64,
    pub work: Work,
    pub deadline: Instant,
    reply: oneshot::Sender<Outcome>,
    taken: Arc<AtomicBool>,
    pending_op: Option<PendingOp>,
}

/// The right to run a job: taken once, by a lane or by a caller that gives up waiting.
pub(in crate::multipool) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Whether the job had not been taken before.
    pub fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Job {
    pub fn new(
        pending: Option<PendingOp>,
        op: OpId,
        digest: i64,
        work: Work,
        deadline: Instant,
    ) -> (Job, oneshot::Receiver<Outcome>, Claim) {
        let (reply, answer) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let job = Job {
            op,
            digest,
            work,
            deadline,
            reply,
            taken: Arc::clone(&taken),
            pending_op: pending,
        };
        (job, answer, Claim(taken))
    }

    /// Its declarative changes; `None` for what only the caller's SQL can do.
    pub fn changes(&self) -> Option<&[Change]> {
        match &self.work {
            Work::Change(changes) => Some(changes),
            Work::Tombstone => Some(&[]),
            Work::Statement(..) | Work::Transaction(_) => None,
        }
    }

    /// Whether it may be in one transaction with others.
    pub fn shares(&self) -> bool {
        !matches!(self.work, Work::Transaction(_))
    }

    /// Whether it is a statement of the caller's.
    pub fn is_statement(&self) -> bool {
        matches!(self.work, Work::Statement(..))
    }

    /// Takes the right to run it.
    pub fn claim(&self) -> bool {
        Claim(Arc::clone(&self.taken)).take()
    }

    /// Tells the caller, if it still waits.
    pub fn answer(mut self, outcome: Outcome) {
        // Before the caller can ask.
        drop(self.pending_op.take());
        if self.reply.send(outcome).is_err() {
            tracing::debug!(op = %self.op, "the caller no longer waits");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::may_share;

    #[test]
    fn only_what_can_do_nothing_but_change_rows_shares_a_transaction() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "\n  update t SET a = 1",
            "delete\nFROM t",
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
            "MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE",
        ] {
            assert!(may_share(sql), "{sql}");
        }
        for sql in [
            "",
            "COMMIT",
            "/* INSERT */ ROLLBACK",
            "-- UPDATE\nSET LOCAL search_path = x",
            "SELECT set_config('x', 'y', true)",
            "TRUNCATE t",
            "LOCK TABLE t",
            "(INSERT INTO t VALUES (1))",
            "INSERTS",
            "WITH s AS (SELECT Set_Config('a', 'b', true)) INSERT INTO t SELECT 1 FROM s",
            "UPDATE t SET a = 1 WHERE pg_advisory_xact_lock(1) IS NOT NULL",
        ] {
            assert!(!may_share(sql), "{sql}");
        }
    }
}
