//! `kambana serve`: one web instance.

use clap::Args;

use super::{Failure, Verdict};
use crate::config::Config;
use crate::web;

/// Run one web instance in the foreground, on the databases named by the environment
///
/// Reads its settings from the environment and from `.env`; see env.example for all of them. Stops in order on SIGTERM
/// or Ctrl-C: it tells HAProxy first, finishes what it has begun, then ends.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  INSTANCE=web1 LISTEN=127.0.0.1:8001 kambana serve
  INSTANCE=web2 LISTEN=127.0.0.1:8002 PEERS=http://127.0.0.1:8001 kambana serve

Exit codes:
  0  stopped in order
  2  a setting is missing or wrong, or the databases cannot be used")]
pub struct ServeArgs {}

pub async fn run(_: ServeArgs) -> Result<Verdict, Failure> {
    web::run(Config::from_env()?).await?;
    Ok(Verdict::Fine)
}
