//! Long rows: ten megabytes through every door and through repair, and a limit that leaves nothing behind.

use kambana::multipool::{Change, Fields, OpId, Value, WriteError};

use super::Twins;

const DDL: &str = "CREATE TABLE big (id int PRIMARY KEY, b bytea, t text)";
const MB: usize = 1 << 20;

fn row(id: i32, bytes: usize) -> Fields {
    let noise: Vec<u8> = (0..bytes).map(|n| (n * 7919 + n / 251) as u8).collect();
    Fields::new()
        .with("id", i64::from(id))
        .with("b", Value::bytes(&noise))
}

/// Random enough not to be compressed away.
fn filled(from: i32, to: i32, megabytes: i32) -> String {
    format!(
        "INSERT INTO big (id, t) SELECT n, (SELECT string_agg(md5(n::text || g::text), '') FROM generate_series(1, {megabytes} * 32768) g)
         FROM generate_series({from}, {to}) n"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn rows_of_ten_megabytes_go_everywhere_and_longer_ones_nowhere() {
    let mut twins = Twins::new(DDL, &["big"]).await;
    twins
        .pool
        .change(OpId::new(), vec![Change::insert("big", row(1, 10 * MB))])
        .await
        .unwrap();
    twins.write(&[filled(2, 2, 10)]).await;
    twins.assert_same("through both doors").await;
    twins.write_foreign("a", &[filled(3, 3, 10)]).await;
    twins
        .write_foreign(
            "b",
            &[
                "UPDATE big SET t = t || 'x' WHERE id = 2".into(),
                filled(4, 4, 10),
            ],
        )
        .await;
    twins.healed().await;
    twins.assert_same("foreign writes").await;

    // Above the limit: nothing, nowhere, in words.
    let op = OpId::new();
    match twins
        .pool
        .change(op, vec![Change::insert("big", row(5, 17 * MB))])
        .await
    {
        Err(WriteError::Rejected { message, .. }) => {
            assert!(message.contains("more than the 33554432"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    for client in [&twins.a, &twins.b] {
        let refused = client.batch_execute(&filled(6, 6, 33)).await.unwrap_err();
        assert!(
            refused
                .as_db_error()
                .unwrap()
                .message()
                .contains("nothing was changed"),
            "{refused:?}"
        );
    }
    twins.healed().await;
    twins.assert_same("after the refusals").await;
    assert_eq!(twins.count("big").await, 4);

    twins.b_leaves().await;
    for n in 0..6 {
        twins.write(&[filled(100 + n, 100 + n, 10)]).await;
    }
    let before = peak_kb();
    twins.b_returns().await;
    twins.healed().await;
    twins.assert_same("after the return").await;
    println!(
        "peak memory {before} kB before the catch-up, {} kB after it",
        peak_kb()
    );
    twins.stop().await;
}

/// Largest memory of this process so far.
fn peak_kb() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
