//! What can go wrong, in terms of what it means for the caller's data.

use thiserror::Error;

use super::{Fields, OpId, SideId, SideSet};

/// Why a write has no ordinary outcome. Every variant but [`WriteError::Unknown`] means: nothing was changed on any
/// side.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The change cannot be expressed: an unwatched table, an unknown column, a value twice.
    #[error("{0}")]
    Invalid(String),
    /// The row is no longer what the caller had seen.
    #[error("row {key} of {table} was changed by somebody else")]
    EditConflict {
        /// Table of the row.
        table: String,
        /// Key of the row, as record text.
        key: String,
        /// The row as it is now.
        current: Fields,
    },
    /// No row has this key.
    #[error("{table} has no row {key}")]
    NotFound {
        /// Table that was searched.
        table: String,
        /// Key that was searched, as record text.
        key: String,
    },
    /// PostgreSQL refused the statement (a constraint, a value out of range, a type, a syntax error).
    #[error("the database refused: {message} (SQLSTATE {sqlstate})")]
    Rejected {
        /// Five characters; see the manual's appendix A.
        sqlstate: String,
        /// PostgreSQL's own message.
        message: String,
        /// The constraint, where one is named.
        constraint: Option<String>,
        /// The column, where one is named.
        column: Option<String>,
    },
    /// The closure of a transaction returned an error of its own.
    #[error("{0}")]
    Closure(String),
    /// This `op_id` was used before for another change.
    #[error("operation {0} was used before for a different change")]
    OpReused(OpId),
    /// The system cannot write now; the same request may succeed later.
    #[error("not applied: {0}")]
    NotApplied(NotApplied),
    /// Both answers were lost. The outcome becomes final by itself and is read with
    /// [`MultiPool::operations`](super::MultiPool::operations).
    #[error("the outcome of operation {0} is not known yet")]
    Unknown(OpId),
}

/// Why nothing was written, shown as it is in pages, answers and logs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotApplied {
    /// More writes are waiting than the configured bound.
    #[error("too many writes are waiting")]
    Overloaded,
    /// No side answers.
    #[error("no database answers")]
    NoSide,
    /// A side answers but was out when the last write was made.
    #[error(
        "side {0} answers, but it was out when the last write was made; waiting for the side that has it"
    )]
    NoAuthority(SideId),
    /// This instance does not hear a side that other instances do.
    #[error(
        "this instance cannot reach side {0}, but another instance can; it takes no part until it can again"
    )]
    Isolated(SideId),
    /// A side is to be left out, and too few votes say so.
    #[error(
        "a database is missing and more than half of the votes must agree to go on without it: {given} of {needed} came. Missing: {missing}. Bring one of these back; nothing acknowledged is lost"
    )]
    NoVotes {
        /// Votes that were given.
        given: u32,
        /// Votes that are needed.
        needed: u32,
        /// Who did not vote, and why.
        missing: String,
    },
    /// The votes decided for sides that this instance does not reach.
    #[error("the votes have decided to go on with the sides {0}, which this instance does not reach")]
    DecidedFor(SideSet),
    /// What this instance knew before it was restarted cannot be read.
    #[error("this instance's own record of the active sides cannot be read: {0}")]
    NoMemory(String),
    /// Two sides were made active apart from each other.
    #[error(
        "the sides were made active apart from each other and may both have changes; a person must decide"
    )]
    Split,
    /// The only side that is left answers and does not take this write.
    #[error("side {0} does not take this write and no other side is active: {1}")]
    Unable(SideId, String),
    /// Somebody holds a lock that this write needs.
    #[error("another program holds a lock on this data")]
    Locked,
    /// A side refuses a change of this row that is already on another side.
    #[error(
        "a change of this row that another program made on one side is refused by the other; see `kambana conflicts`"
    )]
    Held,
    /// The operation's deadline passed before anything was committed.
    #[error("the databases did not answer in time")]
    Deadline,
    /// An earlier request with this name was answered "not applied" for good.
    #[error("an earlier request with this name was given up for good; send it again under a new name")]
    Abandoned,
    /// The pool is being closed.
    #[error("this instance is stopping")]
    Closing,
}

/// Why a read failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// PostgreSQL refused the statement.
    #[error("the database refused: {message} (SQLSTATE {sqlstate})")]
    Rejected {
        /// Five characters; see the manual's appendix A.
        sqlstate: String,
        /// PostgreSQL's own message.
        message: String,
    },
    /// No side could answer before the deadline.
    #[error("no database could answer: {0}")]
    Unavailable(NotApplied),
    /// The statement itself took too long and was ended; nothing is wrong with any side.
    #[error("the database was looking through too many rows and was stopped after a few seconds")]
    TooLong,
}

/// Why a pool could not be connected, or objects could not be installed. The text names the side and what to do.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConnectError(pub String);
