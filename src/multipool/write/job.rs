//! One waiting operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use serde_json::Value as Json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::multipool::{Applied, Change, OpId, Tx, WriteError};

/// A transaction's closure, its value already turned into JSON.
pub(in crate::multipool) type Closure =
    Arc<dyn Fn(&Tx) -> BoxFuture<'static, Result<Json, WriteError>> + Send + Sync>;

/// What an operation does.
pub(in crate::multipool) enum Work {
    /// Declarative changes; may share a transaction with others.
    Change(Vec<Change>),
    /// Arbitrary SQL; runs alone.
    Transaction(Closure),
    /// Nothing but taking the name, so that the operation can never happen.
    Tombstone,
}

/// How an operation ends for its caller.
pub(in crate::multipool) type Outcome = Result<(Applied, Json), WriteError>;

/// One operation with the place its caller waits at.
pub(in crate::multipool) struct Job {
    pub op: OpId,
    pub digest: i64,
    pub work: Work,
    pub deadline: Instant,
    reply: oneshot::Sender<Outcome>,
    taken: Arc<AtomicBool>,
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
        op: OpId,
        digest: i64,
        work: Work,
        deadline: Instant,
    ) -> (Job, oneshot::Receiver<Outcome>, Claim) {
        let (reply, answer) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        (
            Job {
                op,
                digest,
                work,
                deadline,
                reply,
                taken: Arc::clone(&taken),
            },
            answer,
            Claim(taken),
        )
    }

    /// Takes the right to run it.
    pub fn claim(&self) -> bool {
        Claim(Arc::clone(&self.taken)).take()
    }

    /// Tells the caller, if it still waits.
    pub fn answer(self, outcome: Outcome) {
        if self.reply.send(outcome).is_err() {
            tracing::debug!(op = %self.op, "the caller no longer waits");
        }
    }
}
