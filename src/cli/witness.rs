//! `kambana witness`: a vote without data.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Verdict};
use crate::config::session_secret_from_env;
use crate::web::witness;

/// Run a vote without data, on a third machine, so that either of two machines may be lost
///
/// The instances ask it before a database is left out or brought back (WITNESS=http://…, the same on every instance). It needs
/// no database, only SESSION_SECRET, the same as theirs, from the environment or `.env`. Keep its directory: it remembers
/// there what it has promised. Stops on SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana witness --listen 10.0.0.3:8003 --state /var/lib/kambana-witness

Exit codes:
  0  stopped
  2  SESSION_SECRET is missing, or the address or the directory cannot be used")]
pub struct WitnessArgs {
    /// Address and port
    #[arg(long, default_value = "127.0.0.1:8003")]
    listen: String,
    /// Directory of its memory
    #[arg(long, value_name = "DIR", default_value = "var/witness")]
    state: PathBuf,
}

pub async fn run(args: WitnessArgs) -> Result<Verdict, Failure> {
    let secret = session_secret_from_env()?;
    witness::run(&args.listen, &args.state, &secret).await?;
    Ok(Verdict::Fine)
}
