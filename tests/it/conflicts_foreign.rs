//! Foreign writes (case 57): found and brought across in two seconds, while the pool writes.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use kambana::multipool::{Change, ConflictState, Fields, OpId};

use crate::doors::{CROWDED, Writer, finish, insert, installed, pool, sql};
use crate::load::Dice;
use crate::support::{Running, eventually, number, rows, side};

/// The promise of case 57.
const PROMISED: Duration = Duration::from_secs(2);

/// For twenty thousand rows at once, on a crowded machine.
const LARGE: Duration = Duration::from_secs(60);

/// Waits until `question` is answered with `expected` on a side; how long it took.
async fn seen(stack: &Running, name: &str, question: &str, expected: i64) -> Duration {
    let began = Instant::now();
    let dsn = stack.dsn(side(name));
    eventually(question, PROMISED * CROWDED, || async {
        number(&dsn, question).await == expected
    })
    .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_foreign_write_crosses_in_time_under_load() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(insert(&pool, &format!("row {n}")).await);
    }
    let server = |n: i32| {
        Fields::new()
            .with("name", format!("s{n}"))
            .with("host", "h")
            .with("port", n)
    };
    for n in 0..3 {
        pool.change(OpId::new(), vec![Change::insert("servers", server(n))])
            .await
            .unwrap();
    }
    let load = Writer::start(&pool, Duration::from_millis(5));
    let mut took = Vec::new();
    for (n, (here, there)) in [("a", "b"), ("b", "a")].into_iter().enumerate() {
        let client = sql(&stack, here).await;
        let (x, y, z) = (ids[4 * n], ids[4 * n + 1], ids[4 * n + 2]);
        let moved = z + 1_000_000;
        let steps = [
            (
                "insert",
                format!("INSERT INTO items (name) VALUES ('born on {here}')"),
                format!("SELECT count(*) FROM items WHERE name = 'born on {here}'"),
                1,
            ),
            (
                "update",
                format!("UPDATE items SET content = 'from {here}' WHERE id = {x}"),
                format!("SELECT count(*) FROM items WHERE id = {x} AND content = 'from {here}'"),
                1,
            ),
            (
                "delete",
                format!("DELETE FROM items WHERE id = {y}"),
                format!("SELECT count(*) FROM items WHERE id = {y}"),
                0,
            ),
            (
                "key change",
                format!("UPDATE items SET id = {moved} WHERE id = {z}"),
                format!("SELECT sum(id)::bigint FROM items WHERE id IN ({z}, {moved})"),
                moved,
            ),
            (
                "truncate",
                "TRUNCATE servers".to_owned(),
                "SELECT count(*) FROM servers".to_owned(),
                0,
            ),
            (
                "insert after it",
                format!("INSERT INTO servers (name, host, port) VALUES ('{here}', 'h', 1)"),
                format!("SELECT count(*) FROM servers WHERE name = '{here}'"),
                1,
            ),
        ];
        for (what, write, question, expected) in steps {
            client.batch_execute(&write).await.unwrap();
            let time = seen(&stack, there, &question, expected).await;
            println!("{what} on {here}: on {there} after {time:?}");
            took.push(time);
        }
    }
    let (written, longest) = load.stop().await;
    assert!(written > 20, "the pool wrote meanwhile: {written}");
    println!("{written} writes of the pool meanwhile, the longest {longest:?}");
    assert!(took.iter().all(|t| *t < PROMISED * CROWDED), "{took:?}");
    finish(stack, &[pool]).await;
}

/// Random edits by hand of each side's own rows: nothing is lost, nothing returns.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_random_foreign_writes_on_both_sides_at_once_under_load() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let load = Writer::start(&pool, Duration::from_millis(5));
    let edits = ["a", "b"].map(|name| {
        let seed = u64::from(name.as_bytes()[0]);
        let stack = &stack;
        async move {
            let client = sql(stack, name).await;
            let mut dice = Dice::new(seed);
            let mut expected: BTreeMap<i64, String> = BTreeMap::new();
            for n in 0..100 {
                let id = seed as i64 * 100_000 + dice.below(12) as i64;
                let value = format!("{name} {n}");
                let there = expected.contains_key(&id);
                let text = match (there, dice.below(4)) {
                    (false, _) => format!("INSERT INTO items (id, name) VALUES ({id}, '{value}')"),
                    (true, 0) => format!("DELETE FROM items WHERE id = {id}"),
                    (true, _) => format!("UPDATE items SET name = '{value}' WHERE id = {id}"),
                };
                match text.starts_with("DELETE") {
                    true => expected.remove(&id),
                    false => expected.insert(id, value),
                };
                client.batch_execute(&text).await.unwrap();
                tokio::time::sleep(Duration::from_millis(dice.below(20))).await;
            }
            expected
        }
    });
    let expected = futures::future::join_all(edits).await;
    let last = Instant::now();
    let sums = |name: &'static str| {
        let dsn = stack.dsn(side(name));
        async move {
            let client = crate::support::connect(&dsn).await.unwrap();
            let found = client
                .query("SELECT id::bigint, name FROM items WHERE id > 1000000", &[])
                .await
                .unwrap();
            found
                .iter()
                .map(|r| (r.get(0), r.get(1)))
                .collect::<BTreeMap<i64, String>>()
        }
    };
    let all: BTreeMap<i64, String> = expected.into_iter().flatten().collect();
    let (mut on_a, mut on_b) = (sums("a").await, sums("b").await);
    while (on_a != all || on_b != all) && last.elapsed() < PROMISED * CROWDED {
        (on_a, on_b) = (sums("a").await, sums("b").await);
    }
    println!("both sides have the last write after {:?}", last.elapsed());
    assert_eq!((on_a, on_b), (all.clone(), all));
    let (written, longest) = load.stop().await;
    println!("{written} writes of the pool meanwhile, the longest {longest:?}");
    assert!(written > 20, "the pool wrote meanwhile: {written}");
    assert!(longest < PROMISED, "no write waited long: {longest:?}");
    assert_eq!(
        pool.conflicts().await.unwrap(),
        [],
        "nobody touched the other's rows"
    );
    finish(stack, &[pool]).await;
}

/// The same rows on both sides at once: the sides end identical, and every image that gave way is kept.
#[tokio::test(flavor = "multi_thread")]
async fn random_foreign_writes_of_the_same_rows_end_identical_with_both_images() {
    let stack = installed().await;
    let (pool, other) = (pool(&stack, "web1").await, pool(&stack, "web2").await);
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(insert(&pool, &format!("row {n}")).await);
    }
    let edits = ["a", "b"].map(|name| {
        let (stack, ids) = (&stack, &ids);
        async move {
            let client = sql(stack, name).await;
            let mut dice = Dice::new(u64::from(name.as_bytes()[0]));
            for n in 0..60 {
                let id = ids[dice.below(ids.len() as u64) as usize];
                let text = match dice.below(6) {
                    0 => format!("DELETE FROM items WHERE id = {id}"),
                    1 => format!("INSERT INTO items (id, name) VALUES ({id}, '{name} {n} again') ON CONFLICT DO NOTHING"),
                    _ => format!("UPDATE items SET content = '{name} {n}' WHERE id = {id}"),
                };
                client.batch_execute(&text).await.unwrap();
                tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
            }
        }
    });
    futures::future::join_all(edits).await;
    crate::support::healed(&stack, Duration::from_secs(20)).await;
    crate::support::assert_identical(&stack).await;
    let found = pool.conflicts().await.unwrap();
    assert!(!found.is_empty(), "some of these writes met");
    assert!(
        found
            .iter()
            .all(|c| c.state == ConflictState::Rule && c.rule == "newest"),
        "{found:#?}"
    );
    let text = "SELECT id, tbl, key, kept_image, lost_image, state, at FROM kambana.conflict ORDER BY id";
    assert_eq!(
        rows(&stack.dsn(side("a")), text).await,
        rows(&stack.dsn(side("b")), text).await,
        "the conflicts themselves are identical"
    );
    finish(stack, &[pool, other]).await;
}

/// A PHP program that knows one database only.
#[tokio::test(flavor = "multi_thread")]
async fn a_php_script_on_one_side_is_seen_on_the_other() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let row = insert(&pool, "before PHP").await;
    // This PHP has no driver for PostgreSQL everywhere; every PHP can run psql.
    let code = r#"
        [, $dsn, $id] = $argv;
        foreach (["UPDATE items SET content = 'by PHP' WHERE id = $id",
                  "INSERT INTO items (name) VALUES ('born in PHP')"] as $sql) {
            passthru('psql -X -v ON_ERROR_STOP=1 -d ' . escapeshellarg($dsn) . ' -c ' . escapeshellarg($sql), $status);
            if ($status !== 0) { exit($status); }
        }"#;
    let run = Command::new("php")
        .args(["-r", code, "--", &stack.dsn(side("b")), &row.to_string()])
        .output()
        .unwrap_or_else(|e| {
            panic!("this test needs a real PHP ({e}); install it, for example: apt-get install php-cli")
        });
    assert!(run.status.success(), "{run:?}");
    let question = "SELECT count(*) FROM items WHERE content = 'by PHP' OR name = 'born in PHP'";
    assert_eq!(number(&stack.dsn(side("b")), question).await, 2);
    let time = seen(&stack, "a", question, 2).await;
    println!("on a after {time:?}");
    finish(stack, &[pool]).await;
}

/// Twenty thousand rows in one statement: the heartbeats stay quick, nobody is put out, and the pool writes meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_foreign_write_puts_nobody_out() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let load = Writer::start(&pool, Duration::from_millis(20));
    let many = "INSERT INTO items (id, name) SELECT g, 'by hand' FROM generate_series(1000001, 1020000) AS g";
    sql(&stack, "b").await.batch_execute(many).await.unwrap();
    let there = "SELECT count(*) FROM items WHERE name = 'by hand'";
    let a = stack.dsn(side("a"));
    eventually("all of them are on a", LARGE, || async {
        number(&a, there).await == 20_000
    })
    .await;
    // Some heartbeats more, with twenty thousand operations behind them.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (written, longest) = load.stop().await;
    println!("{written} writes of the pool meanwhile, the longest {longest:?}");
    for name in ["a", "b"] {
        let epoch = number(&stack.dsn(side(name)), "SELECT n FROM kambana.epoch").await;
        assert_eq!(epoch, 1, "nobody was put out");
    }
    finish(stack, &[pool]).await;
}
