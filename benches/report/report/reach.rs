//! What was to be reached, and what was measured.

use std::fmt::Write;

use super::tables::{figure, title};
use crate::results::{Line, Results, Wanted};
use crate::systems::{Condition, Kind};
use crate::work::Work;

pub const EXPLANATION: &str = "## What was to be reached\n\n\
    Ratios to the single PostgreSQL of the same run; *met* is computed.\n\n";

const DECLARATIVE: [Work; 3] = [Work::Insert, Work::Update, Work::Session];
const ARBITRARY: [Work; 4] = [
    Work::InsertSql,
    Work::UpdateSql,
    Work::InsertClosure,
    Work::UpdateClosure,
];

/// One line of the table of targets: at least so much with 1, 8 and 32 clients.
struct Target {
    condition: Condition,
    works: &'static [Work],
    kind: Kind,
    at_least: [f64; 3],
}

const CLIENTS: [usize; 3] = [1, 8, 32];

const TARGETS: [Target; 4] = [
    Target {
        condition: Condition::Plain,
        works: &DECLARATIVE,
        kind: Kind::One,
        at_least: [0.35, 0.8, 1.2],
    },
    Target {
        condition: Condition::Plain,
        works: &DECLARATIVE,
        kind: Kind::Two,
        at_least: [0.30, 0.7, 1.0],
    },
    Target {
        condition: Condition::Plain,
        works: &ARBITRARY,
        kind: Kind::One,
        at_least: [0.20, 0.40, 0.55],
    },
    Target {
        condition: Condition::SlowFlush,
        works: &[Work::Insert],
        kind: Kind::One,
        at_least: [0.75, 1.0, 1.3],
    },
];

/// At most so many times the p99 of the single server.
const P99_AT_MOST: f64 = 3.0;

/// Reads are at least this good.
const READS_AT_LEAST: f64 = 0.95;

/// Through HTTP and HAProxy, against the minimal program; and against PHP where there is a session.
const HTTP_AT_LEAST: f64 = 0.8;
const SESSION_AT_LEAST: f64 = 4.0;

/// The table.
pub fn table(results: &Results) -> String {
    let mut out = Table::default();
    for target in &TARGETS {
        for work in target.works {
            for (clients, wanted) in CLIENTS.into_iter().zip(target.at_least) {
                let figures = results.figures(target.condition, *work, clients, target.kind);
                let name = name(target.condition, *work, target.kind);
                at_least(&mut out, &name, clients, wanted, figures.and_then(|f| f.ratio));
            }
        }
    }
    for work in [Work::Point, Work::List] {
        for clients in CLIENTS {
            let figures = results.figures(Condition::Plain, work, clients, Kind::One);
            let name = name(Condition::Plain, work, Kind::One);
            at_least(
                &mut out,
                &name,
                clients,
                READS_AT_LEAST,
                figures.and_then(|f| f.ratio),
            );
        }
    }
    for kind in [Kind::One, Kind::Two] {
        for work in DECLARATIVE {
            for clients in CLIENTS {
                let figures = results.figures(Condition::Plain, work, clients, kind);
                let name = format!("p99 of {}", name(Condition::Plain, work, kind));
                at_most(
                    &mut out,
                    &name,
                    clients,
                    P99_AT_MOST,
                    figures.and_then(|f| f.p99_ratio),
                );
            }
        }
    }
    for (work, wanted) in [
        (Work::Point, HTTP_AT_LEAST),
        (Work::List, HTTP_AT_LEAST),
        (Work::Session, SESSION_AT_LEAST),
    ] {
        for clients in CLIENTS {
            let figures = results.figures(Condition::Http, work, clients, Kind::Two);
            let name = name(Condition::Http, work, Kind::Two);
            at_least(&mut out, &name, clients, wanted, figures.and_then(|f| f.ratio));
        }
    }
    for Line {
        what,
        wanted,
        measured,
        unit,
    } in &results.lines
    {
        let (limit, met) = match *wanted {
            Wanted::AtLeast(limit) => (format!("{} {unit}", figure(limit)), *measured >= limit),
            Wanted::AtMost(limit) => (format!("at most {} {unit}", figure(limit)), *measured <= limit),
            Wanted::Shown => continue,
        };
        out.row(what, "", &limit, &format!("{} {unit}", figure(*measured)), met);
    }
    out.text()
}

fn name(condition: Condition, work: Work, kind: Kind) -> String {
    match condition {
        Condition::Plain => format!("{work}, {kind}"),
        Condition::SlowFlush => format!("{work}, {kind}, 1 ms added to every fsync"),
        Condition::SlowLink => format!("{work}, {kind}, 0.5 ms added to every round trip"),
        Condition::Http => format!("{} through HTTP and HAProxy", title(condition, work)),
    }
}

fn at_least(out: &mut Table, what: &str, clients: usize, wanted: f64, measured: Option<f64>) {
    let limit = format!("{wanted:.2}");
    out.figure(what, clients, &limit, measured, |measured| measured >= wanted);
}

fn at_most(out: &mut Table, what: &str, clients: usize, wanted: f64, measured: Option<f64>) {
    let limit = format!("at most {wanted:.1}");
    out.figure(what, clients, &limit, measured, |measured| measured <= wanted);
}

/// What was measured; what was not is only counted.
#[derive(Default)]
struct Table {
    rows: String,
    met: usize,
    not_met: usize,
    not_measured: usize,
}

impl Table {
    fn figure(
        &mut self,
        what: &str,
        clients: usize,
        wanted: &str,
        measured: Option<f64>,
        met: impl Fn(f64) -> bool,
    ) {
        match measured {
            Some(measured) => {
                let shown = format!("{measured:.2}");
                self.row(what, &clients.to_string(), wanted, &shown, met(measured));
            }
            None => self.not_measured += 1,
        }
    }

    fn row(&mut self, what: &str, clients: &str, wanted: &str, measured: &str, met: bool) {
        let shown = if met { "yes" } else { "**no**" };
        let _ = writeln!(
            self.rows,
            "| {what} | {clients} | {wanted} | {measured} | {shown} |"
        );
        if met {
            self.met += 1;
        } else {
            self.not_met += 1;
        }
    }

    fn text(self) -> String {
        format!(
            "{} met, {} not met, {} not measured in this run.\n\n\
             | what | clients | wanted | measured | met |\n|---|---:|---:|---:|---|\n{}",
            self.met, self.not_met, self.not_measured, self.rows
        )
    }
}
