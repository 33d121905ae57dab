//! Statements of arbitrary SQL that come at the same time: they share transactions, and each has its own outcome.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kambana::local::{Action, Target};
use kambana::multipool::{MultiPool, Value, WriteError, install, migrate};

use crate::doors::{config, finish, installed, pool, sql};
use crate::support::{number, pair, side};

const ADD_ONE: &str = "UPDATE items SET content = (content::int + 1)::text WHERE name = ANY ($1)";

/// Rows 1 to 4, two at a time and in both orders.
fn two_rows(n: usize) -> Value {
    Value::from(["{1,2}", "{2,1}", "{3,4}", "{4,1}"][n % 4])
}

async fn counters(pool: &MultiPool) {
    let fill = "INSERT INTO items (name, content) SELECT g, '0' FROM generate_series(1, 4) AS g";
    pool.transactional_write(fill, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_many_callers_share_transactions_and_each_has_its_own_outcome() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    sql(&stack, "a")
        .await
        .batch_execute("CREATE TABLE unwatched (n int)")
        .await
        .unwrap();
    counters(&pool).await;
    const CALLERS: usize = 40;
    const TIMES: usize = 5;
    let began = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for time in 0..TIMES {
                match caller {
                    0 => {
                        let slow = "INSERT INTO items (name) SELECT 'slow' FROM pg_sleep(0.4)";
                        pool.transactional_write(slow, &[]).await.unwrap();
                    }
                    1 => {
                        let missing = "INSERT INTO nowhere VALUES (1)";
                        let refused = pool.transactional_write(missing, &[]).await;
                        let Err(WriteError::Rejected { sqlstate, .. }) = &refused else {
                            panic!("{refused:?}")
                        };
                        assert_eq!(sqlstate, "42P01");
                    }
                    2 => {
                        let null = "INSERT INTO items (name) VALUES ($1)";
                        let refused = pool.transactional_write(null, &[Value::Null]).await;
                        let Err(WriteError::Rejected { column, .. }) = &refused else {
                            panic!("{refused:?}")
                        };
                        assert_eq!(column.as_deref(), Some("name"));
                    }
                    3 => {
                        let unseen = pool
                            .transactional_write("INSERT INTO unwatched VALUES (1)", &[])
                            .await;
                        assert!(unseen.is_err_and(|e| e.to_string().contains("not watched")));
                    }
                    4 => {
                        let few = pool.transactional_write(ADD_ONE, &[]).await;
                        assert!(matches!(few, Err(WriteError::Rejected { .. })), "{few:?}");
                    }
                    _ => {
                        let rows = two_rows(caller + time);
                        let applied = pool.transactional_write(ADD_ONE, &[rows]).await.unwrap();
                        assert_eq!(applied.rows.len(), 2, "its own rows and no others");
                    }
                }
            }
        })
    });
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    println!("{CALLERS} callers, {TIMES} times: {:?}", began.elapsed());
    let dsn = stack.dsn(side("a"));
    let added = (CALLERS - 5) * TIMES * 2;
    let sum = "SELECT sum(content::int) FROM items WHERE length(name) = 1";
    assert_eq!(number(&dsn, sum).await, added as i64, "each exactly once");
    let slow = "SELECT count(*) FROM items WHERE name = 'slow'";
    assert_eq!(number(&dsn, slow).await, TIMES as i64);
    // The refused ones above make batches fall apart; nothing does here.
    let before = number(&dsn, "SELECT count(DISTINCT (lane, batch)) FROM kambana.op").await;
    let more = (0..CALLERS).map(|caller| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for time in 0..TIMES {
                pool.transactional_write(ADD_ONE, &[two_rows(caller + time)])
                    .await
                    .unwrap();
            }
        })
    });
    for caller in join_all(more).await {
        caller.unwrap();
    }
    let batches = number(&dsn, "SELECT count(DISTINCT (lane, batch)) FROM kambana.op").await - before;
    println!("{} statements in {batches} transactions", CALLERS * TIMES);
    assert!(batches < (CALLERS * TIMES / 3) as i64, "{batches} transactions");
    finish(stack, &[pool]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_dies_and_returns_while_statements_share_transactions() {
    let stack = installed().await;
    let pools = [pool(&stack, "web1").await, pool(&stack, "web2").await];
    counters(&pools[0]).await;
    let until = Instant::now() + Duration::from_secs(6);
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let pool = pools[caller % 2].clone();
            tokio::spawn(async move {
                let (mut applied, mut unknown) = (0i64, 0i64);
                while Instant::now() < until {
                    match pool.transactional_write(ADD_ONE, &[two_rows(caller)]).await {
                        Ok(_) => applied += 2,
                        Err(WriteError::Unknown(_)) => unknown += 2,
                        Err(WriteError::NotApplied(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                (applied, unknown)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let leader = Target::Side(side("a"));
    stack.act(Action::Crash, leader).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let alone = number(&stack.dsn(side("b")), "SELECT members::bigint FROM kambana.epoch").await;
    assert_eq!(alone, 2, "a is out");
    stack.act(Action::Start, leader).await.unwrap();
    let (mut applied, mut unknown) = (0, 0);
    for caller in callers {
        let (one, other) = caller.await.unwrap();
        applied += one;
        unknown += other;
    }
    println!("{applied} rows changed, {unknown} not known");
    assert!(applied > 100);
    let sum = number(
        &stack.dsn(side("b")),
        "SELECT sum(content::int) FROM items WHERE length(name) = 1",
    )
    .await;
    assert!(
        (applied..=applied + unknown).contains(&sum),
        "{applied} and perhaps {unknown}: {sum}"
    );
    finish(stack, &pools).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_long_does_not_hold_up_those_it_came_with() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    counters(&pool).await;
    let began = Instant::now();
    let callers = (0..24).map(|caller| {
        let pool = pool.clone();
        tokio::spawn(async move {
            match caller % 12 {
                0 => {
                    let slow = "INSERT INTO items (name) SELECT 'slow' FROM pg_sleep(3)";
                    pool.transactional_write(slow, &[]).await.unwrap();
                }
                _ => {
                    let rows = two_rows(caller);
                    pool.transactional_write(ADD_ONE, &[rows]).await.unwrap();
                }
            }
            (caller % 12 == 0, began.elapsed())
        })
    });
    let mut longest = [Duration::ZERO; 2];
    for ended in join_all(callers).await {
        let (slow, took) = ended.unwrap();
        let longest = &mut longest[usize::from(slow)];
        *longest = took.max(*longest);
    }
    println!("quick ones {:?}, slow ones {:?}", longest[0], longest[1]);
    assert!(longest[1] > Duration::from_secs(3), "{:?}", longest[1]);
    assert!(longest[0] < Duration::from_secs(3), "{:?}", longest[0]);
    finish(stack, &[pool]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_knows_the_new_type_of_a_column() {
    let stack = pair().await;
    for name in ["a", "b"] {
        let ddl = "CREATE TABLE counted (id int PRIMARY KEY)";
        sql(&stack, name).await.batch_execute(ddl).await.unwrap();
    }
    let config = config(&stack, "init");
    install(&config, &["counted"]).await.unwrap();
    let pool = pool(&stack, "web1").await;
    let insert = |id: i64| {
        let pool = pool.clone();
        async move {
            let params = [Value::from(id)];
            pool.transactional_write("INSERT INTO counted VALUES ($1)", &params)
                .await
        }
    };
    insert(1).await.unwrap();
    let beyond = 3_000_000_000;
    let refused = insert(beyond).await;
    assert!(
        matches!(&refused, Err(WriteError::Rejected { sqlstate, .. }) if sqlstate == "22003"),
        "{refused:?}"
    );
    let file = stack.place().dir.join("wider.sql");
    std::fs::write(&file, "ALTER TABLE counted ALTER COLUMN id TYPE bigint;").unwrap();
    migrate(&config, &file, false).await.unwrap();
    insert(beyond).await.unwrap();
    for name in ["a", "b"] {
        let count = "SELECT count(*) FROM counted";
        assert_eq!(number(&stack.dsn(side(name)), count).await, 2);
    }
    finish(stack, &[pool]).await;
}
