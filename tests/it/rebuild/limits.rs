//! Away for longer than the journal is kept.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn past_the_journals_limit_a_side_is_rebuilt() {
    let stack = installed().await;
    let mut settings = config(&stack, "web1");
    settings.journal_max_rows = 100;
    let pool = MultiPool::connect(settings).await.unwrap();
    let kept = insert(&pool, "before").await;
    stack.act(Action::Stop, Target::Side(side("b"))).await.unwrap();
    for n in 0..150 {
        insert(&pool, &format!("missed {n}")).await;
    }
    pool.change(
        OpId::new(),
        vec![Change::delete("items", Fields::new().with("id", kept))],
    )
    .await
    .unwrap();
    eventually("the rows are given up", LIMIT, || async {
        said(&pool).contains("JOURNAL_MAX_ROWS")
    })
    .await;
    // What trimming would do in time: nothing is left to catch up from.
    connect(&stack.dsn(side("a")))
        .await
        .unwrap()
        .batch_execute("UPDATE kambana.lane SET closed = true; DELETE FROM kambana.journal")
        .await
        .unwrap();
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    whole(&stack, LIMIT).await;
    insert(&pool, "after").await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    assert!(said(&pool).contains("out for too long"), "{}", said(&pool));
    let given_up = "SELECT count(*) FROM kambana.mark WHERE given_up";
    assert_eq!(number(&stack.dsn(side("a")), given_up).await, 0);
    pool.close().await;
    stack.stop().await.unwrap();
}

/// Below the limit nothing is given up.
#[tokio::test(flavor = "multi_thread")]
async fn below_the_limit_it_is_caught_up() {
    let stack = installed().await;
    let mut settings = config(&stack, "web1");
    settings.journal_max_rows = 100;
    let pool = MultiPool::connect(settings).await.unwrap();
    stack.act(Action::Stop, Target::Side(side("b"))).await.unwrap();
    for n in 0..90 {
        insert(&pool, &format!("missed {n}")).await;
    }
    eventually("they are counted", LIMIT, || async {
        pool.status().sides[side("b")].open_rows == Some(90)
    })
    .await;
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    whole(&stack, LIMIT).await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    assert!(!said(&pool).contains("rebuil"), "{}", said(&pool));
    pool.close().await;
    stack.stop().await.unwrap();
}
