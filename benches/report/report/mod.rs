//! The report: Markdown, made of the results alone.

mod file;
mod reach;
mod tables;

use std::fmt::Write;

use crate::results::Results;
use crate::systems::Condition;
use crate::work::Work;

pub use file::{HAND_WRITTEN_BEGIN, HAND_WRITTEN_END, write};

/// The whole text, with an empty place for what people write.
pub fn text(machine: &[String], results: &Results) -> String {
    let mut out = String::new();
    out.push_str("# Performance\n\n");
    out.push_str(
        "Written by `cargo bench --bench report -- --out docs/performance.md`; only the part between the two marks of \
         \"What limits it\" is by hand.\n\n",
    );
    for line in machine {
        let _ = writeln!(out, "- {line}");
    }
    let well = results.failures.is_empty() && results.verdicts.iter().all(|(.., verdict)| verdict.well);
    out.push_str(match (results.failed(), well) {
        (true, _) => "\n**This run has failed: see \"Were the copies equal?\". The figures mean nothing.**\n\n",
        (false, true) => {
            "\nEvery operation was answered well, and the copies of every system were equal in the end.\n\n"
        }
        (false, false) => {
            "\nOf this project every operation was answered well, and the copies were equal in the end; what others got wrong \
             stands under \"Were the copies equal?\".\n\n"
        }
    });
    out.push_str(reach::EXPLANATION);
    out.push_str(&reach::table(results));
    let _ = write!(
        out,
        "\n## What limits it\n\n{HAND_WRITTEN_BEGIN}\n{HAND_WRITTEN_END}\n\n"
    );
    for condition in [
        Condition::Plain,
        Condition::SlowFlush,
        Condition::SlowLink,
        Condition::Http,
    ] {
        section(&mut out, condition, results);
    }
    out.push_str(&tables::lines(results));
    out.push_str(&tables::profiles(results));
    out.push_str(&tables::costs(results));
    out.push_str(&tables::memory(results));
    out.push_str(&tables::verdicts(results));
    out
}

fn section(out: &mut String, condition: Condition, results: &Results) {
    let works = Work::ALL
        .into_iter()
        .filter(|work| !results.clients(condition, *work).is_empty());
    let works: Vec<Work> = works.collect();
    if works.is_empty() {
        return;
    }
    out.push_str(match condition {
        Condition::Plain => tables::PLAIN,
        Condition::SlowFlush => tables::SLOW_FLUSH,
        Condition::SlowLink => tables::SLOW_LINK,
        Condition::Http => tables::HTTP,
    });
    for work in works {
        out.push_str(&tables::work(results, condition, work));
    }
}
