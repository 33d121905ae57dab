//! Tables that the lost side lacks, made as the source has them. What cannot be made faithfully is refused with the
//! reason: then a person makes the tables, and the rest goes on by itself.

mod ddl;

use super::{LONG, SHORT, Stop, Work, refused, within};
use crate::multipool::Happened;
use crate::multipool::catalog::{self, Catalog, literal};
use crate::multipool::connection::Failure;
use crate::multipool::watch;
use ddl::Made;

/// What a person can do about a refusal.
const REMEDY: &str = "create the tables there yourself with your own SQL file, the rest goes on by itself";

/// Makes what is missing, and gives every table its capture.
pub(super) async fn complete(work: &Work<'_>, catalog: &Catalog) -> Result<(), Stop> {
    let mut missing = Vec::new();
    for table in catalog.values() {
        let sql = "-- rebuild::complete()\nSELECT to_regclass($1) IS NULL";
        let row = within(work.other, SHORT, work.target.query_one(sql, &[&table.ident])).await?;
        if row.get(0) {
            missing.push(table.name.as_str());
        }
    }
    let mut made = Made::default();
    for table in &missing {
        let described = within(work.lead, SHORT, ddl::describe(&work.source, table)).await?;
        made.add(described.map_err(|why| refused(format!("table {table} {why}; {REMEDY}")))?);
    }
    types_exist(work, &made).await?;
    work.begin().await?;
    for statement in made.statements() {
        let run = work.target.batch_execute(&statement);
        if let Err(Stop::Refused { why, .. }) = work.at_target(LONG, "it cannot be made", run).await {
            return Err(refused(format!("{why} (in `{statement}`); {REMEDY}")));
        }
    }
    grant(work, &made).await?;
    let tables: Vec<&str> = catalog.keys().map(String::as_str).collect();
    match tokio::time::timeout(LONG, watch::watch(&work.target, &tables)).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Err(refused(why)),
        Err(_) => {
            let silent = crate::multipool::SideFault::Silent;
            return Err(Stop::At(work.other, Failure::Side(silent)));
        }
    }
    same_rules(work).await?;
    work.commit().await?;
    same_structure(work).await
}

/// Which side wins in a clash is said beside each watched table.
async fn same_rules(work: &Work<'_>) -> Result<(), Stop> {
    let sql = "-- rebuild::same_rules()\nSELECT tbl, on_conflict FROM kambana.watched";
    let rows = within(work.lead, SHORT, work.source.query(sql, &[])).await?;
    let (tables, rules): (Vec<String>, Vec<String>) = rows
        .iter()
        .map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)))
        .unzip();
    let sql = "-- rebuild::same_rules()\nUPDATE kambana.watched AS w SET on_conflict = u.rule \
               FROM unnest($1::text[], $2::text[]) AS u(tbl, rule) WHERE w.tbl = u.tbl";
    within(work.other, SHORT, work.target.execute(sql, &[&tables, &rules])).await?;
    Ok(())
}

/// Types that are not made by us have to be there.
async fn types_exist(work: &Work<'_>, made: &Made) -> Result<(), Stop> {
    for name in &made.foreign_types {
        let sql = "-- rebuild::types_exist()\nSELECT to_regtype($1) IS NULL";
        let row = within(work.other, SHORT, work.target.query_one(sql, &[name])).await?;
        if row.get(0) {
            return Err(refused(format!(
                "type {name} is missing there and cannot be made faithfully; create it yourself, the rest goes on by itself"
            )));
        }
    }
    Ok(())
}

/// Privileges of other roles, as far as these roles exist on the other server.
async fn grant(work: &Work<'_>, made: &Made) -> Result<(), Stop> {
    for (role, statement) in &made.grants {
        let sql = format!(
            "-- rebuild::grant()\nSELECT {role} = 'public' OR EXISTS (SELECT FROM pg_roles WHERE rolname = {role})",
            role = literal(role)
        );
        let known: bool = within(work.other, SHORT, work.target.query_one(&sql, &[]))
            .await?
            .get(0);
        if known {
            let granted = work.target.batch_execute(statement);
            work.at_target(SHORT, "a privilege cannot be granted", granted)
                .await?;
        } else {
            work.inner.event(Happened::RoleMissing {
                role: role.clone(),
                side: work.other,
            });
        }
    }
    Ok(())
}

/// Both sides have the same tables, or a person has to look.
pub(super) async fn same_structure(work: &Work<'_>) -> Result<(), Stop> {
    let ours = within(work.lead, SHORT, catalog::fingerprint(&work.source)).await?;
    let theirs = within(work.other, SHORT, catalog::fingerprint(&work.target)).await?;
    match catalog::difference(&ours, &theirs) {
        None => Ok(()),
        Some(difference) => Err(refused(format!(
            "{difference}; make that table equal on side {}, or drop it there, the rest goes on by itself",
            work.other
        ))),
    }
}
