//! Rows of tables with foreign keys or further unique indexes, brought to their final state as a whole.
//!
//! Keys are the unit of repair, and no order of keys satisfies every constraint: rows refer to each other in circles and
//! exchange unique values. So the final states are first put into `kambana.stage` on the target, then written by two
//! statements: one deletes, one upserts, each for all tables at once. PostgreSQL checks foreign keys at the end of a
//! statement, however many tables it writes; whatever refers to a deleted row is deleted with it and written again, so
//! that neither `RESTRICT` nor `CASCADE` finds anything to do.
//!
//! Knows no sides and no epochs. Crash rule: everything happens in the caller's transaction; staged rows are never committed.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::multipool::catalog::{Catalog, ForeignKey, Table, ident, key_type, literal, row_type};
use crate::multipool::connection::Failure;
use crate::multipool::journal;

/// One row: its key, and its image if it exists.
pub(in crate::multipool) type State = (String, Option<String>);

/// Names of the tables that have staged rows.
#[derive(Default)]
pub(in crate::multipool) struct Staged(BTreeSet<String>);

impl Staged {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts final states aside. A key is staged once, however often it comes.
    pub async fn add(&mut self, to: &Client, table: &Table, states: &[State]) -> Result<(), Failure> {
        let keys: Vec<&str> = states.iter().map(|(key, _)| key.as_str()).collect();
        let images: Vec<Option<&str>> = states.iter().map(|(_, image)| image.as_deref()).collect();
        to.execute(
            "-- stage::add()\nINSERT INTO kambana.stage (tbl, key, image, vacate) \
             SELECT $1, u.key, u.image, u.image IS NULL FROM unnest($2::text[], $3::text[]) AS u(key, image) \
             WHERE NOT EXISTS (SELECT FROM kambana.stage AS x WHERE x.tbl = $1 AND x.key = u.key)",
            &[&table.name, &keys, &images],
        )
        .await?;
        self.0.insert(table.name.clone());
        Ok(())
    }

    /// Writes everything that is staged.
    ///
    /// # Errors
    /// A constraint that the final states break, because the target holds other rows than they were made for.
    pub async fn apply(&self, to: &Client, catalog: &Catalog) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        to.batch_execute("SAVEPOINT stage").await?;
        match self.write(to, catalog).await {
            Err(failure) if failure.breaks_constraint() => {
                // Rows that exchange unique values: those that change make room first. The costly way, and the rare one.
                to.batch_execute("ROLLBACK TO stage").await?;
                for table in self.tables(catalog)?.filter(|t| t.links.unique) {
                    to.execute(&vacate_changed_sql(table), &[]).await?;
                }
                self.write(to, catalog).await?;
            }
            written => written?,
        }
        to.batch_execute("RELEASE stage; DELETE FROM kambana.stage")
            .await?;
        Ok(())
    }

    fn tables<'a>(&'a self, catalog: &'a Catalog) -> Result<impl Iterator<Item = &'a Table>, Failure> {
        let found: Result<Vec<&Table>, Failure> = self
            .0
            .iter()
            .map(|name| catalog.get(name).ok_or_else(|| journal::unknown_table(name)))
            .collect();
        Ok(found?.into_iter())
    }

    async fn write(&self, to: &Client, catalog: &Catalog) -> Result<(), Failure> {
        to.batch_execute("SET CONSTRAINTS ALL DEFERRED").await?;
        let mut touched = self.0.clone();
        vacate_referring(to, catalog, &mut touched).await?;
        let tables = || touched.iter().filter_map(|name| catalog.get(name)).enumerate();
        let deletes: Vec<String> = tables().map(|(n, t)| delete_sql(n, t)).collect();
        let upserts: Vec<String> = tables().map(|(n, t)| upsert_sql(n, t)).collect();
        if !cfg!(mutant = "copy_any_order") {
            for parts in [deletes, upserts] {
                to.batch_execute(&format!("-- stage::write()\nWITH {} SELECT 1", parts.join(",\n")))
                    .await?;
            }
        } else {
            for part in deletes.into_iter().chain(upserts) {
                to.batch_execute(&format!("WITH {part} SELECT 1")).await?;
            }
        }
        to.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
        Ok(())
    }
}

/// Marks the rows that refer to a row which is taken away, and stages those that were not to be changed as they are now.
/// Adds their tables to `touched`.
async fn vacate_referring(
    to: &Client,
    catalog: &Catalog,
    touched: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    let rows = to
        .query(
            "-- stage::vacate_referring()\nSELECT DISTINCT tbl FROM kambana.stage WHERE vacate",
            &[],
        )
        .await?;
    let mut parents: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    // Every round marks at least one row more, or is the last.
    while !parents.is_empty() {
        let mut marked = BTreeSet::new();
        for child in catalog.values() {
            for foreign_key in child.links.foreign_keys.iter() {
                let Some(parent) = catalog
                    .get(&foreign_key.parent)
                    .filter(|p| parents.contains(&p.name))
                else {
                    continue;
                };
                let (mark, stage) = referring_sql(child, foreign_key, parent);
                if to.execute(&mark, &[]).await? + to.execute(&stage, &[]).await? > 0 {
                    marked.insert(child.name.clone());
                }
            }
        }
        touched.extend(marked.iter().cloned());
        parents = marked;
    }
    Ok(())
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn key_of(table: &Table, alias: &str) -> String {
    let columns = list(table.key.iter().map(|k| format!("{alias}.{}", ident(k))));
    format!("ROW({columns})::{}::text", key_type(&table.name))
}

fn image_of(table: &Table, alias: &str) -> String {
    let columns = list(
        table
            .columns
            .iter()
            .map(|c| format!("{alias}.{}", ident(&c.name))),
    );
    format!("ROW({columns})::{}::text", row_type(&table.name))
}

/// `left` and `right` have the same values in these pairs of columns.
fn same<'a>(left: &str, right: &str, columns: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let pairs = columns.map(|(l, r)| format!("{left}.{} = {right}.{}", ident(l), ident(r)));
    pairs.collect::<Vec<_>>().join(" AND ")
}

/// Staged rows of a table as `s`, their keys as `k`.
fn staged_keys(table: &Table) -> String {
    format!(
        "kambana.stage AS s CROSS JOIN LATERAL unnest(ARRAY[s.key::{}]) AS k",
        key_type(&table.name)
    )
}

/// One part of the statement that deletes.
fn delete_sql(n: usize, table: &Table) -> String {
    format!(
        "d{n} AS (DELETE FROM {} AS t USING {} WHERE s.tbl = {} AND s.vacate AND {})",
        table.ident,
        staged_keys(table),
        literal(&table.name),
        same("t", "k", table.key.iter().zip(&table.key)),
    )
}

/// One part of the statement that upserts.
fn upsert_sql(n: usize, table: &Table) -> String {
    let columns = || table.columns.iter().map(|c| ident(&c.name));
    let sets: Vec<String> = table
        .columns
        .iter()
        .filter(|c| !table.key.contains(&c.name))
        .map(|c| format!("{0} = EXCLUDED.{0}", ident(&c.name)))
        .collect();
    let action = match sets.is_empty() {
        true => "NOTHING".to_owned(),
        false => format!("UPDATE SET {}", sets.join(", ")),
    };
    format!(
        "u{n} AS (INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM kambana.stage AS s \
         CROSS JOIN LATERAL unnest(ARRAY[s.image::{}]) AS r WHERE s.tbl = {} AND s.image IS NOT NULL \
         ON CONFLICT ({}) DO {action})",
        table.ident,
        list(columns()),
        list(columns().map(|c| format!("r.{c}"))),
        row_type(&table.name),
        literal(&table.name),
        list(table.key.iter().map(|k| ident(k))),
    )
}

/// Marks staged rows that are there and will change.
fn vacate_changed_sql(table: &Table) -> String {
    format!(
        "-- stage::vacate_changed()\nUPDATE kambana.stage AS x SET vacate = true FROM {} JOIN {} AS t ON {} \
         WHERE x.ctid = s.ctid AND s.tbl = {} AND NOT s.vacate AND {} IS DISTINCT FROM s.image",
        staged_keys(table),
        table.ident,
        same("t", "k", table.key.iter().zip(&table.key)),
        literal(&table.name),
        image_of(table, "t"),
    )
}

/// For rows of `child` that refer to a row of `parent` which is taken away: the statement that marks those which are
/// staged, and the one that stages the others. They are locked as they are read: a foreign writer must not lose a change.
fn referring_sql(child: &Table, foreign_key: &ForeignKey, parent: &Table) -> (String, String) {
    let referring = format!(
        "{staged} JOIN {parent} AS p ON {on_key} JOIN {child} AS c ON {on_foreign_key} WHERE s.tbl = {name} AND s.vacate",
        staged = staged_keys(parent),
        parent = parent.ident,
        child = child.ident,
        on_key = same("p", "k", parent.key.iter().zip(&parent.key)),
        on_foreign_key = same(
            "c",
            "p",
            foreign_key.columns.iter().zip(&foreign_key.parent_columns)
        ),
        name = literal(&parent.name),
    );
    let (key, name) = (key_of(child, "c"), literal(&child.name));
    (
        format!(
            "-- stage::mark_referring()\nUPDATE kambana.stage AS x SET vacate = true FROM (SELECT {key} AS key FROM {referring}) AS r \
             WHERE x.tbl = {name} AND NOT x.vacate AND x.key = r.key"
        ),
        format!(
            "-- stage::stage_referring()\nINSERT INTO kambana.stage (tbl, key, image, vacate) \
             SELECT {name}, {key}, {image}, true FROM {referring} \
             AND NOT EXISTS (SELECT FROM kambana.stage AS x WHERE x.tbl = {name} AND x.key = {key}) FOR UPDATE OF c",
            image = image_of(child, "c"),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multipool::catalog::Column;

    #[test]
    fn statements_name_what_they_touch() {
        let column = |name: &str| Column::plain(name, "integer");
        let table = |name: &str| Table::new(name, vec![column("id"), column("to")], vec!["id".into()]);
        let (child, parent) = (table("child"), table("s.parent"));
        let foreign_key = ForeignKey {
            columns: vec!["to".into()],
            parent: "s.parent".into(),
            parent_columns: vec!["id".into()],
        };
        let (mark, stage) = referring_sql(&child, &foreign_key, &parent);
        assert!(mark.contains(
            r#"JOIN "s"."parent" AS p ON p."id" = k."id" JOIN public."child" AS c ON c."to" = p."id""#
        ));
        assert!(stage.ends_with("FOR UPDATE OF c"), "{stage}");
        assert!(
            upsert_sql(3, &child).starts_with(r#"u3 AS (INSERT INTO public."child" ("id", "to") OVERRIDING"#)
        );
    }
}
