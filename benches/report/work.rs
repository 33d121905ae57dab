//! What the clients do, the same for every system: the SQL for a plain connection, the data for a pool.

use std::fmt;

use kambana::multipool::{Change, Fields, Value};
use serde::{Deserialize, Serialize};

/// Rows of `items`, and sessions, that are there before anything is measured and that updates and reads choose from.
pub const ROWS: i32 = 10_000;

/// Rows of a list.
const PAGE: i64 = 25;

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Work {
    /// W1: insert one row.
    Insert,
    /// W2: update one of [`ROWS`] rows.
    Update,
    /// W3: insert or update one of [`ROWS`] sessions.
    Session,
    /// W1 as one statement of arbitrary SQL.
    InsertSql,
    /// W2 as one statement of arbitrary SQL.
    UpdateSql,
    /// W1 in a closure, which may run as many statements as it likes.
    InsertClosure,
    /// W2 in a closure.
    UpdateClosure,
    /// R1: read one of [`ROWS`] rows.
    Point,
    /// R2: read 25 rows in order of the key.
    List,
}

impl Work {
    /// Every work, in the order of the report.
    pub const ALL: [Work; 9] = [
        Work::Insert,
        Work::Update,
        Work::Session,
        Work::InsertSql,
        Work::UpdateSql,
        Work::InsertClosure,
        Work::UpdateClosure,
        Work::Point,
        Work::List,
    ];

    /// Whether it changes something.
    pub fn writes(self) -> bool {
        !matches!(self, Work::Point | Work::List)
    }

    /// Whether it goes through the general door of a pool; for any other system it is no work of its own.
    pub fn is_arbitrary_sql(self) -> bool {
        matches!(
            self,
            Work::InsertSql | Work::UpdateSql | Work::InsertClosure | Work::UpdateClosure
        )
    }

    /// The work of a plain connection that does the same.
    pub fn plain(self) -> Work {
        match self {
            Work::InsertSql | Work::InsertClosure => Work::Insert,
            Work::UpdateSql | Work::UpdateClosure => Work::Update,
            other => other,
        }
    }

    /// One statement for a plain connection.
    pub fn sql(self) -> &'static str {
        match self.plain() {
            Work::Insert => "INSERT INTO items (name, content) VALUES ($1, $2)",
            Work::Update => "UPDATE items SET content = $1 WHERE id = $2",
            Work::Session => {
                "INSERT INTO php_session (id, data, date_change) VALUES ($1, $2, CURRENT_TIMESTAMP) \
                 ON CONFLICT (id) DO UPDATE SET data = EXCLUDED.data, date_change = EXCLUDED.date_change"
            }
            Work::Point => "SELECT id, name, content, updated_at FROM items WHERE id = $1",
            _ => "SELECT id, name, content, updated_at FROM items WHERE id > $1 ORDER BY id LIMIT $2",
        }
    }

    /// The same as data, for `MultiPool::change`.
    pub fn change(self, step: &Step) -> Change {
        match self.plain() {
            Work::Insert => Change::insert(
                "items",
                Fields::new()
                    .with("name", step.name())
                    .with("content", step.content()),
            ),
            Work::Update => Change::update(
                "items",
                Fields::new().with("id", step.id),
                Fields::new().with("content", step.content()),
            ),
            _ => Change::upsert(
                "php_session",
                Fields::new()
                    .with("id", step.session())
                    .with("data", Value::bytes(&step.data()))
                    .with("date_change", Value::Now),
            ),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Work::Insert => "W1 insert",
            Work::Update => "W2 update",
            Work::Session => "W3 session",
            Work::InsertSql => "W1 arbitrary SQL (transactional_write)",
            Work::UpdateSql => "W2 arbitrary SQL (transactional_write)",
            Work::InsertClosure => "W1 arbitrary SQL (transaction)",
            Work::UpdateClosure => "W2 arbitrary SQL (transaction)",
            Work::Point => "R1 point read",
            Work::List => "R2 list of 25",
        })
    }
}

/// What varies from one operation to the next.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Different for every operation of a run.
    pub number: u64,
    /// One of the rows that are there from the beginning.
    pub id: i32,
}

impl Step {
    /// A name for a new item.
    pub fn name(&self) -> String {
        format!("item {}", self.number)
    }

    /// Some text for an item.
    pub fn content(&self) -> String {
        format!("content of {:020}, written by the benchmark", self.number)
    }

    /// Name of a session.
    pub fn session(&self) -> String {
        session(self.id)
    }

    /// Content of a session, as long as a small real one.
    pub fn data(&self) -> Vec<u8> {
        format!(
            "user|s:5:\"hasin\";cart|a:1:{{i:0;i:{};}}{}",
            self.number,
            "x".repeat(160)
        )
        .into_bytes()
    }

    /// Rows of a list.
    pub fn page(&self) -> i64 {
        PAGE
    }
}

/// Name of the session with this number.
pub fn session(id: i32) -> String {
    format!("session-{id:08}")
}

/// The constants of splitmix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Chooses steps: splitmix64, so that every client has another order of rows and none repeats another's.
#[derive(Clone, Debug)]
pub struct Steps(u64);

impl Steps {
    /// `seed` tells the clients apart. It is mixed: clients with neighbouring seeds would else follow each other over the
    /// same rows.
    pub fn new(seed: u64) -> Steps {
        Steps(mix(seed.wrapping_mul(GOLDEN)))
    }

    /// The next one.
    pub fn step(&mut self) -> Step {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mixed = mix(self.0);
        Step {
            number: mixed,
            id: (mixed % ROWS as u64) as i32 + 1,
        }
    }
}
