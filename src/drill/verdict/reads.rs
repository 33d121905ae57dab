//! What clients read while the run went on: never less than had been acknowledged before the read began.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use super::{Findings, Found, Wrong};
use crate::drill::history::{Act, History, Operation, Read, RowName, Seen, Told};

/// What is known about one row, prepared for many questions.
#[derive(Default)]
struct Known<'a> {
    by_op: HashMap<Uuid, &'a Operation>,
    /// Acknowledged writes of a value by their end, each with the latest start of those that ended no later, and which it was.
    ended: Vec<(Duration, Duration, Uuid)>,
    insert: Option<&'a Operation>,
    deletes: Vec<&'a Operation>,
}

impl<'a> Known<'a> {
    fn finish(&mut self) {
        let acknowledged = self
            .by_op
            .values()
            .filter(|o| o.told == Told::Acknowledged && o.act != Act::Delete);
        self.ended = acknowledged.map(|o| (o.end, o.start, o.op)).collect();
        self.ended.sort_unstable();
        let mut latest: Option<(Duration, Uuid)> = None;
        for (_, start, op) in &mut self.ended {
            latest = latest.max(Some((*start, *op)));
            if let Some(latest) = latest {
                (*start, *op) = latest;
            }
        }
    }

    /// How many were acknowledged before `time`, and the one of them that began last.
    fn before(&self, time: Duration) -> (usize, Option<(Duration, Uuid)>) {
        let count = self.ended.partition_point(|(end, _, _)| *end < time);
        let last = count
            .checked_sub(1)
            .map(|last| (self.ended[last].1, self.ended[last].2));
        (count, last)
    }
}

pub(super) fn check(history: &History, found: &mut Findings) {
    let mut rows: HashMap<RowName, Known<'_>> = HashMap::new();
    for operation in &history.operations {
        let known = rows.entry(operation.row).or_default();
        known.by_op.insert(operation.op, operation);
        match operation.act {
            Act::Insert => known.insert = Some(operation),
            Act::Delete => known.deletes.push(operation),
            Act::Update | Act::Append => {}
        }
    }
    rows.values_mut().for_each(Known::finish);
    for read in &history.reads {
        if let Some(known) = rows.get(&read.row)
            && let Some((wrong, why)) = check_read(known, read)
        {
            let ms = read.start.as_millis();
            let says = format!("a read of row {} that began at {ms} ms {why}", read.row);
            found.add(wrong, Found::at(read.start, says));
        }
    }
}

fn check_read(known: &Known<'_>, read: &Read) -> Option<(Wrong, String)> {
    let (count, last) = known.before(read.start);
    let deleted = |o: &&&Operation| o.told == Told::Acknowledged && o.end < read.start;
    let gone = known.deletes.iter().find(deleted);
    if let (Some(delete), Seen::Written(_) | Seen::Entries(_)) = (gone, read.seen) {
        let why = format!("found it, though delete {} had been acknowledged", delete.op);
        return Some((Wrong::Stale, why));
    }
    match read.seen {
        Seen::Written(op) => match known.by_op.get(&op) {
            None => Some((Wrong::Different, format!("found {op}, which no client wrote"))),
            Some(o) if matches!(o.told, Told::Refused(_)) => Some((
                Wrong::Untrue,
                format!("found {op}, which was answered \"not applied\""),
            )),
            Some(o) => last
                .filter(|(start, _)| o.told == Told::Acknowledged && o.end < *start)
                .map(|(_, newer)| {
                    let why = format!(
                        "found {op}, though {newer}, begun after that had ended, had been acknowledged"
                    );
                    (Wrong::Stale, why)
                }),
        },
        Seen::Entries(entries) if entries < count => Some((
            Wrong::Stale,
            format!("found {entries} entries, though {count} had been acknowledged"),
        )),
        Seen::Entries(_) => None,
        Seen::Gone => {
            let begun = |o: &&Operation| o.start < read.end && !matches!(o.told, Told::Refused(_));
            let there = known
                .insert
                .filter(|o| o.told == Told::Acknowledged && o.end < read.start)?;
            match known.deletes.iter().any(begun) {
                true => None,
                false => Some((
                    Wrong::Stale,
                    format!(
                        "did not find it, though insert {} had been acknowledged and nobody deleted it",
                        there.op
                    ),
                )),
            }
        }
    }
}
