//! `kambana compare`: the proof that the databases are identical.

use std::time::Duration;

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use indicatif::ProgressBar;
use similar::{ChangeTag, TextDiff};

use super::databases::{DatabaseArgs, pool_config};
use super::{Failure, Verdict, say};
use crate::multipool::{self, Comparison, Difference, TableComparison};

/// Compare every watched table in all databases, row for row, while writes go on
///
/// Counts and digests first, then the differing rows with what each database holds. Writers wait for the few
/// milliseconds in which every database takes its snapshot. Asks the databases of a running `kambana up`, or those that
/// the environment names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana compare
  kambana compare --json
  kambana compare --data /srv/kambana

Exit codes:
  0  identical
  1  different
  2  a database does not answer, or a setting is wrong")]
pub struct CompareArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: CompareArgs) -> Result<Verdict, Failure> {
    let config = pool_config(args.databases)?;
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
    Ok(if comparison.identical {
        Verdict::Fine
    } else {
        Verdict::Degraded
    })
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
    say(if comparison.identical {
        "identical"
    } else {
        "DIFFERENT"
    });
}

/// The first side's row, and how each other one differs from it, a column a line.
fn print_difference(table: &TableComparison, difference: &Difference) {
    say(format!("  key {}", difference.key));
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
fn plain(value: &str) -> String {
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
