//! `kambana compare`: the proof that every side holds the same rows.

use clap::Args;
use comfy_table::Table;

use super::databases::{DatabaseArgs, pool_config};
use super::{Failure, Verdict, say};
use crate::multipool::{Comparison, MAX_DIFFERENCES, TableComparison, compare};

/// An image is cut after this many characters on a terminal; `--json` has all of it.
const SHOWN: usize = 200;

/// Compare every watched table on every side, row for row, while writes go on
///
/// Every side takes its snapshot at one moment between two writes, so a difference is a difference, never a write on its
/// way. A side that is out has to answer too: start it first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana compare
  kambana compare --json | jq '.tables[] | select(.differing > 0)'

Exit codes:
  0  identical
  1  different
  2  a side does not answer, or a setting is missing or wrong")]
pub struct CompareArgs {
    /// Print the result for a program
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    databases: DatabaseArgs,
}

pub async fn run(args: CompareArgs) -> Result<Verdict, Failure> {
    let config = pool_config(args.databases)?;
    let result = compare(&config).await?;
    match args.json {
        true => say(serde_json::to_string_pretty(&result)?),
        false => print(&result),
    }
    match result.identical {
        true => Ok(Verdict::Fine),
        false => Ok(Verdict::Degraded),
    }
}

fn print(result: &Comparison) {
    let mut shown = Table::new();
    shown.load_style(comfy_table::presets::NOTHING);
    let mut header = vec!["table".to_owned()];
    if let Some(first) = result.tables.first() {
        header.extend(first.rows.ids().map(|side| format!("rows of {side}")));
        header.extend(first.rows.ids().map(|side| format!("digest of {side}")));
    }
    header.push("differing rows".into());
    shown.set_header(header);
    for table in &result.tables {
        let mut row = vec![table.table.clone()];
        row.extend(table.rows.iter().map(|(_, rows)| rows.to_string()));
        row.extend(table.digest.iter().map(|(_, digest)| digest.clone()));
        row.push(table.differing.to_string());
        shown.add_row(row);
    }
    say(shown);
    for table in result.tables.iter().filter(|table| table.differing > 0) {
        print_differences(table);
    }
    say(match result.identical {
        true => format!("identical (epoch {})", result.epoch),
        false => format!("DIFFERENT (epoch {})", result.epoch),
    });
}

fn print_differences(table: &TableComparison) {
    say(format!("\n{} ({}):", table.table, table.columns.join(", ")));
    for difference in &table.differences {
        say(format!("  {}", difference.key));
        for (side, image) in difference.images.iter() {
            say(format!(
                "    {side}: {}",
                image.as_deref().map_or("no such row".into(), cut)
            ));
        }
    }
    if table.differing > table.differences.len() {
        say(format!(
            "  the first {MAX_DIFFERENCES} of {} differing rows",
            table.differing
        ));
    }
}

/// For a terminal: one line, no control characters.
fn cut(image: &str) -> String {
    let mut shown: String = image
        .chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if image.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_fit_a_terminal() {
        assert_eq!(cut("(1,\"a\nb\u{1b}[2J\")"), "(1,\"a b [2J\")");
        assert_eq!(cut(&"é".repeat(SHOWN + 1)).chars().count(), SHOWN + 1);
    }
}
