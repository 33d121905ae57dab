//! The verdict: what the clients were told, against what they read and what every database holds in the end. Pure: plain
//! data in, plain data out.
//!
//! A write that was acknowledged must be in effect on every side, unless another one took its place that did not end before
//! it began: the order of two writes that ran at the same time is not known to anybody outside. A write that was refused
//! must be on no side. One whose answer never came may be in effect or not, but on every side the same, and at most once.

mod reads;
mod rows;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::dump::{Row, Unequal};
use super::history::{History, Told, as_ms, as_ms_option, worst_gap};

/// What can be wrong, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// An acknowledged write is not in effect (a deletion: the row is there).
    Lost,
    /// One operation is in effect twice.
    Doubled,
    /// A row is not the same on every side, or holds what nobody wrote.
    Different,
    /// An operation that was answered "not applied" is in effect.
    Untrue,
    /// A read found less than had been acknowledged before it began.
    Stale,
    /// The outcome of an operation did not become final.
    Open,
    /// A request failed although the cluster had what it needs to answer it.
    Failed,
    /// The cluster did not become whole again in time.
    Unhealed,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::Lost => "lost",
            Wrong::Doubled => "doubled",
            Wrong::Different => "different",
            Wrong::Untrue => "untrue answer",
            Wrong::Stale => "stale read",
            Wrong::Open => "not final",
            Wrong::Failed => "failed request",
            Wrong::Unhealed => "not healed",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub wrong: Wrong,
    /// The operation, if it is about one.
    pub op: Option<Uuid>,
    /// When it happened, from the start of the run, if that is known.
    #[serde(rename = "at_ms", serialize_with = "as_ms_option")]
    pub at: Option<Duration>,
    /// On which sides, if it is about some.
    pub sides: Vec<String>,
    /// One sentence.
    pub says: String,
}

/// One thing that was done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deed {
    /// When it began.
    #[serde(rename = "at_ms", serialize_with = "as_ms")]
    pub at: Duration,
    /// What.
    pub action: String,
    /// To which part.
    pub target: String,
}

impl Deed {
    /// For the record.
    pub fn new(at: Duration, action: impl fmt::Display, target: impl fmt::Display) -> Deed {
        Deed {
            at,
            action: action.to_string(),
            target: target.to_string(),
        }
    }
}

/// What one fault was and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultDone {
    /// Name of its kind.
    pub kind: String,
    /// What was done, for people.
    pub says: String,
    /// What was done, in order.
    pub deeds: Vec<Deed>,
    /// First thing broken.
    #[serde(rename = "began_ms", serialize_with = "as_ms")]
    pub began: Duration,
    /// Everything running again.
    #[serde(rename = "mended_ms", serialize_with = "as_ms")]
    pub mended: Duration,
    /// Every side active again, and writing; none if that did not happen in time.
    #[serde(rename = "healed_ms", serialize_with = "as_ms_option")]
    pub healed: Option<Duration>,
    /// The longest time without an acknowledged write that is promised.
    #[serde(rename = "budget_ms", serialize_with = "as_ms_option")]
    pub budget: Option<Duration>,
    /// Whether requests may fail at first.
    pub may_fail: bool,
    /// Epoch before.
    pub epoch_before: i64,
    /// Epoch when healed.
    pub epoch_after: i64,
    /// The longest time without an acknowledged write.
    #[serde(rename = "gap_ms", serialize_with = "as_ms")]
    pub gap: Duration,
    /// Requests that failed at first.
    pub failed: usize,
    /// Changes that were acknowledged meanwhile.
    pub acknowledged: usize,
}

impl FaultDone {
    /// For the terminal.
    pub fn summary(&self) -> String {
        let gap = match self.budget {
            Some(budget) if self.is_slow() => {
                format!(
                    "gap {:.2} s, LONGER than {} s",
                    self.gap.as_secs_f64(),
                    budget.as_secs()
                )
            }
            Some(budget) => format!("gap {:.2} s (of {} s)", self.gap.as_secs_f64(), budget.as_secs()),
            None => format!("gap {:.2} s", self.gap.as_secs_f64()),
        };
        let healed = match self.healed {
            Some(healed) => format!(
                "whole {:.1} s after the last thing was mended",
                (healed - self.mended).as_secs_f64()
            ),
            None => "not whole".to_owned(),
        };
        let failed = match (self.failed, self.may_fail) {
            (0, _) => "no request failed".to_owned(),
            (n, true) => format!("{n} requests cut off and repeated"),
            (n, false) => format!("{n} requests FAILED"),
        };
        format!("{healed}; {gap}; {} acknowledged, {failed}", self.acknowledged)
    }

    /// Whether the gap is longer than promised.
    pub fn is_slow(&self) -> bool {
        self.budget.is_some_and(|budget| self.gap > budget)
    }

    fn holds(&self, from: Duration, to: Duration) -> bool {
        from <= self.healed.unwrap_or(Duration::MAX) && to >= self.began
    }

    /// Fills in what the history says about the time of this fault.
    pub fn measure(&mut self, history: &History, successes: &[Duration], end: Duration) {
        let to = self.healed.unwrap_or(end);
        self.gap = worst_gap(successes, self.began, to);
        let within = successes.partition_point(|t| *t <= to);
        self.acknowledged = within - successes.partition_point(|t| *t < self.began);
        let failures = history.failures.iter();
        self.failed = failures
            .filter(|failure| self.holds(failure.start, failure.end))
            .count();
    }
}

/// The end of a drill, in numbers and in sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Changes that were answered "in effect".
    pub acknowledged: usize,
    /// Changes that were answered "not applied".
    pub refused: usize,
    /// Changes of which an attempt was not answered, or with "not known yet".
    pub doubtful: usize,
    /// Reads that were checked.
    pub reads: usize,
    /// How many of each kind are wrong; kinds without any are not named.
    pub wrong: BTreeMap<Wrong, usize>,
    /// Requests that failed at first while their instance, or every side, was broken.
    pub cut_off: usize,
    /// The longest time without an acknowledged write.
    #[serde(rename = "worst_gap_ms", serialize_with = "as_ms")]
    pub worst_gap: Duration,
    /// Faults whose gap was longer than promised.
    pub slow: usize,
    /// The first of each kind of what is wrong.
    pub findings: Vec<Finding>,
}

/// As many of one kind as a person looks at.
const SHOWN: usize = 10;

impl Verdict {
    /// How many of this kind.
    pub fn count(&self, wrong: Wrong) -> usize {
        self.wrong.get(&wrong).copied().unwrap_or(0)
    }

    /// Whether every promise was kept. A run in which nothing was written proves nothing.
    pub fn is_fine(&self) -> bool {
        self.wrong.is_empty() && self.acknowledged > 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wrong| self.count(wrong);
        let open = match count(Wrong::Open) {
            0 => "all final".to_owned(),
            open => format!("{open} NOT FINAL"),
        };
        write!(
            f,
            "acknowledged {}, lost {}, doubled {}, different {}, unanswered or unknown {} ({open}), failed requests {}, \
             worst gap {:.1} s",
            self.acknowledged,
            count(Wrong::Lost),
            count(Wrong::Doubled),
            count(Wrong::Different),
            self.doubtful,
            count(Wrong::Failed),
            self.worst_gap.as_secs_f64()
        )?;
        for wrong in [Wrong::Untrue, Wrong::Stale, Wrong::Unhealed] {
            if count(wrong) > 0 {
                write!(f, ", {wrong} {}", count(wrong))?;
            }
        }
        Ok(())
    }
}

/// Everything the verdict is made of.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What the clients know.
    pub history: &'a History,
    /// Beginning of the names of the drill's own rows.
    pub mark: &'a str,
    /// The drill's own rows, by side.
    pub dumps: &'a BTreeMap<String, Vec<Row>>,
    /// Rows of all watched tables that are not the same everywhere.
    pub unequal: &'a [Unequal],
    /// What was broken.
    pub faults: &'a [FaultDone],
    /// When the load ended.
    pub end: Duration,
}

/// Judges.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let history = evidence.history;
    let mut found = Findings::default();
    rows::check(evidence, &mut found);
    reads::check(history, &mut found);
    for unequal in evidence.unequal {
        found.add(Wrong::Different, differing(unequal));
    }
    for o in history.operations.iter().filter(|o| o.told == Told::Nothing) {
        let says = format!("{:?} {} was never answered for good", o.act, o.op);
        found.add(Wrong::Open, Found::of(o.op, o.start, says));
    }
    let allowed = |from, to| {
        evidence
            .faults
            .iter()
            .any(|fault| fault.may_fail && fault.holds(from, to))
    };
    let (cut_off, failed): (Vec<_>, Vec<_>) = history.failures.iter().partition(|f| allowed(f.start, f.end));
    for failure in failed {
        found.add(Wrong::Failed, Found::at(failure.start, failure.what.clone()));
    }
    for fault in evidence.faults.iter().filter(|fault| fault.healed.is_none()) {
        let says = format!("after: {}", fault.says);
        found.add(Wrong::Unhealed, Found::at(fault.began, says));
    }
    let told = |told: fn(Told) -> bool| history.operations.iter().filter(|o| told(o.told)).count();
    let successes = history.successes();
    Verdict {
        acknowledged: successes.len(),
        refused: told(|told| matches!(told, Told::Refused(_))),
        doubtful: history.operations.iter().filter(|o| o.doubtful).count(),
        reads: history.reads.len(),
        cut_off: cut_off.len(),
        worst_gap: successes
            .first()
            .map_or(evidence.end, |first| worst_gap(&successes, *first, evidence.end)),
        slow: evidence.faults.iter().filter(|fault| fault.is_slow()).count(),
        wrong: found.count,
        findings: found.shown.into_values().collect(),
    }
}

fn differing(unequal: &Unequal) -> Found {
    let image = |(side, row): &(String, Option<String>)| match row {
        Some(row) => format!("{side} holds {}", short(row)),
        None => format!("{side} has no such row"),
    };
    let says = format!(
        "{} {}: {}; {}",
        unequal.table,
        unequal.key,
        image(&unequal.images[0]),
        image(&unequal.images[1])
    );
    Found {
        key: says.clone(),
        op: None,
        at: None,
        side: None,
        says,
    }
}

/// For a line on a terminal.
fn short(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Something wrong, perhaps seen on several sides.
struct Found {
    /// What is the same thing on another side.
    key: String,
    op: Option<Uuid>,
    at: Option<Duration>,
    side: Option<String>,
    says: String,
}

impl Found {
    fn of(op: Uuid, at: Duration, says: String) -> Found {
        Found {
            key: op.to_string(),
            op: Some(op),
            at: Some(at),
            side: None,
            says,
        }
    }

    fn at(at: Duration, says: String) -> Found {
        Found {
            key: format!("{at:?} {says}"),
            op: None,
            at: Some(at),
            side: None,
            says,
        }
    }

    fn on(mut self, side: &str) -> Found {
        self.side = Some(side.to_owned());
        self
    }
}

#[derive(Default)]
struct Findings {
    count: BTreeMap<Wrong, usize>,
    seen: std::collections::BTreeSet<(Wrong, String)>,
    shown: BTreeMap<(Wrong, String), Finding>,
}

impl Findings {
    /// The same thing on two sides counts once.
    fn add(&mut self, wrong: Wrong, found: Found) {
        let key = (wrong, found.key);
        if let Some(finding) = self.shown.get_mut(&key) {
            finding.sides.extend(found.side);
            return;
        }
        if !self.seen.insert(key.clone()) {
            return;
        }
        let count = self.count.entry(wrong).or_default();
        *count += 1;
        if *count <= SHOWN {
            let finding = Finding {
                wrong,
                op: found.op,
                at: found.at,
                sides: found.side.into_iter().collect(),
                says: found.says,
            };
            self.shown.insert(key, finding);
        }
    }
}

#[cfg(test)]
mod tests;
