//! A column is added while clients write through HAProxy: no request fails, and the new column reaches every side.

use std::process::{Command, Output};
use std::time::Duration;

use crate::load::Load;
use crate::support::{Running, connect, full, number, program, rows, side};

fn migrate(stack: &Running, sql: &str, more: &[&str]) -> Output {
    let file = stack.place().dir.join("change.sql");
    std::fs::write(&file, sql).unwrap();
    Command::new(program())
        .arg("migrate")
        .arg(file)
        .args(more)
        .args(["--data", stack.place().dir.to_str().unwrap()])
        .env_remove("DB1_USER")
        .output()
        .unwrap()
}

async fn columns(stack: &Running, name: &str) -> Vec<String> {
    let text = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'items'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY 1";
    rows(&stack.dsn(side(name)), text).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_added_under_load_without_a_failed_request() {
    let stack = full().await;
    let load = Load::start(vec![stack.url()], 8, 40, false);
    load.more(200).await;
    let before = columns(&stack, "a").await;
    let add = "ALTER TABLE items ADD COLUMN price numeric(10,2) NOT NULL DEFAULT 1.5; CREATE INDEX items_price ON items (price);";

    let dry = migrate(&stack, add, &["--dry-run"]);
    assert!(dry.status.success(), "{dry:?}");
    assert!(
        String::from_utf8_lossy(&dry.stdout).contains("rolled back"),
        "{dry:?}"
    );
    for (sql, why) in [
        (
            "ALTER TABLE items ADD COLUMN x int; COMMIT;",
            "end the one transaction",
        ),
        ("CREATE INDEX CONCURRENTLY i ON items (name)", "CONCURRENTLY"),
        (
            "ALTER TABLE items ADD COLUMN born timestamptz DEFAULT clock_timestamp()",
            "would differ between the sides",
        ),
        ("ALTER TABLE items DROP CONSTRAINT items_pkey", "no primary key"),
        ("ALTER TABLE nothing ADD COLUMN x int", "nothing"),
        ("DROP TABLE servers", "servers"),
    ] {
        let refused = migrate(&stack, sql, &[]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{sql}: {refused:?}");
        assert!(
            text.contains(why) && text.contains("nothing was changed"),
            "{sql}: {text}"
        );
    }
    for name in ["a", "b"] {
        assert_eq!(
            columns(&stack, name).await,
            before,
            "a refused script leaves nothing on {name}"
        );
    }
    load.more(100).await;
    let done = migrate(&stack, add, &[]);
    assert!(done.status.success(), "{done:?}");
    println!("{}", String::from_utf8_lossy(&done.stdout));
    for name in ["a", "b"] {
        assert_eq!(columns(&stack, name).await.len(), before.len() + 1);
    }
    load.more(200).await;
    // A value in the new column crosses, by hand and with the pool's own writes after it.
    let a = connect(&stack.dsn(side("a"))).await.unwrap();
    a.batch_execute("INSERT INTO items (id, name, price) VALUES (2000000, 'dear', 99.25)")
        .await
        .unwrap();
    let dear = "SELECT count(*) FROM items WHERE id = 2000000 AND price = 99.25";
    crate::support::eventually("the new column is on b", Duration::from_secs(10), || async {
        number(&stack.dsn(side("b")), dear).await == 1
    })
    .await;
    let renamed = crate::load::http()
        .put(format!("{}/api/items/2000000", stack.url()))
        .json(&serde_json::json!({ "name": "still dear", "content": "x" }))
        .send()
        .await
        .unwrap();
    assert_eq!(renamed.status(), 200);
    for name in ["a", "b"] {
        let text = "SELECT count(*) FROM items WHERE id = 2000000 AND price = 99.25 AND name = 'still dear'";
        assert_eq!(number(&stack.dsn(side(name)), text).await, 1, "on {name}");
    }
    a.batch_execute("DELETE FROM items WHERE id = 2000000")
        .await
        .unwrap();
    load.more(100).await;
    load.all_served(&stack, Duration::from_secs(20)).await;
    let members = number(&stack.dsn(side("a")), "SELECT members::bigint FROM kambana.epoch").await;
    assert_eq!(members, 3, "nobody was ejected");
    assert_eq!(
        number(&stack.dsn(side("a")), "SELECT structure FROM kambana.epoch").await,
        1,
        "one change of structure"
    );
    stack.stop().await.unwrap();
}
