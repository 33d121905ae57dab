//! A declarative change as one SQL statement on the leader. Columns are looked up, values are bound.

use super::catalog::{Catalog, Table, ident};
use super::{Change, Fields, Value, WriteError};

/// One statement of an operation, ready to run on the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub sql: String,
    pub params: Params,
    /// For an update or a delete by key: how to tell "gone" from "changed" when no row was hit.
    pub target: Option<Target>,
}

impl Step {
    /// A statement of the caller's own.
    pub fn foreign(sql: &str, params: &[Value]) -> Step {
        Step {
            sql: sql.to_owned(),
            params: Params::Values(params.to_vec()),
            target: None,
        }
    }
}

/// The row that an update or a delete is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub table: String,
    /// Reads the row's image by its key, with the parameters `key`.
    pub look_sql: String,
    pub key: Vec<Value>,
}

/// Bound values: one each, or one array a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Params {
    Values(Vec<Value>),
    Columns(Vec<Vec<Option<String>>>),
}

impl Params {
    /// As the driver takes them.
    pub fn as_sql(&self) -> Vec<&(dyn tokio_postgres::types::ToSql + Sync)> {
        match self {
            Params::Values(values) => values.iter().map(|v| v as _).collect(),
            Params::Columns(columns) => columns.iter().map(|c| c as _).collect(),
        }
    }
}

/// Whether statements can be built for these changes.
///
/// # Errors
/// [`WriteError::Invalid`] for a table that is not watched, an unknown or doubled column, an incomplete key.
pub(super) fn check(catalog: &Catalog, changes: &[Change]) -> Result<(), WriteError> {
    if changes.is_empty() {
        return invalid("an operation needs at least one change");
    }
    changes
        .iter()
        .try_for_each(|change| check_one(table_of(catalog, change)?, change))
}

/// Builds the statements of one operation.
///
/// # Errors
/// As [`check`].
pub(super) fn steps(catalog: &Catalog, changes: &[Change]) -> Result<Vec<Step>, WriteError> {
    check(catalog, changes)?;
    changes
        .iter()
        .map(|change| Ok(step(table_of(catalog, change)?, change)))
        .collect()
}

fn invalid<T>(why: impl Into<String>) -> Result<T, WriteError> {
    Err(WriteError::Invalid(why.into()))
}

fn table_of<'a>(catalog: &'a Catalog, change: &Change) -> Result<&'a Table, WriteError> {
    catalog.get(change.table()).map_or_else(
        || {
            invalid(format!(
                "table `{}` is not watched; see `kambana watch`",
                change.table()
            ))
        },
        Ok,
    )
}

fn check_one(table: &Table, change: &Change) -> Result<(), WriteError> {
    match change {
        Change::Insert { rows, .. } => {
            let Some(first) = rows.first() else {
                return invalid("an insert needs at least one row");
            };
            check_columns(table, first)?;
            if rows.len() == 1 {
                return Ok(());
            }
            for row in rows {
                if !row
                    .iter()
                    .map(|(name, _)| name)
                    .eq(first.iter().map(|(name, _)| name))
                {
                    return invalid("all rows of one insert must name the same columns");
                }
                if row.iter().any(|(_, value)| *value == Value::Now) {
                    return invalid("several rows at once take values or defaults, not `now`");
                }
            }
            Ok(())
        }
        Change::Upsert { row, .. } => {
            check_columns(table, row)?;
            match table.key.iter().find(|k| row.get(k).is_none()) {
                Some(missing) => invalid(format!("an upsert of {} needs `{missing}`", table.name)),
                None => Ok(()),
            }
        }
        Change::Update {
            key, set, expected, ..
        } => {
            check_columns(table, set)?;
            if set.is_empty() {
                return invalid("an update needs at least one field");
            }
            check_key(table, key, expected.as_ref())
        }
        Change::Delete { key, expected, .. } => check_key(table, key, expected.as_ref()),
    }
}

fn check_key(table: &Table, key: &Fields, expected: Option<&Fields>) -> Result<(), WriteError> {
    check_columns(table, key)?;
    let given = |k: &String| key.get(k).is_some_and(|value| *value != Value::Now);
    if key.len() != table.key.len() || !table.key.iter().all(given) {
        return invalid(format!("the key of {} is ({})", table.name, table.key.join(", ")));
    }
    expected.map_or(Ok(()), |expected| check_columns(table, expected))
}

fn check_columns(table: &Table, fields: &Fields) -> Result<(), WriteError> {
    for (place, (name, _)) in fields.iter().enumerate() {
        if table.column(name).is_none() {
            return invalid(format!("table {} has no column `{name}`", table.name));
        }
        if fields.iter().take(place).any(|(earlier, _)| earlier == name) {
            return invalid(format!("column `{name}` is named twice"));
        }
    }
    Ok(())
}

fn step(table: &Table, change: &Change) -> Step {
    match change {
        Change::Insert { rows, .. } => insert(table, rows),
        Change::Upsert { row, .. } => upsert(table, row),
        Change::Update {
            key, set, expected, ..
        } => {
            let mut values = Vec::new();
            let sets = assignments(set, &mut values);
            let head = format!("UPDATE {} SET {sets}", table.ident);
            keyed(table, &head, values, key, expected.as_ref())
        }
        Change::Delete { key, expected, .. } => {
            let head = format!("DELETE FROM {}", table.ident);
            keyed(table, &head, Vec::new(), key, expected.as_ref())
        }
    }
}

fn insert(table: &Table, rows: &[Fields]) -> Step {
    if let [row] = rows {
        let (sql, values) = insert_one(table, row);
        return Step {
            sql: format!("-- statement::insert()\n{sql}"),
            params: Params::Values(values),
            target: None,
        };
    }
    let names: Vec<&str> = rows
        .iter()
        .take(1)
        .flat_map(Fields::iter)
        .map(|(name, _)| name)
        .collect();
    let mut columns: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(rows.len()); names.len()];
    for row in rows {
        for (column, (_, value)) in columns.iter_mut().zip(row.iter()) {
            column.push(value.as_text().map(str::to_owned));
        }
    }
    let cols: Vec<String> = names.iter().map(|n| ident(n)).collect();
    let arrays: Vec<String> = (1..=names.len()).map(|n| format!("${n}::text[]")).collect();
    let casts: Vec<String> = names
        .iter()
        .filter_map(|n| Some(format!("CAST(x.{} AS {})", ident(n), table.column(n)?.cast_type)))
        .collect();
    Step {
        sql: format!(
            "-- statement::insert_many()\nINSERT INTO {t} ({cols}) SELECT {casts} FROM unnest({arrays}) AS x({cols})",
            t = table.ident,
            cols = cols.join(", "),
            casts = casts.join(", "),
            arrays = arrays.join(", "),
        ),
        params: Params::Columns(columns),
        target: None,
    }
}

fn insert_one(table: &Table, row: &Fields) -> (String, Vec<Value>) {
    if row.is_empty() {
        return (format!("INSERT INTO {} DEFAULT VALUES", table.ident), Vec::new());
    }
    let mut values = Vec::new();
    let cols: Vec<String> = row.iter().map(|(name, _)| ident(name)).collect();
    let slots: Vec<String> = row.iter().map(|(_, value)| slot(value, &mut values)).collect();
    (
        format!(
            "INSERT INTO {} ({}) VALUES ({})",
            table.ident,
            cols.join(", "),
            slots.join(", ")
        ),
        values,
    )
}

fn upsert(table: &Table, row: &Fields) -> Step {
    let (insert, values) = insert_one(table, row);
    let sets: Vec<String> = row
        .iter()
        .filter(|(name, _)| !table.key.iter().any(|k| k == name))
        .map(|(name, _)| format!("{0} = EXCLUDED.{0}", ident(name)))
        .collect();
    let action = if sets.is_empty() {
        "NOTHING".into()
    } else {
        format!("UPDATE SET {}", sets.join(", "))
    };
    let key: Vec<String> = table.key.iter().map(|k| ident(k)).collect();
    Step {
        sql: format!(
            "-- statement::upsert()\n{insert} ON CONFLICT ({}) DO {action}",
            key.join(", ")
        ),
        params: Params::Values(values),
        target: None,
    }
}

/// `head` restricted to one key and, where given, to the values the caller had seen.
fn keyed(table: &Table, head: &str, mut values: Vec<Value>, key: &Fields, expected: Option<&Fields>) -> Step {
    let mut look = Vec::new();
    let by_key = conditions(key, "=", &mut look);
    let mut tests = vec![conditions(key, "=", &mut values)];
    if let Some(expected) = expected.filter(|e| !e.is_empty()) {
        tests.push(conditions(expected, "IS NOT DISTINCT FROM", &mut values));
    }
    let image: Vec<String> = table.columns.iter().map(|c| ident(&c.name)).collect();
    Step {
        sql: format!("-- statement::keyed()\n{head} WHERE {}", tests.join(" AND ")),
        params: Params::Values(values),
        target: Some(Target {
            table: table.name.clone(),
            look_sql: format!(
                "-- statement::look()\nSELECT ROW({})::{}::text FROM {} WHERE {by_key}",
                image.join(", "),
                super::catalog::row_type(&table.name),
                table.ident
            ),
            key: look,
        }),
    }
}

fn conditions(fields: &Fields, operator: &str, values: &mut Vec<Value>) -> String {
    let tests: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{} {operator} {}", ident(name), slot(value, values)))
        .collect();
    tests.join(" AND ")
}

fn assignments(fields: &Fields, values: &mut Vec<Value>) -> String {
    let sets: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{} = {}", ident(name), slot(value, values)))
        .collect();
    sets.join(", ")
}

/// Binds a value and gives its place in the statement.
fn slot(value: &Value, values: &mut Vec<Value>) -> String {
    if *value == Value::Now {
        return "CURRENT_TIMESTAMP".into();
    }
    values.push(value.clone());
    format!("${}", values.len())
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Column;
    use super::*;

    fn catalog() -> Catalog {
        let column = |name: &str, sql_type: &str| Column::plain(name, sql_type);
        let items = Table::new(
            "items",
            vec![column("id", "integer"), column("name", "text")],
            vec!["id".into()],
        );
        Catalog::from([("items".into(), items)])
    }

    fn sql(change: Change) -> Result<String, String> {
        steps(&catalog(), &[change])
            .map(|s| s[0].sql.lines().nth(1).unwrap_or_default().to_owned())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn statements() {
        let key = || Fields::new().with("id", 5);
        let name = || Fields::new().with("name", "x");
        assert_eq!(
            sql(Change::insert("items", name())).unwrap(),
            r#"INSERT INTO public."items" ("name") VALUES ($1)"#
        );
        assert_eq!(
            sql(Change::update("items", key(), name().with("id", Value::Now)).expecting(name())).unwrap(),
            "UPDATE public.\"items\" SET \"name\" = $1, \"id\" = CURRENT_TIMESTAMP \
             WHERE \"id\" = $2 AND \"name\" IS NOT DISTINCT FROM $3"
        );
        assert_eq!(
            sql(Change::delete("items", key())).unwrap(),
            r#"DELETE FROM public."items" WHERE "id" = $1"#
        );
        assert_eq!(
            sql(Change::insert_many("items", vec![name(), name()])).unwrap(),
            "INSERT INTO public.\"items\" (\"name\") SELECT CAST(x.\"name\" AS text) \
             FROM unnest($1::text[]) AS x(\"name\")"
        );
        assert_eq!(
            sql(Change::upsert("items", key().with("name", "y"))).unwrap(),
            "INSERT INTO public.\"items\" (\"id\", \"name\") VALUES ($1, $2) \
             ON CONFLICT (\"id\") DO UPDATE SET \"name\" = EXCLUDED.\"name\""
        );
    }

    #[test]
    fn refusals() {
        let name = || Fields::new().with("name", "x");
        for (change, words) in [
            (Change::insert("nothing", name()), "not watched"),
            (Change::insert("items", name().with("name", "y")), "named twice"),
            (
                Change::insert("items", Fields::new().with("id\" --", 1)),
                "no column",
            ),
            (
                Change::update("items", name(), name()),
                "the key of items is (id)",
            ),
            (Change::upsert("items", name()), "needs `id`"),
            (
                Change::insert_many("items", vec![name(), Fields::new().with("id", 1)]),
                "same columns",
            ),
            (Change::insert_many("items", vec![]), "at least one row"),
        ] {
            let refusal = sql(change).unwrap_err();
            assert!(refusal.contains(words), "{refusal}");
        }
    }
}
