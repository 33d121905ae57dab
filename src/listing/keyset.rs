//! The SQL of a page found by key.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{COUNT_BOUND, Cursor, ListQuery, Page};
use crate::multipool::{MultiPool, ReadError};

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
