//! The order of what clients saw of one row: is there one history of a single copy that explains every answer?
//!
//! Wing and Gong's check, by `todc-utils`. A row is a register that may not exist. An operation whose answer was lost may
//! have happened at any later time or never, so its response stands at the end, where it fits always.

use std::time::Instant;

use todc_utils::{Action, History, Specification, WGLChecker};

/// What one operation on a row did, by its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// The row was made with this content.
    Create(String),
    /// Its content was replaced.
    Put(String),
    /// Its content was replaced because it was the expected one.
    Swap { expected: String, content: String },
    /// It was not the expected one, and stayed.
    Changed { expected: String },
    /// It was deleted.
    Delete,
    /// There was no such row.
    Missing,
    /// This was read.
    Read(String),
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Record {
    pub invoked: Instant,
    /// `None`: the client never heard what became of it.
    pub returned: Option<Instant>,
    pub op: RowOp,
}

struct Row;

impl Specification for Row {
    type State = Option<String>;
    /// What was done, and whether its answer is known.
    type Operation = (RowOp, bool);

    fn init() -> Option<String> {
        None
    }

    fn apply((op, known): &(RowOp, bool), row: &Option<String>) -> (bool, Option<String>) {
        let (fits, after) = match op {
            RowOp::Create(content) => (row.is_none(), Some(content.clone())),
            RowOp::Put(content) => (row.is_some(), Some(content.clone())),
            RowOp::Swap { expected, content } => (row.as_ref() == Some(expected), Some(content.clone())),
            RowOp::Changed { expected } => (row.as_ref().is_some_and(|now| now != expected), row.clone()),
            RowOp::Delete => (row.is_some(), None),
            RowOp::Missing => (row.is_none(), row.clone()),
            RowOp::Read(content) => (row.as_ref() == Some(content), row.clone()),
        };
        match (fits, known) {
            (true, _) => (true, after),
            (false, true) => (false, row.clone()),
            // What does not fit was refused, and nobody heard it.
            (false, false) => (true, row.clone()),
        }
    }
}

/// Whether one copy of the row could have given these answers.
pub fn is_linearizable(records: &[Record]) -> bool {
    let mut events = Vec::new();
    let mut last = Vec::new();
    for (process, record) in records.iter().enumerate() {
        let op = (record.op.clone(), record.returned.is_some());
        events.push((record.invoked, false, process, Action::Call(op.clone())));
        match record.returned {
            Some(at) => events.push((at, true, process, Action::Response(op))),
            None => last.push((process, Action::Response(op))),
        }
    }
    // Two operations of one moment are taken as concurrent: calls come first.
    events.sort_by_key(|(at, is_response, process, _)| (*at, *is_response, *process));
    let actions = events
        .into_iter()
        .map(|(_, _, process, action)| (process, action))
        .chain(last);
    WGLChecker::<Row>::is_linearizable(History::from_actions(actions.collect()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `(from, to, op)` in milliseconds; `to` 0 is an answer never heard.
    fn history(records: &[(u64, u64, RowOp)]) -> bool {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let records: Vec<Record> = records
            .iter()
            .map(|(from, to, op)| Record {
                invoked: at(*from),
                returned: (*to > 0).then(|| at(*to)),
                op: op.clone(),
            })
            .collect();
        is_linearizable(&records)
    }

    fn create(from: u64, to: u64) -> (u64, u64, RowOp) {
        (from, to, RowOp::Create("0".into()))
    }

    fn put(from: u64, to: u64, content: &str) -> (u64, u64, RowOp) {
        (from, to, RowOp::Put(content.into()))
    }

    fn read(from: u64, to: u64, content: &str) -> (u64, u64, RowOp) {
        (from, to, RowOp::Read(content.into()))
    }

    fn swap(from: u64, to: u64, expected: &str, content: &str) -> (u64, u64, RowOp) {
        let (expected, content) = (expected.into(), content.into());
        (from, to, RowOp::Swap { expected, content })
    }

    #[test]
    fn good_histories_pass() {
        assert!(history(&[create(1, 2), put(3, 4, "x"), read(5, 6, "x")]));
        assert!(history(&[
            create(1, 2),
            put(3, 9, "x"),
            read(4, 5, "0"),
            read(6, 7, "x")
        ]));
        // Never heard: seen, or not, or seen late.
        assert!(history(&[create(1, 2), put(3, 0, "x"), read(4, 5, "x")]));
        assert!(history(&[create(1, 2), put(3, 0, "x"), read(4, 5, "0")]));
        assert!(history(&[
            create(1, 2),
            put(3, 0, "x"),
            put(4, 5, "y"),
            read(6, 7, "y"),
            read(8, 9, "x")
        ]));
        assert!(history(&[
            create(1, 2),
            (3, 4, RowOp::Delete),
            (5, 6, RowOp::Missing)
        ]));
        assert!(history(&[
            create(1, 2),
            swap(3, 6, "0", "x"),
            (4, 5, RowOp::Changed { expected: "1".into() })
        ]));
    }

    #[test]
    fn bad_histories_are_rejected() {
        assert!(
            !history(&[create(1, 2), put(3, 4, "x"), read(5, 6, "0")]),
            "a lost write"
        );
        assert!(
            !history(&[create(1, 2), put(3, 9, "x"), read(4, 5, "x"), read(6, 7, "0")]),
            "a version went back"
        );
        assert!(!history(&[create(1, 2), read(3, 4, "x")]), "a value nobody wrote");
        assert!(
            !history(&[create(1, 2), swap(3, 6, "0", "x"), swap(4, 7, "0", "y")]),
            "a lost update"
        );
        assert!(
            !history(&[create(1, 2), put(3, 4, "x"), swap(5, 6, "0", "y")]),
            "a swap that saw the past"
        );
        let (deleted, gone) = ((3, 4, RowOp::Delete), (5, 6, RowOp::Missing));
        assert!(
            !history(&[create(1, 2), deleted.clone(), read(5, 6, "0")]),
            "a deleted row returned"
        );
        assert!(!history(&[create(1, 2), gone]), "a row vanished");
        assert!(
            !history(&[create(1, 2), put(3, 0, "x"), read(4, 5, "x"), read(6, 7, "0")]),
            "an unheard write was undone"
        );
    }
}
