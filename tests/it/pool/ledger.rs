//! What the pool writes down for itself, over time: it must not slow down a backup's neighbours, and must not grow for ever.

use std::time::{Duration, Instant};

use kambana::multipool::MultiPool;

use crate::doors::{config, finish, insert, installed, pool, sql};
use crate::support::{eventually, number, rows, side};

/// As `pg_dump` does for hours: every version of a row stays, and whoever updates the row passes all of them.
#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_updated_by_every_write_so_a_long_transaction_slows_none() {
    const UPDATED: &str = "SELECT relname || ' ' || n_tup_upd FROM pg_stat_user_tables WHERE schemaname = 'kambana' \
        AND relname NOT IN ('heartbeat', 'mark', 'vote') AND n_tup_upd > 20";
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let backups = [sql(&stack, "a").await, sql(&stack, "b").await];
    for backup in &backups {
        backup
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM items")
            .await
            .unwrap();
    }
    for n in 0..200 {
        insert(&pool, &format!("row {n}")).await;
    }
    for name in ["a", "b"] {
        let dsn = stack.dsn(side(name));
        // Servers count with a delay.
        let counted = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'op'";
        eventually("the server has counted", Duration::from_secs(20), async || {
            number(&dsn, counted).await >= 200
        })
        .await;
        assert_eq!(
            rows(&dsn, UPDATED).await,
            [""; 0],
            "updated again and again on {name}"
        );
    }
    finish(stack, &[pool]).await;
}

/// Only what a finished lane has written is trimmed, so a lane that always has something to do must end as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_takes_a_new_name_when_it_has_done_enough() {
    const OPEN: &str = "SELECT count(*) FROM kambana.op AS o JOIN kambana.lane_settled AS l ON l.lane = o.lane \
        WHERE o.batch > ANY (l.confirmed)";
    let stack = installed().await;
    let mut settings = config(&stack, "web1");
    settings.journal_retention = Duration::from_millis(500);
    let pool = MultiPool::connect(settings).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1800) {
        insert(&pool, "busy").await;
    }
    for name in ["a", "b"] {
        let dsn = stack.dsn(side(name));
        let lanes = number(&dsn, "SELECT count(DISTINCT lane) FROM kambana.op").await;
        assert!((3..=6).contains(&lanes), "{lanes} names of one lane on {name}");
        eventually("everything is settled", Duration::from_secs(5), async || {
            number(&dsn, OPEN).await == 0
        })
        .await;
    }
    finish(stack, &[pool]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_what_a_busy_pool_has_written_down_is_trimmed() {
    let stack = installed().await;
    let mut settings = config(&stack, "web1");
    settings.journal_retention = Duration::from_secs(2);
    let pool = MultiPool::connect(settings).await.unwrap();
    let (began, mut count) = (Instant::now(), 0);
    // A lane that has ended is closed after a minute, and the trim comes once a minute.
    while began.elapsed() < Duration::from_secs(200) {
        insert(&pool, "busy").await;
        count += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for name in ["a", "b"] {
        let dsn = stack.dsn(side(name));
        for table in ["op", "journal", "settled"] {
            let kept = number(&dsn, &format!("SELECT count(*) FROM kambana.{table}")).await;
            println!("{kept} of {count} in {table} on {name}");
            assert!(
                kept > 0 && kept < count * 3 / 4,
                "{kept} of {count} in {table} on {name}"
            );
        }
    }
    finish(stack, &[pool]).await;
}
