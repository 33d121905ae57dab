//! `kambana local`: breaking and mending what a running `kambana up` started.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Verdict, data_dir, say};
use crate::local::{Action, Target, control};

/// Crash, freeze, stop or start one part of a running `kambana up`
///
/// Run it from another terminal than `kambana up`, in the same directory, or name the data directory with --data.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana local crash b          side b dies at once; the application goes on
  kambana local start b          it comes back and is brought up to date
  kambana local freeze a         side a keeps its connections and answers nothing
  kambana local thaw a
  kambana local wipe b           side b is stopped and loses everything
  kambana local stop web1        an instance is stopped in order: no request fails

Exit codes:
  0  done
  2  no `kambana up` is running, or the action makes no sense now")]
pub struct LocalArgs {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    /// To which part: a, b (databases), web1, web2 (instances) or haproxy
    target: Target,
    /// Data directory of the running `kambana up` [default: var]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub async fn run(args: LocalArgs) -> Result<Verdict, Failure> {
    let dir = data_dir(args.data);
    say(control::request(&dir, args.action, args.target).await?);
    Ok(Verdict::Fine)
}
