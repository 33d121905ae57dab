//! The details.

use std::cmp::Ordering;
use std::fmt::Write;

use crate::results::Results;
use crate::systems::{Condition, Kind};
use crate::work::Work;

pub const PLAIN: &str = "## Writes and reads\n\n\
    Each client does one operation after the other. *Ratio*: to the single PostgreSQL in the same round. *CPU*: processor \
    seconds for 1000 operations, of the application (the measuring included, pgpool-II too) and of the databases. *Log*: bytes \
    of write-ahead log an operation, on all copies together. With two instances the clients are spread over them; a lone \
    client uses the first while the second is there and idle. Every instance is a process of its own, as in real life.\n\n";

pub const SLOW_FLUSH: &str = "## With 1 ms added to every fsync\n\n\
    A library that is loaded into the servers waits 1 ms before each `fsync` and `fdatasync`, as a slower disk does: what \
    arrives during a flush waits for the next one. (`commit_delay` would be the simpler way, but what arrives during that \
    pause joins the flush: it flatters many clients.)\n\n";

pub const SLOW_LINK: &str = "## With 0.5 ms added to every round trip\n\n\
    Every connection to a database goes through the project's TCP proxy, which delays requests by 0.5 ms; so does the \
    connection of the standby to its primary. The proxy costs time of its own, alike for all.\n\n";

pub const HTTP: &str = "## Through HTTP and HAProxy\n\n\
    Two instances of the web application behind HAProxy, against a minimal actix program (two processes behind the same \
    HAProxy, one PostgreSQL, the same columns, no count of all rows, no idempotency key). The page with a session is compared with \
    PHP-FPM behind HAProxy with a persistent PDO connection, which reads the session's row. *CPU application*: HAProxy and \
    the programs behind it.\n\n";

const KINDS: [Kind; 5] = [Kind::Single, Kind::One, Kind::Two, Kind::Standby, Kind::Pgpool];

/// One work under one condition.
pub fn work(results: &Results, condition: Condition, work: Work) -> String {
    let mut out = format!(
        "### {}\n\n| clients | system | per second | ratio | p50 ms | p99 ms | CPU application | CPU databases | log bytes |\n\
         |---:|---|---:|---:|---:|---:|---:|---:|---:|\n",
        title(condition, work)
    );
    for clients in results.clients(condition, work) {
        for kind in KINDS {
            // What it is compared with was measured under another name.
            let measured_as = if kind == Kind::Single { work.plain() } else { work };
            let Some(f) = results.figures(condition, measured_as, clients, kind) else {
                continue;
            };
            let _ = writeln!(
                out,
                "| {clients} | {} | {:.0} | {} | {:.2} | {:.2} | {:.3} | {:.3} | {} |",
                name(condition, work, kind),
                f.rate,
                ratio(f.ratio),
                f.p50_ms,
                f.p99_ms,
                f.cpu_s[0],
                f.cpu_s[1],
                if work.writes() && condition != Condition::Http {
                    format!("{:.0}", f.log_bytes)
                } else {
                    "-".into()
                }
            );
        }
    }
    out.push('\n');
    out
}

/// What a work is called.
pub fn title(condition: Condition, work: Work) -> String {
    match (condition, work) {
        (Condition::Http, Work::Point) => "H1 point read".into(),
        (Condition::Http, Work::List) => "H2 list of 25".into(),
        (Condition::Http, Work::Insert) => "H3 write".into(),
        (Condition::Http, _) => "page with a session".into(),
        (_, work) => work.to_string(),
    }
}

/// What a system is called.
fn name(condition: Condition, work: Work, kind: Kind) -> String {
    match (condition, work, kind) {
        (Condition::Http, Work::Session, Kind::Single) => "PHP-FPM".into(),
        (Condition::Http, _, Kind::Single) => "minimal actix".into(),
        (Condition::Http, ..) => "Kambana".into(),
        (.., kind) => kind.to_string(),
    }
}

/// Figures that stand for themselves.
pub fn lines(results: &Results) -> String {
    if results.lines.is_empty() {
        return String::new();
    }
    let mut out = String::from("## Large tables, memory, start\n\n| what | measured |\n|---|---:|\n");
    for line in &results.lines {
        let _ = writeln!(out, "| {} | {} {} |", line.what, figure(line.measured), line.unit);
    }
    out.push('\n');
    out
}

/// With as many digits as make sense.
pub fn figure(value: f64) -> String {
    match value {
        large if large >= 100.0 => format!("{large:.0}"),
        value => format!("{value:.2}"),
    }
}

/// A ratio, if there is one.
fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"))
}

/// Statements that cost less than this part of all are left out.
const WORTH_A_LINE: f64 = 0.01;

/// Where the time of a write goes on the servers.
pub fn profiles(results: &Results) -> String {
    let mut out = String::new();
    for profile in &results.profiles {
        let [application, databases] = profile.cpu_us;
        let whole: f64 = profile
            .statements
            .iter()
            .filter(|s| !s.inside)
            .map(|s| s.us)
            .sum();
        let _ = write!(
            out,
            "### {}, {}, {} clients\n\n{application:.0} µs of processor time an operation in the application and \
             {databases:.0} in the databases; of these {whole:.0} in these statements, the rest in messages, plans, commits and \
             what runs beside.\n\n| copy | statement | calls an operation | µs a call | µs an operation |\n|---|---|---:|---:|---:|\n",
            profile.work, profile.kind, profile.clients
        );
        let mut shown: Vec<_> = profile.statements.iter().collect();
        shown.retain(|s| s.us > whole * WORTH_A_LINE);
        shown.sort_by(|s, t| {
            (&s.side, t.us)
                .partial_cmp(&(&t.side, s.us))
                .unwrap_or(Ordering::Equal)
        });
        for statement in shown {
            let _ = writeln!(
                out,
                "| {} | {}`{}` | {:.3} | {:.0} | {:.1} |",
                statement.side,
                if statement.inside { "(inside) " } else { "" },
                statement.name.replace('|', " "),
                statement.calls,
                statement.us / statement.calls,
                statement.us
            );
        }
        out.push('\n');
    }
    match out.is_empty() {
        true => out,
        false => format!(
            "## Where a write's time goes on the servers\n\nAs `pg_stat_statements` counts it, from the start of a statement's \
             execution to its end; *inside*: run by a function, so its time is in the function's line too. The counting itself \
             makes everything slower.\n\n{out}"
        ),
    }
}

/// Flushes of the log.
pub fn costs(results: &Results) -> String {
    if results.costs.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "## Flushes of the log a write\n\nOn all copies together, as the servers count them (the primary alone for the \
         standby); heartbeats of the pool included.\n\n| work | clients |",
    );
    let kinds: Vec<Kind> = KINDS
        .into_iter()
        .filter(|kind| results.costs.iter().any(|cost| cost.kind == *kind))
        .collect();
    for kind in &kinds {
        let _ = write!(out, " {kind} |");
    }
    let _ = write!(out, "\n|---|---:|{}\n", "---:|".repeat(kinds.len()));
    let mut rows: Vec<(Work, usize)> = results
        .costs
        .iter()
        .map(|cost| (cost.work, cost.clients))
        .collect();
    rows.dedup();
    for (work, clients) in rows {
        let _ = write!(out, "| {work} | {clients} |");
        for kind in &kinds {
            let cost = results
                .costs
                .iter()
                .find(|cost| (cost.work, cost.clients, cost.kind) == (work, clients, *kind));
            let _ = write!(
                out,
                " {} |",
                cost.map_or_else(|| "-".into(), |cost| format!("{:.2}", cost.flushes))
            );
        }
        out.push('\n');
    }
    out.push('\n');
    out
}

/// Memory of the instances.
pub fn memory(results: &Results) -> String {
    let plain = results
        .memory
        .iter()
        .filter(|(condition, ..)| *condition == Condition::Plain);
    let mut out = String::new();
    for (_, kind, idle, most) in plain {
        let _ = writeln!(out, "| {kind} | {idle:.0} | {most:.0} |");
    }
    match out.is_empty() {
        true => out,
        false => format!(
            "## Memory of an instance\n\nResident megabytes of the process that does the work, the measuring (every latency \
             is kept) included.\n\n| system | at the start | at most |\n|---|---:|---:|\n{out}\n"
        ),
    }
}

/// Were the copies equal, what failed, what was left out.
pub fn verdicts(results: &Results) -> String {
    let mut out = String::from(
        "## Were the copies equal?\n\nNumber and digest of all rows, by plain SQL on every copy, after everything was \
         measured; and every acknowledged insert is there.\n\n| system | equal | |\n|---|---|---|\n",
    );
    for (system, _, verdict) in &results.verdicts {
        let equal = if verdict.well { "yes" } else { "**no**" };
        let _ = writeln!(out, "| {system} | {equal} | {} |", verdict.what);
    }
    out.push('\n');
    for (place, _, count, why) in &results.failures {
        let _ = writeln!(out, "- **failed**: {place}: {count} operations, the first: {why}");
    }
    for (condition, kind, why) in &results.skipped {
        let _ = writeln!(out, "- skipped: {condition:?}: {kind}: {why}");
    }
    out
}
