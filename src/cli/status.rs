//! `kambana status`: the state of every side, as an instance sees it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use comfy_table::Table;
use serde_json::Value;

use super::{Failure, Verdict, data_dir, say};
use crate::local::{LocalError, http, record::Record};

/// For one instance to answer; its status needs no database.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many of the latest events are shown.
const EVENTS: usize = 5;

/// Show the state of each side, the membership and what happened last
///
/// Asks a running instance: the one named with --url, or those of a `kambana up` on the data directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana status
  kambana status --url http://127.0.0.1:8001
  kambana status --json | jq .epoch

Exit codes:
  0  every side is active
  1  degraded: a side is out or catching up, rows differ or are refused, or nothing can be written
  2  no instance answers")]
pub struct StatusArgs {
    /// Print the instance's answer as it is
    #[arg(long)]
    json: bool,
    /// Base URL of an instance
    #[arg(long)]
    url: Option<String>,
    /// Data directory of a running `kambana up` [default: var]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub async fn run(args: StatusArgs) -> Result<Verdict, Failure> {
    let status = ask(&urls(args.url, args.data)?).await?;
    match args.json {
        true => say(serde_json::to_string_pretty(&status)?),
        false => print(&status),
    }
    Ok(verdict(&status))
}

/// The instances that are asked.
pub(super) fn urls(url: Option<String>, data: Option<PathBuf>) -> Result<Vec<String>, Failure> {
    if let Some(url) = url {
        return Ok(vec![url]);
    }
    match Record::read(&data_dir(data)) {
        Ok(record) => Ok(record.urls()),
        Err(e @ LocalError::NotUp(_)) => Err(Failure(format!("{e}; or name an instance with --url"))),
        Err(e) => Err(e.into()),
    }
}

/// The first answer; an instance that is down is no reason not to ask the next one.
async fn ask(urls: &[String]) -> Result<Value, Failure> {
    let mut refusals = Vec::new();
    for url in urls {
        let url = format!("{}/api/status", url.trim_end_matches('/'));
        match http::get(&url, DEADLINE).await {
            Ok(answer) if answer.status == 200 => match serde_json::from_slice(&answer.body) {
                Ok(status) => return Ok(status),
                Err(e) => refusals.push(format!("{url}: not a status: {e}")),
            },
            Ok(answer) => refusals.push(format!("{url}: status {}", answer.status)),
            Err(why) => refusals.push(format!("{url}: {why}")),
        }
    }
    Err(Failure(format!(
        "no instance answers\n    {}",
        refusals.join("\n    ")
    )))
}

fn verdict(status: &Value) -> Verdict {
    let whole = status["sides"]
        .as_object()
        .is_some_and(|sides| !sides.is_empty() && sides.values().all(|side| side["state"] == "active"));
    // What nothing explains, or what a database refuses, is a difference.
    let different = status["certificate"]["differing"].as_i64().unwrap_or(0) > 0
        || status["held_changes"].as_i64().unwrap_or(0) > 0;
    match whole && !different && status["writable"] == true {
        true => Verdict::Fine,
        false => Verdict::Degraded,
    }
}

fn print(status: &Value) {
    let leader = text(&status["leader"]);
    let writes = match (status["writable"] == true, status["refusal"].as_str()) {
        (true, _) => "accepted".to_owned(),
        (false, Some(why)) => format!("refused: {why}"),
        (false, None) => "refused".to_owned(),
    };
    say(format!(
        "as seen by {}: epoch {}, leader {leader}, writes {writes}",
        text(&status["instance"]),
        text(&status["epoch"]),
    ));
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "side",
        "state",
        "address",
        "version",
        "heartbeat",
        "open rows",
        "trouble",
    ]);
    for (name, side) in status["sides"].as_object().into_iter().flatten() {
        let role = if side["leader"] == true { " (leader)" } else { "" };
        let heartbeat = side["heartbeat_ms"].as_f64().map(|ms| format!("{ms:.1} ms"));
        table.add_row([
            format!("{name}{role}"),
            state(side),
            text(&side["address"]),
            text(&side["server_version"]),
            heartbeat.unwrap_or_else(|| "-".into()),
            text(&side["open_rows"]),
            fault(&side["fault"]),
        ]);
    }
    say(table);
    print_votes(&status["votes"]);
    say(certificate(&status["certificate"]));
    let (open, held) = (&status["open_conflicts"], &status["held_changes"]);
    if *open != 0 || *held != 0 {
        say(format!(
            "{open} conflict(s) to decide, {held} change(s) refused by a side: kambana conflicts"
        ));
    }
    let events = status["events"].as_array().map_or(&[][..], Vec::as_slice);
    for event in &events[events.len().saturating_sub(EVENTS)..] {
        say(format!(
            "{}  {}",
            to_seconds(&text(&event["at"])),
            text(&event["what"])
        ));
    }
}

/// Who could decide now, and what one more failure would stop.
fn print_votes(votes: &Value) {
    let voters = votes["voters"].as_array().map_or(&[][..], Vec::as_slice);
    if voters.len() < 2 {
        say("votes: this instance decides by itself");
    } else {
        say(format!(
            "votes: {} of {}; a change of the active sides needs {}",
            text(&votes["present"]),
            text(&votes["total"]),
            text(&votes["needed"]),
        ));
    }
    for voter in voters.iter().filter(|voter| voter["votes"] != true) {
        say(format!(
            "  missing: {} {} since {}: {}",
            text(&voter["kind"]),
            text(&voter["name"]),
            to_seconds(&text(&voter["since"])),
            text(&voter["why"]),
        ));
    }
    for line in margin(&votes["margin"]) {
        say(format!("  {line}"));
    }
    for warning in votes["warnings"].as_array().into_iter().flatten() {
        say(format!("  warning: {}", text(warning)));
    }
}

fn margin(margin: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(side) = margin["last_copy"].as_str() {
        lines.push(format!(
            "one more failure stops writes: the loss of side {side}, the only active one"
        ));
    }
    for side in margin["too_few_votes"].as_array().into_iter().flatten() {
        lines.push(format!(
            "one more failure stops writes: the loss of side {} would leave too few votes to go on without it",
            text(side)
        ));
    }
    if margin["last_instance"] == true {
        lines.push("no other instance answers: without this one nobody serves".into());
    }
    if lines.is_empty() {
        lines.push("any single further failure is survived".into());
    }
    lines
}

/// The latest background comparison on one line.
fn certificate(of: &Value) -> String {
    if of.is_null() {
        return "compared: not yet".to_owned();
    }
    let verdict = match (of["differing"].as_i64(), of["explained"].as_i64()) {
        (Some(0), Some(0)) => "identical".to_owned(),
        (Some(0), waiting) => format!("no difference, {} rows on their way", waiting.unwrap_or(0)),
        (differing, _) => format!("{} rows DIFFER (kambana compare)", differing.unwrap_or(0)),
    };
    format!(
        "compared: {} by {}, epoch {}, {} rows in {} tables, digest {}: {verdict}",
        to_seconds(&text(&of["at"])),
        text(&of["instance"]),
        text(&of["epoch"]),
        text(&of["rows"]),
        text(&of["tables"]),
        text(&of["digest"]),
    )
}

/// The state, and how far a rebuild has come.
fn state(side: &Value) -> String {
    let rebuild = &side["rebuild"];
    match rebuild["table"].as_str() {
        Some(table) if !table.is_empty() => format!(
            "rebuilding: {table}, {} rows of about {}",
            text(&rebuild["rows"]),
            text(&rebuild["about"])
        ),
        _ => text(&side["state"]).replace('_', " "),
    }
}

fn fault(fault: &Value) -> String {
    match (fault["code"].as_str(), fault["detail"].as_str()) {
        (Some(code), Some(detail)) => format!("{code}: {detail}"),
        (Some(code), None) => code.to_owned(),
        _ => text(fault),
    }
}

/// RFC 3339 without the fraction of a second.
pub(super) fn to_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

/// A value for people: no quotes, and a dash for nothing.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_only_if_every_side_is_active_and_writes_are_accepted() {
        let status = |a: &str, b: &str, writable: bool| {
            verdict(&json!({"writable": writable, "sides": {"a": {"state": a}, "b": {"state": b}}}))
        };
        assert_eq!(status("active", "active", true), Verdict::Fine);
        assert_eq!(status("active", "catching_up", true), Verdict::Degraded);
        assert_eq!(status("active", "active", false), Verdict::Degraded);
        assert_eq!(verdict(&json!({})), Verdict::Degraded);
        let mut different = json!({"writable": true, "sides": {"a": {"state": "active"}}, "held_changes": 0});
        assert_eq!(verdict(&different), Verdict::Fine);
        different["certificate"] = json!({"differing": 1});
        assert_eq!(verdict(&different), Verdict::Degraded);
    }

    #[test]
    fn the_pools_own_words_are_understood() {
        use crate::multipool::{PerSide, SideFault, SideSet, SideState, SideStatus, Status};
        let status = Status {
            instance: "web1".into(),
            epoch: 3,
            members: SideSet::first(2),
            leader: SideSet::first(2).leader(),
            writable: true,
            refusal: None,
            sides: PerSide::new(2, |side| SideStatus {
                state: SideState::Active,
                leader: side.index() == 0,
                fault: Some(SideFault::Silent),
                address: String::new(),
                server_version: None,
                heartbeat_ms: Some(1.0),
                seen_at: None,
                open_rows: None,
                caught_up_keys: 0,
                rebuild: None,
            }),
            votes: crate::multipool::Votes::default(),
            open_conflicts: 0,
            held_changes: 0,
            certificate: None,
            waiting_writes: 0,
            events: vec![],
        };
        let value = serde_json::to_value(&status).unwrap();
        assert_eq!(verdict(&value), Verdict::Fine);
        assert_eq!(fault(&value["sides"]["a"]["fault"]), "silent");
        assert_eq!(value["leader"], "a");
        assert_eq!(
            margin(&value["votes"]["margin"]),
            ["any single further failure is survived"]
        );
        let few = margin(&json!({"last_copy": null, "too_few_votes": ["a"], "last_instance": true}));
        assert!(few.len() == 2 && few[0].contains("the loss of side a"), "{few:?}");
    }
}
