//! `MultiPool` as a library: both doors, a lock of somebody else's, numbers of new rows.

mod clashes;
mod guard;
mod half;
mod installation;
mod ledger;
mod returns;
mod statements;

use std::time::Duration;

use kambana::local::{Action, Target};
use kambana::multipool::{Change, Fields, NotApplied, OpId, OpOutcome, Value, WriteError, install};

use crate::doors::{TABLES, config, finish, id, insert, installed, item, pool, sql};
use crate::support::{eventually, healed, number, pair, side, whole};

#[tokio::test(flavor = "multi_thread")]
async fn the_declarative_door() {
    let stack = installed().await;
    let (pool, other) = (pool(&stack, "web1").await, pool(&stack, "web2").await);

    // The same name at both instances at once: one row, one of the answers is the other's.
    let op = OpId::new();
    let (x, y) = tokio::join!(
        pool.change(op, vec![item("twice")]),
        other.change(op, vec![item("twice")])
    );
    let (x, y) = (x.unwrap(), y.unwrap());
    assert_eq!(x.rows, y.rows);
    assert!(x.replayed != y.replayed, "exactly one is a repetition");
    let row = x.rows[0].id().unwrap();
    let reused = pool.change(op, vec![item("something else")]).await;
    assert!(
        matches!(reused, Err(WriteError::OpReused(o)) if o == op),
        "{reused:?}"
    );
    assert_eq!(
        other.operations(&[op, OpId::new()]).await.unwrap(),
        [OpOutcome::Applied, OpOutcome::Unseen]
    );

    // Edit conflict, and all changes of one operation or none.
    let seen = Fields::new().with("name", "twice");
    let to = |name: &str| Fields::new().with("name", name).with("updated_at", Value::Now);
    pool.change(
        OpId::new(),
        vec![Change::update("items", id(row), to("mine")).expecting(seen.clone())],
    )
    .await
    .unwrap();
    let late = vec![
        item("rolled back"),
        Change::update("items", id(row), to("theirs")).expecting(seen),
    ];
    match pool.change(OpId::new(), late).await {
        Err(WriteError::EditConflict { current, .. }) => {
            assert_eq!(current.get("name"), Some(&Value::from("mine")));
        }
        other => panic!("{other:?}"),
    }
    let gone = pool
        .change(OpId::new(), vec![Change::delete("items", id(999_999))])
        .await;
    assert!(matches!(gone, Err(WriteError::NotFound { .. })), "{gone:?}");
    let refused = pool
        .change(
            OpId::new(),
            vec![Change::insert("items", Fields::new().with("content", "no name"))],
        )
        .await;
    assert!(
        matches!(&refused, Err(WriteError::Rejected { sqlstate, .. }) if sqlstate == "23502"),
        "{refused:?}"
    );
    let nul = pool.change(OpId::new(), vec![item("a\0b")]).await;
    assert!(matches!(&nul, Err(WriteError::Rejected { .. })), "{nul:?}");

    // Many at once, good and bad together: each has its own outcome.
    let answers = futures::future::join_all((0..60).map(|n| {
        let name = if n % 7 == 0 {
            "bad\0".to_owned()
        } else {
            format!("batch {n}")
        };
        let pool = if n % 2 == 0 { pool.clone() } else { other.clone() };
        async move { (n, pool.change(OpId::new(), vec![item(&name)]).await) }
    }))
    .await;
    for (n, answer) in answers {
        assert_eq!(answer.is_ok(), n % 7 != 0, "{n}: {answer:?}");
    }
    for name in ["a", "b"] {
        let count = number(&stack.dsn(side(name)), "SELECT count(*) FROM items").await;
        assert_eq!(count, 1 + 60 - 9, "side {name}");
    }
    finish(stack, &[pool, other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_general_door() {
    let stack = pair().await;
    let ddl = "CREATE TABLE \"Été\" (a int, \"B b\" text, v double precision DEFAULT random(), t timestamp DEFAULT clock_timestamp(),
           x bytea, j jsonb, l int[], g int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, \"B b\"));
         CREATE TABLE unwatched (n int);";
    for name in ["a", "b"] {
        sql(&stack, name).await.batch_execute(ddl).await.unwrap();
    }
    let tables = [&TABLES[..], &["Été"]].concat();
    install(&config(&stack, "init"), &tables).await.unwrap();
    let pool = pool(&stack, "web1").await;

    let op = OpId::new();
    for round in 0..2 {
        let (applied, count) = pool
            .transaction(op, |tx| {
                Box::pin(async move {
                    tx.execute(
                        "INSERT INTO items (name) SELECT 'n' || g FROM generate_series(1, 5) g",
                        &[],
                    )
                    .await?;
                    tx.execute(
                        "UPDATE items SET name = name || '!' WHERE name = $1",
                        &[Value::from("n3")],
                    )
                    .await?;
                    tx.execute("DELETE FROM items WHERE name = 'n4'", &[]).await
                })
            })
            .await
            .unwrap();
        assert_eq!(
            (count, applied.replayed),
            (1, round == 1),
            "the value of the closure is kept with its name"
        );
    }
    let odd = r#"INSERT INTO "Été" (a, "B b", x, j, l) SELECT g, 'k,"\ ' || g, '\x00ff', '{"a": null}', '[2:3]={7,8}'
                 FROM generate_series(1, 20) g"#;
    pool.transactional_write(odd, &[]).await.unwrap();
    pool.transactional_write(r#"UPDATE "Été" SET a = a + 100, v = '-0' WHERE a <= 3"#, &[])
        .await
        .unwrap();
    pool.transactional_write(r#"UPDATE "Été" SET v = 'NaN', t = 'infinity' WHERE a = 5"#, &[])
        .await
        .unwrap();

    // A swallowed error must not be committed; nor may a closure end its transaction, or write where nobody looks.
    let poisoned = pool
        .transaction(OpId::new(), |tx| {
            Box::pin(async move {
                tx.execute("INSERT INTO items (name) VALUES ('poisoned')", &[])
                    .await?;
                let _ = tx.execute("INSERT INTO nowhere VALUES (1)", &[]).await;
                Ok(())
            })
        })
        .await;
    assert!(
        matches!(&poisoned, Err(WriteError::Rejected { sqlstate, .. }) if sqlstate == "42P01"),
        "{poisoned:?}"
    );
    let ended = pool.transactional_write("COMMIT", &[]).await;
    assert!(ended.is_err(), "{ended:?}");
    let unseen = pool
        .transactional_write("INSERT INTO unwatched VALUES (1)", &[])
        .await;
    assert!(
        unseen
            .as_ref()
            .is_err_and(|e| e.to_string().contains("unwatched")),
        "{unseen:?}"
    );

    // A caller that goes away does not stop its operation.
    let op = OpId::new();
    let dropped = pool.change(op, vec![item("caller gone")]);
    assert!(tokio::time::timeout(Duration::ZERO, dropped).await.is_err());
    eventually("the operation is done", Duration::from_secs(5), || async {
        pool.operations(&[op]).await.unwrap() == [OpOutcome::Applied]
    })
    .await;

    pool.transactional_write("TRUNCATE servers", &[]).await.unwrap();
    healed(&stack, Duration::from_secs(10)).await;
    let mut dumps = Vec::new();
    for name in ["a", "b"] {
        let client = sql(&stack, name).await;
        let rows = client
            .query(r#"SELECT t::text FROM "Été" AS t ORDER BY a, "B b""#, &[])
            .await
            .unwrap();
        dumps.push(rows.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>());
        assert_eq!(
            number(
                &stack.dsn(side(name)),
                "SELECT count(*) FROM items WHERE name = 'poisoned'"
            )
            .await,
            0
        );
    }
    assert_eq!(dumps[0].len(), 20);
    assert_eq!(dumps[0], dumps[1]);
    finish(stack, &[pool]).await;
}

/// Somebody lost a disk. The other side serves, also when its instance is started anew, and nothing is ever copied from
/// the empty one.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_lock_is_answered_and_nobody_is_ejected() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let a = sql(&stack, "a").await;
    a.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let refused = pool.change(OpId::new(), vec![item("behind the lock")]).await;
    assert!(
        matches!(refused, Err(WriteError::NotApplied(NotApplied::Locked))),
        "{refused:?}"
    );
    let server = Fields::new().with("name", "s").with("host", "h").with("port", 1);
    pool.change(OpId::new(), vec![Change::insert("servers", server)])
        .await
        .unwrap();
    a.batch_execute("ROLLBACK").await.unwrap();
    insert(&pool, "after the lock").await;
    assert_eq!(
        number(&stack.dsn(side("a")), "SELECT n FROM kambana.epoch").await,
        1
    );
    finish(stack, &[pool]).await;
}

/// The connections of one lane stay warm; and who must wait for a lock holds up only himself.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_caller_meets_one_lane_and_who_waits_holds_up_nobody() {
    const LANES: &str = "SELECT count(DISTINCT lane) FROM kambana.op";
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let row = insert(&pool, "first").await;
    for _ in 0..20 {
        insert(&pool, "alone").await;
    }
    assert_eq!(number(&stack.dsn(side("a")), LANES).await, 1);

    let a = sql(&stack, "a").await;
    a.batch_execute(&format!("BEGIN; SELECT FROM items WHERE id = {row} FOR UPDATE"))
        .await
        .unwrap();
    let waiting = {
        let pool = pool.clone();
        let set = Fields::new().with("content", "late");
        let change = Change::update("items", id(row), set);
        tokio::spawn(async move { pool.change(OpId::new(), vec![change]).await })
    };
    let locked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'kambana%'";
    eventually("the update waits", Duration::from_secs(5), async || {
        number(&stack.dsn(side("a")), locked).await == 1
    })
    .await;
    for _ in 0..20 {
        insert(&pool, "meanwhile").await;
    }
    assert!(!waiting.is_finished(), "it still waits");
    a.batch_execute("ROLLBACK").await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(
        number(&stack.dsn(side("a")), LANES).await,
        2,
        "the second lane took everything meanwhile"
    );
    finish(stack, &[pool]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_the_two_sides_never_meet() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let mut ids = Vec::new();
    for round in 0..4 {
        for _ in 0..5 {
            ids.push(insert(&pool, "x").await);
        }
        // The highest id is deleted before the other side takes over: it must not be handed out again.
        let last = ids[ids.len() - 1];
        pool.change(OpId::new(), vec![Change::delete("items", id(last))])
            .await
            .unwrap();
        let name = if round % 2 == 0 { "a" } else { "b" };
        stack.act(Action::Crash, Target::Side(side(name))).await.unwrap();
        ids.push(insert(&pool, "alone").await);
        stack.act(Action::Start, Target::Side(side(name))).await.unwrap();
        whole(&stack, Duration::from_secs(30)).await;
    }
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    finish(stack, &[pool]).await;
}
