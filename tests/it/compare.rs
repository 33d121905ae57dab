//! The proof: no false alarm while others write, and a value that flipped behind everybody's back is named.

use std::time::{Duration, Instant};

use kambana::multipool::{Change, Fields, Happened, MultiPool, OpId, compare};

use crate::doors::{CROWDED, config, finish, insert, installed, pool, sql};
use crate::load::Dice;
use crate::support::{Running, eventually, healed, program, setting, side};

/// How long it is looked for false alarms.
fn patience() -> Duration {
    Duration::from_secs(setting("KAMBANA_COMPARE_S", 15))
}

/// Edits rows by hand on one side until told to stop: how many edits.
fn edits(
    stack: &Running,
    name: &'static str,
    rows: Vec<i64>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> tokio::task::JoinHandle<u64> {
    let dsn = stack.dsn(side(name));
    tokio::spawn(async move {
        let client = crate::support::connect(&dsn).await.unwrap();
        let (mut dice, mut count) = (Dice::new(name.len() as u64 + count_of(name)), 0);
        while !*stopped.borrow_and_update() {
            let id = rows[dice.below(rows.len() as u64) as usize];
            count += 1;
            let text = match dice.below(8) {
                0 => format!("DELETE FROM items WHERE id = {id}"),
                1 => format!(
                    "INSERT INTO items (id, name) VALUES ({id}, 'again {count}') ON CONFLICT DO NOTHING"
                ),
                _ => format!("UPDATE items SET content = '{name} {count}' WHERE id = {id}"),
            };
            client.batch_execute(&text).await.unwrap();
            tokio::time::sleep(Duration::from_millis(dice.below(40))).await;
        }
        count
    })
}

fn count_of(name: &str) -> u64 {
    u64::from(name.as_bytes()[0])
}

/// The pool's own writes, 200 a second if the machine can, each timed.
fn paced(
    pool: &MultiPool,
    stopped: &tokio::sync::watch::Receiver<bool>,
) -> Vec<tokio::task::JoinHandle<Vec<Duration>>> {
    let writer = |n: u32| {
        let (pool, mut stopped) = (pool.clone(), stopped.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            let mut pace = tokio::time::interval(Duration::from_millis(40));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let row = insert(&pool, "paced").await;
            while !*stopped.borrow_and_update() {
                pace.tick().await;
                let began = Instant::now();
                let set = Fields::new().with("content", format!("{n} {}", times.len()));
                let change = Change::update("items", Fields::new().with("id", row), set);
                pool.change(OpId::new(), vec![change]).await.unwrap();
                times.push(began.elapsed());
            }
            times
        })
    };
    (0..8).map(writer).collect()
}

async fn times(writers: Vec<tokio::task::JoinHandle<Vec<Duration>>>) -> Vec<Duration> {
    let mut times = Vec::new();
    for writer in writers {
        times.extend(writer.await.unwrap());
    }
    times.sort();
    times
}

fn said(times: &[Duration], during: Duration) -> String {
    format!(
        "{} paced writes ({:.0}/s): p50 {:?} p99 {:?} longest {:?}",
        times.len(),
        times.len() as f64 / during.as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    )
}

/// What the comparison alone costs the writers: the same load without and with it.
async fn quiet_pauses(stack: &Running, pool: &MultiPool) {
    let mut measured = Vec::new();
    for compares in [false, true] {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let writers = paced(pool, &stopped);
        let (began, mut pauses) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(8) {
            if compares {
                let found = compare(&config(stack, "compare")).await.unwrap();
                assert!(found.identical, "{found:#?}");
                pauses.push(found.pause_ms);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        stop.send(true).unwrap();
        let times = times(writers).await;
        println!(
            "comparing {compares}: {}; pauses {pauses:.1?} ms",
            said(&times, began.elapsed())
        );
        measured.push(times[times.len() * 99 / 100]);
    }
    let limit = measured[0].max(Duration::from_millis(50));
    assert!(
        measured[1] < limit * CROWDED,
        "p99 without and with comparing: {measured:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_false_alarm_while_everybody_writes_and_writers_hardly_wait() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    pool.transactional_write(
        "INSERT INTO items (name) SELECT 'old ' || g FROM generate_series(1, 5000) g",
        &[],
    )
    .await
    .unwrap();
    let mut rows = Vec::new();
    for n in 0..40 {
        rows.push(insert(&pool, &format!("hot {n}")).await);
    }
    healed(&stack, Duration::from_secs(10)).await;
    quiet_pauses(&stack, &pool).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let hands = [
        edits(&stack, "a", rows[..20].to_vec(), stopped.clone()),
        edits(&stack, "b", rows[10..].to_vec(), stopped.clone()),
    ];
    let writers = paced(&pool, &stopped);
    let (began, mut rounds, mut pauses, mut on_their_way) = (Instant::now(), 0, Vec::new(), 0);
    // Four rounds at least, however slow the disk.
    while began.elapsed() < patience() || rounds < 4 {
        let found = compare(&config(&stack, "compare")).await.unwrap();
        assert_eq!(found.differing(), 0, "a false alarm: {found:#?}");
        rounds += 1;
        on_their_way += found.explained();
        pauses.push(found.pause_ms);
    }
    stop.send(true).unwrap();
    let mut edited = 0;
    for hand in hands {
        edited += hand.await.unwrap();
    }
    let times = times(writers).await;
    pauses.sort_by(f64::total_cmp);
    println!(
        "{rounds} rounds, {edited} edits by hand, {}; pauses median {:.1} ms longest {:.1} ms; {on_their_way} rows did not \
         arrive while looking",
        said(&times, began.elapsed()),
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1],
    );
    assert!(rounds > 3 && edited > 100 && times.len() > 100);
    // Behind sweeps that hold the fences themselves it waits longer, but never longer than its deadline.
    assert!(pauses[pauses.len() - 1] < 1000.0, "{pauses:?}");
    healed(&stack, Duration::from_secs(20)).await;
    let last = compare(&config(&stack, "compare")).await.unwrap();
    assert!(last.identical, "{last:#?}");
    finish(stack, &[pool]).await;
}

/// Bit rot, a restored file, somebody with the triggers switched off: no journal row tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_flipped_behind_the_triggers_is_named_and_not_overwritten() {
    let stack = installed().await;
    let mut settings = config(&stack, "web1");
    settings.compare_every = Duration::from_secs(1);
    let pool = MultiPool::connect(settings).await.unwrap();
    let mut rows = Vec::new();
    for n in 0..50 {
        rows.push(insert(&pool, &format!("row {n}")).await);
    }
    eventually(
        "a certificate of identical sides",
        Duration::from_secs(20),
        || async {
            let found = pool.status().certificate;
            found.is_some_and(|c| c.differing == 0 && c.explained == 0 && c.rows >= 50)
        },
    )
    .await;
    let b = sql(&stack, "b").await;
    b.batch_execute(&format!(
        "BEGIN; ALTER TABLE items DISABLE TRIGGER \"!kambana\"; UPDATE items SET content = 'rotten' WHERE id = {};
         DELETE FROM items WHERE id = {}; ALTER TABLE items ENABLE TRIGGER \"!kambana\"; COMMIT",
        rows[7], rows[9]
    ))
    .await
    .unwrap();
    let found = compare(&config(&stack, "compare")).await.unwrap();
    let items = found.tables.iter().find(|t| t.table == "items").unwrap();
    assert_eq!(
        (found.identical, items.differing, items.explained),
        (false, 2, 0),
        "{found:#?}"
    );
    let flipped = items
        .differences
        .iter()
        .find(|d| d.key == format!("({})", rows[7]))
        .unwrap();
    assert_eq!(flipped.columns, ["content"]);
    assert!(flipped.images[side("b")].as_deref().unwrap().contains("rotten"));
    let gone = items
        .differences
        .iter()
        .find(|d| d.key == format!("({})", rows[9]))
        .unwrap();
    assert_eq!(gone.images[side("b")], None);

    // The background finds it too, tells, and leaves both rows as they are.
    eventually(
        "a certificate that names the rows",
        Duration::from_secs(20),
        || async {
            let found = pool.status().certificate.unwrap();
            found.differing == 2
                && found
                    .found
                    .iter()
                    .any(|f| f.columns == ["content"] && f.table == "items")
        },
    )
    .await;
    let events = pool.status().events;
    assert!(
        events
            .iter()
            .any(|e| matches!(e.what, Happened::Differing { .. })),
        "{events:#?}"
    );
    for name in ["a", "b"] {
        let text = "SELECT id, at, digest, differing FROM kambana.certificate ORDER BY id";
        let stored = crate::support::rows(&stack.dsn(side(name)), text).await;
        let other = crate::support::rows(&stack.dsn(side("a")), text).await;
        assert!(
            stored.iter().filter(|row| other.contains(row)).count() >= 2,
            "{stored:?} {other:?}"
        );
    }
    let rotten = format!(
        "SELECT count(*) FROM items WHERE id = {} AND content = 'rotten'",
        rows[7]
    );
    assert_eq!(crate::support::number(&stack.dsn(side("b")), &rotten).await, 1);
    assert_eq!(crate::support::number(&stack.dsn(side("a")), &rotten).await, 0);

    // The command line says the same, round by round.
    let watched = std::process::Command::new(program())
        .args(["compare", "--watch", "--rounds", "2", "--every", "1"])
        .args(["--data", stack.place().dir.to_str().unwrap()])
        .env_remove("DB1_USER")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&watched.stdout);
    assert_eq!(watched.status.code(), Some(1), "{watched:?}");
    assert_eq!(
        said.lines()
            .filter(|l| l.contains("DIFFERENT: 2 row(s)") && l.contains("(content)"))
            .count(),
        2,
        "{said}"
    );

    // Mended by hand through the triggers, the sides are proved identical again.
    b.batch_execute(&format!("UPDATE items SET content = NULL WHERE id = {}", rows[7]))
        .await
        .unwrap();
    pool.change(
        OpId::new(),
        vec![Change::update(
            "items",
            Fields::new().with("id", rows[9]),
            Fields::new().with("content", "back"),
        )],
    )
    .await
    .unwrap();
    eventually(
        "a certificate of identical sides",
        Duration::from_secs(20),
        || async {
            pool.status()
                .certificate
                .is_some_and(|c| c.differing == 0 && c.explained == 0)
        },
    )
    .await;
    finish(stack, &[pool]).await;
}
