//! CSV import and export, without their pages.
//!
//! A file is checked as a whole first ([`parse`]), so nothing is half-imported. Then [`start`] writes it in chunks of at most
//! [`CHUNK`] rows, each an operation named after the import: whoever submits the same file under the same name again, to
//! whichever instance, continues where it stopped, and no row is written twice. Crash rule: if the instance dies here, the
//! chunks that were applied stay, [`progress`] tells which from any instance, and submitting the file again writes the rest.

mod export;
mod parse;
mod rows;

pub use export::export;
pub use parse::{FileProblem, ImportErrors, Parsed, RowError, RowProblem, parse};
pub use rows::Rows;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use actix_web::web;
use backon::{ExponentialBuilder, Retryable};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::AppState;
use crate::multipool::{Applied, Change, MultiPool, NotApplied, OpId, OpOutcome, ReadError, WriteError};
use crate::{items, servers};

/// Rows of one operation: large enough that the two commits hardly count, small enough for other writers to get in between.
pub const CHUNK: usize = 500;
/// Bytes after which a chunk ends before it has so many rows: what is in memory at a time beside the file.
const CHUNK_BYTES: usize = 1 << 20;
/// How long one chunk is tried again before the import gives up; longer than a restart of both databases.
const CHUNK_DEADLINE: Duration = Duration::from_secs(600);
/// Ended imports whose errors are kept.
const KEPT: usize = 100;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `name[,content]`.
    Items,
    /// `name,host,port[,active]`.
    Servers,
}

impl Kind {
    /// The table, and the word in addresses.
    pub fn table(self) -> &'static str {
        match self {
            Kind::Items => items::TABLE,
            Kind::Servers => servers::TABLE,
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(s: &str) -> Result<Kind, ()> {
        [Kind::Items, Kind::Servers]
            .into_iter()
            .find(|kind| kind.table() == s)
            .ok_or(())
    }
}

/// How far an import is, from the databases: the same through every instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that are in effect.
    pub done: usize,
    /// All chunks.
    pub total: usize,
}

impl Progress {
    /// Whether all rows are in effect.
    pub fn is_complete(self) -> bool {
        self.done == self.total
    }
}

/// Asks which chunks of an import are in effect.
///
/// # Errors
/// No side could answer.
pub async fn progress(pool: &MultiPool, import_op: OpId, chunks: usize) -> Result<Progress, ReadError> {
    let parts: Vec<OpId> = (0..chunks).map(|index| import_op.part(index as u64)).collect();
    let outcomes = pool.operations(&parts).await?;
    let done = outcomes
        .iter()
        .filter(|outcome| **outcome == OpOutcome::Applied)
        .count();
    Ok(Progress { done, total: chunks })
}

/// What this instance knows about an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Here {
    /// It writes it now.
    Running,
    /// It wrote all of it.
    Finished,
    /// It gave up; the text says why. Chunks written before stay.
    Failed(String),
    /// Another instance runs it, or this one was restarted.
    Unknown,
}

/// Imports this instance runs or ran.
#[derive(Default)]
pub struct Imports(Mutex<HashMap<OpId, Entry>>);

struct Entry {
    state: Here,
    since: SystemTime,
    task: Option<JoinHandle<()>>,
}

impl Imports {
    fn lock(&self) -> MutexGuard<'_, HashMap<OpId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this instance knows about an import.
    pub fn here(&self, import_op: OpId) -> Here {
        self.lock()
            .get(&import_op)
            .map_or(Here::Unknown, |entry| entry.state.clone())
    }

    fn end(&self, import_op: OpId, state: Here) {
        let mut imports = self.lock();
        if let Some(entry) = imports.get_mut(&import_op) {
            entry.state = state;
        }
        while imports.values().filter(|e| e.state != Here::Running).count() > KEPT {
            let ended = imports.iter().filter(|(_, e)| e.state != Here::Running);
            let Some(oldest) = ended.min_by_key(|(_, e)| e.since).map(|(op, _)| *op) else {
                break;
            };
            imports.remove(&oldest);
        }
    }

    /// Waits until no import runs any more; the caller sets the deadline.
    pub(super) async fn finish(&self) {
        let tasks: Vec<_> = self
            .lock()
            .values_mut()
            .filter_map(|entry| entry.task.take())
            .collect();
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "an import ended badly");
            }
        }
    }
}

/// Writes `rows` in the background, unless this instance is already at it. [`Rows::chunks`] is what [`progress`] needs.
pub fn start(state: &web::Data<AppState>, import_op: OpId, rows: Rows) {
    let mut imports = state.imports.lock();
    if imports
        .get(&import_op)
        .is_some_and(|entry| entry.state == Here::Running)
    {
        return;
    }
    let span =
        tracing::info_span!(parent: None, "import", %import_op, table = rows.table(), rows = rows.len());
    let for_task = state.clone();
    let work = async move {
        let ended = match write_all(&for_task.pool, import_op, &rows).await {
            Ok(()) => {
                tracing::info!("import finished");
                Here::Finished
            }
            Err(failure) => {
                tracing::warn!(%failure, "import gave up");
                Here::Failed(failure.to_string())
            }
        };
        for_task.imports.end(import_op, ended);
    };
    // On the runtime of the process: that of a worker ends with the worker, before the import is done.
    let task = state.runtime.spawn(work.instrument(span));
    let entry = Entry {
        state: Here::Running,
        since: SystemTime::now(),
        task: Some(task),
    };
    imports.insert(import_op, entry);
}

/// A chunk that could not be written.
#[derive(Debug)]
struct ChunkFailure {
    first_row: usize,
    last_row: usize,
    error: WriteError,
}

impl fmt::Display for ChunkFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChunkFailure {
            first_row,
            last_row,
            error,
        } = self;
        write!(f, "rows {first_row} to {last_row}: {error}")
    }
}

async fn write_all(pool: &MultiPool, import_op: OpId, rows: &Rows) -> Result<(), ChunkFailure> {
    let mut written = 0;
    for (index, chunk) in rows.read().enumerate() {
        let count = chunk.len();
        let change = Change::insert_many(rows.table(), chunk);
        let done = write_chunk(pool, import_op.part(index as u64), &change).await;
        done.map_err(|error| ChunkFailure {
            first_row: written + 1,
            last_row: written + count,
            error,
        })?;
        written += count;
    }
    Ok(())
}

/// Repeats one chunk under its name until its outcome is known: a repetition never applies it twice.
async fn write_chunk(pool: &MultiPool, op: OpId, chunk: &Change) -> Result<Applied, WriteError> {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(CHUNK_DEADLINE));
    (|| pool.change(op, vec![chunk.clone()]))
        .retry(backoff)
        .when(is_worth_repeating)
        .notify(|error, pause| tracing::info!(%op, %error, ?pause, "a chunk is tried again"))
        .await
}

fn is_worth_repeating(error: &WriteError) -> bool {
    match error {
        WriteError::NotApplied(why) => *why != NotApplied::Closing,
        WriteError::Unknown(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_imports_are_forgotten_in_the_end() {
        let imports = Imports::default();
        for _ in 0..KEPT + 5 {
            let op = OpId::new();
            let entry = Entry {
                state: Here::Running,
                since: SystemTime::now(),
                task: None,
            };
            imports.lock().insert(op, entry);
            assert_eq!(imports.here(op), Here::Running);
            imports.end(op, Here::Finished);
        }
        assert_eq!(imports.lock().len(), KEPT);
        assert_eq!(imports.here(OpId::new()), Here::Unknown);
    }

    #[test]
    fn only_what_may_pass_is_repeated() {
        assert!(is_worth_repeating(&WriteError::Unknown(OpId::new())));
        assert!(is_worth_repeating(&WriteError::NotApplied(NotApplied::NoSide)));
        assert!(!is_worth_repeating(&WriteError::NotApplied(NotApplied::Closing)));
        assert!(!is_worth_repeating(&WriteError::OpReused(OpId::new())));
    }
}
