//! A change that only one side has, because its writer died between two commits, or gave it up.

use std::time::Duration;

use kambana::local::{Action, Target};
use kambana::multipool::{Change, Fields, MultiPool, OpId};

use crate::doors::{config, finish, id, insert, installed, pool, sql};
use crate::support::{Running, healed, number, side};

/// An instance died after the follower's COMMIT and before the leader's: the next writer of the row must not lose it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_only_the_follower_has_is_rolled_forward_by_the_next_writer() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    let row = insert(&pool, "before").await;
    healed(&stack, Duration::from_secs(10)).await;
    let change = format!("UPDATE items SET content = 'half written' WHERE id = {row}");
    sql(&stack, "b")
        .await
        .batch_execute(&left_behind(77, 1, OpId::new(), &change))
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
    both_changes_are_everywhere(&stack, row).await;
    finish(stack, &[pool]).await;
}

/// The leader has executed an operation and the follower's COMMIT was lost: the next write of the row carries its effect to
/// the follower, and must not leave its name behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_only_the_leader_has_is_not_applied_again_after_its_death() {
    let stack = installed().await;
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
    let stack = installed().await;
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
    both_changes_are_everywhere(&stack, row).await;
    finish(stack, &[pool]).await;
}

/// What was left behind, and what the next writer has done.
async fn both_changes_are_everywhere(stack: &Running, row: i64) {
    let both = format!(
        "SELECT count(*) FROM items WHERE content = 'half written' AND name = 'after' AND id = {row}"
    );
    for name in ["a", "b"] {
        assert_eq!(
            number(&stack.dsn(side(name)), &both).await,
            1,
            "both changes are on side {name}"
        );
    }
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
