//! `kambana watch`: more tables to be kept identical.

use clap::Args;

use super::databases::DatabaseArgs;
use super::{Failure, Verdict, init};

/// Keep more tables identical: ordinary ones with a primary key
///
/// The table must exist, the same in every database that the environment names, with the same rows or none.
/// Refused with the reason: tables without a primary key, with foreign keys, further unique indexes, triggers of their own,
/// partitions.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kambana watch orders order_lines

Exit codes:
  0  watched from now on, or was watched before
  2  no such table, a table that cannot be watched, unequal tables, or a database refused")]
pub struct WatchArgs {
    /// Names of tables
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: WatchArgs) -> Result<Verdict, Failure> {
    let tables: Vec<&str> = args.tables.iter().map(String::as_str).collect();
    init::install(args.databases, &tables).await
}
