//! What can happen to a pool: facts, so that a page can say them in its reader's language. Their `Display` is what the log
//! and the API say.

use std::fmt;

use super::{Loss, NotApplied, Reason, SideId, SideSet, VoterKind};

/// Something that happened. What is said of it may change; what it is does not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// This instance knows of a new epoch.
    Epoch {
        /// Its number.
        number: i64,
        /// The active sides in it.
        members: SideSet,
        /// Why; empty if that is not known.
        why: Vec<Reason>,
    },
    /// This instance has changed the active sides.
    Changed {
        /// Why.
        why: Vec<Reason>,
        /// The active sides now.
        members: SideSet,
    },
    /// Writes are accepted from now on.
    Accepting,
    /// Writes are refused from now on.
    Refusing(NotApplied),
    /// A side has come and gone lately: it is brought back only if it stays.
    OnTrial {
        /// The side.
        side: SideId,
        /// For how long it must answer.
        seconds: u64,
    },
    /// A side was caught up.
    CaughtUp {
        /// The side.
        side: SideId,
        /// Keys whose rows were copied.
        keys: u64,
    },
    /// A side whose readmission had been left unfinished stores the current epoch.
    Aligned(SideId),
    /// A side was copied anew; it is caught up next.
    Rebuilt {
        /// The side.
        side: SideId,
        /// The side it was copied from.
        from: SideId,
        /// Rows that were copied.
        rows: u64,
        /// Why.
        loss: Loss,
    },
    /// Rows that were on one side only are on both.
    Swept {
        /// How many.
        rows: u64,
    },
    /// A repair has failed; it is tried again.
    Failed {
        /// What was tried.
        repair: Repair,
        /// Where it failed.
        side: SideId,
        /// Why.
        why: String,
    },
    /// A repair has ended by an error in the program; it is tried again.
    Panicked(Repair),
    /// A side is caught up, but the votes do not take it back yet.
    NotReadmitted {
        /// The side.
        side: SideId,
        /// Why.
        why: NotApplied,
    },
    /// A side may not be rebuilt, or not yet.
    NotRebuilt {
        /// The side.
        side: SideId,
        /// Why.
        why: String,
    },
    /// More is open for a side than is kept: it is rebuilt when it returns.
    GivenUp {
        /// The side.
        side: SideId,
        /// So many journal rows are kept for it at most.
        limit: i64,
    },
    /// Rows were changed on two sides at once.
    Conflicts {
        /// How many.
        rows: u64,
        /// The side whose version is in effect.
        kept: SideId,
        /// The side whose version gave way.
        lost: SideId,
        /// How many of them wait for a person, by the rule of their table.
        asked: u64,
    },
    /// A side refuses changes of another one; they are tried again.
    Held {
        /// Table of the change.
        table: String,
        /// Key of the row; empty: the whole table.
        key: String,
        /// The side that has it.
        from: SideId,
        /// The side that does not take it.
        to: SideId,
        /// What that side says.
        why: String,
    },
    /// A comparison has found rows that differ without a reason.
    Differing {
        /// How many.
        rows: u64,
        /// Table, key and columns of the first.
        first: String,
    },
    /// A role that has privileges on the copied side does not exist on the new one.
    RoleMissing {
        /// The role.
        role: String,
        /// The side that was rebuilt.
        side: SideId,
    },
    /// The leader's tables have changed, and were read again.
    StructureRead,
    /// A voter had lost what it had voted, and votes again.
    VoterForgot {
        /// What it is.
        kind: VoterKind,
        /// Its name.
        name: String,
        /// The first epoch it votes on.
        epoch: i64,
    },
    /// The file that keeps the active sides could not be written.
    NoMemory(String),
    /// A background task has ended by an error in the program and was started anew.
    Restarted {
        /// Its name.
        task: String,
    },
}

/// A repair of what is not the same on every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Finishing a readmission that had been left half done.
    Align(SideId),
    /// Catching a side up.
    CatchUp(SideId),
    /// Copying a side anew.
    Rebuild(SideId),
    /// Bringing together what is on one side only.
    Sweep,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repair::Align(side) => write!(f, "finishing the readmission of side {side}"),
            Repair::CatchUp(side) => write!(f, "catch-up of side {side}"),
            Repair::Rebuild(side) => write!(f, "the rebuild of side {side}"),
            Repair::Sweep => f.write_str("the sweep"),
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happened::Epoch { number, members, why } => {
                write!(f, "epoch {number}: active sides {members}")?;
                match why.is_empty() {
                    true => Ok(()),
                    false => write!(f, " ({})", Reason::sentence(why)),
                }
            }
            Happened::Changed { why, members } => {
                write!(f, "{}; going on with {members}", Reason::sentence(why))
            }
            Happened::Accepting => f.write_str("writes are accepted"),
            Happened::Refusing(why) => write!(f, "writes are refused: {why}"),
            Happened::OnTrial { side, seconds } => write!(
                f,
                "side {side} answers, but has come and gone lately: it must answer for {seconds} s before it is brought back"
            ),
            Happened::CaughtUp { side, keys } => {
                write!(
                    f,
                    "side {side} is up to date ({keys} keys copied) and active again"
                )
            }
            Happened::Aligned(side) => write!(f, "side {side} stores the current epoch again"),
            Happened::Rebuilt {
                side,
                from,
                rows,
                loss,
            } => write!(
                f,
                "side {side} was rebuilt from side {from}: {rows} rows copied ({loss})"
            ),
            Happened::Swept { rows } => {
                write!(f, "{rows} rows that were on one side only were brought together")
            }
            Happened::Failed { repair, side, why } => write!(f, "{repair} failed at side {side}: {why}"),
            Happened::Panicked(repair) => write!(f, "{repair} ended by an error in the program"),
            Happened::NotReadmitted { side, why } => {
                write!(f, "side {side} is up to date but cannot be active yet: {why}")
            }
            Happened::NotRebuilt { side, why } => write!(f, "side {side} is not rebuilt: {why}"),
            Happened::GivenUp { side, limit } => write!(
                f,
                "more than {limit} journal rows wait for side {side} (JOURNAL_MAX_ROWS): they are given up, and it will be \
                 rebuilt when it returns"
            ),
            Happened::Conflicts {
                rows,
                kept,
                lost,
                asked,
            } => {
                write!(
                    f,
                    "{rows} rows were changed on side {kept} and side {lost} at once; side {kept} counts, both images are kept"
                )?;
                match asked {
                    0 => Ok(()),
                    asked => write!(f, "; {asked} of them wait for a person: kambana conflicts"),
                }
            }
            Happened::Held {
                table,
                key,
                from,
                to,
                why,
            } => {
                match key.as_str() {
                    "" => write!(f, "changes of table {table}")?,
                    key => write!(f, "row {key} of {table}")?,
                }
                write!(
                    f,
                    " cannot be brought from side {from} to side {to} and is tried again: {why}"
                )
            }
            Happened::Differing { rows, first } => write!(
                f,
                "{rows} rows differ between the databases and nothing explains it, the first: {first}; see kambana compare"
            ),
            Happened::RoleMissing { role, side } => write!(
                f,
                "role {role} does not exist on side {side}; it is not given its privileges there"
            ),
            Happened::StructureRead => f.write_str("the structure of the tables was read anew"),
            Happened::VoterForgot { kind, name, epoch } => write!(
                f,
                "{kind} {name} has lost its memory of votes; it votes again from epoch {epoch}"
            ),
            Happened::NoMemory(why) => {
                write!(f, "the epoch cannot be kept on this instance's disk: {why}")
            }
            Happened::Restarted { task } => write!(
                f,
                "task `{task}` met an error in the program and is started anew; what it was doing is finished by the sweep"
            ),
        }
    }
}

impl serde::Serialize for Happened {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
