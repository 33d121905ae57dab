//! The general door's handle: arbitrary SQL inside the leader's transaction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connection::{Conn, Failure};
use super::{SideId, Value, WriteError};

/// A transaction on the leader, for the closure of [`MultiPool::transaction`](super::MultiPool::transaction).
///
/// It remembers a failed statement: a closure that swallows an error cannot have the rest committed.
#[derive(Clone)]
pub struct Tx {
    conn: Weak<Conn>,
    shared: Arc<Shared>,
}

struct Shared {
    ended: AtomicBool,
    failed: AtomicBool,
    failure: std::sync::Mutex<Option<Failure>>,
    side: SideId,
}

impl Tx {
    pub(super) fn new(conn: &Arc<Conn>, side: SideId) -> Tx {
        let shared = Shared {
            ended: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Default::default(),
            side,
        };
        Tx {
            conn: Arc::downgrade(conn),
            shared: Arc::new(shared),
        }
    }

    /// The side that decides every value of this transaction.
    pub fn leader(&self) -> SideId {
        self.shared.side
    }

    /// Runs a statement and returns the number of rows it changed or read.
    ///
    /// # Errors
    /// [`WriteError::Rejected`] when PostgreSQL refuses it; the whole transaction is then given up, whatever the
    /// closure returns.
    pub async fn execute(&self, sql: &str, params: &[Value]) -> Result<u64, WriteError> {
        let run = |client: Arc<Conn>, sql: String| async move {
            let refs: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
            let statement = client.prepare_foreign(&sql).await?;
            Ok(client.client()?.execute(&statement, &refs).await?)
        };
        self.remember(run(self.conn()?, sql.to_owned()).await)
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub async fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, WriteError> {
        let run = |client: Arc<Conn>, sql: String| async move {
            let refs: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
            let statement = client.prepare_foreign(&sql).await?;
            Ok(client.client()?.query(&statement, &refs).await?)
        };
        self.remember(run(self.conn()?, sql.to_owned()).await)
    }

    /// Ends the handle with its closure: a copy that was kept must not run statements in somebody else's transaction.
    pub(super) fn end(&self) {
        self.shared.ended.store(true, Ordering::Release);
    }

    fn conn(&self) -> Result<Arc<Conn>, WriteError> {
        let conn = if self.shared.ended.load(Ordering::Acquire) {
            None
        } else {
            self.conn.upgrade()
        };
        conn.ok_or_else(|| WriteError::Closure("the transaction was used after its closure had ended".into()))
    }

    fn remember<T>(&self, result: Result<T, Failure>) -> Result<T, WriteError> {
        result.map_err(|failure| {
            let error = match &failure {
                Failure::Rejected(r) => WriteError::Rejected {
                    sqlstate: r.sqlstate.clone(),
                    message: r.message.clone(),
                    constraint: r.constraint.clone(),
                    column: r.column.clone(),
                },
                other => WriteError::Closure(super::connection::words(other)),
            };
            // Only the first failure tells why; later ones say that the transaction is aborted.
            if !self.shared.failed.swap(true, Ordering::AcqRel)
                && let Ok(mut first) = self.shared.failure.lock()
            {
                *first = Some(failure);
            }
            error
        })
    }

    /// The first failed statement, if one failed.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.shared.failure.lock().ok()?.clone()
    }
}
