//! `kambana init`: the pool's own objects, once per pair of databases.

use clap::Args;

use super::databases::{DatabaseArgs, pool_config};
use super::{Failure, Verdict, say};
use crate::multipool;

/// The application's tables, all of them kept identical.
const TABLES: [&str; 3] = ["php_session", "items", "servers"];

/// Install what the pool needs in both databases, and watch the application's tables
///
/// Makes the schema `kambana` and its triggers in every database that the environment names, as the ordinary role that
/// owns them. The tables of schema.sql must be there already, the same in every database. Safe to run again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  psql -h 127.0.0.1 -p 5432 -U webuser -d cluster_session_a -f schema.sql
  psql -h 127.0.0.1 -p 54322 -U webuser -d cluster_session_b -f schema.sql
  kambana init

Exit codes:
  0  installed, or was installed before
  2  a setting is missing or wrong, or a database refused")]
pub struct InitArgs {
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: InitArgs) -> Result<Verdict, Failure> {
    install(args.databases, &TABLES).await
}

/// Installs the pool's objects and watches `tables`; shared with `kambana watch`.
pub async fn install(databases: DatabaseArgs, tables: &[&str]) -> Result<Verdict, Failure> {
    let config = pool_config(databases)?;
    for line in multipool::install(&config, tables).await? {
        say(line);
    }
    Ok(Verdict::Fine)
}
