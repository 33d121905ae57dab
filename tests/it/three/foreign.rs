//! Writes by hand on one of three sides.

use std::time::{Duration, Instant};

use super::{CROWDED, HEAL, three};
use crate::load::Load;
use crate::support::{assert_identical, eventually, healed};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_hand_on_one_side_reaches_both_others_in_time() {
    let scene = three().await;
    let load = Load::start(vec![scene.instance_url(0), scene.instance_url(1)], 4, 20, true);
    let row = scene.make(0, "made by the pool").await;
    for name in ["c", "b", "a"] {
        let content = format!("by hand on {name}");
        let sql = format!("UPDATE items SET content = '{content}' WHERE id = {row}");
        let client = scene.sql(name).await;
        // Not before the last one is everywhere and settled: this is about time, not about conflicts.
        client.batch_execute(&sql).await.unwrap();
        let began = Instant::now();
        scene
            .both_have(row, &content, Duration::from_secs(2) * CROWDED)
            .await;
        println!("{name}: everywhere after {:?}", began.elapsed());
    }
    load.judged(&scene, HEAL).await;
    scene.finish().await;
}

/// Neither of the two is the leader; of both writes the leader sees one first, with the other's row still open.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_writes_by_hand_on_followers_the_newer_one_counts() {
    let scene = three().await;
    for (older, newer) in [("b", "c"), ("c", "b")] {
        let row = scene.make(0, "made by the pool").await;
        scene.both_have(row, "made by the pool", HEAL).await;
        healed(&scene, HEAL).await;
        let (first, second) = (scene.sql(older).await, scene.sql(newer).await);
        for (client, name) in [(&first, older), (&second, newer)] {
            let sql = format!("BEGIN; UPDATE items SET content = 'by hand on {name}' WHERE id = {row}");
            client.batch_execute(&sql).await.unwrap();
        }
        let (one, other) = tokio::join!(first.batch_execute("COMMIT"), second.batch_execute("COMMIT"));
        one.unwrap();
        other.unwrap();
        scene.both_have(row, &format!("by hand on {newer}"), HEAL).await;
        healed(&scene, HEAL).await;
        assert_identical(&scene).await;
        for name in ["a", "b", "c"] {
            let sql = format!(
                "SELECT count(*) FROM kambana.conflict WHERE key = '({row})' AND lost_image LIKE '%by hand on {older}%'"
            );
            eventually(&format!("{name} knows both images"), HEAL, || async {
                let client = scene.sql(name).await;
                client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) == 1
            })
            .await;
        }
    }
    scene.finish().await;
}
