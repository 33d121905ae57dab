//! `kambana drill`: try to break it.

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use uuid::Uuid;

use super::up::Signals;
use super::{Failure, Verdict, data_dir, say, shell_word};
use crate::drill::matrix::Matrix;
use crate::drill::plan::kinds;
use crate::drill::report::Report;
use crate::drill::{self, DrillOptions, Where};
use crate::local::record::Record;

/// Break one thing after another under load, and prove that nothing is lost
///
/// Clients insert, change, read and delete rows of their own through HAProxy while databases and instances are crashed,
/// frozen and stopped by a plan that follows from the seed. After each fault the cluster must heal by itself. In the end
/// every answer that a client got is held against every row of every database, read with plain SQL.
///
/// Works on the `kambana up` that runs on the data directory; if none does, on a cluster of its own in a temporary
/// directory. Rows of others are never touched, and its own are deleted afterwards. Ctrl-C ends it early: what is broken is
/// mended, and the verdict so far is given.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana drill
  kambana drill --minutes 10 --report drill.html
  kambana drill --seed 4711 --own                        the same faults again, on a fresh cluster
  kambana drill --faults crash-side,freeze-web --json > 1.json
  kambana drill --table 1.json 2.json                    many drills in one table (Markdown)

Exit codes:
  0  nothing lost, doubled or different, every outcome final, no request failed that should not
  1  a promise was broken: the lines above the verdict say which row, operation and time, and where the logs are
  2  the drill itself could not be carried out")]
pub struct DrillArgs {
    /// For how long faults are made
    #[arg(long, value_name = "N", default_value = "2", value_parser = minutes)]
    minutes: Duration,
    /// Decides which faults, on what, when [default: a random one]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Data directory of the running `kambana up` [default: var]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// On a cluster of its own, whatever runs
    #[arg(long, conflicts_with = "data")]
    own: bool,
    /// Write the result as a page for a browser
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Print the result as JSON; what happens goes to standard error
    #[arg(long)]
    json: bool,
    /// Only these faults, separated by commas (names in brackets in the output)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    faults: Vec<String>,
    /// Clients that write at the same time
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=32))]
    clients: u16,
    /// Break nothing: read the JSON of earlier drills and print them as one table
    #[arg(long, value_name = "FILE.json", num_args = 1.., exclusive = true)]
    table: Vec<PathBuf>,
    /// A gap longer than promised counts as a broken promise too (for a machine that does nothing else)
    #[arg(long)]
    strict: bool,
}

fn minutes(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.05..=60.0).contains(&minutes) => Ok(Duration::from_secs_f64(minutes * 60.0)),
        _ => Err("a number of minutes from 0.05 to 60".into()),
    }
}

pub async fn run(args: DrillArgs) -> Result<Verdict, Failure> {
    if !args.table.is_empty() {
        return table(&args.table);
    }
    let mut signals = Signals::new()?;
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(Uuid::new_v4().as_fields().0));
    let kinds = kinds(&args.faults)?;
    if let Some(file) = &args.report {
        // Found out now, not after ten minutes.
        fs::write(file, "").map_err(|e| Failure(format!("cannot write {}: {e}", file.display())))?;
    }
    let json = args.json;
    let tell = move |what: &str| {
        let line = format!("{}  {what}", jiff::Zoned::now().strftime("%H:%M:%S"));
        match json {
            true => eprintln!("{line}"),
            false => say(line),
        }
    };
    let place = place(&args)?;
    if let (Where::Own(_), false) = (&place, args.own) {
        tell(
            "no `kambana up` runs here: the drill makes a cluster of its own (--data DIR names another one)",
        );
    }
    let (stop, stopped) = watch::channel(false);
    let ctrl_c = tokio::spawn(async move {
        signals.next().await;
        let _ = stop.send(true);
        // A second one changes nothing: what is broken must be mended first. Everything has a deadline.
        loop {
            signals.next().await;
        }
    });
    tell(&format!(
        "drill with seed {seed}; Ctrl-C ends it early and mends what is broken"
    ));
    let options = DrillOptions {
        command: command(&args, seed),
        seed,
        time: args.minutes,
        clients: usize::from(args.clients),
        kinds,
        program: std::env::current_exe()?,
        place: place.clone(),
    };
    let result = drill::run(options, Arc::new(tell), stopped).await;
    ctrl_c.abort();
    let kept = result.as_ref().is_ok_and(|report| !report.is_fine()) || result.is_err();
    if let Where::Own(dir) = &place {
        match kept {
            true => tell(&format!(
                "kept for a look: {0} (`kambana up --data {0}`)",
                dir.display()
            )),
            false => fs::remove_dir_all(dir)
                .unwrap_or_else(|e| tell(&format!("cannot delete {}: {e}", dir.display()))),
        }
    }
    let report = result?;
    if let Some(file) = &args.report {
        fs::write(file, report.to_html()?)
            .map_err(|e| Failure(format!("cannot write {}: {e}", file.display())))?;
        tell(&format!("the page is in {}", file.display()));
    }
    match json {
        true => say(serde_json::to_string_pretty(&report.to_json())?),
        false => print(&report),
    }
    let slow = args.strict && report.verdict.slow > 0;
    Ok(match report.is_fine() && !slow {
        true => Verdict::Fine,
        false => Verdict::Degraded,
    })
}

fn table(files: &[PathBuf]) -> Result<Verdict, Failure> {
    let mut matrix = Matrix::default();
    for file in files {
        let named = |e: &dyn Display| Failure(format!("{}: {e}", file.display()));
        let text = fs::read(file).map_err(|e| named(&e))?;
        let report = serde_json::from_slice(&text).map_err(|e| named(&e))?;
        matrix.add(&report).map_err(|e| named(&e))?;
    }
    say(matrix.to_markdown());
    Ok(match matrix.is_fine() {
        true => Verdict::Fine,
        false => Verdict::Degraded,
    })
}

/// On what runs; on something of its own where nothing does, unless a directory was named.
fn place(args: &DrillArgs) -> Result<Where, Failure> {
    let dir = data_dir(args.data.clone());
    let runs = Record::read(&dir).is_ok_and(|record| record.up.is_some_and(|up| up.is_alive()));
    if !args.own && (runs || args.data.is_some()) {
        return Ok(Where::Attached(dir));
    }
    let dir = std::env::temp_dir().join(format!("kambana-drill-{}", Uuid::new_v4().simple()));
    fs::create_dir(&dir).map_err(|e| Failure(format!("cannot make {}: {e}", dir.display())))?;
    Ok(Where::Own(dir))
}

fn command(args: &DrillArgs, seed: u64) -> String {
    let mut words = vec![
        "kambana drill".to_owned(),
        format!("--seed {seed}"),
        format!("--minutes {}", (args.minutes.as_secs_f64() / 0.6).round() / 100.0),
        format!("--clients {}", args.clients),
    ];
    if !args.faults.is_empty() {
        words.push(format!("--faults {}", args.faults.join(",")));
    }
    match &args.data {
        Some(dir) => words.push(format!("--data {}", shell_word(&dir.to_string_lossy()))),
        None if args.own => words.push("--own".into()),
        None => {}
    }
    words.join(" ")
}

fn print(report: &Report) {
    let verdict = &report.verdict;
    say("");
    for finding in &verdict.findings {
        let at = finding
            .at
            .map(|at| format!(" at {:.1} s", at.as_secs_f64()))
            .unwrap_or_default();
        let on = match finding.sides.is_empty() {
            true => String::new(),
            false => format!(" on side {}", finding.sides.join(", ")),
        };
        say(format!("{}{on}{at}: {}", finding.wrong, finding.says));
    }
    if verdict.cut_off > 0 {
        say(format!(
            "{} requests were cut off with what they needed, and repeated under their names",
            verdict.cut_off
        ));
    }
    if verdict.slow > 0 {
        say(format!(
            "{} of {} faults took longer than promised (on a machine with {} cores that may be busy)",
            verdict.slow,
            report.faults.len(),
            report.machine.cores
        ));
    }
    for left in &report.left {
        say(left);
    }
    say(verdict);
    match (report.is_fine(), verdict.acknowledged) {
        (true, _) => say(format!(
            "every promise was kept, through {} faults",
            report.faults.len()
        )),
        (false, 0) => say("NOTHING was written: this proves nothing"),
        (false, _) => say(format!("A PROMISE WAS BROKEN; to repeat it: {}", report.command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(minutes("0.5"), Ok(Duration::from_secs(30)));
        for wrong in ["", "0", "61", "-1", "NaN", "x"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
