//! What was measured, and what follows from it: medians, percentiles, ratios.

use std::collections::BTreeMap;

use crate::equal::Verdict;
use crate::profile::Profile;
use crate::systems::{Condition, Kind, Measured};
use crate::work::Work;

/// Everything that the report is made of.
#[derive(Default)]
pub struct Results {
    cells: BTreeMap<Place, Vec<Cell>>,
    /// Systems that could not be measured, and why.
    pub skipped: Vec<(Condition, Kind, String)>,
    /// Whether the copies were equal in the end.
    pub verdicts: Vec<(String, Whose, Verdict)>,
    /// Operations that failed: where, how many, and what the first one said.
    pub failures: Vec<(String, Whose, u64, String)>,
    /// Resident memory of an instance in MB, when it had just started and at most.
    pub memory: Vec<(Condition, Kind, f64, f64)>,
    /// Flushes of the log a write.
    pub costs: Vec<Cost>,
    /// Where the time of a write goes on the servers.
    pub profiles: Vec<Profile>,
    /// Figures that stand for themselves.
    pub lines: Vec<Line>,
}

/// One measured figure that stands for itself.
pub struct Line {
    pub what: String,
    pub wanted: Wanted,
    pub measured: f64,
    pub unit: &'static str,
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this.
    AtMost(f64),
    /// Nothing: it is shown beside others.
    Shown,
}

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This project, or this program.
    Ours,
    /// What it is compared with.
    Competitor,
}

/// Flushes of the log on all copies, divided by writes.
pub struct Cost {
    pub kind: Kind,
    pub work: Work,
    pub clients: usize,
    pub flushes: f64,
}

/// Which cells belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place(Condition, Work, usize, Kind);

struct Cell {
    round: usize,
    rate: f64,
    latencies_us: Vec<u32>,
    writes: f64,
    cpu_s: [f64; 2],
    log_bytes: f64,
}

/// The figures of one system, work and number of clients.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Operations a second, median of the rounds.
    pub rate: f64,
    /// Rate divided by that of the single PostgreSQL in the same round, median of the rounds.
    pub ratio: Option<f64>,
    /// Milliseconds, of all rounds together.
    pub p50_ms: f64,
    /// Milliseconds, of all rounds together.
    pub p99_ms: f64,
    /// p99 divided by that of the single PostgreSQL.
    pub p99_ratio: Option<f64>,
    /// Processor seconds for 1000 operations: application, databases.
    pub cpu_s: [f64; 2],
    /// Bytes of log an operation, on all copies.
    pub log_bytes: f64,
}

impl Results {
    /// Adds one cell.
    pub fn add(
        &mut self,
        condition: Condition,
        work: Work,
        clients: usize,
        kind: Kind,
        round: usize,
        measured: Measured,
    ) {
        let answer = measured.answer;
        if answer.failed > 0 {
            let place = format!("{kind}, {work}, {clients} clients");
            let why = answer.first_failure.unwrap_or_default();
            self.failures.push((place, kind.whose(), answer.failed, why));
        }
        let cell = Cell {
            round,
            rate: answer.done as f64 / answer.seconds,
            latencies_us: answer.latencies_us,
            writes: answer.acknowledged as f64,
            cpu_s: measured.cpu_s,
            log_bytes: measured.log_bytes as f64,
        };
        let place = Place(condition, work, clients, kind);
        self.cells.entry(place).or_default().push(cell);
    }

    /// The figures of a system, if it was measured.
    pub fn figures(&self, condition: Condition, work: Work, clients: usize, kind: Kind) -> Option<Figures> {
        let cells = self.cells.get(&Place(condition, work, clients, kind))?;
        let single = self
            .cells
            .get(&Place(condition, work.plain(), clients, Kind::Single));
        let ratios = cells.iter().filter_map(|cell| {
            let base = single?.iter().find(|base| base.round == cell.round)?;
            (base.rate > 0.0).then(|| cell.rate / base.rate)
        });
        // Nothing was answered in time: that is no reason to be left out of the table.
        let part = |part| percentile_ms(cells, part).unwrap_or(f64::INFINITY);
        let (p50_ms, p99_ms) = (part(0.50), part(0.99));
        let operations: f64 = cells.iter().map(|cell| cell.writes).sum();
        let per_thousand =
            |part: usize| cells.iter().map(|cell| cell.cpu_s[part]).sum::<f64>() / operations * 1000.0;
        Some(Figures {
            rate: median(cells.iter().map(|cell| cell.rate))?,
            ratio: median(ratios),
            p50_ms,
            p99_ms,
            p99_ratio: single
                .and_then(|single| percentile_ms(single, 0.99))
                .map(|base| p99_ms / base),
            cpu_s: [per_thousand(0), per_thousand(1)],
            log_bytes: cells.iter().map(|cell| cell.log_bytes).sum::<f64>() / operations,
        })
    }

    /// Numbers of clients that were measured of a work.
    pub fn clients(&self, condition: Condition, work: Work) -> Vec<usize> {
        let mut clients: Vec<usize> = self
            .cells
            .keys()
            .filter(|place| place.0 == condition && place.1 == work)
            .map(|place| place.2)
            .collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    }

    /// Whether anything was measured that makes the run worthless. What a competitor does wrong is shown, and does not stop
    /// us.
    pub fn failed(&self) -> bool {
        let failures = self.failures.iter().map(|(_, whose, ..)| *whose);
        let verdicts = self.verdicts.iter().filter(|(.., verdict)| !verdict.well);
        failures
            .chain(verdicts.map(|(_, whose, _)| *whose))
            .any(|whose| whose == Whose::Ours)
    }
}

/// The value in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn percentile_ms(cells: &[Cell], part: f64) -> Option<f64> {
    let mut all: Vec<u32> = cells
        .iter()
        .flat_map(|cell| cell.latencies_us.iter().copied())
        .collect();
    percentile(&mut all, part).map(|us| us / 1000.0)
}

/// The value below which this part of them lies.
pub fn percentile(values: &mut [u32], part: f64) -> Option<f64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    values
        .get((last as f64 * part).round() as usize)
        .map(|value| f64::from(*value))
}
