//! What the lists and forms of all subjects share: field errors, list requests, and pages found by key.
//!
//! A page starts after a row, not at a number of rows ("keyset"): the last page of 100,000 rows costs what the first does,
//! and rows that come and go while somebody pages do not shift what he sees. Totals are counted up to a small bound and
//! estimated above, so that no request looks through a table. Text is sorted by `COLLATE "C"`: the same order
//! on every side, whatever locale its server was made with.

mod fields;
mod keyset;
mod stamp;

pub use fields::{ErrorCode, FieldError, FieldErrors};
pub(crate) use keyset::{Listing, Sort, page, unreadable};
pub(crate) use stamp::stamp;

use serde::{Deserialize, Serialize};

/// Rows of a page unless the caller says otherwise.
pub const DEFAULT_LIMIT: u32 = 25;
/// The most rows of one page.
pub const MAX_LIMIT: u32 = 100;
/// The longest text searched for, in characters.
pub const MAX_SEARCH: usize = 200;
/// Totals are counted exactly up to here: a tenth of a millisecond, and nothing where PostgreSQL believes that there are at
/// least twice as many. Whoever has more rows wants to know about how many.
pub const COUNT_BOUND: i64 = 1000;

/// A place in a sorted list: just after (or before) one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    #[serde(rename = "s")]
    sort: String,
    #[serde(rename = "d")]
    descending: bool,
    /// Whether the page *before* the row is wanted.
    #[serde(rename = "b")]
    backward: bool,
    /// The row's value in the sort column as PostgreSQL's text; `None` is `NULL`.
    #[serde(rename = "v")]
    value: Option<String>,
    #[serde(rename = "i")]
    id: i32,
}

impl Cursor {
    /// The text that stands in links; letters and digits only.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(json)
    }

    /// Reads what [`Cursor::encode`] wrote.
    pub fn decode(text: &str) -> Option<Cursor> {
        let cursor: Cursor = serde_json::from_slice(&hex::decode(text).ok()?).ok()?;
        let nul = cursor.value.as_ref().is_some_and(|value| value.contains('\0'));
        (!nul).then_some(cursor)
    }
}

/// Which rows of a list are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// Text that must occur somewhere, upper and lower case alike; empty finds everything.
    pub search: String,
    /// Name of a sort column of the subject.
    pub sort: String,
    /// Largest first.
    pub descending: bool,
    /// Where the page starts; `None` is the beginning.
    pub cursor: Option<Cursor>,
    /// Rows of a page.
    pub limit: u32,
}

impl Default for ListQuery {
    fn default() -> ListQuery {
        ListQuery {
            search: String::new(),
            sort: "id".into(),
            descending: false,
            cursor: None,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl ListQuery {
    /// The parameters that [`ListQuery::parse`] reads.
    pub const PARAMS: &'static [&'static str] = &["search", "sort", "order", "cursor", "limit"];

    /// Reads a list request from named parameters; an empty parameter counts as not given. `sorts` are the subject's
    /// sort columns (for example [`crate::items::SORTS`]).
    ///
    /// # Errors
    /// The parameters that cannot be understood.
    pub fn parse<'a>(
        get: impl Fn(&str) -> Option<&'a str>,
        sorts: &[&str],
    ) -> Result<ListQuery, FieldErrors> {
        let get = |name| get(name).filter(|value| !value.is_empty());
        let mut errors = FieldErrors::default();
        let mut query = ListQuery::default();
        if let Some(search) = get("search") {
            errors.check_text("search", search, MAX_SEARCH);
            query.search = search.trim().to_owned();
        }
        if let Some(sort) = get("sort") {
            if !sorts.contains(&sort) {
                errors.push("sort", ErrorCode::InvalidChoice);
            }
            query.sort = sort.to_owned();
        }
        match get("order") {
            None | Some("asc") => {}
            Some("desc") => query.descending = true,
            Some(_) => errors.push("order", ErrorCode::InvalidChoice),
        }
        if let Some(text) = get("cursor") {
            query.cursor = Cursor::decode(text)
                .filter(|cursor| cursor.sort == query.sort && cursor.descending == query.descending);
            if query.cursor.is_none() {
                errors.push("cursor", ErrorCode::InvalidCursor);
            }
        }
        if let Some(limit) = get("limit") {
            match limit.parse() {
                Ok(limit @ 1..=MAX_LIMIT) => query.limit = limit,
                Ok(_) => {
                    let (min, max) = (1, i64::from(MAX_LIMIT));
                    errors.push("limit", ErrorCode::OutOfRange { min, max });
                }
                Err(_) => errors.push("limit", ErrorCode::NotANumber),
            }
        }
        errors.or(query)
    }
}

/// How many rows there are on all pages together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// All were counted.
    Exactly(i64),
    /// The table's size as PostgreSQL last estimated it, in round numbers; nothing was searched for.
    About(i64),
    /// So many were counted, and there are more.
    MoreThan(i64),
}

impl Total {
    /// Of a count that went one beyond [`COUNT_BOUND`] at most, and PostgreSQL's estimate (-1: none yet).
    fn of(counted: i64, estimate: i64) -> Total {
        match round(estimate) {
            _ if counted <= COUNT_BOUND => Total::Exactly(counted),
            estimate if estimate > COUNT_BOUND => Total::About(estimate),
            _ => Total::MoreThan(COUNT_BOUND),
        }
    }

    /// The number.
    pub fn number(self) -> i64 {
        match self {
            Total::Exactly(number) | Total::About(number) | Total::MoreThan(number) => number,
        }
    }

    /// Whether the number is all of them.
    pub fn is_exact(self) -> bool {
        matches!(self, Total::Exactly(_))
    }
}

/// To two digits and zeros: more would look like a count.
fn round(number: i64) -> i64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    (number + unit / 2) / unit * unit
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order asked for.
    pub rows: Vec<T>,
    /// Rows that match the search on all pages together.
    pub total: Total,
    /// Mark of the page after this one.
    pub next: Option<String>,
    /// Mark of the page before this one.
    pub previous: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals() {
        assert_eq!(Total::of(0, -1), Total::Exactly(0));
        // What was counted is true, whatever is estimated.
        assert_eq!(Total::of(1000, 2_000_000), Total::Exactly(1000));
        assert_eq!(Total::of(1001, 1_049_999), Total::About(1_000_000));
        assert_eq!(Total::of(1001, 61_234), Total::About(61_000));
        // Never analysed, or grown since.
        for estimate in [-1, 0, 900] {
            assert_eq!(Total::of(1001, estimate), Total::MoreThan(1000));
        }
        assert_eq!((round(99), round(105), round(995)), (99, 110, 1000));
    }
}
