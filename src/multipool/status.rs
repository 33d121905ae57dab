//! What the pool knows about itself, as plain data for pages, `/api/status` and `kambana status`.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

use super::{Certificate, Happened, NotApplied, PerSide, SideId, SideSet, Votes};

/// ```text
///            ejected                    caught up, readmitted
///  Active ────────────▶ Out ─────────────────▶ CatchingUp ────────────────▶ Active
///                       │ ▲ ▲                     ▲  │
///             was lost  │ │ └─────────────────────┼──┘ died again
///                       ▼ │ died again            │ copied
///                     Rebuilding ─────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SideState {
    /// Takes every write and may answer reads.
    Active,
    /// Takes no write; its missing changes are kept open in the journal of the active sides.
    Out,
    /// Answers again and is being brought up to date while writes go on.
    CatchingUp,
    /// Was lost and is being copied from a living side while writes go on.
    Rebuilding,
}

impl fmt::Display for SideState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SideState::Active => "active",
            SideState::Out => "out",
            SideState::CatchingUp => "catching up",
            SideState::Rebuilding => "rebuilding",
        })
    }
}

/// Why a side does not answer or is not used, shown as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "code", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SideFault {
    /// The server refuses connections or ended them.
    Down(String),
    /// The server accepts bytes but does not answer within the deadline.
    Silent,
    /// Login, privilege or database name is wrong.
    Refused(String),
    /// It answers, but may not be used: schema missing or unequal, wrong identity, unsafe settings.
    Unfit(String),
    /// It answers and waits to be caught up.
    Behind,
    /// It answers, but what it holds cannot be caught up: it has to be copied from a living side.
    Lost(Loss),
}

impl fmt::Display for SideFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SideFault::Down(why) => write!(f, "does not answer: {why}"),
            SideFault::Silent => {
                f.write_str("accepts connections but does not answer (frozen or unreachable)")
            }
            SideFault::Refused(why) => write!(f, "refuses us: {why}"),
            SideFault::Unfit(why) => write!(f, "cannot be used: {why}"),
            SideFault::Behind => f.write_str("answers again, waits to be caught up"),
            SideFault::Lost(loss) => write!(f, "has to be rebuilt from a living side: {loss}"),
        }
    }
}

/// Why a returned side has to be rebuilt. Never a source, whatever it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// A new or an emptied database.
    Empty,
    /// Its tables have rows, but nothing says what they are: schema `kambana` is missing.
    Stripped,
    /// It was restored from an older backup: it lacks what it had answered.
    Restored,
    /// It was out for so long that the journal no longer holds what it misses.
    TooOld,
    /// It was begun to be rebuilt, and that has not ended yet.
    Unfinished,
    /// A person asked for it.
    Asked,
}

impl Loss {
    /// Every reason.
    pub const ALL: [Loss; 6] = [
        Loss::Empty,
        Loss::Stripped,
        Loss::Restored,
        Loss::TooOld,
        Loss::Unfinished,
        Loss::Asked,
    ];
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Empty => "it is a new or an emptied database",
            Loss::Stripped => "it has tables, but schema kambana is missing",
            Loss::Restored => "it lacks changes that it had before: it was restored from an older backup",
            Loss::TooOld => "it was out for too long, the journal no longer holds what it misses",
            Loss::Unfinished => "an earlier rebuild of it has not ended",
            Loss::Asked => "somebody asked for it",
        })
    }
}

impl Serialize for Loss {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How far the rebuild of a side has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The table being copied; empty before the first.
    pub table: String,
    /// Rows of it that were copied.
    pub rows: i64,
    /// Rows it has, by the server's estimate.
    pub about: i64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table.as_str() {
            "" => f.write_str("rebuilding"),
            table => write!(
                f,
                "rebuilding: {table}, {} rows of about {}",
                self.rows,
                self.about.max(self.rows)
            ),
        }
    }
}

/// One side as this instance sees it.
#[derive(Clone, Debug, Serialize)]
pub struct SideStatus {
    /// State in the current epoch.
    pub state: SideState,
    /// Whether it is the leader.
    pub leader: bool,
    /// What is wrong with it, if anything.
    pub fault: Option<SideFault>,
    /// Host, port and database name; never user or password.
    pub address: String,
    /// `server_version`, once seen.
    pub server_version: Option<String>,
    /// Round trip of the last heartbeat that was written and read back, in milliseconds.
    pub heartbeat_ms: Option<f64>,
    /// When that heartbeat was answered.
    #[serde(serialize_with = "rfc3339_option")]
    pub seen_at: Option<SystemTime>,
    /// Journal rows on the leader whose change is not known to be on this side.
    pub open_rows: Option<i64>,
    /// While it is catching up: keys copied so far in this attempt.
    pub caught_up_keys: u64,
    /// While it is being rebuilt: how far that has come.
    pub rebuild: Option<Progress>,
}

/// One thing that happened, newest last in [`Status::events`].
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// When, by this instance's clock.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// Epoch after the event.
    pub epoch: i64,
    /// What it was; in JSON one sentence.
    pub what: Happened,
}

/// The pool as this instance sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Name of this instance.
    pub instance: String,
    /// Number of the current membership.
    pub epoch: i64,
    /// The active sides.
    pub members: SideSet,
    /// Side that decides every value; `None` while no side may be written.
    pub leader: Option<SideId>,
    /// Whether writes are accepted now.
    pub writable: bool,
    /// Why not, if not.
    #[serde(serialize_with = "sentence")]
    pub refusal: Option<NotApplied>,
    /// Every configured side.
    pub sides: PerSide<SideStatus>,
    /// Who votes on the next change of the active sides.
    pub votes: Votes,
    /// Rows changed on two sides at once that wait for a person.
    pub open_conflicts: i64,
    /// Changes that a side refuses; they are tried again.
    pub held_changes: i64,
    /// What the latest background comparison found.
    pub certificate: Option<Certificate>,
    /// Writes waiting for a lane.
    pub waiting_writes: usize,
    /// The latest events, oldest first.
    pub events: Vec<Event>,
}

/// The part of [`Status`] that every page shows.
#[derive(Clone, Debug)]
pub struct Glance {
    /// Name of this instance.
    pub instance: String,
    /// Number of the current membership.
    pub epoch: i64,
    /// The active sides.
    pub members: SideSet,
    /// Why writes are refused, if they are.
    pub refusal: Option<NotApplied>,
    /// State of every configured side in the current epoch.
    pub states: PerSide<SideState>,
}

impl Status {
    /// Whether every configured side is active.
    pub fn is_whole(&self) -> bool {
        self.members == self.sides.all()
    }
}

fn sentence<S: serde::Serializer>(what: &Option<NotApplied>, serializer: S) -> Result<S::Ok, S::Error> {
    match what {
        Some(what) => serializer.collect_str(what),
        None => serializer.serialize_none(),
    }
}

pub(super) fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::try_from(*time).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&time)
}

pub(super) fn rfc3339_option<S: serde::Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
