//! What the lists and forms of all subjects share: field errors, list requests, and pages found by key.
//!
//! A page starts after a row, not at a number of rows ("keyset"): the last page of 100,000 rows costs what the first does,
//! and rows that come and go while somebody pages do not shift what he sees. Text is sorted by `COLLATE "C"`: the same order
//! on every side, whatever locale its server was made with.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::multipool::{MultiPool, ReadError};

/// Rows of a page unless the caller says otherwise.
pub const DEFAULT_LIMIT: u32 = 25;
/// The most rows of one page.
pub const MAX_LIMIT: u32 = 100;
/// The longest text searched for, in characters.
pub const MAX_SEARCH: usize = 200;
/// Totals are counted exactly up to here: a bounded count costs about 15 ms and cannot grow with the table.
pub const COUNT_BOUND: i64 = 100_000;

/// What is wrong with one field, to be translated by variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum ErrorCode {
    /// The field is empty or missing.
    Required,
    /// More than `max` characters.
    TooLong {
        /// Most characters allowed.
        max: usize,
    },
    /// The text holds a NUL character, which PostgreSQL cannot store.
    NulByte,
    /// Not a whole number in decimal digits.
    NotANumber,
    /// A number below `min` or above `max`.
    OutOfRange {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// The field was given twice.
    Duplicate,
    /// Not one of the values this field takes.
    InvalidChoice,
    /// Not a host name or address.
    InvalidHost,
    /// A name that cannot be used here (reserved, or with a character it may not hold).
    InvalidName,
    /// Not a page mark of this list.
    InvalidCursor,
    /// No field has this name.
    UnknownField,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorCode::Required => f.write_str("is required"),
            ErrorCode::TooLong { max } => write!(f, "is longer than {max} characters"),
            ErrorCode::NulByte => f.write_str("contains a NUL character, which cannot be stored"),
            ErrorCode::NotANumber => f.write_str("is not a whole number"),
            ErrorCode::OutOfRange { min, max } => write!(f, "must be between {min} and {max}"),
            ErrorCode::Duplicate => f.write_str("was given more than once"),
            ErrorCode::InvalidChoice => f.write_str("is not one of the values it can take"),
            ErrorCode::InvalidHost => f.write_str("is not a host name or an address"),
            ErrorCode::InvalidName => f.write_str("is not a name that can be used here"),
            ErrorCode::InvalidCursor => f.write_str("is not a page mark of this list"),
            ErrorCode::UnknownField => f.write_str("is not a known field"),
        }
    }
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its name in forms, JSON and CSV headers.
    pub field: &'static str,
    /// What is wrong.
    #[serde(flatten)]
    pub code: ErrorCode,
}

/// Everything wrong with one input, at most one error a field, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// One error.
    pub fn one(field: &'static str, code: ErrorCode) -> FieldErrors {
        FieldErrors(vec![FieldError { field, code }])
    }

    /// Adds an error unless the field already has one.
    pub fn push(&mut self, field: &'static str, code: ErrorCode) {
        if self.get(field).is_none() {
            self.0.push(FieldError { field, code });
        }
    }

    /// What is wrong with `field`.
    pub fn get(&self, field: &str) -> Option<ErrorCode> {
        self.0.iter().find(|e| e.field == field).map(|e| e.code)
    }

    /// The errors in order.
    pub fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` if nothing is wrong, else the errors.
    pub(crate) fn or<T>(self, value: T) -> Result<T, FieldErrors> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Checks a text: at most `max` characters and no NUL.
    pub(crate) fn check_text(&mut self, field: &'static str, text: &str, max: usize) {
        if text.contains('\0') {
            self.push(field, ErrorCode::NulByte);
        } else if text.chars().nth(max).is_some() {
            self.push(field, ErrorCode::TooLong { max });
        }
    }

    /// As [`FieldErrors::check_text`], and not empty.
    pub(crate) fn check_required(&mut self, field: &'static str, text: &str, max: usize) {
        if text.is_empty() {
            self.push(field, ErrorCode::Required);
        }
        self.check_text(field, text, max);
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{} {}", error.field, error.code)?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldErrors {}

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
        json.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads what [`Cursor::encode`] wrote.
    pub fn decode(text: &str) -> Option<Cursor> {
        if !text.len().is_multiple_of(2) || !text.is_ascii() {
            return None;
        }
        let bytes: Option<Vec<u8>> = (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok())
            .collect();
        let cursor: Cursor = serde_json::from_slice(&bytes?).ok()?;
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

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// In the order asked for.
    pub rows: Vec<T>,
    /// Rows that match the search on all pages together, counted up to [`COUNT_BOUND`].
    pub total: i64,
    /// Whether `total` is all of them; otherwise there are more.
    pub total_is_exact: bool,
    /// Mark of the page after this one.
    pub next: Option<String>,
    /// Mark of the page before this one.
    pub previous: Option<String>,
}

/// A column a list can be sorted by.
pub(crate) struct Sort {
    pub name: &'static str,
    /// How the column is compared.
    pub expression: &'static str,
    /// The type a cursor's text is read as.
    pub cast: &'static str,
}

/// What a subject says about its table so that [`page`] can list it. All SQL here is constant text.
pub(crate) struct Listing {
    pub function: &'static str,
    pub table: &'static str,
    pub columns: &'static str,
    pub searched: &'static [&'static str],
    pub sorts: &'static [Sort],
}

impl Listing {
    fn sort(&self, name: &str) -> &Sort {
        self.sorts
            .iter()
            .find(|s| s.name == name)
            .unwrap_or(&self.sorts[0])
    }
}

/// SQL text and its parameters, all bound as text and cast in the statement.
#[derive(Debug, Default, PartialEq)]
struct Statement {
    sql: String,
    params: Vec<String>,
}

impl Statement {
    fn bind(&mut self, value: impl Into<String>) -> String {
        self.params.push(value.into());
        format!("${}::text", self.params.len())
    }

    async fn read(&self, pool: &MultiPool) -> Result<Vec<Row>, ReadError> {
        let params: Vec<&(dyn ToSql + Sync)> = self.params.iter().map(|p| p as &(dyn ToSql + Sync)).collect();
        pool.read(&self.sql, &params).await
    }
}

/// `text` as a pattern that matches it anywhere: the pattern characters of `LIKE` lose their meaning.
fn like_pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

fn search_condition(listing: &Listing, search: &str, statement: &mut Statement) -> String {
    if search.is_empty() {
        return "true".into();
    }
    let pattern = statement.bind(like_pattern(search));
    let tests: Vec<String> = listing
        .searched
        .iter()
        .map(|column| format!("{column} ILIKE {pattern}"))
        .collect();
    format!("({})", tests.join(" OR "))
}

/// Rows on the wanted side of the cursor. `NULL` comes after every value, in both directions of sorting.
fn cursor_condition(sort: &Sort, cursor: &Cursor, statement: &mut Statement) -> String {
    let column = sort.expression;
    // The order of ids follows the direction of the list; a backward page looks the other way.
    let compare = if cursor.descending == cursor.backward {
        ">"
    } else {
        "<"
    };
    let id = format!("{}::integer", statement.bind(cursor.id.to_string()));
    match &cursor.value {
        Some(value) => {
            let value = format!("{}::{}", statement.bind(value.as_str()), sort.cast);
            let nulls = if cursor.backward {
                ""
            } else {
                " OR (COLUMN) IS NULL"
            };
            format!("((COLUMN, id) {compare} ({value}, {id}){nulls})").replace("COLUMN", column)
        }
        None => {
            let values = if cursor.backward {
                "COLUMN IS NOT NULL OR "
            } else {
                ""
            };
            format!("({values}(COLUMN IS NULL AND id {compare} {id}))").replace("COLUMN", column)
        }
    }
}

fn list_statement(listing: &Listing, query: &ListQuery) -> Statement {
    let mut statement = Statement::default();
    let sort = listing.sort(&query.sort);
    let mut conditions = vec![search_condition(listing, &query.search, &mut statement)];
    if let Some(cursor) = &query.cursor {
        conditions.push(cursor_condition(sort, cursor, &mut statement));
    }
    let backward = query.cursor.as_ref().is_some_and(|cursor| cursor.backward);
    let direction = if query.descending == backward {
        "ASC"
    } else {
        "DESC"
    };
    let nulls = if backward { "FIRST" } else { "LAST" };
    // One row more than wanted tells whether there is another page.
    let limit = statement.bind((query.limit + 1).to_string());
    statement.sql = format!(
        "-- {function}\nSELECT {columns}, ({column})::text AS sort_key FROM {table} WHERE {conditions} \
         ORDER BY {column} {direction} NULLS {nulls}, id {direction} LIMIT {limit}::bigint",
        function = listing.function,
        columns = listing.columns,
        table = listing.table,
        column = sort.expression,
        conditions = conditions.join(" AND "),
    );
    statement
}

fn count_statement(listing: &Listing, search: &str) -> Statement {
    let mut statement = Statement::default();
    let condition = search_condition(listing, search, &mut statement);
    let bound = statement.bind((COUNT_BOUND + 1).to_string());
    statement.sql = format!(
        "-- {function}\nSELECT count(*) FROM (SELECT FROM {table} WHERE {condition} LIMIT {bound}::bigint) AS found",
        function = listing.function,
        table = listing.table,
    );
    statement
}

/// Reads one page and the total.
pub(crate) async fn page<T>(
    pool: &MultiPool,
    listing: &Listing,
    query: &ListQuery,
    read_row: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Page<T>, ReadError> {
    let count = count_statement(listing, &query.search);
    let list = list_statement(listing, query);
    let (counted, found) = futures::try_join!(count.read(pool), list.read(pool))?;
    let backward = query.cursor.as_ref().is_some_and(|cursor| cursor.backward);
    if backward && found.len() < query.limit as usize {
        // Rows in front were deleted: a first page shorter than the others would look like the end of the list.
        let first = ListQuery {
            cursor: None,
            ..query.clone()
        };
        return Box::pin(page(pool, listing, &first, read_row)).await;
    }
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        rows.push((read_row(row).map_err(unreadable)?, mark(row).map_err(unreadable)?));
    }
    let more = rows.len() > query.limit as usize;
    rows.truncate(query.limit as usize);
    if backward {
        rows.reverse();
    }
    let link = |row: Option<&(T, (Option<String>, i32))>, backward: bool| {
        let (_, (value, id)) = row?;
        let cursor = Cursor {
            sort: query.sort.clone(),
            descending: query.descending,
            backward,
            value: value.clone(),
            id: *id,
        };
        Some(cursor.encode())
    };
    let next = link(rows.last(), false).filter(|_| more || backward);
    let previous = link(rows.first(), true).filter(|_| if backward { more } else { query.cursor.is_some() });
    let total: i64 = match counted.first() {
        Some(row) => row.try_get(0).map_err(unreadable)?,
        None => 0,
    };
    Ok(Page {
        rows: rows.into_iter().map(|(row, _)| row).collect(),
        total: total.min(COUNT_BOUND),
        total_is_exact: total <= COUNT_BOUND,
        next,
        previous,
    })
}

fn mark(row: &Row) -> Result<(Option<String>, i32), tokio_postgres::Error> {
    Ok((row.try_get("sort_key")?, row.try_get("id")?))
}

/// A column is not of the type that `schema.sql` gives it.
pub(crate) fn unreadable(error: tokio_postgres::Error) -> ReadError {
    ReadError::Rejected {
        sqlstate: "42804".into(),
        message: format!("a column has another type than in schema.sql: {error}"),
    }
}

#[cfg(test)]
mod tests;
