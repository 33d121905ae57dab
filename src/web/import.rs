//! CSV import and export, without their pages.
//!
//! A file is checked as a whole first ([`parse`]), so nothing is half-imported. Then [`start`] writes it in chunks of
//! [`CHUNK`] rows, each an operation named after the import: whoever submits the same file under the same name again, to
//! whichever instance, continues where it stopped, and no row is written twice. Crash rule: if the instance dies here, the
//! chunks that were applied stay, [`progress`] tells which from any instance, and submitting the file again writes the rest.

mod export;
mod parse;

pub use export::export;
pub use parse::{FileProblem, ImportErrors, Parsed, RowError, RowProblem, parse};

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
use crate::items::{self, ItemInput};
use crate::multipool::{
    Applied, Change, Fields, MultiPool, NotApplied, OpId, OpOutcome, ReadError, WriteError,
};
use crate::servers::{self, ServerInput};

/// Rows of one operation: large enough that the two commits hardly count, small enough for other writers to get in between.
pub const CHUNK: usize = 500;
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

/// The valid rows of one file, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Of a file of items.
    Items(Vec<ItemInput>),
    /// Of a file of servers.
    Servers(Vec<ServerInput>),
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Rows::Items(rows) => rows.len(),
            Rows::Servers(rows) => rows.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of operations they are written in.
    pub fn chunks(&self) -> usize {
        self.len().div_ceil(CHUNK)
    }

    fn chunk(&self, index: usize) -> Change {
        let range = index * CHUNK..((index + 1) * CHUNK).min(self.len());
        let (table, fields): (_, Vec<Fields>) = match self {
            Rows::Items(rows) => (items::TABLE, rows[range].iter().map(ItemInput::fields).collect()),
            Rows::Servers(rows) => (
                servers::TABLE,
                rows[range].iter().map(ServerInput::fields).collect(),
            ),
        };
        Change::insert_many(table, fields)
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
        tracing::info_span!(parent: None, "import", %import_op, table = table_of(&rows), rows = rows.len());
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

fn table_of(rows: &Rows) -> &'static str {
    match rows {
        Rows::Items(_) => items::TABLE,
        Rows::Servers(_) => servers::TABLE,
    }
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
    for index in 0..rows.chunks() {
        let written = write_chunk(pool, import_op.part(index as u64), || rows.chunk(index)).await;
        if let Err(error) = written {
            let first_row = index * CHUNK + 1;
            let last_row = ((index + 1) * CHUNK).min(rows.len());
            return Err(ChunkFailure {
                first_row,
                last_row,
                error,
            });
        }
    }
    Ok(())
}

/// Repeats one chunk under its name until its outcome is known: a repetition never applies it twice.
async fn write_chunk(pool: &MultiPool, op: OpId, chunk: impl Fn() -> Change) -> Result<Applied, WriteError> {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(CHUNK_DEADLINE));
    (|| pool.change(op, vec![chunk()]))
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

    fn items(count: usize) -> Rows {
        let item = |i| ItemInput {
            name: format!("item {i}"),
            content: None,
        };
        Rows::Items((0..count).map(item).collect())
    }

    #[test]
    fn chunks_cover_every_row_once() {
        for count in [0, 1, 499, 500, 501, 1000, 1234] {
            let rows = items(count);
            let sizes: Vec<usize> = (0..rows.chunks())
                .map(|i| match rows.chunk(i) {
                    Change::Insert { rows, .. } => rows.len(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(sizes.iter().sum::<usize>(), count);
            assert!(sizes.iter().all(|size| (1..=CHUNK).contains(size)));
        }
    }

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
