//! Sides that were out: what they missed is brought to them, and they never serve without it.

use std::time::Duration;

use kambana::local::{Action, Target};
use kambana::multipool::{Change, Fields, Happened, NotApplied, OpId, SideFault, WriteError};

use crate::doors::{finish, id, insert, installed, item, pool, sql};
use crate::support::{eventually, healed, number, side, whole};

/// Case 48: also a row that is made, changed and deleted again and again.
#[tokio::test(flavor = "multi_thread")]
async fn case_48_twenty_thousand_missed_changes_are_caught_up_while_writes_go_on() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let fill = "INSERT INTO items (name) SELECT 'old ' || g FROM generate_series(1, 10000) g";
    pool.transactional_write(fill, &[]).await.unwrap();
    pool.transactional_write("INSERT INTO servers (name, host, port) VALUES ('s', 'h', 1)", &[])
        .await
        .unwrap();
    healed(&stack, Duration::from_secs(10)).await;
    stack.act(Action::Crash, Target::Side(side("b"))).await.unwrap();
    for text in [
        "UPDATE items SET content = 'changed' WHERE id % 3 = 0",
        "DELETE FROM items WHERE id % 4 = 1",
        "INSERT INTO items (name) SELECT 'new ' || g FROM generate_series(1, 8000) g",
        "TRUNCATE servers",
        "INSERT INTO servers (name, host, port) VALUES ('t', 'h', 2)",
        "UPDATE items SET id = id + 1000000 WHERE id % 100 = 3",
    ] {
        pool.transactional_write(text, &[]).await.unwrap();
    }
    assert_eq!(
        number(&stack.dsn(side("a")), "SELECT members::bigint FROM kambana.epoch").await,
        1,
        "b is out"
    );
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    let hot = 999_999;
    let writer = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let (mut written, mut longest) = (0, Duration::ZERO);
            while pool.status().members.len() < 2 {
                let n = insert(&pool, "meanwhile").await;
                let row = id(hot).with("name", format!("hot {written}"));
                for change in [
                    Change::delete("items", id(n)),
                    Change::insert("items", row),
                    Change::update("items", id(hot), Fields::new().with("content", "hotter")),
                    Change::delete("items", id(hot)),
                ] {
                    let began = tokio::time::Instant::now();
                    pool.change(OpId::new(), vec![change]).await.unwrap();
                    longest = longest.max(began.elapsed());
                    written += 1;
                }
            }
            (written, longest)
        })
    };
    whole(&stack, Duration::from_secs(60)).await;
    let (written, longest) = writer.await.unwrap();
    println!("{written} writes meanwhile, the longest {longest:?}");
    assert!(written > 0, "writes went on during the catch-up");
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    for name in ["a", "b"] {
        let text = format!("SELECT count(*) FROM items WHERE id = {hot} OR name = 'meanwhile'");
        let found = number(&stack.dsn(side(name)), &text).await;
        assert_eq!(found, 0, "nothing deleted returns on {name}");
    }
    let events = pool.status().events;
    assert!(
        events.iter().any(|e| matches!(e.what, Happened::CaughtUp { .. })),
        "{events:#?}"
    );
    finish(stack, &[pool]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_missed_the_last_write_never_serves_alone() {
    let stack = installed().await;
    let (a, b) = (Target::Side(side("a")), Target::Side(side("b")));
    let web1 = pool(&stack, "web1").await;
    let row = insert(&web1, "on both").await;
    stack.act(Action::Crash, b).await.unwrap();
    web1.change(OpId::new(), vec![Change::delete("items", id(row))])
        .await
        .unwrap();
    let last = insert(&web1, "only on a").await;
    stack.act(Action::Crash, a).await.unwrap();
    stack.act(Action::Start, b).await.unwrap();
    let refused = web1.change(OpId::new(), vec![item("lost?")]).await;
    assert!(
        matches!(&refused, Err(WriteError::NotApplied(NotApplied::NoAuthority(s))) if *s == side("b")),
        "{refused:?}"
    );
    // A restarted instance knows it from its own disk.
    web1.close().await;
    let web1 = pool(&stack, "web1").await;
    assert!(!web1.status().writable);
    assert_eq!(web1.reader(), None, "nor is it read");
    stack.act(Action::Start, a).await.unwrap();
    eventually("writes are accepted again", Duration::from_secs(20), || async {
        web1.status().writable
    })
    .await;
    whole(&stack, Duration::from_secs(30)).await;
    for name in ["a", "b"] {
        let text = format!(
            "SELECT count(*) * 10 + count(*) FILTER (WHERE id = {row}) FROM items WHERE id IN ({row}, {last})"
        );
        assert_eq!(
            number(&stack.dsn(side(name)), &text).await,
            10,
            "deleted row gone, last row there on {name}"
        );
    }
    finish(stack, &[web1]).await;
}

/// The reason of an epoch quotes servers, and may be that of an installation with more sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_names_a_side_nobody_has_harms_nothing() {
    let stack = installed().await;
    let first = pool(&stack, "web1").await;
    stack.act(Action::Crash, Target::Side(side("b"))).await.unwrap();
    insert(&first, "without b").await;
    first.close().await;
    let text = "UPDATE kambana.epoch SET reason = reason || '; side p cannot be used: x; side b cannot be used: full' \
        RETURNING reason";
    let row = sql(&stack, "a").await.query_one(text, &[]).await.unwrap();
    let reason: String = row.get(0);
    assert!(reason.starts_with("side b does not answer: "), "{reason}");

    let pool = pool(&stack, "web1").await;
    insert(&pool, "still without b").await;
    let refused = |fault: &Option<SideFault>| *fault == Some(SideFault::Unfit("full".into()));
    // What b was left out for is known until b is asked itself.
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    eventually(
        "b was seen with its reason",
        Duration::from_secs(10),
        async || refused(&pool.status().sides[side("b")].fault),
    )
    .await;
    whole(&stack, Duration::from_secs(30)).await;
    let events = pool.status().events;
    let harmed = |what: &Happened| matches!(what, Happened::Restarted { .. } | Happened::Panicked(_));
    assert!(!events.iter().any(|e| harmed(&e.what)), "{events:#?}");
    finish(stack, &[pool]).await;
}
