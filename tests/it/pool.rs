//! `MultiPool` as a library: both doors, foreign writes, returns, and who may go on alone.

use std::time::Duration;

use kambana::config::PoolConfig;
use kambana::local::{Action, Target};
use kambana::multipool::{
    Change, Fields, MultiPool, NotApplied, OpId, OpOutcome, Value, WriteError, install,
};
use tokio_postgres::Client;

use crate::support::{Running, assert_identical, connect, eventually, healed, number, pair, side, whole};

const TABLES: [&str; 3] = ["php_session", "items", "servers"];

fn config(stack: &Running, instance: &str) -> PoolConfig {
    let mut config = PoolConfig::new(stack.side_configs(), instance);
    config.state_dir = stack.place().dir.join("state");
    config
}

async fn installed(extra: &[&str], ddl: &str) -> Running {
    let stack = pair().await;
    for name in ["a", "b"] {
        sql(&stack, name).await.batch_execute(ddl).await.unwrap();
    }
    let tables: Vec<&str> = TABLES.iter().chain(extra).copied().collect();
    install(&config(&stack, "init"), &tables).await.unwrap();
    stack
}

async fn pool(stack: &Running, instance: &str) -> MultiPool {
    MultiPool::connect(config(stack, instance)).await.unwrap()
}

async fn sql(stack: &Running, name: &str) -> Client {
    connect(&stack.dsn(side(name))).await.unwrap()
}

fn item(name: &str) -> Change {
    Change::insert("items", Fields::new().with("name", name))
}

fn id(id: i64) -> Fields {
    Fields::new().with("id", id)
}

async fn insert(pool: &MultiPool, name: &str) -> i64 {
    pool.change(OpId::new(), vec![item(name)]).await.unwrap().rows[0]
        .id()
        .unwrap()
}

async fn finish(stack: Running, pools: &[MultiPool]) {
    healed(&stack, Duration::from_secs(30)).await;
    assert_identical(&stack).await;
    for pool in pools {
        pool.close().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_declarative_door() {
    let stack = installed(&[], "").await;
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
    let stack = installed(
        &["Été"],
        "CREATE TABLE \"Été\" (a int, \"B b\" text, v double precision DEFAULT random(), t timestamp DEFAULT clock_timestamp(),
           x bytea, j jsonb, l int[], g int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, \"B b\"));
         CREATE TABLE unwatched (n int);",
    )
    .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_psql_reaches_the_other_side_and_a_clash_keeps_both_images() {
    let stack = installed(&[], "").await;
    let pool = pool(&stack, "web1").await;
    let (x, y) = (insert(&pool, "x").await, insert(&pool, "y").await);
    healed(&stack, Duration::from_secs(10)).await;
    let (a, b) = (sql(&stack, "a").await, sql(&stack, "b").await);
    a.execute(
        "UPDATE items SET content = 'by psql on a' WHERE id = $1",
        &[&(x as i32)],
    )
    .await
    .unwrap();
    b.execute("DELETE FROM items WHERE id = $1", &[&(y as i32)])
        .await
        .unwrap();
    b.execute("INSERT INTO items (name) VALUES ('born on b')", &[])
        .await
        .unwrap();
    eventually(
        "three foreign writes on both sides",
        Duration::from_secs(4),
        || async {
            let mut all = true;
            for name in ["a", "b"] {
                let sql =
                    "SELECT count(*) FILTER (WHERE content = 'by psql on a') * 100 + count(*) FROM items";
                all &= number(&stack.dsn(side(name)), sql).await == 102;
            }
            all
        },
    )
    .await;
    assert_identical(&stack).await;

    // The same row on both sides, before anybody looks.
    for client in [&a, &b] {
        client.batch_execute("BEGIN").await.unwrap();
    }
    a.execute(
        "UPDATE items SET content = 'from a' WHERE id = $1",
        &[&(x as i32)],
    )
    .await
    .unwrap();
    b.execute(
        "UPDATE items SET content = 'from b' WHERE id = $1",
        &[&(x as i32)],
    )
    .await
    .unwrap();
    let (on_a, on_b) = tokio::join!(a.batch_execute("COMMIT"), b.batch_execute("COMMIT"));
    on_a.and(on_b).unwrap();
    healed(&stack, Duration::from_secs(10)).await;
    assert_identical(&stack).await;
    for client in [&a, &b] {
        let row = client
            .query_one("SELECT kept_image, lost_image FROM kambana.conflict", &[])
            .await
            .unwrap();
        // The newer write counts, unless the table has another rule.
        assert!(row.get::<_, String>(0).contains("from b") && row.get::<_, String>(1).contains("from a"));
    }
    finish(stack, &[pool]).await;
}

/// Nobody was watching while both sides were edited by hand: what clashes gives way as a whole, and is kept.
#[tokio::test(flavor = "multi_thread")]
async fn clashes_that_happened_while_no_instance_ran_are_found_and_kept() {
    let stack = installed(&[], "").await;
    let first = pool(&stack, "web1").await;
    let (x, y) = (insert(&first, "x").await, insert(&first, "y").await);
    healed(&stack, Duration::from_secs(10)).await;
    first.close().await;
    let (a, b) = (sql(&stack, "a").await, sql(&stack, "b").await);
    a.batch_execute(&format!(
        "INSERT INTO items (name) VALUES ('on a'); UPDATE items SET content = 'a' WHERE id = {x}"
    ))
    .await
    .unwrap();
    b.batch_execute("INSERT INTO servers (name, host, port) VALUES ('on b', 'h', 1); TRUNCATE items")
        .await
        .unwrap();
    assert_eq!(
        number(&stack.dsn(side("b")), "SELECT count(*) FROM items").await,
        0
    );

    let second = pool(&stack, "web1").await;
    healed(&stack, Duration::from_secs(20)).await;
    assert_identical(&stack).await;
    for name in ["a", "b"] {
        let dsn = stack.dsn(side(name));
        let rows = format!("SELECT count(*) FROM items WHERE name = 'on a' OR id IN ({x}, {y})");
        assert_eq!(number(&dsn, &rows).await, 3, "the truncate gave way on {name}");
        assert_eq!(
            number(&dsn, "SELECT count(*) FROM servers").await,
            1,
            "what does not clash goes across"
        );
        let kept = "SELECT count(*) FROM kambana.conflict WHERE tbl = 'items' AND lost_side = 'b'";
        assert!(number(&dsn, kept).await >= 1, "and is kept on {name}");
    }
    finish(stack, &[second]).await;
}

/// An instance died after the follower's COMMIT and before the leader's: the next writer of the row must not lose it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_only_the_follower_has_is_rolled_forward_by_the_next_writer() {
    let stack = installed(&[], "").await;
    let pool = pool(&stack, "web1").await;
    let row = insert(&pool, "before").await;
    healed(&stack, Duration::from_secs(10)).await;
    // What the dead instance has left on side b, as its own statements would.
    let b = sql(&stack, "b").await;
    b.batch_execute(&format!(
        "BEGIN; INSERT INTO kambana.lane VALUES (77, 'dead', '{{0,0}}');
         INSERT INTO kambana.op (op, digest, lane, batch, epoch) VALUES (gen_random_uuid(), 0, 77, 1, 1);
         SELECT set_config('kambana.lane', '77', true), set_config('kambana.batch', '1', true),
                set_config('kambana.op', (SELECT op::text FROM kambana.op WHERE lane = 77), true);
         UPDATE items SET content = 'half written' WHERE id = {row}; COMMIT"
    ))
    .await
    .unwrap();
    let sql_a = format!("SELECT count(*) FROM items WHERE id = {row} AND content = 'half written'");
    assert_eq!(
        number(&stack.dsn(side("a")), &sql_a).await,
        0,
        "the leader lacks it"
    );
    let rename = Change::update("items", id(row), Fields::new().with("name", "after"));
    pool.change(OpId::new(), vec![rename]).await.unwrap();
    healed(&stack, Duration::from_secs(10)).await;
    for name in ["a", "b"] {
        let text = format!(
            "SELECT count(*) FROM items WHERE content = 'half written' AND name = 'after' AND id = {row}"
        );
        assert_eq!(
            number(&stack.dsn(side(name)), &text).await,
            1,
            "both changes are on side {name}"
        );
    }
    finish(stack, &[pool]).await;
}

/// The leader has executed an operation and the follower's COMMIT was lost: the next write of the row carries its effect to
/// the follower, and must not leave its name behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_only_the_leader_has_is_not_applied_again_after_its_death() {
    let stack = installed(&[], "").await;
    // Its vote lets b go on alone.
    let (pool, witness) = (pool(&stack, "web1").await, pool(&stack, "web2").await);
    let row = insert(&pool, "before").await;
    healed(&stack, Duration::from_secs(10)).await;
    let append = format!("UPDATE items SET content = coalesce(content, '') || 'x' WHERE id = {row}");
    let op = OpId::new();
    sql(&stack, "a")
        .await
        .batch_execute(&left_behind(77, 1, op, &append))
        .await
        .unwrap();
    let rename = Change::update("items", id(row), Fields::new().with("name", "after"));
    pool.change(OpId::new(), vec![rename]).await.unwrap();
    stack.act(Action::Crash, Target::Side(side("a"))).await.unwrap();
    let (repeated, _) = pool
        .transaction(op, move |tx| {
            let append = append.clone();
            Box::pin(async move { tx.execute(&append, &[]).await.map(|_| ()) })
        })
        .await
        .unwrap();
    let content = format!("SELECT length(content) FROM items WHERE id = {row} AND name = 'after'");
    let content = format!("SELECT coalesce(({content}), -1)::bigint");
    assert_eq!(number(&stack.dsn(side("b")), &content).await, 1, "applied once");
    assert!(repeated.replayed, "its name is known");
    stack.act(Action::Start, Target::Side(side("a"))).await.unwrap();
    finish(stack, &[pool, witness]).await;
}

/// A lane has given up a batch in doubt: its own next batch meets what is left of it like anybody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_meets_its_own_batch_that_it_gave_up_in_doubt() {
    let stack = installed(&[], "").await;
    let mut settings = config(&stack, "web1");
    settings.write_lanes = 1;
    let pool = MultiPool::connect(settings).await.unwrap();
    let row = insert(&pool, "before").await;
    healed(&stack, Duration::from_secs(10)).await;
    let b = sql(&stack, "b").await;
    let lane = number(&stack.dsn(side("b")), "SELECT lane FROM kambana.op").await;
    let change = format!("UPDATE items SET content = 'half written' WHERE id = {row}");
    // A number that this lane does not come to.
    b.batch_execute(&left_behind(lane, 1000, OpId::new(), &change))
        .await
        .unwrap();
    let rename = Change::update("items", id(row), Fields::new().with("name", "after"));
    pool.change(OpId::new(), vec![rename]).await.unwrap();
    for name in ["a", "b"] {
        let both = format!(
            "SELECT count(*) FROM items WHERE content = 'half written' AND name = 'after' AND id = {row}"
        );
        assert_eq!(
            number(&stack.dsn(side(name)), &both).await,
            1,
            "both changes are on side {name}"
        );
    }
    finish(stack, &[pool]).await;
}

/// What a writer of the pool leaves on a side if its COMMIT arrives there only.
fn left_behind(lane: i64, batch: i64, op: OpId, change: &str) -> String {
    format!(
        "BEGIN; INSERT INTO kambana.lane VALUES ({lane}, 'dead', '{{0,0}}') ON CONFLICT DO NOTHING;
         INSERT INTO kambana.op (op, digest, lane, batch, epoch) VALUES ('{op}', 0, {lane}, {batch}, 1);
         SELECT set_config('kambana.lane', '{lane}', true), set_config('kambana.batch', '{batch}', true),
                set_config('kambana.op', '{op}', true);
         {change}; COMMIT"
    )
}

/// Case 48: also a row that is made, changed and deleted again and again.
#[tokio::test(flavor = "multi_thread")]
async fn case_48_twenty_thousand_missed_changes_are_caught_up_while_writes_go_on() {
    let stack = installed(&[], "").await;
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
        events.iter().any(|e| e.what.contains("up to date")),
        "{events:#?}"
    );
    finish(stack, &[pool]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_missed_the_last_write_never_serves_alone() {
    let stack = installed(&[], "").await;
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

/// Somebody lost a disk. The other side serves, also when its instance is started anew, and nothing is ever copied from
/// the empty one.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_lock_is_answered_and_nobody_is_ejected() {
    let stack = installed(&[], "").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_the_two_sides_never_meet() {
    let stack = installed(&[], "").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn installation_refuses_what_cannot_be_a_pair() {
    let stack = pair().await;
    let good = config(&stack, "init");
    let refusal = |config: PoolConfig, tables: &'static [&'static str]| async move {
        install(&config, tables).await.unwrap_err().to_string()
    };
    let with_sides = |sides: Vec<_>| PoolConfig {
        state_dir: good.state_dir.clone(),
        ..PoolConfig::new(sides, "init")
    };
    let sides = stack.side_configs();

    let same = with_sides(vec![sides[0].clone(), sides[0].clone()]);
    assert!(refusal(same, &TABLES).await.contains("same database"));
    assert!(
        refusal(good.clone(), &["nothing"])
            .await
            .contains("`nothing` is missing")
    );
    let (a, b) = (sql(&stack, "a").await, sql(&stack, "b").await);
    b.batch_execute("ALTER TABLE items ADD COLUMN more int")
        .await
        .unwrap();
    assert!(
        refusal(good.clone(), &TABLES)
            .await
            .contains("side b: table items differs")
    );
    b.batch_execute("ALTER TABLE items DROP COLUMN more; INSERT INTO items (name) VALUES ('only here')")
        .await
        .unwrap();
    assert!(
        refusal(good.clone(), &TABLES)
            .await
            .contains("other rows on side b")
    );
    b.batch_execute("TRUNCATE items").await.unwrap();
    for (ddl, word) in [
        ("CREATE TABLE odd (n int)", "no primary key"),
        (
            "CREATE TABLE odd (n serial PRIMARY KEY); ALTER SEQUENCE odd_n_seq CACHE 20",
            "CACHE",
        ),
    ] {
        for client in [&a, &b] {
            client.batch_execute(ddl).await.unwrap();
        }
        let text = refusal(good.clone(), &["odd"]).await;
        assert!(text.contains(word), "{ddl}: {text}");
        for client in [&a, &b] {
            client.batch_execute("DROP TABLE odd").await.unwrap();
        }
    }
    for client in [&a, &b] {
        let schema = client
            .query_one("SELECT to_regnamespace('kambana') IS NULL", &[])
            .await
            .unwrap();
        assert!(schema.get::<_, bool>(0), "a refused installation leaves nothing");
    }

    install(&good, &TABLES).await.unwrap();
    install(&good, &TABLES).await.unwrap();
    let swapped = with_sides(vec![sides[1].clone(), sides[0].clone()]);
    assert!(refusal(swapped.clone(), &TABLES).await.contains("swapped"));
    let text = MultiPool::connect(swapped).await.err().unwrap().to_string();
    assert!(text.contains("swapped"), "{text}");
    a.batch_execute("UPDATE kambana.identity SET version = version - 1")
        .await
        .unwrap();
    let text = MultiPool::connect(good.clone()).await.err().unwrap().to_string();
    assert!(text.contains("run `kambana init` of this version"), "{text}");
    let done = install(&good, &TABLES).await.unwrap().join("\n");
    assert!(
        done.contains("side a: objects of the pool are those of this version now"),
        "{done}"
    );
    b.batch_execute("UPDATE kambana.identity SET version = version + 1")
        .await
        .unwrap();
    assert!(
        refusal(good.clone(), &TABLES)
            .await
            .contains("this program is older")
    );
    b.batch_execute("UPDATE kambana.identity SET version = version - 1")
        .await
        .unwrap();
    b.batch_execute("ALTER TABLE servers ADD COLUMN more int")
        .await
        .unwrap();
    let text = MultiPool::connect(good.clone()).await.err().unwrap().to_string();
    assert!(text.contains("side b: table servers differs"), "{text}");
    b.batch_execute("ALTER TABLE servers DROP COLUMN more")
        .await
        .unwrap();

    // Mended, it starts, and a side that leaves and returns is looked at anew.
    let pool = MultiPool::connect(good).await.unwrap();
    stack.act(Action::Crash, Target::Side(side("b"))).await.unwrap();
    insert(&pool, "b is out").await;
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    whole(&stack, Duration::from_secs(30)).await;
    pool.close().await;
    stack.stop().await.unwrap();
}
