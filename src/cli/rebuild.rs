//! `kambana rebuild`: a lost database is copied from a living one.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::databases::{DatabaseArgs, pool_config};
use super::{Failure, Verdict, say};
use crate::multipool::{self, Ended, Progress, SideId};

/// Copy a lost database from a living one, while work goes on
///
/// The instances do this by themselves for a database that is new, was emptied, was restored from an older backup, or was
/// away for too long. This command does it now, shows how far it is, and is asked for where something could be lost:
/// rows that only that database has are kept as conflicts, up to 10000 a table; for more, or for a database of another
/// pool, --replace is needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana rebuild b
  kambana rebuild b --replace     whatever b holds is overwritten

Exit codes:
  0  the database is active again, or copied and waiting for an instance to run
  1  refused: the text says why, and nothing was overwritten
  2  no living database to copy from, or it does not answer")]
pub struct RebuildArgs {
    /// The side to rebuild: a, b
    side: SideId,
    /// Overwrite what it holds, even if it is another pool's or an active side
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: RebuildArgs) -> Result<Verdict, Failure> {
    let mut config = pool_config(args.databases)?;
    // Its own name: it writes heartbeats like an instance, and holds the lease under this name.
    config.instance = format!("rebuild-{}", std::process::id());
    config.state_dir = std::env::temp_dir().join(format!("kambana-{}", config.instance));
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {msg} {wide_bar} {pos}/{len}",
    )?);
    bar.enable_steady_tick(Duration::from_millis(120));
    let tell = |progress: &Progress| {
        bar.set_message(progress.table.clone());
        bar.set_length(progress.about.max(progress.rows).unsigned_abs());
        bar.set_position(progress.rows.unsigned_abs());
    };
    let ended = multipool::rebuild_side(config.clone(), args.side, args.replace, tell).await;
    bar.finish_and_clear();
    let _ = std::fs::remove_dir_all(&config.state_dir);
    Ok(match ended? {
        Ended::Active => {
            say(format!("side {} is rebuilt and active", args.side));
            Verdict::Fine
        }
        Ended::Copied => {
            say(format!(
                "side {} is copied; it is caught up and made active as soon as an instance runs",
                args.side
            ));
            Verdict::Fine
        }
        Ended::Refused(why) => {
            say(format!("refused: {why}"));
            Verdict::Degraded
        }
    })
}
