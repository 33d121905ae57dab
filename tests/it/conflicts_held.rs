//! One row that cannot cross never stops the others.

use std::time::{Duration, Instant};

use kambana::multipool::{Change, Fields, NotApplied, OpId, WriteError};

use crate::doors::{CROWDED, Writer, finish, insert, installed, pool, sql};
use crate::support::{Running, eventually, healed, number, side};

async fn crossed(stack: &Running, name: &str, question: &str, expected: i64, limit: Duration) -> Duration {
    let began = Instant::now();
    let dsn = stack.dsn(side(name));
    eventually(question, limit, || async {
        number(&dsn, question).await == expected
    })
    .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_other_side_refuses_is_held_alone() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let (a, b) = (sql(&stack, "a").await, sql(&stack, "b").await);
    let row = insert(&pool, "edited on b").await;
    healed(&stack, Duration::from_secs(10)).await;
    a.batch_execute("ALTER TABLE items ADD CONSTRAINT only_here CHECK (name <> 'poison')")
        .await
        .unwrap();
    let load = Writer::start(&pool, Duration::from_millis(10));
    b.batch_execute(&format!("UPDATE items SET name = 'poison' WHERE id = {row}"))
        .await
        .unwrap();
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    for n in 0..20 {
        b.batch_execute(&format!("INSERT INTO items (name) VALUES ('good {n}')"))
            .await
            .unwrap();
        let question = format!("SELECT count(*) FROM items WHERE name = 'good {n}'");
        let limit = Duration::from_secs(2) * CROWDED;
        longest = longest.max(crossed(&stack, "a", &question, 1, limit).await);
    }
    println!(
        "20 good rows crossed one by one in {:?}, the slowest in {longest:?}",
        began.elapsed()
    );
    let held = pool.held_changes().await.unwrap();
    assert_eq!(held.len(), 1, "{held:#?}");
    assert_eq!(
        (held[0].table.as_str(), held[0].key.as_str()),
        ("items", format!("({row})").as_str())
    );
    assert!(
        held[0].reason.contains("only_here") && held[0].from == "b",
        "{held:#?}"
    );
    let name = |name: &str| format!("SELECT count(*) FROM items WHERE id = {row} AND name = '{name}'");
    assert_eq!(
        number(&stack.dsn(side("a")), &name("edited on b")).await,
        1,
        "the poison is not here"
    );
    // Who writes this very row is told at once, and nothing is overwritten.
    let began = Instant::now();
    let change = Change::update(
        "items",
        Fields::new().with("id", row),
        Fields::new().with("content", "mine"),
    );
    let refused = pool.change(OpId::new(), vec![change]).await;
    assert!(
        matches!(refused, Err(WriteError::NotApplied(NotApplied::Held))),
        "{refused:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(number(&stack.dsn(side("b")), &name("poison")).await, 1);
    let (written, slowest) = load.stop().await;
    println!("{written} writes of the pool meanwhile, the slowest {slowest:?}");
    assert!(
        written > 20 && slowest < Duration::from_secs(1) * CROWDED,
        "{written} {slowest:?}"
    );

    a.batch_execute("ALTER TABLE items DROP CONSTRAINT only_here")
        .await
        .unwrap();
    crossed(&stack, "a", &name("poison"), 1, Duration::from_secs(40)).await;
    assert_eq!(pool.held_changes().await.unwrap(), []);
    assert_eq!(
        number(&stack.dsn(side("a")), "SELECT n FROM kambana.epoch").await,
        1,
        "nobody was ejected"
    );
    finish(stack, &[pool]).await;
}

/// psql forgets its transaction for half a minute.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn a_row_that_is_locked_for_thirty_seconds_is_held_alone() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let (a, b) = (sql(&stack, "a").await, sql(&stack, "b").await);
    let (locked, free) = (insert(&pool, "locked").await, insert(&pool, "free").await);
    healed(&stack, Duration::from_secs(10)).await;
    b.batch_execute(&format!(
        "BEGIN; SELECT FROM items WHERE id = {locked} FOR UPDATE"
    ))
    .await
    .unwrap();
    let since = Instant::now();
    let load = Writer::start(&pool, Duration::from_millis(10));
    a.batch_execute(&format!("UPDATE items SET content = 'waits' WHERE id = {locked}"))
        .await
        .unwrap();
    let (mut n, mut longest) = (0, Duration::ZERO);
    while since.elapsed() < Duration::from_secs(30) {
        n += 1;
        a.batch_execute(&format!(
            "UPDATE items SET content = 'free {n}' WHERE id = {free}"
        ))
        .await
        .unwrap();
        let question = format!("SELECT count(*) FROM items WHERE id = {free} AND content = 'free {n}'");
        longest = longest.max(crossed(&stack, "b", &question, 1, Duration::from_secs(2) * CROWDED).await);
    }
    println!("{n} writes of another row crossed meanwhile, the slowest in {longest:?}");
    let held = pool.held_changes().await.unwrap();
    assert_eq!(held.len(), 1, "{held:#?}");
    assert!(
        held[0].reason.contains("holds a lock") && held[0].tries > 2,
        "{held:#?}"
    );
    let waits = format!("SELECT count(*) FROM items WHERE id = {locked} AND content = 'waits'");
    assert_eq!(
        number(&stack.dsn(side("b")), &waits).await,
        0,
        "it is locked there"
    );
    b.batch_execute("COMMIT").await.unwrap();
    let time = crossed(&stack, "b", &waits, 1, Duration::from_secs(4) * CROWDED).await;
    let (written, slowest) = load.stop().await;
    println!("crossed {time:?} after the lock; {written} writes of the pool, the slowest {slowest:?}");
    assert!(
        written > 100 && slowest < Duration::from_secs(1) * CROWDED,
        "{written} {slowest:?}"
    );
    finish(stack, &[pool]).await;
}
