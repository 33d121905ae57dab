//! A measurement, to be run by itself: `cargo nextest run --release --run-ignored only one_million`.

use std::time::Instant;

use futures::{SinkExt, StreamExt};

use super::*;

const ROWS: i64 = 1_000_000;

/// A bare pipe: what `psql -c "COPY … TO STDOUT" | psql -c "COPY … FROM STDIN"` does, in one program.
async fn bare(stack: &Running) -> Duration {
    let from = connect(&stack.dsn(side("a"))).await.unwrap();
    let to = connect(&stack.dsn(side("b"))).await.unwrap();
    to.batch_execute("CREATE TABLE bare (LIKE items INCLUDING ALL)")
        .await
        .unwrap();
    let started = Instant::now();
    let out = from
        .copy_out("COPY items TO STDOUT (FORMAT binary)")
        .await
        .unwrap();
    let sink = to.copy_in("COPY bare FROM STDIN (FORMAT binary)").await.unwrap();
    let (mut out, mut sink) = (std::pin::pin!(out), std::pin::pin!(sink));
    let mut piece = Vec::new();
    while let Some(row) = out.next().await {
        piece.extend_from_slice(&row.unwrap());
        if piece.len() > 65_536 {
            sink.send(std::io::Cursor::new(std::mem::take(&mut piece)))
                .await
                .unwrap();
        }
    }
    sink.send(std::io::Cursor::new(piece)).await.unwrap();
    assert_eq!(sink.as_mut().finish().await.unwrap(), ROWS as u64);
    let took = started.elapsed();
    to.batch_execute("DROP TABLE bare").await.unwrap();
    took
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time, needs the machine for itself"]
async fn one_million_rows_against_a_bare_pipe() {
    let stack = installed().await;
    fill(&stack, ROWS).await;
    for name in ["a", "b"] {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        client.batch_execute("VACUUM ANALYZE items").await.unwrap();
        client.batch_execute("CHECKPOINT").await.ok();
    }
    let first = bare(&stack).await;
    let second = bare(&stack).await;
    let pool = pool(&stack, "web1").await;
    insert(&pool, "one").await;
    stack.act(Action::Wipe, Target::Side(side("b"))).await.unwrap();
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    let started = Instant::now();
    whole(&stack, Duration::from_secs(120)).await;
    let rebuilt = started.elapsed();
    let bare = first.min(second);
    println!(
        "bare pipe {first:?} and {second:?}; from the start of the empty server to an active side {rebuilt:?}: {:.2}",
        rebuilt.as_secs_f64() / bare.as_secs_f64()
    );
    healed(&stack, LIMIT).await;
    pool.close().await;
    stack.stop().await.unwrap();
}
