//! The declarative door: what to insert, update, upsert or delete, as data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use uuid::Uuid;

use super::Fields;

/// Name of one operation, chosen by the client or the form: the idempotency key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(Uuid);

impl OpId {
    /// A new name, ordered by time (UUIDv7).
    #[allow(clippy::new_without_default)]
    pub fn new() -> OpId {
        OpId(Uuid::now_v7())
    }

    /// The name of part `index` of a larger work named by this id: the same for every repetition.
    #[must_use]
    pub fn part(self, index: u64) -> OpId {
        OpId(Uuid::new_v5(&self.0, &index.to_be_bytes()))
    }

    /// As a UUID.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for OpId {
    fn from(uuid: Uuid) -> OpId {
        OpId(uuid)
    }
}

impl FromStr for OpId {
    type Err = uuid::Error;

    fn from_str(s: &str) -> Result<OpId, uuid::Error> {
        Uuid::from_str(s).map(OpId)
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One declarative step on one watched table. Several steps of one operation are applied all or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Change {
    /// Insert rows that all name the same columns; the leader gives the others their defaults.
    Insert {
        /// A watched table.
        table: String,
        /// At least one row.
        rows: Vec<Fields>,
    },
    /// Change the row with this key.
    Update {
        /// A watched table.
        table: String,
        /// Every primary key column.
        key: Fields,
        /// New values.
        set: Fields,
        /// What the caller had seen; if a column differs the answer is an edit conflict. Not part of the request's digest: a
        /// repetition may have seen the change itself.
        #[serde(skip)]
        expected: Option<Fields>,
    },
    /// Insert the row, or change the one that has its primary key.
    Upsert {
        /// A watched table.
        table: String,
        /// The primary key and other columns.
        row: Fields,
    },
    /// Delete the row with this key.
    Delete {
        /// A watched table.
        table: String,
        /// Every primary key column.
        key: Fields,
        /// What the caller had seen; if a column differs the answer is an edit conflict. Not part of the request's digest: a
        /// repetition may have seen the change itself.
        #[serde(skip)]
        expected: Option<Fields>,
    },
}

impl Change {
    /// Insert one row.
    pub fn insert(table: &str, row: Fields) -> Change {
        Change::insert_many(table, vec![row])
    }

    /// Insert several rows that name the same columns in the same order.
    pub fn insert_many(table: &str, rows: Vec<Fields>) -> Change {
        Change::Insert {
            table: table.to_owned(),
            rows,
        }
    }

    /// Change one row.
    pub fn update(table: &str, key: Fields, set: Fields) -> Change {
        Change::Update {
            table: table.to_owned(),
            key,
            set,
            expected: None,
        }
    }

    /// Insert or change one row.
    pub fn upsert(table: &str, row: Fields) -> Change {
        Change::Upsert {
            table: table.to_owned(),
            row,
        }
    }

    /// Delete one row.
    pub fn delete(table: &str, key: Fields) -> Change {
        Change::Delete {
            table: table.to_owned(),
            key,
            expected: None,
        }
    }

    /// Only if these columns still have these values (update and delete).
    #[must_use]
    pub fn expecting(mut self, seen: Fields) -> Change {
        if let Change::Update { expected, .. } | Change::Delete { expected, .. } = &mut self {
            *expected = Some(seen);
        }
        self
    }

    /// About how long its values are as text.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Change::Insert { rows, .. } => rows.iter().map(Fields::bytes).sum(),
            Change::Update { set, .. } => set.bytes(),
            Change::Upsert { row, .. } => row.bytes(),
            Change::Delete { .. } => 0,
        }
    }

    /// The table of this step.
    pub fn table(&self) -> &str {
        match self {
            Change::Insert { table, .. }
            | Change::Update { table, .. }
            | Change::Upsert { table, .. }
            | Change::Delete { table, .. } => table,
        }
    }
}

/// A digest that tells two different requests under one `op_id` apart: the same on every instance and in every version.
/// Whoever seeks two requests with one digest only deceives himself, so it need not be a cryptographic one.
pub(super) fn digest(parts: &impl Serialize) -> i64 {
    let bytes = serde_json::to_vec(parts).unwrap_or_default();
    SipHasher24::new().hash(&bytes) as i64
}

/// What was done to one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowChange {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A deleted row.
    Delete,
}

/// One row that an operation changed, in the leader's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRow {
    /// Its table.
    pub table: String,
    /// What happened to it.
    pub change: RowChange,
    /// Its primary key after the change (before it, for a delete).
    pub key: Fields,
}

impl ChangedRow {
    /// The value of a one-column integer key such as a `SERIAL` id.
    pub fn id(&self) -> Option<i64> {
        let (_, value) = self.key.iter().next()?;
        value.as_text()?.parse().ok()
    }
}

/// An operation that is in effect, durable on every active side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its name.
    pub op_id: OpId,
    /// What it changed.
    pub rows: Vec<ChangedRow>,
    /// Whether this is the stored outcome of an earlier request with the same name.
    pub replayed: bool,
}

/// What is known about an operation by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum OpOutcome {
    /// In effect on every active side.
    Applied,
    /// Final: it is on no side and never will be.
    NotApplied,
    /// This instance is still working on it, or waits for a side that may have it.
    Pending,
    /// No side has seen it (or its retention time has passed).
    Unseen,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_for_ever() {
        let change = |name| Change::insert("items", Fields::new().with("name", name));
        assert_eq!(digest(&[change("x")]), digest(&[change("x")]));
        assert_ne!(digest(&[change("x")]), digest(&[change("y")]));
        // SipHash-2-4 of `"x"` under the key 0: no version may take another's requests for different ones.
        assert_eq!(digest(&"x"), 5_688_406_851_336_409_660);
    }
}
