//! What may be in the tables, by what was sent and answered.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

/// A row that was once sent: what it may hold now; `None` is "no such row".
#[derive(Debug)]
pub struct Row {
    pub name: String,
    /// Known once an insert was answered.
    pub id: Option<i64>,
    pub may_be: BTreeSet<Option<String>>,
}

/// How an operation was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Applied,
    Refused,
    /// The row is not there.
    Gone,
    /// Lost, or "not known yet".
    Unknown,
}

/// Everything that was sent.
#[derive(Debug, Default)]
pub struct Model {
    pub rows: Vec<Row>,
    pub answered: BTreeMap<Uuid, Answer>,
    /// By name: the value written last by somebody else.
    pub foreign: BTreeMap<String, String>,
}

impl Model {
    /// The row that a number stands for.
    pub fn known(&self, number: u64) -> Option<usize> {
        let known: Vec<usize> = (0..self.rows.len())
            .filter(|i| self.rows[*i].id.is_some())
            .collect();
        (!known.is_empty()).then(|| known[number as usize % known.len()])
    }

    /// A row was sent this value.
    pub fn note(&mut self, row: usize, value: Option<String>, answer: Answer) {
        let may_be = &mut self.rows[row].may_be;
        match answer {
            Answer::Applied => *may_be = BTreeSet::from([value]),
            Answer::Unknown => _ = may_be.insert(value),
            Answer::Refused => {}
            Answer::Gone => {
                assert!(
                    may_be.contains(&None),
                    "an acknowledged row was not found: {:?}",
                    self.rows[row]
                );
                *may_be = BTreeSet::from([None]);
            }
        }
    }

    /// The names of operations that were answered so.
    pub fn ops(&self, answer: Answer) -> Vec<Uuid> {
        let so = self.answered.iter().filter(|(_, a)| **a == answer);
        so.map(|(op, _)| *op).collect()
    }

    /// Fails unless a side holds what it may hold. `conflicts`: images that gave way.
    pub fn judge(&self, side: &str, found: &[(String, Option<String>)], conflicts: &[String]) {
        let mut left: BTreeMap<&str, &Option<String>> = BTreeMap::new();
        for (name, content) in found {
            assert!(
                left.insert(name, content).is_none(),
                "`{name}` is twice on side {side}"
            );
        }
        for row in &self.rows {
            let is = left.remove(row.name.as_str()).cloned().flatten();
            assert!(
                row.may_be.contains(&is),
                "`{}` is {is:?} on side {side}; it may be {:?}",
                row.name,
                row.may_be
            );
        }
        for (name, last) in &self.foreign {
            let is = left.remove(name.as_str()).cloned().flatten();
            let gave_way = conflicts.iter().any(|image| image.contains(last.as_str()));
            assert!(
                is.as_ref() == Some(last) || gave_way,
                "`{name}` is {is:?} on side {side}; it was written as {last:?}, and that is no conflict"
            );
        }
        assert!(left.is_empty(), "nobody wrote {left:?} on side {side}");
    }
}
