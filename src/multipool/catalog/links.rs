//! What ties rows to each other: foreign keys, further unique indexes, triggers. Read from the server's catalogue, so that
//! repair knows which rows can only be written together.

use tokio_postgres::Client;

use super::Catalog;
use crate::multipool::connection::Failure;

/// What a table's rows depend on beside their primary key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::multipool) struct Links {
    /// Foreign keys of this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// Whether a foreign key refers to it.
    pub referenced: bool,
    /// Whether it has a unique index beside its primary key, or an exclusion constraint.
    pub unique: bool,
    /// Whether a constraint of it may be checked late.
    pub deferrable: bool,
    /// Whether a change of another row can change a row of it in the middle of a statement (`ON DELETE CASCADE`, a
    /// trigger): the captured image of a row may then be older than the row.
    pub nested: bool,
    /// Whether it has triggers beside ours.
    pub triggers: bool,
    /// Whether its key is `GENERATED ALWAYS AS IDENTITY`, which no `UPDATE` may set.
    pub fixed_key: bool,
}

/// One foreign key between watched tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::multipool) struct ForeignKey {
    pub columns: Vec<String>,
    pub parent: String,
    pub parent_columns: Vec<String>,
}

impl Links {
    /// Whether a statement on this table changes nothing but the rows it names.
    pub fn plain(&self) -> bool {
        !self.triggers && !self.referenced
    }

    /// Whether a row of the table can be refused for the sake of another row.
    pub fn constrained(&self) -> bool {
        self.unique || self.referenced || !self.foreign_keys.is_empty()
    }
}

const FOREIGN_KEYS_SQL: &str = "-- links::load()
SELECT w.tbl, p.tbl,
    (SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY AS u(num, place)
     JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num),
    (SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY AS u(num, place)
     JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num),
    k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')
FROM kambana.watched w
JOIN pg_constraint k ON k.conrelid = kambana.rel(w.tbl) AND k.contype = 'f'
JOIN kambana.watched p ON kambana.rel(p.tbl) = k.confrelid
ORDER BY w.tbl, k.conname COLLATE \"C\"";

const FLAGS_SQL: &str = "-- links::load()
SELECT w.tbl,
    EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND NOT x.indisprimary AND (x.indisunique OR x.indisexclusion)),
    EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.condeferrable),
    EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
            AND t.tgname NOT LIKE '!kambana%'),
    EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attidentity = 'a' AND NOT a.attisdropped)
FROM kambana.watched w JOIN pg_class c ON c.oid = kambana.rel(w.tbl)";

/// Completes the tables of a catalogue.
pub(super) async fn load(client: &Client, catalog: &mut Catalog) -> Result<(), Failure> {
    let mut triggers = false;
    for row in client.query(FLAGS_SQL, &[]).await? {
        let Some(table) = catalog.get_mut(row.get::<_, &str>(0)) else {
            continue;
        };
        (table.links.unique, table.links.deferrable) = (row.get(1), row.get(2));
        table.links.triggers = row.get(3);
        triggers |= table.links.triggers;
        table.links.fixed_key = row.get(4);
    }
    for row in client.query(FOREIGN_KEYS_SQL, &[]).await? {
        let parent: String = row.get(1);
        if let Some(table) = catalog.get_mut(&parent) {
            table.links.referenced = true;
        }
        if let Some(table) = catalog.get_mut(row.get::<_, &str>(0)) {
            table.links.nested |= row.get::<_, bool>(4);
            table.links.foreign_keys.push(ForeignKey {
                columns: row.get(2),
                parent,
                parent_columns: row.get(3),
            });
        }
    }
    // What a trigger writes to is its own secret.
    for table in catalog.values_mut() {
        table.links.nested |= triggers;
    }
    Ok(())
}
