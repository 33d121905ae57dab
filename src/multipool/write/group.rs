//! Equal declarative changes of a batch as one statement. Pure: SQL text and its parameters.
//!
//! Each statement answers one line a row: which of its rows it was (`n`), key, image, and whether the row is new. Nothing
//! is captured by the trigger; the journal rows are made from the answer, the same on every side.

use std::collections::{HashMap, HashSet};
use std::mem::discriminant;

use crate::multipool::catalog::{Catalog, Column, Table, ident, key_type, row_type};
use crate::multipool::{Change, Fields, Value};

/// What became of one row: its key, its image unless it is gone, and whether it is new.
pub(super) type Found = (String, Option<String>, bool);

/// One row that a change names.
pub(super) struct Asked {
    /// Whose it is: the place of the job in the batch, and of the change in the job.
    pub job: usize,
    pub change: usize,
    /// Whether the row is deleted.
    pub deletes: bool,
    /// Whether a row that is not there is an answer to the caller, who named it by its key.
    pub by_key: bool,
}

/// Rows of equal changes, in one statement.
pub(super) struct Group<'a> {
    /// The first of them.
    change: &'a Change,
    form: Form,
    pub rows: Vec<Asked>,
    /// One array a parameter, after the rows' numbers.
    pub columns: Vec<Vec<Option<&'a str>>>,
    /// Keys the callers named: a statement must not meet a row twice.
    keys: HashSet<Vec<&'a str>>,
}

/// A statement for any number of rows of equal changes, and a simpler one for one, if there is one.
struct Form {
    sql: String,
    sql_of_one: Option<String>,
    by_key: bool,
    values: usize,
}

/// The statements of a batch, in an order that keeps each job's own; `None` if one of its changes needs to be captured by
/// the trigger: the rest of the batch goes with it.
pub(super) fn groups<'a>(
    catalog: &Catalog,
    jobs: impl Iterator<Item = Option<&'a [Change]>>,
) -> Option<Vec<Group<'a>>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (job, changes) in jobs.enumerate() {
        // Not before what this job did already.
        let mut earliest = 0;
        for (number, change) in changes?.iter().enumerate() {
            let table = catalog.get(change.table()).filter(|t| t.links.plain())?;
            if let Change::Insert { rows, .. } = change
                && !rows.iter().all(|row| same_columns(row, &rows[0]))
            {
                return None;
            }
            let key = key_of(table, change);
            let fits = |group: &Group<'_>| {
                alike(group.change, change) && key.as_ref().is_none_or(|key| !group.keys.contains(key))
            };
            let place = match groups[earliest..].iter().position(fits) {
                Some(place) => earliest + place,
                None => {
                    groups.push(Group::new(form(table, change)?, change));
                    groups.len() - 1
                }
            };
            earliest = place;
            groups[place].keys.extend(key);
            groups[place].take(job, number, change);
        }
    }
    Some(groups)
}

/// Whether two rows are written by one statement.
fn same_columns(one: &Fields, other: &Fields) -> bool {
    let alike = |((name, value), (named, with)): ((&str, &Value), (&str, &Value))| {
        name == named && (*value == Value::Now) == (*with == Value::Now)
    };
    one.len() == other.len() && one.iter().zip(other.iter()).all(alike)
}

/// Whether two changes are one statement with other values.
fn alike(one: &Change, other: &Change) -> bool {
    let same = |(a, b): (Option<&Fields>, Option<&Fields>)| match (a, b) {
        (Some(a), Some(b)) => same_columns(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    one.table() == other.table()
        && discriminant(one) == discriminant(other)
        && first_row(one).into_iter().zip(first_row(other)).all(same)
}

/// The fields whose values the statement takes for the change's first row, in its order.
fn first_row(change: &Change) -> [Option<&Fields>; 3] {
    match change {
        Change::Insert { rows, .. } => [rows.first(), None, None],
        Change::Upsert { row, .. } => [Some(row), None, None],
        Change::Update {
            key, set, expected, ..
        } => [Some(set), Some(key), expected.as_ref()],
        Change::Delete { key, expected, .. } => [Some(key), expected.as_ref(), None],
    }
}

/// The same for all its rows.
fn rows_of(change: &Change) -> Vec<[Option<&Fields>; 3]> {
    match change {
        Change::Insert { rows, .. } => rows.iter().map(|row| [Some(row), None, None]).collect(),
        change => vec![first_row(change)],
    }
}

/// Counts the values of one row, and gives the expressions that read them from the statement's arrays.
#[derive(Default)]
struct Slots {
    values: usize,
}

impl Slots {
    /// How the statement writes a value of this column.
    fn slot(&mut self, column: &Column, value: &Value) -> String {
        if *value == Value::Now {
            return "CURRENT_TIMESTAMP".into();
        }
        self.values += 1;
        format!("CAST(x.p{} AS {})", self.values, column.cast_type)
    }

    /// The arrays as a table `x`.
    fn from(&self) -> String {
        let mut arrays = String::from("unnest($1::int4[]");
        let mut names = String::from("n");
        for place in 1..=self.values {
            arrays.push_str(&format!(", ${}::text[]", place + 1));
            names.push_str(&format!(", p{place}"));
        }
        format!("{arrays}) AS x({names})")
    }
}

fn form(table: &Table, change: &Change) -> Option<Form> {
    match change {
        Change::Insert { rows, .. } => write(table, rows.first()?, None),
        Change::Upsert { row, .. } => {
            let sets: Vec<String> = row
                .iter()
                .filter(|(name, _)| !table.key.iter().any(|k| k == name))
                .map(|(name, _)| format!("{0} = EXCLUDED.{0}", ident(name)))
                .collect();
            // Without a column to set it would answer nothing for a row that is there.
            (!sets.is_empty()).then_some(())?;
            write(table, row, Some(sets.join(", ")))
        }
        Change::Update {
            key, set, expected, ..
        } => {
            if set.iter().any(|(name, _)| table.key.iter().any(|k| k == name)) {
                return None;
            }
            let mut slots = Slots::default();
            let sets = each(table, set, &mut slots, |name, slot| format!("{name} = {slot}"))?;
            keyed(table, key, expected.as_ref(), slots, |from, test, answer| {
                format!(
                    "UPDATE {} AS t SET {} FROM {from} WHERE {test} RETURNING {answer}, {image}, false",
                    table.ident,
                    sets.join(", "),
                    image = image_record(table)
                )
            })
        }
        Change::Delete { key, expected, .. } => {
            let slots = Slots::default();
            keyed(table, key, expected.as_ref(), slots, |from, test, answer| {
                format!(
                    "DELETE FROM {} AS t USING {from} WHERE {test} RETURNING {answer}, NULL::text, false",
                    table.ident
                )
            })
        }
    }
}

/// What [`each`] makes of every field.
fn each(
    table: &Table,
    fields: &Fields,
    slots: &mut Slots,
    join: impl Fn(String, String) -> String,
) -> Option<Vec<String>> {
    fields
        .iter()
        .map(|(name, value)| Some(join(ident(name), slots.slot(table.column(name)?, value))))
        .collect()
}

/// An insert, or with `sets` an upsert. Which row got which key is known from the rows' own values: keys that PostgreSQL
/// would make in the insert are made just before it, and no order of answers is relied upon.
fn write(table: &Table, row: &Fields, sets: Option<String>) -> Option<Form> {
    let given = |name: &String| row.get(name).is_some();
    // Only the statement for one row refuses a value for such a key as it should.
    if table.links.fixed_key && table.key.iter().any(given) {
        return None;
    }
    let mut slots = Slots::default();
    let mut made = each(table, row, &mut slots, |name, slot| format!("{slot} AS {name}"))?;
    let mut names: Vec<String> = row.iter().map(|(name, _)| ident(name)).collect();
    let (given_values, given_names) = (made.join(", "), names.join(", "));
    for key in table.key.iter().filter(|key| !given(key)) {
        made.push(format!(
            "{} AS {}",
            table.column(key)?.default.as_ref()?,
            ident(key)
        ));
        names.push(ident(key));
    }
    let (names, from) = (names.join(", "), slots.from());
    let action = match sets {
        Some(sets) => {
            let key: Vec<String> = table.key.iter().map(|k| ident(k)).collect();
            format!(" ON CONFLICT ({}) DO UPDATE SET {sets}", key.join(", "))
        }
        None => String::new(),
    };
    // Of one row it is known which one was given the key, whoever made it.
    let sql_of_one = (!given_names.is_empty()).then(|| {
        format!(
            "-- group::write_one()\nINSERT INTO {ident} AS t ({given_names}) SELECT {given_values} FROM {from}{action} \
             RETURNING 0, {key}, {image}, t.xmax = 0",
            ident = table.ident,
            key = key_record(table, "t"),
            image = image_record(table),
        )
    });
    Some(Form {
        sql_of_one,
        sql: format!(
            "-- group::write()\nWITH u AS MATERIALIZED (SELECT x.n, {made} FROM {from}),\n\
             i AS (INSERT INTO {ident} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM u{action} \
             RETURNING {key} AS key, {image} AS image, t.xmax = 0 AS fresh)\n\
             SELECT u.n, {made_key}, NULL::text, NULL::bool FROM u UNION ALL SELECT NULL, i.key, i.image, i.fresh FROM i",
            made = made.join(", "),
            ident = table.ident,
            key = key_record(table, "t"),
            image = image_record(table),
            made_key = key_record(table, "u"),
        ),
        by_key: false,
        values: slots.values,
    })
}

/// A statement about one row by its key and, where given, by what the caller had seen.
fn keyed(
    table: &Table,
    key: &Fields,
    expected: Option<&Fields>,
    mut slots: Slots,
    statement: impl FnOnce(&str, &str, &str) -> String,
) -> Option<Form> {
    let mut tests = each(table, key, &mut slots, |name, slot| format!("t.{name} = {slot}"))?;
    if let Some(expected) = expected {
        tests.extend(each(table, expected, &mut slots, |name, slot| {
            format!("t.{name} IS NOT DISTINCT FROM {slot}")
        })?);
    }
    if key.len() != table.key.len() {
        return None;
    }
    let answer = format!("x.n, {}", key_record(table, "t"));
    let sql = statement(&slots.from(), &tests.join(" AND "), &answer);
    Some(Form {
        sql_of_one: None,
        sql: format!("-- group::keyed()\n{sql}"),
        by_key: true,
        values: slots.values,
    })
}

/// The key as the caller wrote it; `None` where the caller names none. Two ways to write one key are not noticed: then a
/// row is met twice, and the batch is run one by one.
fn key_of<'a>(table: &Table, change: &'a Change) -> Option<Vec<&'a str>> {
    let fields = match change {
        Change::Insert { .. } => return None,
        Change::Upsert { row: fields, .. }
        | Change::Update { key: fields, .. }
        | Change::Delete { key: fields, .. } => fields,
    };
    table.key.iter().map(|k| fields.get(k)?.as_text()).collect()
}

fn key_record(table: &Table, of: &str) -> String {
    let values: Vec<String> = table.key.iter().map(|k| format!("{of}.{}", ident(k))).collect();
    format!("ROW({})::{}::text", values.join(", "), key_type(&table.name))
}

fn image_record(table: &Table) -> String {
    let values: Vec<String> = table
        .columns
        .iter()
        .map(|c| format!("t.{}", ident(&c.name)))
        .collect();
    format!("ROW({})::{}::text", values.join(", "), row_type(&table.name))
}

impl<'a> Group<'a> {
    fn new(form: Form, change: &'a Change) -> Group<'a> {
        Group {
            change,
            columns: vec![Vec::new(); form.values],
            form,
            rows: Vec::new(),
            keys: HashSet::new(),
        }
    }

    /// Adds the rows of a change that is like its own.
    fn take(&mut self, job: usize, number: usize, change: &'a Change) {
        for fields in rows_of(change) {
            let values = fields.into_iter().flatten().flat_map(Fields::iter);
            let given = values.filter(|(_, value)| **value != Value::Now);
            for (column, (_, value)) in self.columns.iter_mut().zip(given) {
                column.push(value.as_text());
            }
            self.rows.push(Asked {
                job,
                change: number,
                deletes: matches!(change, Change::Delete { .. }),
                by_key: self.form.by_key,
            });
        }
    }

    pub fn table(&self) -> &'a str {
        self.change.table()
    }

    /// Its statement.
    pub fn sql(&self) -> &str {
        match (&self.form.sql_of_one, self.rows.len()) {
            (Some(sql), 1) => sql,
            _ => &self.form.sql,
        }
    }

    /// The rows of the statement's answer in the order they were asked for; `None` where a row was not there.
    pub fn found(&self, answer: &[tokio_postgres::Row]) -> Vec<Option<Found>> {
        let mut found: Vec<Option<Found>> = self.rows.iter().map(|_| None).collect();
        // Of an insert: which row was given this key.
        let mut made: HashMap<String, i32> = HashMap::new();
        for row in answer {
            let (key, image, fresh): (String, Option<String>, Option<bool>) =
                (row.get(1), row.get(2), row.get(3));
            let n = match (row.get::<_, Option<i32>>(0), fresh) {
                (Some(n), None) => {
                    made.insert(key, n);
                    continue;
                }
                (n, _) => n.or_else(|| made.get(&key).copied()),
            };
            if let Some(place) = n.and_then(|n| found.get_mut(n as usize)) {
                *place = Some((key, image, fresh.unwrap_or_default()));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let mut id = Column::plain("id", "integer");
        id.default = Some("nextval('items_id_seq'::regclass)".into());
        let columns = vec![
            Column::plain("content", "text"),
            id,
            Column::plain("name", "text"),
        ];
        let items = Table::new("items", columns.clone(), vec!["id".into()]);
        let mut tied = Table::new("tied", columns, vec!["id".into()]);
        tied.links.triggers = true;
        Catalog::from([("items".into(), items), ("tied".into(), tied)])
    }

    fn name(text: &str) -> Fields {
        Fields::new().with("name", text)
    }

    fn id(id: i32) -> Fields {
        Fields::new().with("id", id)
    }

    fn grouped(jobs: &[Vec<Change>]) -> Option<Vec<Group<'_>>> {
        groups(&catalog(), jobs.iter().map(|changes| Some(changes.as_slice())))
    }

    fn shape_of(jobs: &[Vec<Change>]) -> Vec<Vec<usize>> {
        let groups = grouped(jobs).unwrap();
        groups
            .iter()
            .map(|g| g.rows.iter().map(|row| row.job).collect())
            .collect()
    }

    #[test]
    fn equal_changes_share_a_statement_and_jobs_keep_their_order() {
        let insert = || Change::insert("items", name("x"));
        let update = |n| Change::update("items", id(n), name("y"));
        assert_eq!(
            shape_of(&[vec![insert()], vec![insert()], vec![update(1)]]),
            [vec![0, 1], vec![2]]
        );
        // The same row twice: two statements, one after the other.
        assert_eq!(
            shape_of(&[vec![update(1)], vec![update(2)], vec![update(1)]]),
            [vec![0, 1], vec![2]]
        );
        // What a job does later never comes earlier.
        assert_eq!(
            shape_of(&[vec![update(1)], vec![insert(), update(2)], vec![insert()]]),
            [vec![0], vec![1, 2], vec![1]]
        );
        let many = Change::insert_many("items", vec![name("a"), name("b")]);
        assert_eq!(shape_of(&[vec![many], vec![insert()]]), [vec![0, 0, 1]]);
        // Other columns, or the same with a value that only the server knows: statements of their own.
        let now = Change::insert("items", Fields::new().with("name", Value::Now));
        let other = Change::insert("items", Fields::new().with("content", "x"));
        assert_eq!(
            shape_of(&[vec![insert()], vec![now], vec![other]]),
            [vec![0], vec![1], vec![2]]
        );
        let mixed = vec![name("a"), Fields::new().with("content", "b")];
        assert!(grouped(&[vec![Change::insert_many("items", mixed)]]).is_none());
    }

    #[test]
    fn values_stand_in_the_order_of_the_statement() {
        let update = |n: i32, text: &str| {
            Change::update("items", id(n), name(text)).expecting(Fields::new().with("content", Value::Null))
        };
        let changes = [vec![update(1, "x")], vec![update(2, "y")]];
        let groups = grouped(&changes).unwrap();
        let expected = [[Some("x"), Some("y")], [Some("1"), Some("2")], [None, None]];
        assert_eq!(groups[0].columns, expected);
    }

    #[test]
    fn statements() {
        let sql = |change: Change| grouped(&[vec![change]]).unwrap()[0].form.sql.clone();
        assert_eq!(
            sql(Change::insert("items", name("x"))),
            "-- group::write()\nWITH u AS MATERIALIZED (SELECT x.n, CAST(x.p1 AS text) AS \"name\", \
             nextval('items_id_seq'::regclass) AS \"id\" FROM unnest($1::int4[], $2::text[]) AS x(n, p1)),\n\
             i AS (INSERT INTO public.\"items\" AS t (\"name\", \"id\") OVERRIDING SYSTEM VALUE SELECT \"name\", \"id\" FROM u \
             RETURNING ROW(t.\"id\")::kambana.\"k_items\"::text AS key, \
             ROW(t.\"content\", t.\"id\", t.\"name\")::kambana.\"t_items\"::text AS image, t.xmax = 0 AS fresh)\n\
             SELECT u.n, ROW(u.\"id\")::kambana.\"k_items\"::text, NULL::text, NULL::bool FROM u \
             UNION ALL SELECT NULL, i.key, i.image, i.fresh FROM i"
        );
        assert_eq!(
            sql(Change::update("items", id(1), name("x"))
                .expecting(Fields::new().with("content", Value::Null))),
            "-- group::keyed()\nUPDATE public.\"items\" AS t SET \"name\" = CAST(x.p1 AS text) \
             FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[]) AS x(n, p1, p2, p3) \
             WHERE t.\"id\" = CAST(x.p2 AS integer) AND t.\"content\" IS NOT DISTINCT FROM CAST(x.p3 AS text) \
             RETURNING x.n, ROW(t.\"id\")::kambana.\"k_items\"::text, \
             ROW(t.\"content\", t.\"id\", t.\"name\")::kambana.\"t_items\"::text, false"
        );
    }

    #[test]
    fn what_the_trigger_must_see_is_not_grouped() {
        assert!(grouped(&[vec![Change::insert("tied", name("x"))]]).is_none());
        assert!(
            grouped(&[vec![Change::update("items", id(1), id(2))]]).is_none(),
            "a new key"
        );
        assert!(
            grouped(&[vec![Change::upsert("items", id(1))]]).is_none(),
            "nothing to set"
        );
    }
}
