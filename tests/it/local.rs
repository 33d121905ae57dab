//! The room itself: does a crash crash, and does nothing stay behind?

use std::net::TcpListener;
use std::time::Duration;

use kambana::local::{Action, PortChoice, ServiceState, Stack, StackOptions, Target};

use crate::support::{TestDir, connect, eventually, pair, side, template_cache, try_start};

async fn count(dsn: &str) -> i64 {
    let client = connect(dsn).await.unwrap();
    client
        .query_one("SELECT count(*) FROM items", &[])
        .await
        .unwrap()
        .get(0)
}

async fn insert(dsn: &str) {
    let client = connect(dsn).await.unwrap();
    client
        .execute("INSERT INTO items (name) VALUES ('x')", &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_fresh_pair_is_two_ordinary_databases() {
    let stack = pair().await;
    for name in ["a", "b"] {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        let row = client
            .query_one(
                "SELECT rolsuper OR rolreplication OR rolcreatedb OR rolcreaterole OR rolbypassrls,
                        current_database()::text, current_setting('fsync'),
                        current_setting('max_prepared_transactions'), current_setting('server_encoding'),
                        (SELECT datcollate::text FROM pg_database WHERE datname = current_database()),
                        (SELECT count(*) FROM items), (SELECT count(*) FROM servers),
                        (SELECT count(*) FROM php_session)
                 FROM pg_roles WHERE rolname = current_user",
                &[],
            )
            .await
            .unwrap();
        assert!(!row.get::<_, bool>(0), "an ordinary role");
        assert_eq!(row.get::<_, String>(1), format!("cluster_session_{name}"));
        let settings: Vec<String> = (2..6).map(|n| row.get(n)).collect();
        assert_eq!(settings, ["on", "0", "UTF8", "C.UTF-8"]);
    }
    // Applied twice, the schema changes nothing.
    let client = connect(&stack.dsn(side("a"))).await.unwrap();
    client
        .batch_execute(include_str!("../../schema.sql"))
        .await
        .unwrap();
    // The superuser has no password over TCP.
    let dsn = stack.dsn(side("a")).replace("webuser:", "postgres:");
    assert!(connect(&dsn).await.is_err());
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_crash_kills_every_process_and_a_start_brings_the_data_back() {
    let stack = pair().await;
    let dsn = stack.dsn(side("b"));
    insert(&dsn).await;
    let open = connect(&dsn).await.unwrap();
    let process = stack.record().sides["b"].process.unwrap();
    let family = process.family();
    assert!(family.len() > 3, "{family:?}");

    let b = Target::Side(side("b"));
    stack.act(Action::Crash, b).await.unwrap();
    assert!(family.iter().all(|member| !member.is_alive()));
    assert!(open.query_one("SELECT 1", &[]).await.is_err());
    assert!(connect(&dsn).await.is_err());
    assert_eq!(
        stack.record().sides["b"].state,
        ServiceState::Ended("crashed".into())
    );
    let again = stack.act(Action::Crash, b).await.unwrap_err().to_string();
    assert!(again.contains("ended"), "{again}");

    stack.act(Action::Start, b).await.unwrap();
    assert_eq!(count(&dsn).await, 1);
    assert_eq!(stack.record().sides["b"].state, ServiceState::Running);
}

#[tokio::test]
async fn a_frozen_side_answers_nothing_until_it_is_thawed() {
    let stack = pair().await;
    let (a, dsn) = (Target::Side(side("a")), stack.dsn(side("a")));
    let open = connect(&dsn).await.unwrap();
    stack.act(Action::Freeze, a).await.unwrap();
    let deadline = Duration::from_millis(500);
    assert!(
        tokio::time::timeout(deadline, open.query_one("SELECT 1", &[]))
            .await
            .is_err()
    );
    assert!(tokio::time::timeout(deadline, connect(&dsn)).await.is_err());
    // The other side does not care.
    assert_eq!(count(&stack.dsn(side("b"))).await, 0);
    stack.act(Action::Thaw, a).await.unwrap();
    assert_eq!(count(&dsn).await, 0);

    // A frozen one can be crashed, and stopped.
    stack.act(Action::Freeze, a).await.unwrap();
    stack.act(Action::Crash, a).await.unwrap();
    stack.act(Action::Start, a).await.unwrap();
    stack.act(Action::Freeze, a).await.unwrap();
    stack.act(Action::Stop, a).await.unwrap();
    assert_eq!(stack.record().sides["a"].state, ServiceState::Stopped);
}

#[tokio::test]
async fn a_wiped_side_starts_empty() {
    let stack = pair().await;
    let (b, dsn) = (Target::Side(side("b")), stack.dsn(side("b")));
    stack.act(Action::Wipe, b).await.unwrap();
    assert!(!stack.record().sides["b"].data_dir.exists());
    stack.act(Action::Start, b).await.unwrap();
    let client = connect(&dsn).await.unwrap();
    let items: Option<String> = client
        .query_one("SELECT to_regclass('items')::text", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(items, None);
}

#[tokio::test]
async fn what_is_killed_by_others_is_noticed() {
    let stack = pair().await;
    let process = stack.record().sides["b"].process.unwrap();
    process.end_family().await.unwrap();
    let mut ended = Vec::new();
    eventually("the end is noticed", Duration::from_secs(5), || {
        ended.extend(stack.newly_ended());
        let noticed = !ended.is_empty();
        async move { noticed }
    })
    .await;
    assert_eq!(ended[0].0, Target::Side(side("b")));
    assert!(ended[0].1.contains("SIGKILL"), "{ended:?}");
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
}

#[tokio::test]
async fn a_busy_port_is_named_before_anything_starts() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let refused = try_start(|mut options| {
        options.pg[1] = PortChoice::Exactly(port);
        options
    })
    .await;
    let text = refused.map(|_| ()).unwrap_err().to_string();
    assert!(
        text.contains(&port.to_string()) && text.contains("--pg") && text.contains("side b"),
        "{text}"
    );
}

#[tokio::test]
async fn data_and_secrets_outlive_a_stop_and_a_crash_of_everything() {
    let dir = TestDir::new();
    let options = StackOptions::pair(dir.path(), &template_cache());
    let stack = Stack::start(options.clone()).await.unwrap();
    let second = Stack::open(options.clone())
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(second.contains("another `kambana up`"), "{second}");
    insert(&stack.dsn(side("a"))).await;
    let family: Vec<_> = stack
        .record()
        .sides
        .values()
        .flat_map(|side| side.process.unwrap().family())
        .collect();
    stack.stop().await.unwrap();
    assert!(family.iter().all(|process| !process.is_alive()));
    assert!(!dir.path().join("up.json").exists());
    drop(stack);

    // Ports may differ, the password does not.
    let stack = Stack::start(options.clone()).await.unwrap();
    assert_eq!(count(&stack.dsn(side("a"))).await, 1);
    let family: Vec<_> = stack
        .record()
        .sides
        .values()
        .flat_map(|side| side.process.unwrap().family())
        .collect();
    drop(stack);
    assert!(family.iter().all(|process| !process.is_alive()), "dropping kills");

    let stack = Stack::start(options).await.unwrap();
    assert_eq!(count(&stack.dsn(side("a"))).await, 1);
}

#[tokio::test]
async fn lost_secrets_lose_no_data() {
    let dir = TestDir::new();
    let options = StackOptions::pair(dir.path(), &template_cache());
    let stack = Stack::start(options.clone()).await.unwrap();
    insert(&stack.dsn(side("a"))).await;
    let before = stack.dsn(side("a"));
    stack.stop().await.unwrap();
    drop(stack);
    std::fs::remove_file(dir.path().join("secrets.json")).unwrap();
    let stack = Stack::start(options).await.unwrap();
    let after = stack.dsn(side("a"));
    assert_ne!(before.split_once('@'), after.split_once('@'));
    assert_eq!(count(&after).await, 1);
}
