//! Voters that die in the middle of a change, voters that forget, voters that are not what they should be.

use std::time::Duration;

use kambana::local::{Action, StackOptions, Target};
use kambana::multipool::failpoint::Point;

use super::{Net, SECRET, voter};
use crate::faults::points::{Points, with_failpoints};
use crate::load::http;
use crate::support::{connect, eventually, full, healed, instances, side};

#[tokio::test(flavor = "multi_thread")]
async fn a_decided_change_is_finished_by_another_instance() {
    let net = Net::start(with_failpoints).await;
    net.all_vote().await;
    net.written(0, "before").await;
    // web2 is away, so web1 is the candidate; it dies between the decision and the first side.
    net.stack.act(Action::Stop, Target::Web(1)).await.unwrap();
    let points = Points::of(&net.stack, 0);
    points.arm(Point::VoteDecided, "kill once");
    net.stack
        .act(Action::Crash, Target::Side(side("b")))
        .await
        .unwrap();
    points.wait(Point::VoteDecided).await;
    points.disarm(Point::VoteDecided);
    assert_eq!(net.epoch("a").await, (1, 3), "nothing was written");
    net.stack
        .act(Action::Start, Target::Side(side("b")))
        .await
        .unwrap();
    net.stack.act(Action::Start, Target::Web(1)).await.unwrap();
    net.aim();
    // Side b is well, yet what was decided is carried out before anything else is; then b returns.
    eventually(
        "the change is finished, and b is back",
        super::PATIENCE,
        || async { net.epoch("a").await == (3, 3) && net.epoch("b").await == (3, 3) },
    )
    .await;
    net.written(1, "after").await;
    eventually("web1's end is noticed", super::PATIENCE, || async {
        net.stack.newly_ended();
        net.stack.act(Action::Start, Target::Web(0)).await.is_ok()
    })
    .await;
    net.aim();
    healed(&net.stack, super::PATIENCE).await;
    crate::support::assert_identical(&net.stack).await;
    net.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_its_memory_votes_again_from_the_next_epoch() {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    net.stack.act(Action::Stop, Target::Web(1)).await.unwrap();
    let state = net.stack.place().dir.join("web2/state");
    let votes = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("votes-"))
            .collect::<Vec<_>>()
    };
    let [file] = votes(&state).try_into().unwrap();
    std::fs::remove_file(file).unwrap();
    net.stack.act(Action::Start, Target::Web(1)).await.unwrap();
    net.aim();
    // The members stay; only the number moves on, so that no forgotten vote can count.
    eventually("a new epoch for the voter", super::PATIENCE, || async {
        net.epoch("a").await == (2, 3) && net.epoch("b").await == (2, 3)
    })
    .await;
    net.all_vote().await;
    let status = net.status(1).await;
    let said = status["events"].to_string();
    assert!(
        said.contains("has lost its memory of votes; it votes again from epoch 2"),
        "{said}"
    );
    // Its vote counts again: without side a three of five are needed, and it is one of three.
    net.stack
        .act(Action::Crash, Target::Side(side("a")))
        .await
        .unwrap();
    net.until(0, "b goes on alone", |s| s["epoch"] == 3 && s["writable"] == true)
        .await;
    net.stack
        .act(Action::Start, Target::Side(side("a")))
        .await
        .unwrap();
    healed(&net.stack, super::PATIENCE).await;
    net.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_another_secret_or_other_voters_has_no_vote_and_is_named() {
    let other_secret = "another secret, which is as long as the right one and yet not the same at all";
    let wrong = |options: StackOptions| {
        options
            .with_instance_setting(1, "SESSION_SECRET", other_secret)
            .with_instance_setting(1, "INSTANCE", "web2")
    };
    let net = Net::start(wrong).await;
    let status = net
        .until(0, "the signature is refused", |s| {
            s.to_string().contains("SESSION_SECRET must be the same")
        })
        .await;
    assert_eq!(status["votes"]["present"], 4);
    net.stack.stop().await.unwrap();

    // web2 knows nobody: it counts alone, and nobody counts it.
    let alone = |options: StackOptions| {
        options
            .with_setting("SESSION_SECRET", SECRET)
            .with_instance_setting(1, "PEERS", "")
    };
    let net = Net::start(alone).await;
    let status = net
        .until(0, "the voters differ", |s| {
            s.to_string().contains("it counts with other voters")
        })
        .await;
    assert_eq!(status["votes"]["present"], 4);
    net.until(1, "a stranger is named", |s| {
        s["votes"]["warnings"]
            .to_string()
            .contains("web1 uses these databases but is not among the peers")
    })
    .await;
    net.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_its_own_peer_counts_once() {
    let (stack, [web1, _]) = instances().await;
    let port = web1.rsplit(':').next().unwrap().to_owned();
    stack.stop().await.unwrap();
    drop(stack);
    let me = format!("http://127.0.0.1:{port}");
    let stack = crate::support::try_start(|mut options| {
        options = options
            .with_instances(&crate::support::program())
            .with_instance_setting(0, "PEERS", &me);
        options.web[0] = kambana::local::PortChoice::Exactly(port.parse().unwrap());
        options
    })
    .await
    .unwrap();
    eventually("it is noticed", super::PATIENCE, || async {
        let status = super::status(&stack.instance_url(0)).await;
        status["votes"]["warnings"]
            .to_string()
            .contains("are the same voter, which counts once")
    })
    .await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_cannot_be_asked_for_from_outside() {
    let stack = full().await;
    let client = http();
    let post = async |url: String, body: Vec<u8>| {
        let answer = client.post(url).body(body).send().await.unwrap();
        answer.status().as_u16()
    };
    for path in [
        "/internal/vote",
        "/%69nternal/vote",
        "//internal/vote",
        "/internal%2fvote",
    ] {
        assert_eq!(
            post(format!("{}{path}", stack.url()), b"{}".to_vec()).await,
            404,
            "{path}"
        );
    }
    let direct = format!("{}/internal/vote", stack.instance_url(0));
    assert_eq!(post(direct.clone(), b"{}".to_vec()).await, 401);
    assert_eq!(post(direct.clone(), vec![b'x'; 1 << 20]).await, 413);
    assert_eq!(client.get(&direct).send().await.unwrap().status().as_u16(), 405);
    stack.stop().await.unwrap();
}

/// A side's row that came from another side counts nothing until the side is readmitted.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_without_a_row_of_its_own_votes_when_it_is_readmitted() {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    let b = connect(&net.stack.dsn(side("b"))).await.unwrap();
    b.batch_execute("UPDATE kambana.vote SET side = 'a'")
        .await
        .unwrap();
    let status = net
        .until(0, "it does not vote", |s| s["votes"]["present"] == 4)
        .await;
    assert_eq!(voter(&status, "b")["why"], "has no memory of votes yet");
    net.stack
        .act(Action::Stop, Target::Side(side("b")))
        .await
        .unwrap();
    net.until(0, "a goes on alone", |s| s["epoch"] == 2).await;
    net.stack
        .act(Action::Start, Target::Side(side("b")))
        .await
        .unwrap();
    crate::support::whole(&net.stack, Duration::from_secs(60)).await;
    net.all_vote().await;
    net.stack.stop().await.unwrap();
}
