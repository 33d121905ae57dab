//! Case 50: a side comes back as it was some time ago.

use super::*;

/// Stops a side behind the back of the instances, which stand still, does something to its files, and starts it again.
async fn unnoticed(stack: &Running, name: &str, files: impl AsyncFnOnce()) {
    let target = Target::Side(side(name));
    for index in [0, 1] {
        stack.act(Action::Freeze, Target::Web(index)).await.unwrap();
    }
    stack.act(Action::Stop, target).await.unwrap();
    files().await;
    stack.act(Action::Start, target).await.unwrap();
}

async fn go_on(stack: &Running) {
    for index in [0, 1] {
        stack.act(Action::Thaw, Target::Web(index)).await.unwrap();
    }
}

async fn post(url: &str, name: &str) {
    let body = serde_json::json!({ "name": name });
    let answer = crate::load::http()
        .post(format!("{url}/api/items"))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
}

/// Restored so quickly that nobody put it out: it stores the current epoch and is a member of it.
async fn restored_before_anybody_missed_it(name: &str) {
    let (stack, urls) = crate::support::instances().await;
    let other = if name == "a" { "b" } else { "a" };
    post(&urls[0], "before the backup").await;
    healed(&stack, LIMIT).await;
    unnoticed(&stack, name, async || back_up(&stack, name).await).await;
    go_on(&stack).await;
    // The last of them is written in the moment before the restore: no heartbeat may lie in between.
    for n in 0..20 {
        post(&urls[n % 2], &format!("after the backup {n}")).await;
    }
    unnoticed(&stack, name, async || restore(&stack, name).await).await;
    // The fault did happen, and the epochs tell nothing.
    let count = "SELECT count(*) FROM items";
    assert_eq!(number(&stack.dsn(side(name)), count).await, 1);
    assert_eq!(number(&stack.dsn(side(other)), count).await, 21);
    let epoch = "SELECT n * 100 + members FROM kambana.epoch";
    assert_eq!(
        number(&stack.dsn(side(name)), epoch).await,
        number(&stack.dsn(side(other)), epoch).await
    );
    let started = tokio::time::Instant::now();
    go_on(&stack).await;
    let http = crate::load::http();
    let mut detected = None;
    let mut reads = 0;
    while detected.is_none() || reads < 20 {
        for url in &urls {
            let answer = http
                .get(format!("{url}/api/items?limit=100"))
                .send()
                .await
                .unwrap();
            if answer.status() == 200 {
                let page: serde_json::Value = answer.json().await.unwrap();
                let rows = page["items"].as_array().expect("a list").len();
                assert_eq!(rows, 21, "nobody reads the restored side");
                reads += 1;
            }
            if detected.is_none() && events(url).await.contains("older backup") {
                detected = Some(started.elapsed());
            }
        }
        assert!(started.elapsed() < LIMIT, "detected {detected:?}, {reads} reads");
    }
    println!("detected after {detected:?}");
    assert!(detected.unwrap() < Duration::from_secs(10));
    post(&urls[0], "and on").await;
    whole(&stack, LIMIT).await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    assert_eq!(number(&stack.dsn(side(name)), count).await, 22);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_50_a_follower_restored_before_anybody_missed_it() {
    restored_before_anybody_missed_it("b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_50_a_leader_restored_before_anybody_missed_it() {
    restored_before_anybody_missed_it("a").await;
}

/// Out for a while, under load, and then an old copy comes back in its place.
async fn restored_while_it_was_out(name: &str) {
    let stack = full().await;
    let target = Target::Side(side(name));
    let other = if name == "a" { "b" } else { "a" };
    let load = Load::start(vec![stack.url()], 8, 40, false);
    load.more(100).await;
    stack.act(Action::Stop, target).await.unwrap();
    back_up(&stack, name).await;
    stack.act(Action::Start, target).await.unwrap();
    whole(&stack, LIMIT).await;
    // What is written now and settled is in no open journal row any more.
    load.more(200).await;
    stack.act(Action::Stop, target).await.unwrap();
    load.more(50).await;
    restore(&stack, name).await;
    stack.act(Action::Start, target).await.unwrap();
    whole(&stack, LIMIT).await;
    load.more(50).await;
    load.all_served(&stack, LIMIT).await;
    let events = all_events(&stack).await;
    let rebuilt = format!("side {name} was rebuilt from side {other}");
    assert!(
        events.contains(&rebuilt) && events.contains("older backup"),
        "{events}"
    );
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_50_a_follower_restored_while_it_was_out() {
    restored_while_it_was_out("b").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_50_a_leader_restored_while_it_was_out() {
    restored_while_it_was_out("a").await;
}
