//! A check that cannot fail proves nothing: each kind of wrong is made on purpose, and must be found.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::drill::history::{Act, Failure, Operation, Read, Seen, Sort};

const MARK: &str = "drill 12345678 ";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn op(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// A run that is told in a few lines: operations 1, 2, 3 … one after another, or at given times.
#[derive(Default)]
struct Run {
    history: History,
    dumps: BTreeMap<String, Vec<Row>>,
    unequal: Vec<Unequal>,
    faults: Vec<FaultDone>,
}

impl Run {
    fn does(mut self, n: u128, row: u128, sort: Sort, act: Act, told: Told) -> Run {
        let time = self.history.operations.len() as u64 * 10;
        self.history.operations.push(Operation {
            op: op(n),
            row: op(row),
            sort,
            act,
            id: Some(row as i64),
            start: ms(time),
            end: ms(time + 5),
            told,
            doubtful: told == Nothing,
        });
        self
    }

    fn plain(self, n: u128, row: u128, act: Act, told: Told) -> Run {
        self.does(n, row, Sort::Plain, act, told)
    }

    fn log(self, n: u128, row: u128, act: Act, told: Told) -> Run {
        self.does(n, row, Sort::Log, act, told)
    }

    /// Gives the latest operation other times.
    fn at(mut self, start: u64, end: u64) -> Run {
        let last = self.history.operations.last_mut().unwrap();
        (last.start, last.end) = (ms(start), ms(end));
        self
    }

    fn reads(mut self, row: u128, start: u64, end: u64, seen: Seen) -> Run {
        let (row, start, end) = (op(row), ms(start), ms(end));
        self.history.reads.push(Read {
            row,
            start,
            end,
            seen,
        });
        self
    }

    fn holds_as(mut self, side: &str, id: i64, row: u128, written: &[u128]) -> Run {
        let lines: Vec<String> = written.iter().map(|n| op(*n).to_string()).collect();
        self.dumps.entry(side.into()).or_default().push(Row {
            id,
            name: format!("{MARK}row {}", op(row)),
            content: lines.join("\n"),
        });
        self
    }

    fn holds(self, side: &str, row: u128, written: &[u128]) -> Run {
        self.holds_as(side, row as i64, row, written)
    }

    fn both(self, row: u128, written: &[u128]) -> Run {
        self.holds("a", row, written).holds("b", row, written)
    }

    fn judged(mut self) -> Verdict {
        for side in ["a", "b"] {
            self.dumps.entry(side.into()).or_default();
        }
        judge(&Evidence {
            history: &self.history,
            mark: MARK,
            dumps: &self.dumps,
            unequal: &self.unequal,
            faults: &self.faults,
            end: ms(1000),
        })
    }

    #[track_caller]
    fn all_well(self) {
        let verdict = self.judged();
        assert!(verdict.is_fine(), "{verdict}: {:#?}", verdict.findings);
    }

    /// Exactly this is wrong, once, with this operation.
    #[track_caller]
    fn only(self, wrong: Wrong, op: Option<u128>) -> Finding {
        let verdict = self.judged();
        assert_eq!(
            verdict.wrong,
            BTreeMap::from([(wrong, 1)]),
            "{:#?}",
            verdict.findings
        );
        assert!(!verdict.is_fine());
        let finding = verdict.findings[0].clone();
        assert_eq!(finding.op, op.map(Uuid::from_u128), "{finding:?}");
        finding
    }
}

use Act::{Append, Delete, Insert, Update};
use Told::{Acknowledged as Yes, Nothing, Refused};

/// Rows 1 (kept), 2 (updated), 4 (deleted).
fn good() -> Run {
    Run::default()
        .plain(1, 1, Insert, Yes)
        .plain(2, 2, Insert, Yes)
        .plain(3, 2, Update, Yes)
        .plain(4, 4, Insert, Yes)
        .plain(5, 4, Delete, Yes)
}

#[test]
fn what_was_told_is_what_is_held() {
    good().both(1, &[1]).both(2, &[3]).all_well();
    let log = Run::default()
        .log(1, 1, Insert, Yes)
        .log(2, 1, Append, Yes)
        .log(3, 1, Append, Refused(409));
    log.both(1, &[1, 2]).all_well();
}

#[test]
fn nothing_written_proves_nothing() {
    assert!(!Run::default().judged().is_fine());
}

#[test]
fn a_lost_insert_on_one_side() {
    let finding = good()
        .both(2, &[3])
        .holds("a", 1, &[1])
        .only(Wrong::Lost, Some(1));
    assert_eq!(finding.sides, ["b"]);
}

#[test]
fn a_lost_update_on_both_sides_counts_once() {
    let finding = good().both(1, &[1]).both(2, &[2]).only(Wrong::Lost, Some(3));
    assert_eq!(finding.sides, ["a", "b"]);
}

#[test]
fn a_deleted_row_that_returned() {
    good()
        .both(1, &[1])
        .both(2, &[3])
        .holds("a", 4, &[4])
        .only(Wrong::Lost, Some(5));
}

#[test]
fn a_row_that_vanished_though_its_deletion_was_refused() {
    let run = Run::default()
        .plain(1, 1, Insert, Yes)
        .plain(2, 1, Delete, Refused(503));
    run.only(Wrong::Lost, Some(1));
}

#[test]
fn an_insert_in_effect_twice() {
    let run = good().both(1, &[1]).both(2, &[3]);
    run.holds_as("a", 71, 1, &[1])
        .holds_as("b", 71, 1, &[1])
        .only(Wrong::Doubled, Some(1));
}

#[test]
fn an_append_in_effect_twice_lost_or_refused() {
    let run = || {
        Run::default()
            .log(1, 1, Insert, Yes)
            .log(2, 1, Append, Yes)
            .log(3, 1, Append, Refused(409))
    };
    run().both(1, &[1, 2, 2]).only(Wrong::Doubled, Some(2));
    run().both(1, &[1]).only(Wrong::Lost, Some(2));
    run().both(1, &[1, 2, 3]).only(Wrong::Untrue, Some(3));
    run()
        .both(1, &[1, 2, 77])
        .judged()
        .wrong
        .get(&Wrong::Different)
        .unwrap();
}

#[test]
fn a_refused_write_in_effect() {
    let run = good()
        .plain(6, 1, Update, Refused(503))
        .plain(7, 7, Insert, Refused(503));
    let verdict = run.both(1, &[6]).both(2, &[3]).both(7, &[7]).judged();
    assert_eq!(
        verdict.wrong,
        BTreeMap::from([(Wrong::Untrue, 2)]),
        "{:#?}",
        verdict.findings
    );
}

#[test]
fn a_row_that_differs_between_the_sides() {
    let run = || good().both(1, &[1]).both(2, &[3]);
    let unequal = |b: Option<&str>| Unequal {
        table: "items".into(),
        key: "(2)".into(),
        images: [
            ("a".into(), Some("(3)".into())),
            ("b".into(), b.map(str::to_owned)),
        ],
    };
    let mut flipped = run();
    flipped.unequal = vec![unequal(Some("(4)"))];
    let finding = flipped.only(Wrong::Different, None);
    assert!(finding.says.contains("items (2)"), "{finding:?}");
    let mut missing = run();
    missing.unequal = vec![unequal(None)];
    missing.only(Wrong::Different, None);
}

#[test]
fn content_and_rows_of_nobody() {
    let verdict = good().both(1, &[99]).both(2, &[3]).judged();
    assert_eq!(verdict.count(Wrong::Different), 1, "{:#?}", verdict.findings);
    let verdict = good().both(1, &[1]).both(2, &[3]).both(55, &[55]).judged();
    assert_eq!(verdict.count(Wrong::Different), 1, "{:#?}", verdict.findings);
}

#[test]
fn another_id_than_was_answered() {
    let run = good()
        .both(2, &[3])
        .holds_as("a", 9, 1, &[1])
        .holds_as("b", 9, 1, &[1]);
    assert_eq!(run.judged().count(Wrong::Different), 1);
}

#[test]
fn writes_at_the_same_time_have_no_order() {
    let run = || {
        let run = Run::default().plain(1, 1, Insert, Yes);
        run.plain(2, 1, Update, Yes)
            .at(10, 30)
            .plain(3, 1, Update, Yes)
            .at(20, 40)
    };
    run().both(1, &[2]).all_well();
    run().both(1, &[3]).all_well();
    run().both(1, &[1]).judged().wrong.get(&Wrong::Lost).unwrap();
    // One that began after both had ended takes the place of both.
    run().plain(4, 1, Update, Yes).at(50, 60).both(1, &[4]).all_well();
    run()
        .plain(4, 1, Update, Yes)
        .at(50, 60)
        .both(1, &[3])
        .only(Wrong::Lost, Some(4));
}

/// A drill that gave up asking says so; what such an operation did or did not do is no second fault.
#[test]
fn unknown_outcomes_may_be_in_effect_or_not() {
    let run = || {
        good()
            .plain(6, 1, Update, Nothing)
            .plain(7, 7, Insert, Nothing)
            .plain(8, 2, Delete, Nothing)
    };
    run().both(1, &[1]).both(2, &[3]).judged_open(3);
    run().both(1, &[6]).both(7, &[7]).judged_open(3);
}

impl Run {
    #[track_caller]
    fn judged_open(self, count: usize) {
        let verdict = self.judged();
        assert_eq!(
            verdict.wrong,
            BTreeMap::from([(Wrong::Open, count)]),
            "{:#?}",
            verdict.findings
        );
    }
}

#[test]
fn reads_never_go_back() {
    let run = || good().both(1, &[1]).both(2, &[3]);
    // 3 ended at 25, having begun after 2 had ended.
    run().reads(2, 24, 40, Seen::Written(op(2))).all_well();
    run().reads(2, 26, 40, Seen::Written(op(3))).all_well();
    run()
        .reads(2, 26, 40, Seen::Written(op(2)))
        .only(Wrong::Stale, None);
    // Row 4 was deleted from 40 to 45.
    run().reads(4, 41, 60, Seen::Gone).all_well();
    run().reads(4, 20, 60, Seen::Written(op(4))).all_well();
    run()
        .reads(4, 46, 60, Seen::Written(op(4)))
        .only(Wrong::Stale, None);
    // Row 1 was never deleted.
    run().reads(1, 3, 9, Seen::Gone).all_well();
    run().reads(1, 6, 9, Seen::Gone).only(Wrong::Stale, None);
    run()
        .reads(1, 6, 9, Seen::Written(op(99)))
        .only(Wrong::Different, None);
}

#[test]
fn reads_of_what_was_refused_or_of_short_logs() {
    let run = good()
        .plain(6, 1, Update, Refused(503))
        .both(1, &[1])
        .both(2, &[3]);
    run.reads(1, 60, 70, Seen::Written(op(6)))
        .only(Wrong::Untrue, None);
    let log = || {
        Run::default()
            .log(1, 1, Insert, Yes)
            .log(2, 1, Append, Yes)
            .both(1, &[1, 2])
    };
    log().reads(1, 16, 20, Seen::Entries(2)).all_well();
    log().reads(1, 12, 20, Seen::Entries(1)).all_well();
    log().reads(1, 16, 20, Seen::Entries(1)).only(Wrong::Stale, None);
}

fn fault(began: u64, healed: Option<u64>, may_fail: bool) -> FaultDone {
    FaultDone {
        kind: "crash-side".into(),
        says: "side a crashes".into(),
        deeds: vec![],
        began: ms(began),
        mended: ms(began + 10),
        healed: healed.map(ms),
        budget: Some(ms(1000)),
        may_fail,
        epoch_before: 1,
        epoch_after: 3,
        gap: Duration::ZERO,
        failed: 0,
        acknowledged: 0,
    }
}

#[test]
fn failed_requests_count_where_they_may_not_fail() {
    let run = |faults, start, end| {
        let mut run = good().both(1, &[1]).both(2, &[3]);
        run.faults = faults;
        let what = "POST: 502".to_owned();
        run.history.failures.push(Failure {
            start: ms(start),
            end: ms(end),
            what,
        });
        run
    };
    let verdict = run(vec![fault(100, Some(200), true)], 90, 110).judged();
    assert!(verdict.is_fine());
    assert_eq!(verdict.cut_off, 1);
    run(vec![fault(100, Some(200), false)], 90, 110).only(Wrong::Failed, None);
    run(vec![fault(100, Some(200), true)], 210, 220).only(Wrong::Failed, None);
    run(vec![], 210, 220).only(Wrong::Failed, None);
}

#[test]
fn a_cluster_that_stays_broken() {
    let mut run = good().both(1, &[1]).both(2, &[3]);
    run.faults = vec![fault(100, None, false)];
    run.only(Wrong::Unhealed, None);
}

#[test]
fn a_fault_is_measured() {
    let mut done = fault(12, Some(44), false);
    let history = good().history;
    let successes = history.successes();
    assert_eq!(successes, [5, 15, 25, 35, 45].map(ms));
    done.measure(&history, &successes, ms(1000));
    assert_eq!((done.gap, done.acknowledged), (ms(10), 3));
    done.budget = Some(ms(9));
    assert!(done.is_slow());
}

#[test]
fn the_first_of_many_are_shown_and_all_are_counted() {
    let mut run = Run::default();
    for n in 1..=50 {
        run = run.plain(n, n, Insert, Yes);
    }
    let verdict = run.judged();
    assert_eq!((verdict.count(Wrong::Lost), verdict.findings.len()), (50, SHOWN));
    let text = verdict.to_string();
    assert!(
        text.starts_with("acknowledged 50, lost 50, doubled 0, different 0,"),
        "{text}"
    );
}
