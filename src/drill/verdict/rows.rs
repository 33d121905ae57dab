//! What every side holds in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use super::{Evidence, Findings, Found, Wrong, short};
use crate::drill::dump::Row;
use crate::drill::history::{Act, Operation, RowName, Sort, Told};

/// Everything the clients did to one row.
struct Story<'a> {
    operations: Vec<&'a Operation>,
}

impl<'a> Story<'a> {
    fn find(&self, op: Uuid) -> Option<&'a Operation> {
        self.operations.iter().find(|o| o.op == op).copied()
    }

    fn insert(&self) -> Option<&'a Operation> {
        self.operations.iter().find(|o| o.act == Act::Insert).copied()
    }

    /// Writes of a value that were acknowledged.
    fn written(&self) -> impl Iterator<Item = &'a Operation> {
        let acknowledged = self.operations.iter().filter(|o| o.told == Told::Acknowledged);
        acknowledged.filter(|o| o.act != Act::Delete).copied()
    }

    fn deletes(&self) -> impl Iterator<Item = &'a Operation> {
        self.operations.iter().filter(|o| o.act == Act::Delete).copied()
    }
}

/// Name of the row that a marked row is, as it says itself.
fn row_name(mark: &str, name: &str) -> Option<RowName> {
    let (_, row) = name.strip_prefix(mark)?.split_once(' ')?;
    row.parse().ok()
}

pub(super) fn check(evidence: &Evidence<'_>, found: &mut Findings) {
    let mut stories: BTreeMap<RowName, Story<'_>> = BTreeMap::new();
    for operation in &evidence.history.operations {
        let story = stories
            .entry(operation.row)
            .or_insert(Story { operations: vec![] });
        story.operations.push(operation);
    }
    for (side, rows) in evidence.dumps {
        let mut held: BTreeMap<RowName, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            match row_name(evidence.mark, &row.name).filter(|name| stories.contains_key(name)) {
                Some(name) => held.entry(name).or_default().push(row),
                None => found.add(Wrong::Different, strange(row, "is no row of any client").on(side)),
            }
        }
        for (name, story) in &stories {
            let held = held.get(name).map_or(&[][..], Vec::as_slice);
            let mut add = |wrong, this: Found| found.add(wrong, this.on(side));
            check_row(story, held, &mut add);
        }
    }
}

fn strange(row: &Row, why: &str) -> Found {
    let says = format!("item {} ({}): `{}` {why}", row.id, row.name, short(&row.content));
    Found {
        key: says.clone(),
        op: None,
        at: None,
        side: None,
        says,
    }
}

/// One row on one side.
fn check_row(story: &Story<'_>, held: &[&Row], add: &mut impl FnMut(Wrong, Found)) {
    let Some(insert) = story.insert() else { return };
    let [first, more @ ..] = held else {
        check_gone(story, insert, add);
        return;
    };
    if !more.is_empty() {
        let ids: Vec<String> = held.iter().map(|row| row.id.to_string()).collect();
        let says = format!("insert {} is there as items {}", insert.op, ids.join(", "));
        add(Wrong::Doubled, Found::of(insert.op, insert.start, says));
    }
    if let Told::Refused(status) = insert.told {
        let says = format!(
            "insert {} was answered {status}, and is there as item {}",
            insert.op, first.id
        );
        add(Wrong::Untrue, Found::of(insert.op, insert.start, says));
    }
    if insert.id.is_some_and(|id| held.iter().all(|row| row.id != id)) {
        let says = format!("has another id than insert {} was answered", insert.op);
        add(Wrong::Different, strange(first, &says));
    }
    if let Some(delete) = story.deletes().find(|o| o.told == Told::Acknowledged) {
        let says = format!(
            "delete {} was acknowledged, and item {} is there",
            delete.op, first.id
        );
        add(Wrong::Lost, Found::of(delete.op, delete.start, says));
        return;
    }
    match insert.sort {
        Sort::Plain => check_plain(story, first, add),
        Sort::Log => check_log(story, first, add),
    }
}

fn check_gone(story: &Story<'_>, insert: &Operation, add: &mut impl FnMut(Wrong, Found)) {
    let may_be_deleted = story.deletes().any(|o| !matches!(o.told, Told::Refused(_)));
    if insert.told == Told::Acknowledged && !may_be_deleted {
        let says = match story.deletes().last() {
            None => format!("insert {} was acknowledged, and the row is not there", insert.op),
            Some(delete) => format!(
                "insert {} was acknowledged, delete {} was not applied, and the row is not there",
                insert.op, delete.op
            ),
        };
        add(Wrong::Lost, Found::of(insert.op, insert.start, says));
    }
}

fn check_plain(story: &Story<'_>, row: &Row, add: &mut impl FnMut(Wrong, Found)) {
    let holds = row.content.parse().ok().and_then(|op| story.find(op));
    let Some(holds) = holds.filter(|o| o.act != Act::Delete) else {
        add(Wrong::Different, strange(row, "was written by no client"));
        return;
    };
    if let Told::Refused(status) = holds.told {
        let says = format!(
            "update {} was answered {status}, and item {} holds it",
            holds.op, row.id
        );
        add(Wrong::Untrue, Found::of(holds.op, holds.start, says));
        return;
    }
    // One that is not final may take effect at any time.
    let ended = match holds.told {
        Told::Nothing => Duration::MAX,
        _ => holds.end,
    };
    for later in story.written().filter(|o| o.op != holds.op && o.start > ended) {
        let says = format!(
            "update {} was acknowledged, and item {} holds {}, which had ended {} ms before it began",
            later.op,
            row.id,
            holds.op,
            (later.start - ended).as_millis()
        );
        add(Wrong::Lost, Found::of(later.op, later.start, says));
    }
}

fn check_log(story: &Story<'_>, row: &Row, add: &mut impl FnMut(Wrong, Found)) {
    let mut entries = BTreeSet::new();
    for line in row.content.lines() {
        let Some(entry) = line.parse().ok().and_then(|op| story.find(op)) else {
            add(
                Wrong::Different,
                strange(
                    row,
                    &format!("has the entry `{}`, which no client wrote", short(line)),
                ),
            );
            continue;
        };
        if let Told::Refused(status) = entry.told {
            let says = format!(
                "append {} was answered {status}, and is in the log, item {}",
                entry.op, row.id
            );
            add(Wrong::Untrue, Found::of(entry.op, entry.start, says));
        }
        if !entries.insert(entry.op) {
            let says = format!("append {} is in the log twice, item {}", entry.op, row.id);
            add(Wrong::Doubled, Found::of(entry.op, entry.start, says));
        }
    }
    for missing in story.written().filter(|o| !entries.contains(&o.op)) {
        let says = format!(
            "append {} was acknowledged, and is not in the log, item {}",
            missing.op, row.id
        );
        add(Wrong::Lost, Found::of(missing.op, missing.start, says));
    }
}
