//! The heart: two or more ordinary PostgreSQL databases kept identical from the application.
//!
//! # Layout, in the order a write flows
//!
//! - [`MultiPool`]: the doors (`pool`; `inner` is what they share with the tasks), what they take (`change`, `value`) and answer (`error`, `status`).
//! - `write`: lanes; leader, followers, commit on all at once. `statement` makes SQL of a declarative change,
//!   `transaction` is the handle of arbitrary SQL, `journal` what was captured.
//! - `read`: reads, and what they do when a connection or a side fails.
//! - `health`: heartbeats; `refusal`: a side that is well and takes no writes; `standstill`: no reads from the past after one;
//!   `membership`: who is active (`epoch`),
//!   after `votes` of more than half.
//! - `lineage`: whether a returned side is what it was. `merge` and `catch_up`: bringing sides together again; `rebuild`:
//!   copying a side that was lost; `conflicts`: what a person sees and decides.
//! - [`compare()`](compare): the proof, and `check`, which asks for it now and then. `trim`: housekeeping.
//! - [`failpoint`]: where a test may stop the program in the middle of these; nothing of it is in a release build.
//! - [`install`]: the objects in schema `kambana`; `watch`: capture of a table, or why not; [`migrate()`](migrate):
//!   one change of structure on every side; `catalog`, `sequences`: what watched tables are made of.
//!
//! This room knows nothing of HTTP, pages or sessions.
//!
//! # Example
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kambana::config::PoolConfig;
//! use kambana::multipool::{Change, Fields, MultiPool, OpId};
//!
//! let pool = MultiPool::connect(PoolConfig::from_vars(|name| std::env::var(name).ok())?).await?;
//! let applied = pool.change(OpId::new(), vec![Change::insert("items", Fields::new().with("name", "twins"))]).await?;
//! println!("on every active side, as row {:?}", applied.rows[0].id());
//! # Ok(())
//! # }
//! ```

mod catalog;
mod catch_up;
mod change;
mod check;
mod compare;
mod conflicts;
mod connection;
mod epoch;
mod error;
pub mod failpoint;
mod happened;
mod health;
mod inner;
mod install;
mod journal;
mod lineage;
mod membership;
mod merge;
mod migrate;
mod pool;
mod read;
mod reason;
mod rebuild;
mod refusal;
mod sequences;
mod side;
mod standstill;
mod statement;
mod status;
mod transaction;
mod trim;
mod value;
mod votes;
mod watch;
mod write;

pub use catalog::parse_record as record_fields;
pub use change::{Applied, Change, ChangedRow, OpId, OpOutcome, RowChange};
pub use check::{Certificate, FoundDifference};
pub use compare::{Comparison, Difference, MAX_DIFFERENCES, TableComparison, compare};
pub use conflicts::{
    Choice, ChooseError, Chosen, Conflict, ConflictColumn, ConflictState, HeldChange, Rule, set_rule,
};
pub use error::{ConnectError, NotApplied, ReadError, WriteError};
pub use happened::{Happened, Repair};
pub use install::install;
pub use migrate::migrate;
pub use pool::MultiPool;
pub use read::together;
pub use reason::Reason;
pub use rebuild::{Ended, rebuild_side};
pub use side::{MAX_SIDES, PerSide, SideId, SideSet};
pub use status::{Event, Glance, Loss, Progress, SideFault, SideState, SideStatus, Status};
pub use transaction::Tx;
pub use value::{Fields, Value};
pub use votes::{MAX_QUESTION, Margin, Peers, RemoteVoter, VoterKind, VoterStatus, Votes, Witness};
