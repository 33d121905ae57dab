//! What a person sees of a third side: comparison, pages, `kambana up`, HAProxy's front.

use std::process::{Command, Stdio};
use std::time::Duration;

use kambana::local::http;
use kambana::multipool::compare;
use serde_json::Value;

use super::HEAL;
use crate::doors::config;
use crate::support::{TestDir, connect, eventually, number, program};
use crate::up::{local, ready, up_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_flipped_on_the_third_side_is_named() {
    let scene = super::three().await;
    let row = scene.make(0, "as it was").await;
    crate::support::healed(&scene, HEAL).await;
    assert!(compare(&config(&scene, "compare")).await.unwrap().identical);
    let sql = format!("SET kambana.apply = 'on'; UPDATE items SET content = 'flipped' WHERE id = {row}");
    let c = scene.sql("c").await;
    c.batch_execute(&sql).await.unwrap();
    let found = compare(&config(&scene, "compare")).await.unwrap();
    let items = found.tables.iter().find(|t| t.table == "items").unwrap();
    assert_eq!((found.differing(), items.differences.len()), (1, 1), "{found:?}");
    let difference = &items.differences[0];
    assert_eq!(difference.key, format!("({row})"));
    assert!(
        difference.columns.contains(&"content".to_owned()),
        "{difference:?}"
    );
    let images: Vec<bool> = difference
        .images
        .iter()
        .map(|(_, image)| image.as_ref().is_some_and(|image| image.contains("flipped")))
        .collect();
    assert_eq!(images, [false, false, true]);
    let mended = format!(
        "SET kambana.apply = 'on'; UPDATE items SET content = 'as it was', updated_at = (SELECT updated_at FROM items WHERE id = {row}) WHERE id = {row}"
    );
    c.batch_execute(&mended).await.unwrap();
    scene.finish().await;
}

async fn get(url: &str) -> (u16, String) {
    match http::get(url, Duration::from_secs(5)).await {
        Ok(answer) => (answer.status, String::from_utf8_lossy(&answer.body).into_owned()),
        Err(error) => (0, error),
    }
}

/// Exit code and output.
fn kambana(dir: &std::path::Path, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program())
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_runs_three_databases_and_everybody_shows_them() {
    let dir = TestDir::new();
    let dir = dir.path();
    let mut up = up_with(dir, "0,0,0");
    let record = ready(&mut up, dir).await;
    assert_eq!(record.sides.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let log = std::fs::read_to_string(dir.join("up.log")).unwrap();
    assert!(
        log.contains("databases a, b and c are ready") && log.contains("Side c"),
        "{log}"
    );
    let haproxy = record.haproxy.as_ref().unwrap();
    let status = async || -> Value {
        let (_, body) = get(&format!("{}/api/status", haproxy.url)).await;
        serde_json::from_str(&body).unwrap_or_default()
    };
    let state = async |expected: &str| {
        eventually(&format!("c is {expected}"), HEAL, || async {
            status().await["sides"]["c"]["state"] == expected
        })
        .await;
    };
    state("active").await;
    assert!(local(dir, "crash", "c").status.success());
    state("out").await;
    // Either instance may be asked here, too.
    eventually("the page says it", HEAL, || async {
        let (_, page) = get(&format!("{}/cluster?lang=en", haproxy.url)).await;
        page.contains("Database c is out")
    })
    .await;
    let (_, metrics) = get(&format!("{}/metrics", haproxy.url)).await;
    assert!(metrics.contains("side=\"c\""), "{metrics}");
    let (health, _) = get(&format!("{}/health/side/c", record.instances["web1"].url)).await;
    assert_eq!(health, 503, "no client is sent to a side that is out");
    assert!(local(dir, "start", "c").status.success());
    state("active").await;

    // Both others are lost: HAProxy's front leads to c.
    for name in ["a", "b"] {
        assert!(local(dir, "crash", name).status.success());
        eventually(&format!("{name} is out"), HEAL, || async {
            status().await["sides"][name]["state"] == "out"
        })
        .await;
    }
    // Either instance may be asked, and one may learn it a heartbeat later.
    eventually("c leads", HEAL, || async { status().await["leader"] == "c" }).await;
    let side = &record.sides["c"];
    let front = side.dsn.replace(
        &format!(":{}/", side.port),
        &format!(":{}/", haproxy.postgres_port),
    );
    assert_ne!(front, side.dsn, "the front is asked");
    eventually("the front leads to c", HEAL, || async {
        match connect(&front).await {
            Ok(_) => number(&front, "SELECT count(*) FROM kambana.identity WHERE side = 'c'").await == 1,
            Err(_) => false,
        }
    })
    .await;
    for name in ["a", "b"] {
        assert!(local(dir, "start", name).status.success());
    }
    eventually("all are back", HEAL, || async {
        let status = status().await;
        ["a", "b", "c"]
            .iter()
            .all(|name| status["sides"][name]["state"] == "active")
    })
    .await;
    let args = [
        "drill",
        "--data",
        ".",
        "--minutes",
        "0.1",
        "--seed",
        "3",
        "--faults",
        "crash-side,freeze-side",
    ];
    let (code, text) = kambana(dir, &args);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("different 0"), "{text}");
    up.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("it has stopped", HEAL, || async { !dir.join("up.json").exists() }).await;
}
