//! The result of a drill: as JSON, and as one page that needs nothing beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;
use serde::Serialize;

use super::DrillError;
use super::history::as_ms;
use super::timeline::{self, Scale, Stretch, minutes};
use super::verdict::{FaultDone, Finding, Verdict, Wrong};
use super::watch::{EpochSeen, shown};

/// Where it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Operating system and architecture.
    pub system: String,
    /// `server_version` of each side.
    pub postgresql: BTreeMap<String, String>,
}

impl Machine {
    /// This one, with these servers.
    pub fn here(postgresql: BTreeMap<String, String>) -> Machine {
        Machine {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            postgresql,
        }
    }

    fn versions(&self) -> String {
        let mut versions: Vec<&str> = self.postgresql.values().map(String::as_str).collect();
        versions.dedup();
        versions.join(", ")
    }
}

/// Everything there is to say about a drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of the program.
    pub kambana: String,
    /// Commit it was built from, where the build says so.
    pub commit: Option<String>,
    /// What repeats it.
    pub command: String,
    /// What decided everything.
    pub seed: u64,
    /// When it began, RFC 3339.
    pub started: String,
    /// From the first question to the last write.
    #[serde(rename = "length_ms", serialize_with = "as_ms")]
    pub length: Duration,
    /// Clients at once.
    pub clients: usize,
    /// Whether the cluster was the drill's own.
    pub own: bool,
    /// Whether somebody stopped it.
    pub ended_early: bool,
    /// Where it ran.
    pub machine: Machine,
    /// What was broken.
    pub faults: Vec<FaultDone>,
    /// The memberships that were seen.
    pub epochs: Vec<EpochSeen>,
    /// Acknowledged changes in each tenth of a second.
    #[serde(rename = "acknowledged_per_100_ms")]
    pub slices: Vec<u32>,
    /// What it comes to.
    pub verdict: Verdict,
    /// What is left behind, and where to look.
    pub left: Vec<String>,
}

impl Report {
    /// Whether every promise was kept.
    pub fn is_fine(&self) -> bool {
        self.verdict.is_fine()
    }

    /// For machines: as the fields are, with the verdict's own words.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!(self);
        json["fine"] = self.is_fine().into();
        json["summary"] = self.verdict.to_string().into();
        json
    }

    /// For people.
    ///
    /// # Errors
    /// The template failed.
    pub fn to_html(&self) -> Result<String, DrillError> {
        let page = Page::new(self);
        page.render()
            .map_err(|e| DrillError::Drill(format!("the page cannot be made: {e}")))
    }
}

struct FaultRow {
    number: usize,
    at: String,
    says: String,
    kind: String,
    epochs: String,
    healed: String,
    gap: String,
    budget: String,
    slow: bool,
    failed: String,
    bad: bool,
}

struct Band {
    number: usize,
    stretch: Stretch,
    /// Where its number stands.
    middle: f64,
    /// Whether there is room for the number on a narrow screen.
    narrow: bool,
}

struct Lane {
    name: String,
    stretches: Vec<Stretch>,
}

struct Tick {
    x: f64,
    label: String,
    narrow: bool,
}

struct Line {
    tag: String,
    at: String,
    says: String,
}

#[derive(Template)]
#[template(path = "drill.html")]
struct Page<'a> {
    report: &'a Report,
    fine: bool,
    verdict: &'a Verdict,
    numbers: Vec<(String, String, bool)>,
    commit: String,
    length: String,
    versions: String,
    top: u32,
    outline: String,
    bands: Vec<Band>,
    gaps: Vec<Stretch>,
    lanes: Vec<Lane>,
    ticks: Vec<Tick>,
    faults: Vec<FaultRow>,
    findings: Vec<Line>,
}

impl<'a> Page<'a> {
    fn new(report: &'a Report) -> Page<'a> {
        let scale = Scale::new(report.length);
        let (outline, top) = timeline::outline(&report.slices);
        let ticks = scale.ticks();
        let every = ticks.len().div_ceil(5).max(1);
        Page {
            fine: report.is_fine(),
            verdict: &report.verdict,
            numbers: numbers(&report.verdict),
            commit: report
                .commit
                .clone()
                .unwrap_or_else(|| "not named by the build".into()),
            length: minutes(report.length.as_secs()),
            versions: report.machine.versions(),
            top,
            outline,
            bands: bands(report, scale),
            gaps: timeline::gaps(&report.slices, scale),
            lanes: lanes(report, scale),
            ticks: ticks
                .into_iter()
                .enumerate()
                .map(|(n, (x, label))| Tick {
                    x: x / 10.0,
                    label,
                    narrow: n % every == 0,
                })
                .collect(),
            faults: report
                .faults
                .iter()
                .enumerate()
                .map(|(n, fault)| row(n + 1, fault))
                .collect(),
            findings: report.verdict.findings.iter().map(line).collect(),
            report,
        }
    }
}

/// The numbers of the verdict, each with its word and whether it is bad.
fn numbers(verdict: &Verdict) -> Vec<(String, String, bool)> {
    let wrong = |name: &str, wrong| {
        let count = verdict.count(wrong);
        (name.to_owned(), count.to_string(), count > 0)
    };
    let mut numbers = vec![
        (
            "acknowledged".into(),
            verdict.acknowledged.to_string(),
            verdict.acknowledged == 0,
        ),
        wrong("lost", Wrong::Lost),
        wrong("doubled", Wrong::Doubled),
        wrong("different", Wrong::Different),
        wrong("untrue answers", Wrong::Untrue),
        wrong("stale reads", Wrong::Stale),
        wrong("failed requests", Wrong::Failed),
        wrong("outcomes not final", Wrong::Open),
    ];
    let gap = format!("{:.2} s", verdict.worst_gap.as_secs_f64());
    numbers.push(("worst gap".into(), gap, false));
    numbers
}

fn bands(report: &Report, scale: Scale) -> Vec<Band> {
    let every = report.faults.len().div_ceil(10).max(1);
    let band = |(n, fault): (usize, &FaultDone)| {
        let to = fault.healed.unwrap_or(report.length);
        let stretch = scale.stretch(fault.began, to, "band", format!("{}: {}", n + 1, fault.says));
        Band {
            number: n + 1,
            middle: (stretch.x + stretch.width / 2.0) / 10.0,
            stretch,
            narrow: n % every == 0,
        }
    };
    report.faults.iter().enumerate().map(band).collect()
}

/// A line for each part: when it did not run, and for a side also when it was not active.
fn lanes(report: &Report, scale: Scale) -> Vec<Lane> {
    let mut broken = timeline::broken(&report.faults, scale);
    let mut lanes = Vec::new();
    for side in report.machine.postgresql.keys() {
        let mut stretches = Vec::new();
        for (n, seen) in report.epochs.iter().enumerate() {
            if !seen.active.contains(side) {
                let to = report.epochs.get(n + 1).map_or(report.length, |next| next.at);
                let title = format!("epoch {}, active: {}", seen.epoch, shown(&seen.active));
                stretches.push(scale.stretch(seen.at, to, "out", title));
            }
        }
        stretches.extend(broken.remove(side).unwrap_or_default());
        lanes.push(Lane {
            name: side.clone(),
            stretches,
        });
    }
    lanes.extend(
        broken
            .into_iter()
            .map(|(name, stretches)| Lane { name, stretches }),
    );
    lanes
}

fn row(number: usize, fault: &FaultDone) -> FaultRow {
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    FaultRow {
        number,
        at: minutes(fault.began.as_secs()),
        says: fault.says.clone(),
        kind: fault.kind.clone(),
        epochs: match fault.epoch_before == fault.epoch_after {
            true => fault.epoch_after.to_string(),
            false => format!("{} → {}", fault.epoch_before, fault.epoch_after),
        },
        healed: match fault.healed {
            Some(healed) => format!("{:.1} s", (healed - fault.mended).as_secs_f64()),
            None => "not in time".into(),
        },
        gap: seconds(fault.gap),
        budget: fault
            .budget
            .map(|budget| format!("of {} s", budget.as_secs()))
            .unwrap_or_default(),
        slow: fault.is_slow(),
        failed: match (fault.failed, fault.may_fail) {
            (0, _) => "none".into(),
            (n, true) => format!("{n} cut off, repeated"),
            (n, false) => format!("{n} failed"),
        },
        bad: fault.healed.is_none() || (fault.failed > 0 && !fault.may_fail),
    }
}

fn line(finding: &Finding) -> Line {
    let on = match finding.sides.is_empty() {
        true => String::new(),
        false => format!(" (side {})", finding.sides.join(", ")),
    };
    Line {
        tag: finding.wrong.to_string(),
        at: finding.at.map(|at| minutes(at.as_secs())).unwrap_or_default(),
        says: format!("{}{on}", finding.says),
    }
}
