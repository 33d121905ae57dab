//! What the clients of a drill did and were told: plain data, nothing else. Times are counted from the start of the run.

use std::time::Duration;

use serde::{Serialize, Serializer};
use uuid::Uuid;

/// A row is named by the insert that made it: the name stands in the row, so that it is known even if the insert was never
/// answered.
pub type RowName = Uuid;

/// What a row is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Its content is the name of the last operation that wrote it, whoever was first.
    Plain,
    /// Its content lists every operation that wrote it: each reads the list, adds its name, and writes it back only if
    /// nobody else did meanwhile.
    Log,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Makes the row.
    Insert,
    /// Writes its own name into a plain row.
    Update,
    /// Adds its own name to a log.
    Append,
    /// Removes the row.
    Delete,
}

/// What the client was told in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// In effect.
    Acknowledged,
    /// Not applied, on no side; the HTTP status.
    Refused(u16),
    /// Nothing that is final, until the drill gave up asking.
    Nothing,
}

/// One change, with all its repetitions under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Its name; also what it writes.
    pub op: Uuid,
    /// The row it is about.
    pub row: RowName,
    /// What the row is made for.
    pub sort: Sort,
    /// What it does.
    pub act: Act,
    /// Id of the row, as far as the client knows.
    pub id: Option<i64>,
    /// Before the first attempt was sent.
    #[serde(serialize_with = "as_ms")]
    pub start: Duration,
    /// After the answer that was final arrived.
    #[serde(serialize_with = "as_ms")]
    pub end: Duration,
    /// That answer.
    pub told: Told,
    /// Whether an attempt had no answer, or one that left it open, before.
    pub doubtful: bool,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// A plain row that this operation wrote.
    Written(Uuid),
    /// A log with so many entries.
    Entries(usize),
    /// No such row.
    Gone,
}

/// One read that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Read {
    /// Which row.
    pub row: RowName,
    /// Before it was sent.
    #[serde(serialize_with = "as_ms")]
    pub start: Duration,
    /// After it was answered.
    #[serde(serialize_with = "as_ms")]
    pub end: Duration,
    /// What it found.
    pub seen: Seen,
}

/// One attempt that was not answered as it should be. It is repeated under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Before it was sent.
    #[serde(serialize_with = "as_ms")]
    pub start: Duration,
    /// When it failed.
    #[serde(serialize_with = "as_ms")]
    pub end: Duration,
    /// What it was and how it failed.
    pub what: String,
}

/// Everything the clients know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct History {
    /// Every change.
    pub operations: Vec<Operation>,
    /// Every read.
    pub reads: Vec<Read>,
    /// Every attempt that failed.
    pub failures: Vec<Failure>,
}

impl History {
    /// When changes were acknowledged, in order.
    pub fn successes(&self) -> Vec<Duration> {
        let acknowledged = self.operations.iter().filter(|o| o.told == Told::Acknowledged);
        let mut times: Vec<Duration> = acknowledged.map(|o| o.end).collect();
        times.sort_unstable();
        times
    }
}

/// The longest time without a success that touches the time from `from` to `to`; `successes` are in order.
pub fn worst_gap(successes: &[Duration], from: Duration, to: Duration) -> Duration {
    let first = successes.partition_point(|time| *time < from);
    let mut before = first.checked_sub(1).map_or(from, |last| successes[last]);
    let mut worst = Duration::ZERO;
    for time in successes[first..].iter().take_while(|time| **time < to) {
        worst = worst.max(*time - before);
        before = *time;
    }
    worst.max(to.saturating_sub(before))
}

/// As whole milliseconds.
pub(super) fn as_ms<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_millis() as u64)
}

/// As whole milliseconds, or null.
pub(super) fn as_ms_option<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_ms(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn gaps() {
        let times: Vec<Duration> = [0, 10, 20, 500, 510, 900, 2000].map(ms).to_vec();
        assert_eq!(worst_gap(&times, ms(0), ms(600)), ms(480));
        assert_eq!(worst_gap(&times, ms(15), ms(520)), ms(480));
        // Up to the end of the time looked at, and no further.
        assert_eq!(worst_gap(&times, ms(505), ms(1200)), ms(390));
        // What was interrupted by a fault began before it.
        assert_eq!(worst_gap(&times, ms(895), ms(1200)), ms(390));
        assert_eq!(worst_gap(&[], ms(100), ms(400)), ms(300));
        assert_eq!(worst_gap(&times, ms(2500), ms(3000)), ms(1000));
    }
}
