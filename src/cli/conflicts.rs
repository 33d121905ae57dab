//! `kambana conflicts`: rows that were changed in two databases at once, and what a person decides about them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use serde_json::{Value, json};
use uuid::Uuid;

use super::compare::plain;
use super::status::{text, to_seconds, urls};
use super::{Failure, Verdict, say};
use crate::local::http;

/// Longer than an operation may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// List, show and decide rows that were changed in two databases at once
///
/// Both versions of such a row are kept; one is in effect everywhere. Which one, the rule of the table says (kambana watch
/// TABLE --on-conflict); with the rule `ask` a person decides here. Also lists changes that a database refuses: they are
/// tried again by themselves. Asks a running instance: the one named with --url, or those of a `kambana up`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana conflicts
  kambana conflicts show 4b8e21c07f6a
  kambana conflicts choose 4b8e21c07f6a lost
  kambana conflicts dismiss 4b8e21c07f6a

Exit codes:
  0  no conflict waits for a person; or the decision was carried out
  1  conflicts wait for a person, or a database refuses changes; or the row was changed since, and nothing was written
  2  no instance answers, or there is no such conflict")]
pub struct ConflictsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print the instance's answer as it is
    #[arg(long, global = true)]
    json: bool,
    /// Base URL of an instance
    #[arg(long, global = true)]
    url: Option<String>,
    /// Data directory of a running `kambana up` [default: var]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Both versions of a row, column by column
    Show { id: String },
    /// Decide for the version in effect (kept) or for the other one (lost)
    Choose {
        id: String,
        version: Version,
        /// Name of the operation; repeating the command with it writes nothing twice
        #[arg(long)]
        op_id: Option<Uuid>,
    },
    /// Take a conflict off the list without deciding
    Dismiss { id: String },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Version {
    /// The row in effect
    Kept,
    /// The row that gave way: it is written as an ordinary operation
    Lost,
}

pub async fn run(args: ConflictsArgs) -> Result<Verdict, Failure> {
    let urls = urls(args.url, args.data)?;
    match args.action {
        None => list(&urls, args.json).await,
        Some(Action::Show { id }) => show(&urls, &id, args.json).await,
        Some(Action::Choose { id, version, op_id }) => {
            let choose = match version {
                Version::Kept => "kept",
                Version::Lost => "lost",
            };
            decide(&urls, &id, choose, op_id, args.json).await
        }
        Some(Action::Dismiss { id }) => decide(&urls, &id, "dismiss", None, args.json).await,
    }
}

/// The first answer of an instance; one that is down is no reason not to ask the next one.
async fn ask(urls: &[String], path: &str) -> Result<(u16, Value), Failure> {
    let mut refusals = Vec::new();
    for url in urls {
        let url = format!("{}{path}", url.trim_end_matches('/'));
        match http::get(&url, DEADLINE).await {
            Ok(answer) if answer.status != 503 => {
                return Ok((answer.status, serde_json::from_slice(&answer.body)?));
            }
            Ok(answer) => refusals.push(format!("{url}: status {}", answer.status)),
            Err(why) => refusals.push(format!("{url}: {why}")),
        }
    }
    Err(Failure(format!(
        "no instance answers\n    {}",
        refusals.join("\n    ")
    )))
}

async fn list(urls: &[String], json: bool) -> Result<Verdict, Failure> {
    let (_, answer) = ask(urls, "/api/conflicts").await?;
    let empty = Vec::new();
    let conflicts = answer["conflicts"].as_array().unwrap_or(&empty);
    let held = answer["held"].as_array().unwrap_or(&empty);
    let open = conflicts.iter().filter(|c| c["state"] == "open").count();
    if json {
        say(serde_json::to_string_pretty(&answer)?);
    } else {
        if !conflicts.is_empty() {
            let mut table = Table::new();
            table.load_style(UTF8_BORDERS_ONLY);
            table.set_header([
                "conflict",
                "table",
                "row",
                "state",
                "in effect",
                "gave way",
                "rule",
                "found",
            ]);
            for c in conflicts {
                table.add_row([
                    text(&c["id"]),
                    text(&c["table"]),
                    plain(
                        c["key"]
                            .as_str()
                            .filter(|key| !key.is_empty())
                            .unwrap_or("(whole table)"),
                    ),
                    text(&c["state"]),
                    text(&c["kept_side"]),
                    text(&c["lost_side"]),
                    text(&c["rule"]),
                    to_seconds(&text(&c["at"])),
                ]);
            }
            say(table);
        }
        for h in held {
            let row = h["key"]
                .as_str()
                .filter(|key| !key.is_empty())
                .unwrap_or("(whole table)");
            say(format!(
                "refused: {} {}, from {} to {}, since {}, tried {} times: {}",
                text(&h["table"]),
                plain(row),
                text(&h["from"]),
                text(&h["to"]),
                to_seconds(&text(&h["since"])),
                text(&h["tries"]),
                plain(&text(&h["reason"])),
            ));
        }
        say(format!(
            "{open} conflict(s) to decide, {} change(s) refused",
            held.len()
        ));
    }
    Ok(match open == 0 && held.is_empty() {
        true => Verdict::Fine,
        false => Verdict::Degraded,
    })
}

async fn show(urls: &[String], id: &str, json: bool) -> Result<Verdict, Failure> {
    let (status, conflict) = ask(urls, &format!("/api/conflicts/{id}")).await?;
    if status != 200 {
        return Err(Failure(text(&conflict["detail"])));
    }
    if json {
        say(serde_json::to_string_pretty(&conflict)?);
        return Ok(Verdict::Fine);
    }
    say(format!(
        "{} {}: {} (rule {})",
        text(&conflict["table"]),
        plain(&text(&conflict["key"])),
        text(&conflict["state"]),
        text(&conflict["rule"])
    ));
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([
        String::new(),
        "column".to_owned(),
        format!("in effect, from {}", text(&conflict["kept_side"])),
        format!("gave way, from {}", text(&conflict["lost_side"])),
    ]);
    for column in conflict["columns"].as_array().into_iter().flatten() {
        let value = |of: &str, exists: &str| match (&conflict[exists], column[of].as_str()) {
            (Value::Bool(false), _) => "(no such row)".to_owned(),
            (_, None) => "NULL".to_owned(),
            (_, Some(value)) => plain(value),
        };
        let mark = if column["differs"] == true { "≠" } else { "" };
        table.add_row([
            mark.to_owned(),
            text(&column["name"]),
            value("kept", "kept_exists"),
            value("lost", "lost_exists"),
        ]);
    }
    say(table);
    Ok(Verdict::Fine)
}

async fn decide(
    urls: &[String],
    id: &str,
    choose: &str,
    op_id: Option<Uuid>,
    json: bool,
) -> Result<Verdict, Failure> {
    // One name for every instance that is asked: whoever did it, it is done once.
    let op = op_id.unwrap_or_else(Uuid::now_v7);
    let mut refusals = Vec::new();
    for url in urls {
        let url = format!("{}/api/conflicts/{id}", url.trim_end_matches('/'));
        let body = json!({ "choose": choose });
        let answer = match http::post(&url, &body, &op.to_string(), DEADLINE).await {
            Ok(answer) if answer.status != 503 => answer,
            Ok(answer) => {
                refusals.push(format!("{url}: status {}", answer.status));
                continue;
            }
            Err(why) => {
                refusals.push(format!("{url}: {why}"));
                continue;
            }
        };
        let said: Value = serde_json::from_slice(&answer.body)?;
        if json {
            say(serde_json::to_string_pretty(&said)?);
        }
        return match answer.status {
            200 => {
                if !json {
                    say(match said["chosen"].as_str() {
                        Some("written") => {
                            format!("the other version is in effect in every database (operation {op})")
                        }
                        Some("already_in_effect") => {
                            "the other version was in effect already; noted".to_owned()
                        }
                        _ => "noted; no row was changed".to_owned(),
                    });
                }
                Ok(Verdict::Fine)
            }
            409 => {
                if !json {
                    say(text(&said["detail"]));
                }
                Ok(Verdict::Degraded)
            }
            202 => Err(Failure(format!(
                "the outcome of operation {op} is not known yet; repeat with --op-id {op}"
            ))),
            _ => Err(Failure(text(&said["detail"]))),
        };
    }
    Err(Failure(format!(
        "no instance carried it out (operation {op})\n    {}",
        refusals.join("\n    ")
    )))
}
