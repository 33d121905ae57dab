//! `kambana rebuild`, and what is never overwritten without it.

use super::*;
use crate::support::{dump, program};

/// Runs the command on the databases of a stack.
async fn rebuild(stack: &Stack, args: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(program());
    command.arg("rebuild").args(args).current_dir(&stack.place().dir);
    for (index, side) in stack.side_configs().iter().enumerate() {
        let n = index + 1;
        command
            .env(format!("DB{n}_HOST"), &side.host)
            .env(format!("DB{n}_PORT"), side.port.to_string())
            .env(format!("DB{n}_NAME"), &side.database)
            .env(format!("DB{n}_USER"), &side.user)
            .env(format!("DB{n}_PASSWORD"), side.password.expose());
    }
    let started = tokio::time::Instant::now();
    let output = command.output().await.unwrap();
    println!("kambana rebuild {args:?}: {:?}", started.elapsed());
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code().unwrap(), said)
}

/// Case 51, later: another pool's database stands in the place of side b.
#[tokio::test(flavor = "multi_thread")]
async fn case_51_another_pools_database_is_left_alone() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    insert(&pool, "ours").await;
    healed(&stack, LIMIT).await;
    stack.act(Action::Stop, Target::Side(side("b"))).await.unwrap();
    insert(&pool, "ours alone").await;
    pool.close().await;
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    let on_b = connect(&stack.dsn(side("b"))).await.unwrap();
    on_b.batch_execute(
        "UPDATE kambana.identity SET lineage = gen_random_uuid(); \
         INSERT INTO items (id, name) VALUES (4711, 'theirs')",
    )
    .await
    .unwrap();
    let theirs = dump(&stack.dsn(side("b"))).await;
    let pool = super::pool(&stack, "web1").await;
    insert(&pool, "with a stranger beside").await;
    eventually("it is refused with the reason", LIMIT, || async {
        let fault = pool.status().sides[side("b")].fault.clone();
        fault.is_some_and(|fault| fault.to_string().contains("belongs to another pool"))
    })
    .await;
    let (code, why) = rebuild(&stack, &["b"]).await;
    assert!(
        code == 1 && why.contains("another pool") && why.contains("--replace"),
        "{code}: {why}"
    );
    assert_eq!(dump(&stack.dsn(side("b"))).await, theirs, "untouched");
    let (code, done) = rebuild(&stack, &["b", "--replace"]).await;
    assert_eq!(code, 0, "{done}");
    whole(&stack, LIMIT).await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    let kept = "SELECT count(*) FROM kambana.conflict WHERE lost_image ~ 'theirs'";
    assert_eq!(
        number(&stack.dsn(side("a")), kept).await,
        1,
        "what was there is kept"
    );
    pool.close().await;
    stack.stop().await.unwrap();
}

/// Case 51: two sides in one database, swapped sides, a stranger.
#[tokio::test(flavor = "multi_thread")]
async fn case_51_wrong_settings_refuse_to_start_and_change_nothing() {
    let (ours, strangers) = (installed().await, installed().await);
    let pool = pool(&strangers, "web1").await;
    insert(&pool, "theirs").await;
    pool.close().await;
    let theirs = dump(&strangers.dsn(side("b"))).await;
    let [a, b] = <[_; 2]>::try_from(ours.side_configs()).unwrap();
    let stranger = strangers.side_configs().remove(1);
    for (sides, words) in [
        (vec![a.clone(), a.clone()], "swapped"),
        (vec![b.clone(), a.clone()], "swapped"),
        (vec![a, stranger], "another pool"),
    ] {
        let mut wrong = PoolConfig::new(sides, "web1");
        wrong.state_dir = ours.place().dir.join("wrong");
        let refused = MultiPool::connect(wrong).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(dump(&strangers.dsn(side("b"))).await, theirs);
    ours.stop().await.unwrap();
    strangers.stop().await.unwrap();
}

/// An active side is copied anew only when it is asked for, and then while the instances go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_active_side_is_rebuilt_only_when_asked() {
    let stack = installed().await;
    let pool = pool(&stack, "web1").await;
    insert(&pool, "one").await;
    healed(&stack, LIMIT).await;
    let (code, why) = rebuild(&stack, &["b"]).await;
    assert!(code == 1 && why.contains("nothing to rebuild"), "{code}: {why}");
    // Bit rot: a row that no journal knows of.
    let on_b = connect(&stack.dsn(side("b"))).await.unwrap();
    on_b.batch_execute("SET kambana.apply = 'on'; UPDATE items SET name = 'rotten'")
        .await
        .unwrap();
    let (code, done) = rebuild(&stack, &["b", "--replace"]).await;
    assert_eq!(code, 0, "{done}");
    insert(&pool, "two").await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    let kept = "SELECT count(*) FROM kambana.conflict WHERE lost_image ~ 'rotten'";
    assert_eq!(number(&stack.dsn(side("a")), kept).await, 1);
    pool.close().await;
    stack.stop().await.unwrap();
}

/// More differing rows than are kept: a person is asked, and nothing is overwritten before.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn too_many_differences_ask_a_person_and_no_instance_is_needed_then() {
    let stack = installed().await;
    fill(&stack, 11_000).await;
    let first = pool(&stack, "web1").await;
    insert(&first, "one").await;
    healed(&stack, LIMIT).await;
    first.close().await;
    let on_b = connect(&stack.dsn(side("b"))).await.unwrap();
    on_b.batch_execute("DROP SCHEMA kambana CASCADE; UPDATE items SET content = 'other'")
        .await
        .unwrap();
    let theirs = dump(&stack.dsn(side("b"))).await;
    let second = pool(&stack, "web1").await;
    insert(&second, "two").await;
    eventually("a person is asked", LIMIT, || async {
        let fault = second.status().sides[side("b")].fault.clone();
        fault.is_some_and(|fault| fault.to_string().contains("more than 10000 rows"))
    })
    .await;
    assert_eq!(dump(&stack.dsn(side("b"))).await, theirs, "untouched");
    second.close().await;
    let (code, why) = rebuild(&stack, &["b"]).await;
    assert!(code == 1 && why.contains("--replace"), "{code}: {why}");
    let (code, done) = rebuild(&stack, &["b", "--replace"]).await;
    assert!(
        code == 0 && done.contains("as soon as an instance runs"),
        "{done}"
    );
    let third = pool(&stack, "web1").await;
    whole(&stack, LIMIT).await;
    healed(&stack, LIMIT).await;
    assert_identical(&stack).await;
    third.close().await;
    let kept = "SELECT count(*) FROM kambana.conflict";
    assert_eq!(number(&stack.dsn(side("a")), kept).await, 10_000);
    stack.stop().await.unwrap();
}

/// No living side: nothing to copy from.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_living_side_nothing_is_done() {
    let stack = installed().await;
    stack.act(Action::Stop, Target::Side(side("a"))).await.unwrap();
    let (code, why) = rebuild(&stack, &["b", "--replace"]).await;
    assert!(code == 2 && why.contains("no living side"), "{code}: {why}");
    assert_eq!(
        number(&stack.dsn(side("b")), "SELECT count(*) FROM kambana.rebuild").await,
        0
    );
    stack.stop().await.unwrap();
}
