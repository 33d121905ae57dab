//! What an installation refuses, and what it brings up to date.

use std::time::Duration;

use kambana::config::PoolConfig;
use kambana::local::{Action, Target};
use kambana::multipool::{MultiPool, install};

use crate::doors::{TABLES, config, insert, sql};
use crate::support::{pair, side, whole};

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
