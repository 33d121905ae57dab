//! What a table is made of, read from the source's catalogue and written as statements.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Row};

use crate::multipool::catalog::{ident, literal};
use crate::multipool::connection::Failure;

/// Statements that make one table, in the order of their parts.
#[derive(Debug, Default)]
pub(super) struct Made {
    types: Vec<String>,
    sequences: Vec<String>,
    tables: Vec<String>,
    /// Ownership of sequences, keys, checks, indexes, comments.
    after: Vec<String>,
    /// Foreign keys, once every table is there.
    references: Vec<String>,
    /// Types that must exist on the other side.
    pub foreign_types: BTreeSet<String>,
    /// Role and statement.
    pub grants: Vec<(String, String)>,
}

impl Made {
    /// Adds another table's statements.
    pub fn add(&mut self, other: Made) {
        for (ours, theirs) in [
            (&mut self.types, other.types),
            (&mut self.sequences, other.sequences),
            (&mut self.tables, other.tables),
            (&mut self.after, other.after),
            (&mut self.references, other.references),
        ] {
            for statement in theirs {
                // Two tables may use one type or one sequence.
                if !ours.contains(&statement) {
                    ours.push(statement);
                }
            }
        }
        self.foreign_types.extend(other.foreign_types);
        self.grants.extend(other.grants);
    }

    /// In an order that works.
    pub fn statements(&self) -> Vec<String> {
        [
            &self.types,
            &self.sequences,
            &self.tables,
            &self.after,
            &self.references,
        ]
        .into_iter()
        .flatten()
        .cloned()
        .collect()
    }
}

/// Reads a table of schema public; `Err` inside: why it cannot be made.
pub(super) async fn describe(from: &Client, table: &str) -> Result<Result<Made, String>, Failure> {
    let mut made = Made::default();
    let row = from.query_one(TABLE_SQL, &[&table]).await?;
    if let Some(why) = row.get::<_, Option<String>>(0) {
        return Ok(Err(why));
    }
    let name = format!("public.{}", ident(table));
    let columns = from.query(COLUMNS_SQL, &[&table]).await?;
    let texts: Vec<String> = columns.iter().map(column).collect();
    let options: Option<String> = row.get(1);
    let with = options.map_or_else(String::new, |options| format!(" WITH ({options})"));
    made.tables
        .push(format!("CREATE TABLE {name} ({}){with}", texts.join(", ")));
    if let Some(text) = row.get::<_, Option<String>>(2) {
        made.after
            .push(format!("COMMENT ON TABLE {name} IS {}", literal(&text)));
    }
    for column in &columns {
        if let Some(text) = column.get::<_, Option<String>>("comment") {
            let column: String = column.get("name");
            made.after.push(format!(
                "COMMENT ON COLUMN {name}.{} IS {}",
                ident(&column),
                literal(&text)
            ));
        }
    }
    for row in from.query(TYPES_SQL, &[&table]).await? {
        match row.get::<_, Option<String>>(1) {
            Some(make) => made.types.push(make),
            None => {
                made.foreign_types.insert(row.get(0));
            }
        }
    }
    for row in from.query(SEQUENCES_SQL, &[&table]).await? {
        made.sequences.push(row.get(0));
        made.after.extend(row.get::<_, Option<String>>(1));
    }
    for row in from.query(CONSTRAINTS_SQL, &[&table]).await? {
        let statement = format!("ALTER TABLE {name} ADD CONSTRAINT {}", row.get::<_, String>(1));
        match row.get::<_, bool>(0) {
            true => made.references.push(statement),
            false => made.after.push(statement),
        }
    }
    for row in from.query(INDEXES_SQL, &[&table]).await? {
        made.after.push(row.get(0));
    }
    for row in from.query(GRANTS_SQL, &[&table]).await? {
        let role: String = row.get(0);
        let to = match role.as_str() {
            "public" => "PUBLIC".to_owned(),
            role => ident(role),
        };
        let statement = format!(
            "GRANT {} ON {name} TO {to}{}",
            row.get::<_, String>(1),
            row.get::<_, &str>(2)
        );
        made.grants.push((role, statement));
    }
    Ok(Ok(made))
}

/// One column of a `CREATE TABLE`.
fn column(row: &Row) -> String {
    let mut text = format!("{} {}", ident(row.get("name")), row.get::<_, String>("type"));
    if let Some(collation) = row.get::<_, Option<String>>("collation") {
        text.push_str(&format!(" COLLATE {collation}"));
    }
    let value: Option<String> = row.get("value");
    match (row.get::<_, &str>("kind"), value) {
        ("generated", Some(value)) => text.push_str(&format!(" GENERATED ALWAYS AS ({value}) STORED")),
        ("identity", _) => text.push_str(row.get("identity")),
        (_, Some(value)) => text.push_str(&format!(" DEFAULT {value}")),
        (_, None) => {}
    }
    if row.get("not_null") {
        text.push_str(" NOT NULL");
    }
    text
}

/// What is not a plain table, and what is said about it as a whole.
const TABLE_SQL: &str = "-- rebuild::describe()
SELECT CASE
        WHEN c.relkind <> 'r' OR c.relispartition THEN 'is not an ordinary table'
        WHEN c.relpersistence <> 'p' THEN 'is unlogged'
        WHEN c.relrowsecurity OR c.relforcerowsecurity THEN 'has row security'
        WHEN c.relhasrules THEN 'has rules'
        WHEN c.reloftype <> 0 THEN 'is a typed table'
        WHEN EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attgenerated NOT IN ('', 's'))
            THEN 'has a virtual column'
    END,
    array_to_string(c.reloptions, ', '), obj_description(c.oid, 'pg_class')
FROM pg_class AS c WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace";

const COLUMNS_SQL: &str = "-- rebuild::columns()
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
    CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END AS collation,
    pg_get_expr(d.adbin, d.adrelid) AS value,
    CASE WHEN a.attgenerated <> '' THEN 'generated' WHEN a.attidentity <> '' THEN 'identity' ELSE 'plain' END AS kind,
    format(' GENERATED %s AS IDENTITY (SEQUENCE NAME %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s)',
        CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, s.name, q.seqincrement, q.seqmin, q.seqmax,
        q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END) AS identity,
    col_description(a.attrelid, a.attnum) AS comment
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN LATERAL (
    SELECT i.objid, format('%I.%I', n.nspname, r.relname) AS name
    FROM pg_depend AS i JOIN pg_class AS r ON r.oid = i.objid AND r.relkind = 'S' JOIN pg_namespace AS n ON n.oid = r.relnamespace
    WHERE i.classid = 'pg_class'::regclass AND i.refclassid = 'pg_class'::regclass AND i.refobjid = c.oid
      AND i.refobjsubid = a.attnum AND i.deptype = 'i') AS s ON a.attidentity <> ''
LEFT JOIN pg_sequence AS q ON q.seqrelid = s.objid
WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace
ORDER BY a.attnum";

/// Types that PostgreSQL does not bring along; enums with what makes them where they are missing.
const TYPES_SQL: &str = "-- rebuild::types()
SELECT DISTINCT format('%I.%I', n.nspname, b.typname),
    CASE WHEN b.typtype = 'e' THEN format(
        'DO $make$ BEGIN CREATE TYPE %I.%I AS ENUM (%s); EXCEPTION WHEN duplicate_object THEN NULL; END $make$',
        n.nspname, b.typname,
        (SELECT string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder) FROM pg_enum AS l WHERE l.enumtypid = b.oid)) END
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS t ON t.oid = a.atttypid
JOIN pg_type AS b ON b.oid = CASE WHEN t.typelem <> 0 AND t.typcategory = 'A' THEN t.typelem ELSE t.oid END
JOIN pg_namespace AS n ON n.oid = b.typnamespace
WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace AND n.nspname <> 'pg_catalog'";

/// Sequences behind defaults, with their ownership; those of identity columns come with the column.
const SEQUENCES_SQL: &str = "-- rebuild::sequences()
SELECT DISTINCT format('CREATE SEQUENCE IF NOT EXISTS %I.%I AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s',
        n.nspname, s.relname, format_type(q.seqtypid, NULL), q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
        CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END),
    CASE WHEN EXISTS (SELECT FROM pg_depend AS o WHERE o.classid = 'pg_class'::regclass AND o.objid = s.oid
            AND o.refobjid = c.oid AND o.refobjsubid = a.attnum AND o.deptype = 'a')
        THEN format('ALTER SEQUENCE %I.%I OWNED BY public.%I.%I', n.nspname, s.relname, c.relname, a.attname) END
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_attrdef AS f ON f.adrelid = c.oid AND f.adnum = a.attnum
JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class AS s ON s.oid = d.refobjid AND s.relkind = 'S'
JOIN pg_namespace AS n ON n.oid = s.relnamespace
JOIN pg_sequence AS q ON q.seqrelid = s.oid
WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace";

/// Keys and checks; `NOT NULL` comes with the columns. Those that refer to other tables are marked.
const CONSTRAINTS_SQL: &str = "-- rebuild::constraints()
SELECT k.contype = 'f', format('%I %s', k.conname, pg_get_constraintdef(k.oid))
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace AND k.contype IN ('p', 'u', 'c', 'x', 'f')
ORDER BY k.contype <> 'p', k.conname";

/// Indexes that no constraint brings along.
const INDEXES_SQL: &str = "-- rebuild::indexes()
SELECT pg_get_indexdef(x.indexrelid) FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indrelid
WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
ORDER BY 1";

/// What other roles may do with the table.
const GRANTS_SQL: &str = "-- rebuild::grants()
SELECT coalesce(r.rolname::text, 'public'), string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type),
    CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g LEFT JOIN pg_roles AS r ON r.oid = g.grantee
WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace AND g.grantee <> c.relowner
GROUP BY r.rolname, g.is_grantable";
