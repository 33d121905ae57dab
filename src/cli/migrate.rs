//! `kambana migrate`: one script of DDL on every database, or on none.

use std::path::PathBuf;

use clap::Args;

use super::databases::{DatabaseArgs, pool_config};
use super::{Failure, Verdict, say};
use crate::multipool;

/// Change the structure of the tables in every database, or in none, while instances run
///
/// The script runs in one transaction a database; the structures and the rows of the changed tables are compared before the
/// first COMMIT. Writes wait meanwhile; running instances read the new structure and go on. Refused while a database is out,
/// and for statements that cannot run in a transaction (CREATE INDEX CONCURRENTLY, VACUUM, COMMIT). If a database fails in
/// the very moment of its COMMIT, the message says which ones have the change and what to do.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana migrate --dry-run 2026-11-add-price.sql
  kambana migrate 2026-11-add-price.sql

Exit codes:
  0  committed in every database (with --dry-run: it would be)
  2  refused, and nothing was changed; or a COMMIT is not known, as the message says")]
pub struct MigrateArgs {
    /// A file of SQL
    file: PathBuf,
    /// Roll back at the end
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: MigrateArgs) -> Result<Verdict, Failure> {
    let config = pool_config(args.databases)?;
    for line in multipool::migrate(&config, &args.file, args.dry_run).await? {
        say(line);
    }
    Ok(Verdict::Fine)
}
