//! Writes by hand beside the pool, and what becomes of two of one row.

use std::time::Duration;

use crate::doors::{finish, insert, installed, pool, sql};
use crate::support::{assert_identical, eventually, healed, number, side};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_psql_reaches_the_other_side_and_a_clash_keeps_both_images() {
    let stack = installed().await;
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
    let stack = installed().await;
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
