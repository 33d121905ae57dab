//! Case 47: repairer, target and source are killed again and again while a side is rebuilt.

use super::*;
use crate::load::Dice;

/// Kills that must have hit a rebuild in progress.
const KILLS: u32 = 20;

async fn half_rebuilt(stack: &Running) -> bool {
    let Ok(client) = connect(&stack.dsn(side("b"))).await else {
        return false;
    };
    let found = client
        .query_one("SELECT count(*) FROM kambana.rebuild", &[])
        .await;
    found.is_ok_and(|row| row.get::<_, i64>(0) == 1)
}

/// While the marker stands, the side is no member, on whatever side one asks.
async fn never_used(stack: &Running) {
    let Ok(on_b) = connect(&stack.dsn(side("b"))).await else {
        return;
    };
    let sql = "SELECT e.members, (SELECT count(*) FROM kambana.rebuild) FROM kambana.epoch AS e";
    if let Ok(row) = on_b.query_one(sql, &[]).await {
        let (members, marked): (i32, i64) = (row.get(0), row.get(1));
        assert!(marked == 0 || members & 2 == 0, "half a copy is no member");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_47_twenty_random_kills_during_rebuilds() {
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = crate::support::setting("KAMBANA_SEED", seed);
    println!("KAMBANA_SEED={seed}");
    let mut dice = Dice::new(seed);
    let (stack, urls) = crate::support::instances().await;
    fill(&stack, 60_000).await;
    let load = Load::start(urls.to_vec(), 3, 6, true);
    load.more(30).await;
    let b = Target::Side(side("b"));
    let targets = [b, Target::Side(side("a")), Target::Web(0), Target::Web(1)];
    let (mut hits, mut completed) = (Vec::new(), 0);
    stack.act(Action::Wipe, b).await.unwrap();
    stack.act(Action::Start, b).await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(200);
    while (hits.len() as u32) < KILLS {
        assert!(tokio::time::Instant::now() < until, "only {hits:?}");
        if !half_rebuilt(&stack).await {
            let members = "SELECT members::bigint FROM kambana.epoch";
            let back = match connect(&stack.dsn(side("a"))).await {
                Ok(client) => client
                    .query_one(members, &[])
                    .await
                    .is_ok_and(|row| row.get::<_, i64>(0) == 3),
                Err(_) => false,
            };
            if back {
                // It was too quick for us: once more.
                completed += 1;
                stack.act(Action::Wipe, b).await.unwrap();
                stack.act(Action::Start, b).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(250))).await;
        never_used(&stack).await;
        if !half_rebuilt(&stack).await {
            continue;
        }
        let target = targets[dice.below(4) as usize];
        stack.act(Action::Crash, target).await.unwrap();
        hits.push(target.to_string());
        never_used(&stack).await;
        stack.act(Action::Start, target).await.unwrap();
    }
    println!("killed {hits:?}; {completed} rebuilds ended in between");
    whole(&stack, LIMIT).await;
    load.more(30).await;
    load.judged(&stack, LIMIT).await;
    // Whoever finishes what another has begun says why it was begun.
    let events = all_events(&stack).await;
    println!("{events}");
    assert!(!events.contains("rows copied (an earlier rebuild"), "{events}");
    assert_eq!(
        number(&stack.dsn(side("b")), "SELECT count(*) FROM kambana.rebuild").await,
        0
    );
    stack.stop().await.unwrap();
}
