//! What the pool knows about watched tables, and the SQL made from it. Identifiers come from the server's catalogue.

use std::collections::BTreeMap;

use tokio_postgres::Client;

mod links;

use super::connection::Failure;
use super::{Fields, Value};
pub(super) use links::ForeignKey;

/// One column of a watched table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    /// As `format_type` gives it, for casts.
    pub sql_type: String,
    /// What texts are cast to before they are assigned: without length or precision and below any domain, for an explicit
    /// cast cuts what is too long, and an assignment refuses it.
    pub cast_type: String,
    /// Of a key column: what PostgreSQL evaluates where an insert does not name it.
    pub default: Option<String>,
}

impl Column {
    /// A column without a default, of a type without length or precision.
    #[cfg(test)]
    pub fn plain(name: &str, sql_type: &str) -> Column {
        Column {
            name: name.into(),
            sql_type: sql_type.into(),
            cast_type: sql_type.into(),
            default: None,
        }
    }
}

/// One watched table with the statements that move its rows between sides.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub name: String,
    /// Sorted by name, generated columns left out: the order of images, the same on every side.
    pub columns: Vec<Column>,
    /// Primary key columns, in key order.
    pub key: Vec<String>,
    /// Quoted, with schema.
    pub ident: String,
    /// What ties its rows to each other and to rows of other tables, beside the primary key.
    pub links: links::Links,
    /// Inserts or overwrites rows from images: `$1 text[]`.
    pub upsert_sql: String,
    /// Deletes rows by keys: `$1 text[]`.
    pub delete_sql: String,
    /// Gives a row another key: `$1` image, `$2` old key.
    pub move_sql: String,
    /// Images by keys (`$1 text[]`), `NULL` where there is no row.
    pub images_sql: String,
    /// Every key.
    pub keys_sql: String,
    /// Deletes every row; `$1` is not used but takes the place of the array.
    pub clear_sql: String,
}

/// Structure of every watched table as text; `None` where the table or its capture trigger is missing.
pub(super) type Fingerprint = BTreeMap<String, Option<String>>;

/// The watched tables by name.
pub(super) type Catalog = BTreeMap<String, Table>;

/// An identifier, quoted.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A literal, quoted; for DDL, where parameters cannot be bound.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}

impl Table {
    /// Builds the statements of a table.
    pub fn new(name: &str, columns: Vec<Column>, key: Vec<String>) -> Table {
        let table = relation(name);
        let (row_type, key_type) = (row_type(name), key_type(name));
        let names = || columns.iter().map(|c| ident(&c.name));
        let on_key = |left: &str, right: &str| {
            key.iter()
                .map(|k| format!("{left}.{0} = {right}.{0}", ident(k)))
                .collect::<Vec<_>>()
                .join(" AND ")
        };
        let sets: Vec<String> = columns
            .iter()
            .filter(|c| !key.contains(&c.name))
            .map(|c| format!("{0} = EXCLUDED.{0}", ident(&c.name)))
            .collect();
        let conflict = if sets.is_empty() {
            "NOTHING".into()
        } else {
            format!("UPDATE SET {}", sets.join(", "))
        };
        let first_key = key.first().map(|k| ident(k)).unwrap_or_default();
        Table {
            name: name.to_owned(),
            upsert_sql: format!(
                "-- apply::upsert()\nINSERT INTO {table} ({cols}) OVERRIDING SYSTEM VALUE \
                 SELECT {from} FROM unnest($1::text[]::{row_type}[]) AS r \
                 ON CONFLICT ({key}) DO {conflict}",
                cols = list(names()),
                from = list(names().map(|n| format!("r.{n}"))),
                key = list(key.iter().map(|k| ident(k))),
            ),
            delete_sql: format!(
                "-- apply::delete()\nDELETE FROM {table} AS t USING unnest($1::text[]::{key_type}[]) AS k WHERE {}",
                on_key("t", "k")
            ),
            move_sql: format!(
                "-- apply::move_key()\nUPDATE {table} AS t SET {sets} \
                 FROM (SELECT ($1::text::{row_type}).*) AS r, (SELECT ($2::text::{key_type}).*) AS k WHERE {on}",
                sets = list(names().map(|n| format!("{n} = r.{n}"))),
                on = on_key("t", "k"),
            ),
            images_sql: format!(
                "-- merge::images()\nSELECT u.key, CASE WHEN t.{first_key} IS NULL THEN NULL \
                 ELSE ROW({values})::{row_type}::text END \
                 FROM unnest($1::text[]) AS u(key) CROSS JOIN LATERAL (SELECT (u.key::{key_type}).*) AS k \
                 LEFT JOIN {table} AS t ON {on}",
                values = list(names().map(|n| format!("t.{n}"))),
                on = on_key("t", "k"),
            ),
            keys_sql: format!(
                "-- merge::keys()\nSELECT ROW({})::{key_type}::text FROM {table} AS t",
                list(key.iter().map(|k| format!("t.{}", ident(k))))
            ),
            clear_sql: format!("-- apply::clear()\nDELETE FROM {table} WHERE $1::text[] IS NOT NULL"),
            ident: table,
            links: links::Links::default(),
            columns,
            key,
        }
    }

    /// The type of a column, if the table has it.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Key columns with the values of a key's record text.
    pub fn key_fields(&self, record: &str) -> Fields {
        zip_fields(self.key.iter().map(String::as_str), record)
    }

    /// All columns with the values of an image.
    pub fn image_fields(&self, record: &str) -> Fields {
        zip_fields(self.columns.iter().map(|c| c.name.as_str()), record)
    }
}

fn zip_fields<'a>(names: impl Iterator<Item = &'a str>, record: &str) -> Fields {
    names
        .zip(parse_record(record))
        .fold(Fields::new(), |fields, (name, value)| {
            fields.with(name, value.map_or(Value::Null, Value::Text))
        })
}

/// A watched table's name with quotes: `items` lies in schema `public`, `sales.orders` in schema `sales`. The twin of
/// `kambana.rel()`.
pub(super) fn relation(name: &str) -> String {
    match name.split_once('.') {
        Some((schema, table)) => format!("{}.{}", ident(schema), ident(table)),
        None => format!("public.{}", ident(name)),
    }
}

/// Name of the composite type of a table's images.
pub(super) fn row_type(table: &str) -> String {
    format!("kambana.{}", ident(&format!("t_{table}")))
}

/// Name of the composite type of a table's keys.
pub(super) fn key_type(table: &str) -> String {
    format!("kambana.{}", ident(&format!("k_{table}")))
}

/// The values of an image or a key: splits record text (PostgreSQL's manual, "Composite Type Input and Output Syntax").
pub fn parse_record(record: &str) -> Vec<Option<String>> {
    let inner = record
        .strip_prefix('(')
        .and_then(|r| r.strip_suffix(')'))
        .unwrap_or(record);
    let mut fields = Vec::new();
    let mut field: Option<String> = None;
    let mut quoted = false;
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                field.get_or_insert_default();
            }
            '\\' => {
                if let Some(escaped) = chars.next() {
                    field.get_or_insert_default().push(escaped);
                }
            }
            ',' if !quoted => fields.push(field.take()),
            other => field.get_or_insert_default().push(other),
        }
    }
    fields.push(field);
    fields
}

/// One row per column of every watched table; key columns carry their place in the key.
const LOAD_SQL: &str = "-- catalog::load()
SELECT w.tbl, a.attname::text, format_type(a.atttypid, a.atttypmod),
       array_position(i.indkey::int2[], a.attnum),
       (WITH RECURSIVE base AS (
           SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
           UNION ALL
           SELECT t.oid, t.typtype, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.typbasetype
           WHERE base.typtype = 'd')
        SELECT format_type(oid, -1) FROM base WHERE typtype <> 'd'),
       CASE WHEN a.attnum = ANY (i.indkey::int2[]) THEN
           CASE WHEN a.attidentity = '' THEN pg_get_expr(d.adbin, d.adrelid)
           ELSE format('nextval(%L::regclass)', pg_get_serial_sequence(c.oid::regclass::text, a.attname)) END END
FROM kambana.watched w
JOIN pg_class c ON c.oid = kambana.rel(w.tbl)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
ORDER BY w.tbl, a.attname COLLATE \"C\"";

/// Reads the watched tables of one side.
pub(super) async fn load(client: &Client) -> Result<Catalog, Failure> {
    type Found = (Vec<Column>, Vec<(i32, String)>);
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for row in client.query(LOAD_SQL, &[]).await? {
        let name: String = row.get(1);
        let (columns, key) = found.entry(row.get(0)).or_default();
        if let Some(place) = row.get::<_, Option<i32>>(3) {
            key.push((place, name.clone()));
        }
        columns.push(Column {
            name,
            sql_type: row.get(2),
            cast_type: row.get(4),
            default: row.get(5),
        });
    }
    let mut catalog: Catalog = found
        .into_iter()
        .map(|(name, (columns, mut key))| {
            key.sort();
            let key = key.into_iter().map(|(_, column)| column).collect();
            (name.clone(), Table::new(&name, columns, key))
        })
        .collect();
    links::load(client, &mut catalog).await?;
    Ok(catalog)
}

/// How many migrations a side has seen.
pub(super) async fn structure(client: &Client) -> Result<i64, Failure> {
    let sql = "-- catalog::structure()\nSELECT structure FROM kambana.epoch";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Per watched table a text of everything that must be equal on all sides: columns, types, keys, constraints, indexes.
const FINGERPRINT_SQL: &str = "-- catalog::fingerprint()
SELECT w.tbl, c.oid IS NOT NULL AND EXISTS (
           SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = '!kambana' AND t.tgenabled <> 'D'),
    coalesce((SELECT string_agg(format('%s %s%s%s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                 CASE WHEN a.attnotnull THEN ' not null' END,
                 ' collate ' || nullif(a.attcollation, 0)::regcollation,
                 CASE WHEN a.attgenerated = '' THEN ' default ' ELSE ' generated ' END || pg_get_expr(d.adbin, d.adrelid),
                 CASE a.attidentity WHEN 'a' THEN ' identity always' WHEN 'd' THEN ' identity' END,
                 (SELECT ' of ' || string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = a.atttypid)), E'\\n' ORDER BY a.attname COLLATE \"C\")
     FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '')
    || coalesce((SELECT E'\\n' || string_agg(k.conname || ' ' || pg_get_constraintdef(k.oid), E'\\n' ORDER BY k.conname COLLATE \"C\")
     FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f', 'p', 'u', 'x')), '')
    || coalesce((SELECT E'\\n' || string_agg(pg_get_indexdef(x.indexrelid), E'\\n' ORDER BY pg_get_indexdef(x.indexrelid) COLLATE \"C\")
     FROM pg_index x WHERE x.indrelid = c.oid AND x.indisunique), '')
FROM kambana.watched w
LEFT JOIN pg_class c ON c.oid = kambana.rel(w.tbl)
ORDER BY w.tbl";

/// Structure of every watched table: `None` where the table or its capture trigger is missing.
pub(super) async fn fingerprint(client: &Client) -> Result<Fingerprint, Failure> {
    let rows = client.query(FINGERPRINT_SQL, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get::<_, bool>(1).then(|| row.get(2))))
        .collect())
}

/// The first difference between two fingerprints, in words; `None` if they are equal.
pub(super) fn difference(ours: &Fingerprint, theirs: &Fingerprint) -> Option<String> {
    for (table, structure) in ours {
        match (structure, theirs.get(table)) {
            (_, None) => return Some(format!("table {table} is not watched there")),
            (Some(_), Some(None)) => return Some(format!("table {table} or its capture trigger is missing")),
            (Some(ours), Some(Some(theirs))) if ours != theirs => {
                let line = |a: &str, b: &str| {
                    a.lines()
                        .find(|l| !b.lines().any(|other| other == *l))
                        .unwrap_or("nothing more")
                        .to_owned()
                };
                return Some(format!(
                    "table {table} differs: `{}` there, `{}` on the leader",
                    line(theirs, ours),
                    line(ours, theirs)
                ));
            }
            _ => {}
        }
    }
    theirs
        .keys()
        .find(|t| !ours.contains_key(*t))
        .map(|t| format!("table {t} is watched only there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_text_is_split_as_postgresql_writes_it() {
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(parse_record("(5)"), [text("5")]);
        assert_eq!(parse_record("(1,,\"\")"), [text("1"), None, text("")]);
        assert_eq!(
            parse_record(r#"("a ""b""","c\\d",(x)"#),
            [text("a \"b\""), text("c\\d"), text("(x")]
        );
        assert_eq!(parse_record("(\"a,b\",é)"), [text("a,b"), text("é")]);
    }

    #[test]
    fn a_difference_names_table_and_line() {
        let side = |s: Option<&str>| BTreeMap::from([("t".to_owned(), s.map(str::to_owned))]);
        assert_eq!(difference(&side(Some("a int")), &side(Some("a int"))), None);
        let text = difference(&side(Some("a int\nb text")), &side(Some("a int\nb int"))).unwrap();
        assert!(
            text.contains("table t differs: `b int` there, `b text`"),
            "{text}"
        );
        assert!(
            difference(&side(Some("a")), &side(None))
                .unwrap()
                .contains("missing")
        );
        assert!(
            difference(&side(Some("a")), &BTreeMap::new())
                .unwrap()
                .contains("not watched")
        );
    }
}
