//! Foreign keys between the tables of one unit: taken away while rows come, and made again when all are there. So tables may
//! refer to each other in any way, and the rows are checked at once instead of one by one.
//!
//! All in the transaction that fills the tables: if we die here, nothing has happened.

use std::collections::BTreeSet;

use super::{LONG, SHORT, Stop, Work, within};
use crate::multipool::catalog::{Catalog, Table};

/// Tables in groups that must be complete together, because foreign keys tie them.
pub(super) async fn units<'a>(work: &Work<'_>, catalog: &'a Catalog) -> Result<Vec<Vec<&'a Table>>, Stop> {
    let sql = "-- rebuild::units()\nSELECT DISTINCT unnest(ARRAY[wf.tbl, wt.tbl]) FROM pg_constraint AS k \
               JOIN kambana.watched AS wf ON kambana.rel(wf.tbl) = k.conrelid \
               JOIN kambana.watched AS wt ON kambana.rel(wt.tbl) = k.confrelid \
               WHERE k.contype = 'f' AND k.conrelid <> k.confrelid";
    let rows = within(work.lead, SHORT, work.source.query(sql, &[])).await?;
    let tied: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let (tied, free): (Vec<&Table>, Vec<&Table>) =
        catalog.values().partition(|table| tied.contains(&table.name));
    let mut units: Vec<Vec<&Table>> = free.into_iter().map(|table| vec![table]).collect();
    if !tied.is_empty() {
        units.push(tied);
    }
    Ok(units)
}

/// Statements that make the foreign keys of a unit again.
pub(super) struct Ties(Vec<String>);

impl Ties {
    /// Takes the foreign keys between these tables away.
    pub async fn loosen(work: &Work<'_>, tables: &[&Table]) -> Result<Ties, Stop> {
        let sql = "-- rebuild::loosen()\nSELECT format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname), \
                   format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)), \
                   format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, k.conrelid::regclass, obj_description(k.oid, 'pg_constraint')) \
                   FROM pg_constraint AS k WHERE k.contype = 'f' AND k.conparentid = 0 \
                     AND k.conrelid = ANY($1::text[]::regclass[]) AND k.confrelid = ANY($1::text[]::regclass[])";
        let idents: Vec<&str> = tables.iter().map(|table| table.ident.as_str()).collect();
        let found = within(work.other, SHORT, work.target.query(sql, &[&idents])).await?;
        let mut again = Vec::new();
        for row in &found {
            let drop: &str = row.get(0);
            let dropped = work.target.batch_execute(drop);
            work.at_target(SHORT, "a foreign key cannot be put aside", dropped)
                .await?;
            again.extend([row.get(1), row.get(2)]);
        }
        Ok(Ties(again))
    }

    /// Makes them again; the rows are checked.
    pub async fn fasten(self, work: &Work<'_>) -> Result<(), Stop> {
        for statement in self.0 {
            let made = work.target.batch_execute(&statement);
            work.at_target(LONG, "the copied rows are not accepted", made)
                .await?;
        }
        Ok(())
    }
}
