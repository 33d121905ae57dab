//! Where and with what it was measured.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::systems::{filesystem, is_in_memory};

/// A machine that is busier than this is no place to measure.
const BUSY: f64 = 0.1;

/// Lines of a Markdown list. `busy`: what others used of the processors before and after the run.
pub fn lines(dir: &Path, begun: &str, busy: [f64; 2]) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kind = filesystem(dir).unwrap_or_else(|| "unknown file system".into());
    let warning = match is_in_memory(dir) {
        true => " (**in memory: a flush costs nothing, and the figures mean nothing**)",
        false => "",
    };
    let mut lines = vec![
        format!(
            "machine: {}, {cores} cores, {:.1} GB of memory, Linux {}, databases on {kind}{warning}",
            cpu_model(),
            memory_gb(),
            kernel()
        ),
        format!("{}, HAProxy {}, {}", postgres(), haproxy(), pgpool()),
        format!("commit: {}", commit()),
        format!("command: `cargo bench --bench report -- {}`", arguments()),
        format!("begun {begun}, ended {}", now()),
    ];
    if cfg!(debug_assertions) {
        lines.push("**Not compiled for speed: the figures mean nothing.**".into());
    }
    let [before, after] = busy.map(|part| part * 100.0);
    lines.push(match busy.iter().any(|part| *part > BUSY) {
        true => format!(
            "**The machine was busy with other work ({before:.0} % of its processors before, {after:.0} % after): the \
             figures are too low, and the ratios are only a hint.**"
        ),
        false => format!("other work on the machine: {before:.0} % of its processors before, {after:.0} % after"),
    });
    lines
}

/// Part of the processors that is used in this second, by whatever runs.
pub fn busy() -> f64 {
    let times = || -> Option<(f64, f64)> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let line = text.lines().next()?;
        let fields: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        // Idle, and waiting for a disk.
        Some((fields.iter().sum(), fields.get(3)? + fields.get(4)?))
    };
    let before = times();
    std::thread::sleep(Duration::from_secs(1));
    match (before, times()) {
        (Some((all, idle)), Some((all_after, idle_after))) if all_after > all => {
            1.0 - (idle_after - idle) / (all_after - all)
        }
        _ => 0.0,
    }
}

fn arguments() -> String {
    let all: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    all.join(" ")
}

/// For people.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn commit() -> String {
    let version = said("git", &["describe", "--always", "--dirty", "--abbrev=12"]);
    version.unwrap_or_else(|| "unknown".into())
}

fn postgres() -> String {
    kambana::local::Programs::find()
        .ok()
        .and_then(|programs| said(programs.postgres.first()?.bin.join("postgres"), &["--version"]))
        .unwrap_or_default()
        .replace("postgres (PostgreSQL)", "PostgreSQL")
}

fn pgpool() -> String {
    let version = crate::systems::pgpool_version();
    version.unwrap_or_else(|| "pgpool-II not installed".into())
}

fn haproxy() -> String {
    let program = kambana::local::Programs::find().and_then(|programs| programs.haproxy());
    let version = program.ok().and_then(|program| said(&program, &["-v"]));
    let word = version.and_then(|version| version.split_whitespace().nth(2).map(str::to_owned));
    word.unwrap_or_else(|| "not installed".into())
}

/// First line of what a program says; some say their version as if it were an error.
pub fn said(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = if output.stdout.is_empty() {
        &output.stderr
    } else {
        &output.stdout
    };
    let text = String::from_utf8_lossy(said).into_owned();
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or("").trim().to_owned())
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(':'));
    model.map_or_else(
        || std::env::consts::ARCH.into(),
        |(_, model)| model.trim().to_owned(),
    )
}

fn memory_gb() -> f64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: Option<f64> = info
        .lines()
        .find(|line| line.starts_with("MemTotal:"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kilobytes.unwrap_or(0.0) / 1024.0 / 1024.0
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}
