//! A fault campaign with a verdict: `kambana drill`. Clients write through HAProxy, one part after another is broken and
//! mended, and in the end everything the clients were told is held against what the databases hold.
//!
//! # Layout
//!
//! - pure: [`plan`] (what is broken, from a seed), [`history`] (what clients were told), [`verdict`] (what is wrong),
//!   [`timeline`] (the run in slices);
//! - performing: [`faults`] (break and mend), [`load`] (the clients), [`watch`] (what instances say), [`dump`] (what databases
//!   hold), `run` (all of it in order);
//! - [`report`]: the result for machines and, as a page, for people; [`matrix`]: many results in one table.
//!
//! This room knows nothing of the web application but its JSON API, and nothing of the pool but which tables are watched:
//! the verdict rests on plain SQL and on the clients' own history, never on the code under test.
//!
//! Crash rule: what a drill breaks in a `kambana up` of somebody else is mended on every way out but a SIGKILL of the drill;
//! after one, `kambana local start …` and `thaw …` mend it. A cluster of its own dies with it.

pub mod dump;
pub mod faults;
pub mod history;
pub mod load;
pub mod matrix;
pub mod plan;
pub mod report;
mod run;
pub mod timeline;
pub mod verdict;
pub mod watch;

use crate::local::LocalError;

pub use run::{DrillOptions, Where, run};

/// Why a drill could not be carried through; it says nothing about the cluster.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// Starting, stopping or breaking something failed.
    #[error("{0}")]
    Local(#[from] LocalError),
    /// It cannot be drilled as it is.
    #[error("{0}")]
    Cluster(String),
    /// A database did not answer the drill's own questions.
    #[error("side {0} cannot be asked for the verdict: {1}")]
    Database(String, String),
    /// Something is left broken.
    #[error("{0} could not be mended and is left as it is: {1}")]
    Mend(String, String),
    /// A file could not be written, or the drill made a mistake.
    #[error("{0}")]
    Drill(String),
}
