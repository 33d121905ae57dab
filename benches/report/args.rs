//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::systems::Kind;
use crate::work::Work;

/// Measures writes, reads, HTTP and bulk work against a single PostgreSQL of the same run, and writes a report.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo bench --bench report --")]
pub struct Args {
    /// About three minutes instead of half an hour: short cells, few rounds, small tables, without what is slow to measure.
    #[arg(long)]
    pub quick: bool,
    /// Seconds a cell is measured.
    #[arg(long)]
    seconds: Option<f64>,
    /// How often every cell is measured, one after the other.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these parts of the report.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Only these numbers of clients.
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Only these systems; `single` is always measured.
    #[arg(long, value_delimiter = ',')]
    pub systems: Vec<Kind>,
    /// Writes the report to this file, whose hand-written part is kept; otherwise it is printed.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Where the databases are made and thrown away; must not be in memory.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub dir: PathBuf,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// W1 to W3 through the declarative door.
    Writes,
    /// W1 and W2 as arbitrary SQL.
    Sql,
    /// R1 and R2.
    Reads,
    /// Flushes of the log a write.
    Costs,
    /// Where the time of W1 goes on the servers.
    Profile,
    /// W1 to W3 with 1 ms added to every fsync.
    SlowFlush,
    /// W1 to W3 with 0.5 ms added to every round trip.
    SlowLink,
    /// H1 to H3: through HTTP and HAProxy.
    Http,
    /// Comparison, rebuild, catch-up and pages of large tables.
    Bulk,
}

impl Args {
    /// Whether this part was asked for.
    pub fn wants(&self, part: Part) -> bool {
        let slow = matches!(part, Part::Costs | Part::SlowLink | Part::Profile);
        match self.only.is_empty() {
            true => !(self.quick && slow),
            false => self.only.contains(&part),
        }
    }

    /// Whether this system was asked for.
    pub fn wants_system(&self, kind: Kind) -> bool {
        kind == Kind::Single || self.systems.is_empty() || self.systems.contains(&kind)
    }

    /// How long a cell is measured.
    pub fn cell(&self) -> Duration {
        let usual = if self.quick { 0.3 } else { 0.8 };
        Duration::from_secs_f64(self.seconds.unwrap_or(usual).clamp(0.05, 600.0))
    }

    /// How often everything is measured.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 }).max(1)
    }

    /// Rounds of what is measured beside the main table.
    pub fn fewer_rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    /// Numbers of clients.
    pub fn clients(&self) -> Vec<usize> {
        match (&self.clients[..], self.quick) {
            ([], false) => vec![1, 8, 32, 128],
            ([], true) => vec![1, 8, 32],
            (asked, _) => asked.to_vec(),
        }
    }

    /// Works of the main table.
    pub fn works(&self) -> Vec<Work> {
        let asked = |work: &Work| match *work {
            work if work.is_arbitrary_sql() => self.wants(Part::Sql),
            Work::Point | Work::List => self.wants(Part::Reads),
            // What arbitrary SQL is compared with.
            Work::Insert | Work::Update => self.wants(Part::Writes) || self.wants(Part::Sql),
            _ => self.wants(Part::Writes),
        };
        Work::ALL.into_iter().filter(asked).collect()
    }

    /// Rows of the largest table of the bulk part.
    pub fn bulk_rows(&self) -> i64 {
        if self.quick { 100_000 } else { 1_000_000 }
    }
}
