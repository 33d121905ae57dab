//! `kambana compare`: the proof that the databases are identical.

use std::time::Duration;

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use indicatif::ProgressBar;
use similar::{ChangeTag, TextDiff};

use super::databases::{DatabaseArgs, pool_config};
use super::{Failure, Verdict, say};
use crate::config::PoolConfig;
use crate::multipool::{self, Comparison, Difference, TableComparison};

/// Compare every watched table in all databases, row for row, while writes go on
///
/// Counts and digests first, then the differing rows with what each database holds. Writers wait for the few
/// milliseconds in which every database takes its snapshot. A row whose change is still on its way from one database to
/// another is no difference: it is looked at again. Asks the databases of a running `kambana up`, or those that the
/// environment names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana compare
  kambana compare --json
  kambana compare --watch --every 60
  kambana compare --data /srv/kambana

Exit codes:
  0  identical (with --watch: in every round)
  1  different, or some rows did not arrive while it was looking
  2  a database does not answer, or a setting is wrong")]
pub struct CompareArgs {
    /// Print the result as JSON (with --watch: one line a round)
    #[arg(long)]
    json: bool,
    /// Compare again and again, one line a round, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Seconds between two rounds
    #[arg(long, default_value_t = 30, requires = "watch")]
    every: u64,
    /// Stop after this many rounds
    #[arg(long, requires = "watch")]
    rounds: Option<u64>,
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: CompareArgs) -> Result<Verdict, Failure> {
    let config = pool_config(args.databases.clone())?;
    if args.watch {
        return watch(&args, &config).await;
    }
    let waiting = ProgressBar::new_spinner().with_message("reading every row of every table");
    // Drawn on a terminal only, and on standard error.
    waiting.enable_steady_tick(Duration::from_millis(120));
    let compared = multipool::compare(&config).await;
    waiting.finish_and_clear();
    let comparison = compared?;
    if args.json {
        say(serde_json::to_string_pretty(&comparison)?);
    } else {
        print(&comparison);
    }
    Ok(verdict(&comparison))
}

fn verdict(comparison: &Comparison) -> Verdict {
    match comparison.identical {
        true => Verdict::Fine,
        false => Verdict::Degraded,
    }
}

/// Round after round; a database that does not answer ends it.
async fn watch(args: &CompareArgs, config: &PoolConfig) -> Result<Verdict, Failure> {
    let mut worst = Verdict::Fine;
    let mut round = 0;
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        round += 1;
        let comparison = tokio::select! {
            compared = multipool::compare(config) => compared?,
            _ = &mut stop => return Ok(worst),
        };
        if verdict(&comparison) == Verdict::Degraded {
            worst = Verdict::Degraded;
        }
        match args.json {
            true => say(serde_json::to_string(&comparison)?),
            false => say(line(round, &comparison)),
        }
        if args.rounds.is_some_and(|rounds| round >= rounds) {
            return Ok(worst);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(args.every)) => {}
            _ = &mut stop => return Ok(worst),
        }
    }
}

/// One round on one line.
fn line(round: u64, comparison: &Comparison) -> String {
    let now = jiff::Timestamp::now().strftime("%H:%M:%S");
    let named: Vec<String> = comparison
        .tables
        .iter()
        .flat_map(|t| t.differences.iter().map(move |d| (t, d)))
        .take(3)
        .map(|(t, d)| format!("{} {} ({})", t.table, plain(&d.key), d.columns.join(", ")))
        .collect();
    let found = match (comparison.differing(), comparison.explained()) {
        (0, 0) => "identical".to_owned(),
        (0, waiting) => format!("{waiting} row(s) still on their way"),
        (differing, _) => format!("DIFFERENT: {differing} row(s): {}", named.join(", ")),
    };
    format!(
        "{now}Z  round {round}  epoch {}  {} rows in {} tables  {:.0} ms, writers waited {:.1} ms  {}  {found}",
        comparison.epoch,
        comparison.rows(),
        comparison.tables.len(),
        comparison.took_ms,
        comparison.pause_ms,
        comparison.digest(),
    )
}

fn print(comparison: &Comparison) {
    let mut shown = Table::new();
    shown.load_style(UTF8_BORDERS_ONLY);
    shown.set_header(["table", "side", "rows", "digest", ""]);
    for table in &comparison.tables {
        for (side, rows) in table.rows.iter() {
            let same = table
                .digest
                .iter()
                .all(|(_, digest)| *digest == table.digest[side]);
            let verdict = if same { "" } else { "DIFFERENT" };
            shown.add_row([
                &table.table,
                &side.to_string(),
                &rows.to_string(),
                &table.digest[side],
                verdict,
            ]);
        }
    }
    say(shown);
    for table in comparison.tables.iter().filter(|t| t.differing > 0) {
        say(format!("{}: {} differing row(s)", table.table, table.differing));
        for difference in &table.differences {
            print_difference(table, difference);
        }
        if table.differing > table.differences.len() {
            say(format!(
                "  … and {} more",
                table.differing - table.differences.len()
            ));
        }
    }
    let (differing, explained) = (comparison.differing(), comparison.explained());
    if explained > 0 {
        say(format!(
            "{explained} row(s) were still on their way from one database to another; compare again"
        ));
    }
    say(match (differing, explained) {
        (0, 0) => "identical",
        (0, _) => "not identical yet",
        _ => "DIFFERENT",
    });
}

/// The first side's row, and how each other one differs from it, a column a line.
fn print_difference(table: &TableComparison, difference: &Difference) {
    say(format!(
        "  key {}, columns {}",
        plain(&difference.key),
        difference.columns.join(", ")
    ));
    let mut images = difference.images.iter();
    let Some((first, reference)) = images.next() else {
        return;
    };
    let reference = lines(table, reference.as_deref());
    for (side, image) in images {
        let image = lines(table, image.as_deref());
        for change in TextDiff::from_lines(&reference, &image).iter_all_changes() {
            let (sign, side) = match change.tag() {
                ChangeTag::Delete => ('-', first),
                ChangeTag::Insert => ('+', side),
                ChangeTag::Equal => continue,
            };
            say(format!("    {sign} {side}: {}", change.value().trim_end()));
        }
    }
}

/// On one line, without anything that a terminal would obey; different values stay different.
pub(super) fn plain(value: &str) -> String {
    let mut shown = String::new();
    for c in value.chars() {
        match c.is_control() || c == '\\' {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

fn lines(table: &TableComparison, image: Option<&str>) -> String {
    match image {
        None => "(no such row)\n".to_owned(),
        Some(image) => table
            .columns
            .iter()
            .zip(multipool::record_fields(image))
            .map(|(column, value)| format!("{column} = {}\n", value.as_deref().map_or("NULL".into(), plain)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_a_terminal_and_stay_different() {
        assert_eq!(plain("é\n\u{1b}[2J"), r"é\n\u{1b}[2J");
        assert_ne!(plain("\n"), plain(r"\n"));
    }
}
