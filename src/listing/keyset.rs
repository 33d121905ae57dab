//! The SQL of a page found by key.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{COUNT_BOUND, Cursor, ListQuery, MAX_LIMIT, Page, Total};
use crate::multipool::{MultiPool, ReadError};

/// A column a list can be sorted by.
pub(crate) struct Sort {
    pub name: &'static str,
    /// How the column is compared.
    pub expression: &'static str,
    /// The type a cursor's text is read as.
    pub cast: &'static str,
    /// Whether it may be `NULL`. Where it cannot be, the statement says nothing of it: with `OR … IS NULL` or
    /// `NULLS LAST` PostgreSQL would not use an index.
    pub nullable: bool,
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

/// How many rows are asked for: a few fixed numbers, which the statement holds as text. With a parameter PostgreSQL's plan
/// would be made for a tenth of the table; with every number there would be a prepared statement for each.
fn fetched(query: &ListQuery) -> u32 {
    let wanted = query.limit + 1;
    let steps = [2, 11, 26];
    steps
        .into_iter()
        .find(|step| *step >= wanted)
        .unwrap_or(MAX_LIMIT + 1)
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
    if let Some(value) = cursor.value.as_ref().filter(|_| column == "id") {
        // The value is the id.
        return format!("id {compare} {}::integer", statement.bind(value.as_str()));
    }
    let id = format!("{}::integer", statement.bind(cursor.id.to_string()));
    match &cursor.value {
        Some(value) => {
            let value = format!("{}::{}", statement.bind(value.as_str()), sort.cast);
            let nulls = if cursor.backward || !sort.nullable {
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
    let nulls = match (sort.nullable, backward) {
        (false, _) => "",
        (true, true) => " NULLS FIRST",
        (true, false) => " NULLS LAST",
    };
    // What a search finds is counted only where more of it is found than fits on a page.
    let totals = match query.search.as_str() {
        "" => format!(", {}", totals(listing, "true", "")),
        _ => String::new(),
    };
    statement.sql = format!(
        "-- {function}\nSELECT {columns}{sort_key}{totals} FROM {table} WHERE {conditions} \
         ORDER BY {column} {direction}{nulls}, id {direction} LIMIT {limit}",
        // One row more than wanted tells whether there is another page.
        limit = fetched(query),
        function = listing.function,
        columns = listing.columns,
        sort_key = match sort.expression {
            "id" => String::new(),
            column => format!(", ({column})::text AS sort_key"),
        },
        table = listing.table,
        column = sort.expression,
        conditions = conditions.join(" AND "),
    );
    statement
}

/// How many rows there are, up to one more than the bound, and how many PostgreSQL believes there are: evaluated once. Where
/// it believes in at least twice as many, nothing is counted.
fn totals(listing: &Listing, condition: &str, search: &str) -> String {
    let (table, more) = (listing.table, COUNT_BOUND + 1);
    let count =
        format!("(SELECT count(*) FROM (SELECT FROM {table} WHERE {condition} LIMIT {more}) AS found)");
    match search {
        "" => format!(
            "(SELECT ARRAY[CASE WHEN c.reltuples >= 2 * {COUNT_BOUND} THEN {more} ELSE {count} END, c.reltuples::bigint] \
             FROM pg_class AS c WHERE c.oid = '{table}'::regclass) AS totals"
        ),
        // How much a search will find is not known before.
        _ => format!("ARRAY[{count}, -1] AS totals"),
    }
}

fn count_statement(listing: &Listing, search: &str) -> Statement {
    let mut statement = Statement::default();
    let condition = search_condition(listing, search, &mut statement);
    statement.sql = format!(
        "-- {}\nSELECT {}",
        listing.function,
        totals(listing, &condition, search)
    );
    statement
}

/// Reads one page and the total, in one statement. A search is counted in a second one, only if it found more than fits on
/// the first page: both may have to look through the whole table.
pub(crate) async fn page<T>(
    pool: &MultiPool,
    listing: &Listing,
    query: &ListQuery,
    read_row: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Page<T>, ReadError> {
    let mut found = list_statement(listing, query).read(pool).await?;
    let backward = query.cursor.as_ref().is_some_and(|cursor| cursor.backward);
    if backward && found.len() < query.limit as usize {
        // Rows in front were deleted: a first page shorter than the others would look like the end of the list.
        let first = ListQuery {
            cursor: None,
            ..query.clone()
        };
        return Box::pin(page(pool, listing, &first, read_row)).await;
    }
    let more = found.len() > query.limit as usize;
    found.truncate(query.limit as usize);
    if backward {
        found.reverse();
    }
    let rows = found.iter().map(read_row).collect::<Result<Vec<T>, _>>();
    let rows = rows.map_err(unreadable)?;
    let link = |row: Option<&Row>, backward: bool| match row {
        Some(row) => mark(listing, query, row, backward).map_err(unreadable).map(Some),
        None => Ok(None),
    };
    let next = link(found.last().filter(|_| more || backward), false)?;
    let goes_back = if backward { more } else { query.cursor.is_some() };
    let previous = link(found.first().filter(|_| goes_back), true)?;
    let here = rows.len() as i64;
    let total = match found.first() {
        _ if query.cursor.is_none() && !more => Total::Exactly(here),
        Some(row) if query.search.is_empty() => total(row)?,
        _ => match count_statement(listing, &query.search).read(pool).await {
            Ok(rows) => rows.first().map_or(Ok(Total::Exactly(here)), total)?,
            // The rows are there; only their number would take too long.
            Err(ReadError::TooLong) => Total::MoreThan(here),
            Err(error) => return Err(error),
        },
    };
    Ok(Page {
        rows,
        total,
        next,
        previous,
    })
}

/// What [`totals`] has found.
fn total(row: &Row) -> Result<Total, ReadError> {
    let totals: Vec<i64> = row.try_get("totals").map_err(unreadable)?;
    let [counted, estimate] = [0, 1].map(|place| totals.get(place).copied().unwrap_or(-1));
    Ok(Total::of(counted, estimate))
}

/// The place of this row in the list.
fn mark(
    listing: &Listing,
    query: &ListQuery,
    row: &Row,
    backward: bool,
) -> Result<String, tokio_postgres::Error> {
    let id: i32 = row.try_get("id")?;
    let cursor = Cursor {
        sort: query.sort.clone(),
        descending: query.descending,
        backward,
        value: match listing.sort(&query.sort).expression {
            "id" => Some(id.to_string()),
            _ => row.try_get("sort_key")?,
        },
        id,
    };
    Ok(cursor.encode())
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
