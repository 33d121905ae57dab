//! What has happened to the databases, in the reader's language.

use super::frame::side_names;
use super::votes::voter_name;
use super::words::{fault, loss, not_applied};
use crate::multipool::{Happened, Reason, Repair};
use crate::web::lang::{HappenedTexts, Lang, fill, number};

/// One event as a sentence.
pub fn happened(lang: Lang, what: &Happened) -> String {
    let t = lang.happened();
    let count = |n: u64| number(lang, n.try_into().unwrap_or(i64::MAX));
    match what {
        Happened::Epoch { members, why, .. } if why.is_empty() => {
            fill(t.epoch, &[&side_names(members.iter())])
        }
        Happened::Epoch { members, why, .. } => {
            fill(t.epoch_why, &[&side_names(members.iter()), &reasons(lang, why)])
        }
        Happened::Changed { why, members } => {
            fill(t.changed, &[&side_names(members.iter()), &reasons(lang, why)])
        }
        Happened::Accepting => t.accepting.to_owned(),
        Happened::Refusing(why) => fill(t.refusing, &[&not_applied(lang, why)]),
        Happened::OnTrial { side, seconds } => fill(t.on_trial, &[side, seconds]),
        Happened::CaughtUp { side, keys } => fill(t.caught_up, &[side, &count(*keys)]),
        Happened::Aligned(side) => fill(t.aligned, &[side]),
        Happened::Rebuilt {
            side,
            from,
            rows,
            loss: why,
        } => fill(t.rebuilt, &[side, from, &count(*rows), &loss(lang, *why)]),
        Happened::Swept { rows } => fill(t.swept, &[&count(*rows)]),
        Happened::Failed { repair, side, why } => fill(t.failed, &[&name(t, *repair), side, why]),
        Happened::Panicked(repair) => fill(t.panicked, &[&name(t, *repair)]),
        Happened::NotReadmitted { side, why } => fill(t.not_readmitted, &[side, &not_applied(lang, why)]),
        Happened::NotRebuilt { side, why } => fill(t.not_rebuilt, &[side, why]),
        Happened::GivenUp { side, limit } => fill(t.given_up, &[side, &number(lang, *limit)]),
        Happened::Conflicts {
            rows,
            kept,
            lost,
            asked,
        } => {
            let text = if *asked == 0 {
                t.conflicts
            } else {
                t.conflicts_asked
            };
            fill(text, &[&count(*rows), kept, lost, &count(*asked)])
        }
        Happened::Held {
            table,
            key,
            from,
            to,
            why,
        } => match key.as_str() {
            "" => fill(t.held_table, &[table, from, to, why]),
            key => fill(t.held_row, &[&key, table, from, to, why]),
        },
        Happened::Differing { rows, first } => fill(t.differing, &[&count(*rows), first]),
        Happened::RoleMissing { role, side } => fill(t.role_missing, &[role, side]),
        Happened::StructureRead => t.structure_read.to_owned(),
        Happened::VoterForgot { kind, name, epoch } => {
            fill(t.voter_forgot, &[&voter_name(lang, *kind, name), epoch])
        }
        Happened::NoMemory(why) => fill(t.no_memory, &[why]),
        Happened::Restarted { task } => fill(t.restarted, &[task]),
    }
}

fn name(t: &HappenedTexts, repair: Repair) -> String {
    match repair {
        Repair::Align(side) => fill(t.align, &[&side]),
        Repair::CatchUp(side) => fill(t.catch_up, &[&side]),
        Repair::Rebuild(side) => fill(t.rebuild, &[&side]),
        Repair::Sweep => t.sweep.to_owned(),
    }
}

/// Why the databases in use were changed.
fn reasons(lang: Lang, why: &[Reason]) -> String {
    let why: Vec<String> = why.iter().map(|why| reason(lang, why)).collect();
    why.join(lang.happened().and)
}

fn reason(lang: Lang, why: &Reason) -> String {
    let t = lang.happened();
    match why {
        Reason::Installed => t.why_installed.to_owned(),
        Reason::Fault(side, what) => fill(t.why_fault, &[side, &fault(lang, what)]),
        Reason::Unfinished(side) => fill(t.why_unfinished, &[side]),
        Reason::Readmitted(side) => fill(t.why_readmitted, &[side]),
        Reason::Finished => t.why_finished.to_owned(),
        Reason::CatchingUp => t.why_catching_up.to_owned(),
        Reason::Rebuilding => t.why_rebuilding.to_owned(),
        Reason::VoterForgot => t.why_forgot.to_owned(),
        Reason::Other(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multipool::{Loss, NotApplied, SideFault, SideId, SideSet};

    #[test]
    fn what_has_happened_is_said_in_both_languages() {
        let (a, b) = (SideId::from_index(0).unwrap(), SideId::from_index(1).unwrap());
        let held = |key: &str| Happened::Held {
            table: "items".into(),
            key: key.into(),
            from: a,
            to: b,
            why: "no".into(),
        };
        let all = [
            Happened::Epoch {
                number: 3,
                members: SideSet::first(2),
                why: vec![],
            },
            Happened::Changed {
                members: SideSet::first(1),
                why: vec![
                    Reason::Fault(b, SideFault::Lost(Loss::Restored)),
                    Reason::Unfinished(b),
                    Reason::VoterForgot,
                ],
            },
            Happened::Refusing(NotApplied::NoSide),
            Happened::Conflicts {
                rows: 12_345,
                kept: a,
                lost: b,
                asked: 0,
            },
            Happened::Failed {
                repair: Repair::CatchUp(b),
                side: a,
                why: "no".into(),
            },
            held("(7)"),
            held(""),
        ];
        for what in &all {
            let (en, fr) = (happened(Lang::En, what), happened(Lang::Fr, what));
            assert!(en != fr && !en.contains('{') && !fr.contains('{'), "{en} / {fr}");
        }
        assert_eq!(
            happened(Lang::En, &held("(7)")),
            "Row (7) of items cannot be brought from database a to b: no. It is tried again soon."
        );
        assert!(
            happened(Lang::En, &all[3])
                .starts_with("Rows changed in database a and in database b at once: 12,345.")
        );
    }
}
