//! Case 60: faults without end, also in the middle of a repair; and what must not grow while they go on.
//!
//! `KAMBANA_SOAK_S` is how long (10 seconds if not given, and at least three faults), `KAMBANA_SEED` the order of the faults.

use std::time::{Duration, Instant};

use kambana::local::{Action, Target};

use super::overload::resident_kb;
use crate::load::{Dice, Load};
use crate::support::{Running, full, number, setting, side, whole};

const RETURN: Duration = Duration::from_secs(90);

/// Memory in kilobytes and open files of both instances, in whatever processes they run now.
fn size(stack: &Running) -> Vec<(u64, usize)> {
    let record = stack.record();
    let pids = record.instances.values().filter_map(|i| Some(i.process?.pid));
    pids.map(|pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        (resident_kb(pid), files)
    })
    .collect()
}

/// A fault, and how it ends.
fn fault(dice: &mut Dice) -> (Target, Action, Action) {
    let target = match dice.below(6) {
        0..=1 => Target::Side(side("a")),
        2..=3 => Target::Side(side("b")),
        n => Target::Web(n as usize - 4),
    };
    let (begin, end) = match dice.below(3) {
        0 => (Action::Crash, Action::Start),
        1 => (Action::Freeze, Action::Thaw),
        _ => (Action::Stop, Action::Start),
    };
    (target, begin, end)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_60_faults_without_end() {
    let seed = setting("KAMBANA_SEED", 60);
    let mut dice = Dice::new(seed);
    println!("KAMBANA_SEED={seed}");
    let stack = full().await;
    let load = Load::start(vec![stack.url()], 8, 60, true);
    load.more(300).await;
    let start = size(&stack);
    let until = Instant::now() + Duration::from_secs(setting("KAMBANA_SOAK_S", 10));
    let mut faults = 0;
    while Instant::now() < until || faults < 3 {
        let (target, begin, end) = fault(&mut dice);
        println!("{faults}: {begin} {target}");
        stack.act(begin, target).await.unwrap();
        load.more(20 + dice.below(150) as usize).await;
        stack.act(end, target).await.unwrap();
        faults += 1;
        // Every third fault meets the repair of the one before.
        if dice.below(3) > 0 {
            whole(&stack, RETURN).await;
            load.more(20).await;
        } else if matches!(target, Target::Web(_)) {
            load.more(20).await;
        } else {
            // Both sides at once would rightly stop the writes; the same side again is a repair interrupted.
            stack.act(Action::Crash, target).await.unwrap();
            load.more(20).await;
            stack.act(Action::Start, target).await.unwrap();
            whole(&stack, RETURN).await;
        }
    }
    whole(&stack, RETURN).await;
    load.more(300).await;
    let end = size(&stack);
    load.all_served(&stack, RETURN).await;
    println!("{faults} faults; memory and files {start:?} -> {end:?}");
    assert!(faults >= 3);
    for ((memory, files), (later, more)) in start.iter().zip(&end) {
        assert!(later < &(memory + 40_000), "memory grows: {memory} -> {later} kB");
        assert!(more < &(files + 60), "open files grow: {files} -> {more}");
    }
    for name in ["a", "b"] {
        let dsn = stack.dsn(side(name));
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' \
                    AND state_change < now() - interval '5 s'";
        assert_eq!(number(&dsn, idle).await, 0, "nothing is left over on {name}");
        let locks = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        assert_eq!(number(&dsn, locks).await, 0);
    }
    stack.stop().await.unwrap();
}
