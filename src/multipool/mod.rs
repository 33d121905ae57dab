//! The heart: two or more ordinary PostgreSQL databases kept identical.

mod change;
mod error;
mod side;
mod status;
mod value;

pub use change::{Applied, Change, ChangedRow, OpId, OpOutcome, RowChange};
pub use error::{ConnectError, NotApplied, ReadError, WriteError};
pub use side::{MAX_SIDES, PerSide, SideId, SideSet};
pub use status::{Event, SideFault, SideState, SideStatus, Status};
pub use value::{Fields, Value};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::config::PoolConfig;

/// STUB being replaced: the public door.
#[derive(Clone)]
pub struct MultiPool {}

impl MultiPool {
    /// Connects, checks the pair, starts the background tasks.
    pub async fn connect(_config: PoolConfig) -> Result<MultiPool, ConnectError> {
        Err(ConnectError("stub".into()))
    }
    /// Declarative door. Runs in a task of its own; dropping the future does not stop it.
    pub async fn change(&self, _op_id: OpId, _changes: Vec<Change>) -> Result<Applied, WriteError> {
        Err(WriteError::Invalid("stub".into()))
    }
    /// Arbitrary SQL, one statement.
    pub async fn transactional_write(&self, _sql: &str, _params: &[Value]) -> Result<Applied, WriteError> {
        Err(WriteError::Invalid("stub".into()))
    }
    /// A read from the leader (or the nearest side, by configuration); retried on another side when one dies.
    pub async fn read(&self, _sql: &str, _params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, ReadError> {
        Err(ReadError::Unavailable(NotApplied::NoSide))
    }
    /// The side reads are sent to now.
    pub fn reader(&self) -> Option<SideId> {
        None
    }
    /// Outcomes of operations by name, in the order asked.
    pub async fn operations(&self, _ops: &[OpId]) -> Result<Vec<OpOutcome>, ReadError> {
        Err(ReadError::Unavailable(NotApplied::NoSide))
    }
    /// What the pool knows about itself; no I/O.
    pub fn status(&self) -> Status {
        Status {
            instance: String::new(),
            epoch: 0,
            members: SideSet::EMPTY,
            leader: None,
            writable: false,
            refusal: None,
            sides: PerSide::new(0, |_| unreachable!("no side")),
            waiting_writes: 0,
            events: vec![],
        }
    }
    /// Finishes what was begun and ends the background tasks.
    pub async fn close(&self) {}
}
