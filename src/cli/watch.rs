//! `kambana watch`: more tables to be kept identical.

use clap::Args;

use super::databases::{DatabaseArgs, pool_config};
use super::{Failure, Verdict, init, say};
use crate::multipool::{self, Rule};

/// Keep more tables identical: ordinary ones with a primary key
///
/// The table must exist, the same in every database that the environment names, with the same rows or none. Tables that
/// refer to each other are named together. Names are given as they are spelled, without quotes; SCHEMA.TABLE outside of
/// schema public. What cannot be kept identical is refused with the reason: docs/tables.md.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana watch orders order_lines
  kambana watch prices --on-conflict ask

Exit codes:
  0  watched from now on, or was watched before
  2  no such table, a table that cannot be watched, unequal tables, or a database refused")]
pub struct WatchArgs {
    /// Names of tables
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,
    /// Which write counts when two databases change one row at once: newest (the default), the name of a side (a, b), or ask
    ///
    /// Can be changed at any time by watching the table again.
    #[arg(long, value_name = "RULE")]
    on_conflict: Option<Rule>,
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: WatchArgs) -> Result<Verdict, Failure> {
    let tables: Vec<&str> = args.tables.iter().map(String::as_str).collect();
    let databases = args.databases.clone();
    let done = init::install(args.databases, &tables).await?;
    if let Some(rule) = args.on_conflict {
        multipool::set_rule(&pool_config(databases)?, &tables, rule).await?;
        say(format!(
            "when two databases change one row at once, the rule is now: {rule}"
        ));
    }
    Ok(done)
}
