//! Cut wires: cases 37 to 42.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kambana::local::Fault::{self, Cut, Hold, None as Whole};
use kambana::local::Way;
use serde_json::Value;

use super::{Net, voter};
use crate::load::{Load, http};
use crate::support::{eventually, side};

/// Two instances, each asked directly.
fn both(net: &Net) -> Vec<String> {
    vec![net.stack.instance_url(0), net.stack.instance_url(1)]
}

fn set(net: &Net, wires: &[(usize, &str)], fault: &Fault) {
    for (instance, name) in wires {
        net.stack.link(*instance, side(name)).unwrap().set(fault.clone());
    }
}

async fn ready(net: &Net, index: usize) -> u16 {
    let url = format!("{}/health/ready", net.stack.instance_url(index));
    http().get(url).send().await.unwrap().status().as_u16()
}

/// Ends the load and asks both sides for everything.
async fn judge(net: &Net, load: Load) {
    crate::support::whole(&net.stack, Duration::from_secs(60)).await;
    load.judged(&net.stack, Duration::from_secs(30)).await;
    net.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_37_who_alone_cannot_reach_a_side_takes_no_part() {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    net.written(0, "through web1").await;
    // What HAProxy would send, once it has drained web1.
    let load = Load::start(vec![net.stack.instance_url(1)], 4, 20, false);
    load.more(50).await;
    let wire = [(0, "b")];
    set(&net, &wire, &Hold(Way::Both));
    eventually("web1 is drained", super::PATIENCE, || async {
        ready(&net, 0).await == 503
    })
    .await;
    assert_eq!(ready(&net, 1).await, 200, "web2 goes on");
    assert!(
        net.stack.link(0, side("b")).unwrap().hits() > 0,
        "the wire was met"
    );
    let text = net.status(0).await["refusal"].to_string();
    assert!(text.contains("cannot reach side b"), "{text}");
    load.more(50).await;
    for name in ["a", "b"] {
        assert_eq!(
            net.epoch(name).await,
            (1, 3),
            "no change of the members on side {name}"
        );
    }
    set(&net, &wire, &Whole);
    eventually("web1 is ready again", super::PATIENCE, || async {
        ready(&net, 0).await == 200
    })
    .await;
    judge(&net, load).await;
}

/// web1 sees only a, web2 only b.
async fn crossed(fault: Fault, instances_see_each_other: bool) {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    let load = Load::start(both(&net), 4, 20, false);
    load.more(50).await;
    if !instances_see_each_other {
        net.peers.iter().for_each(super::Wire::cut);
    }
    let wires = [(0, "b"), (1, "a")];
    set(&net, &wires, &fault);
    let settled = Mutex::new(None);
    eventually("one goes on, the other refuses", super::PATIENCE, || async {
        let (one, two) = (net.status(0).await, net.status(1).await);
        let goes_on = |status: &Value| status["writable"] == true && status["epoch"] == 2;
        let found = match (goes_on(&one), goes_on(&two)) {
            (true, false) if two["writable"] == false => Some((0, two)),
            (false, true) if one["writable"] == false => Some((1, one)),
            (true, true) => panic!("both go on: {one:#} {two:#}"),
            _ => None,
        };
        *settled.lock().unwrap() = found;
        settled.lock().unwrap().is_some()
    })
    .await;
    let (winner, refusing) = settled.into_inner().unwrap().unwrap();
    if !instances_see_each_other {
        assert_eq!(winner, 0, "side a has one vote more");
        let text = refusing["refusal"].to_string();
        assert!(text.contains("2 of 3") && text.contains("side a"), "{text}");
        assert!(
            net.peers[1].refused() > 0,
            "the wire between the instances was met"
        );
    }
    for (instance, name) in wires {
        let link = net.stack.link(instance, side(name)).unwrap();
        assert!(link.hits() > 0 || link.counts().cut > 0, "the wire was met");
    }
    let (its, other) = [("a", "b"), ("b", "a")][winner];
    let alone = if its == "a" { 1 } else { 2 };
    assert_eq!(net.epoch(its).await, (2, alone));
    assert_eq!(net.epoch(other).await, (1, 3), "the other side was not changed");
    net.written(winner, "by the winner").await;
    let (code, answer) = net.write(1 - winner, "by the other").await;
    assert_eq!(code, 503, "{answer}");
    let before = net.epoch(its).await;
    net.written(winner, "and on").await;
    assert_eq!(net.epoch(its).await, before);

    set(&net, &wires, &Whole);
    net.peers.iter().for_each(super::Wire::heal);
    crate::support::whole(&net.stack, super::PATIENCE).await;
    for index in [0, 1] {
        net.until(index, "writes are accepted", |status| status["writable"] == true)
            .await;
        net.written(index, "by both again").await;
    }
    assert_eq!(net.epoch("a").await.0, 3, "one side left, one came back");
    judge(&net, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_38_a_crossed_partition_has_one_winner() {
    crossed(Hold(Way::Both), false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_38_a_crossed_partition_of_instances_that_see_each_other_has_one_winner() {
    crossed(Cut, true).await;
}

/// Both instances lose side b: one change of the members, and one back. `meanwhile` looks closer while a is alone.
async fn both_lose_b(clients: u64, fault: &Fault, meanwhile: impl AsyncFnOnce(&Net)) {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    let load = Load::start(both(&net), clients, 20, false);
    load.more(50).await;
    let wires = [(0, "b"), (1, "b")];
    set(&net, &wires, fault);
    for index in [0, 1] {
        net.until(index, "a goes on alone", |s| {
            s["epoch"] == 2 && s["writable"] == true
        })
        .await;
    }
    load.more(50).await;
    assert_eq!(net.epoch("a").await, (2, 1), "one change");
    meanwhile(&net).await;
    set(&net, &wires, &Whole);
    crate::support::whole(&net.stack, super::PATIENCE).await;
    assert_eq!(net.epoch("a").await.0, 3, "and one back");
    assert!(load.history.worst_gap() < Duration::from_secs(9));
    judge(&net, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_39_both_lose_one_side_and_the_members_change_once() {
    both_lose_b(4, &Hold(Way::Both), async |net| {
        assert_eq!(net.epoch("b").await, (1, 3), "b has not heard of it");
        let margin = net.status(0).await["votes"]["margin"].clone();
        assert_eq!(margin["last_copy"], "a", "{margin}");
    })
    .await;
}

/// What arrives at b is done, and nobody hears of it: what it has committed is unknown until it can be asked.
#[tokio::test(flavor = "multi_thread")]
async fn case_40_the_replies_of_one_side_are_lost() {
    both_lose_b(8, &Fault::DropReplies, async |net| {
        for index in [0, 1] {
            let link = net.stack.link(index, side("b")).unwrap();
            assert!(link.hits() > 0, "web{} lost replies", index + 1);
            println!("web{}: {:?}", index + 1, link.counts());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_41_instances_that_cannot_see_each_other_change_nothing() {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    let load = Load::start(both(&net), 4, 20, false);
    load.more(50).await;
    net.peers.iter().for_each(super::Wire::cut);
    for (index, other) in [(0, "web2"), (1, "web1")] {
        let status = net
            .until(index, "the other's vote is missing", |s| {
                s["votes"]["present"] == 4
            })
            .await;
        let missing = voter(&status, other);
        assert!(
            missing["votes"] == false && missing["why"].is_string(),
            "{missing}"
        );
        let margin = &status["votes"]["margin"];
        assert_eq!(margin["too_few_votes"], serde_json::json!(["a"]), "{margin}");
        assert!(net.peers[index].refused() > 0);
    }
    load.more(200).await;
    for name in ["a", "b"] {
        assert_eq!(net.epoch(name).await, (1, 3));
    }
    net.peers.iter().for_each(super::Wire::heal);
    net.all_vote().await;
    assert!(load.history.failures.lock().unwrap().is_empty(), "nobody noticed");
    judge(&net, load).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_42_a_flapping_wire_changes_the_members_a_few_times_only() {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    let load = Load::start(both(&net), 4, 20, false);
    load.more(50).await;
    let wires = [(0, "b"), (1, "b")];
    let (begun, mut cuts) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(40) {
        for fault in [Cut, Whole] {
            set(&net, &wires, &fault);
            // This is the fault itself: one second on, one second off.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        cuts += 1;
    }
    let (changes, _) = net.epoch("a").await;
    let changes = changes - 1;
    println!("{changes} changes of the members for {cuts} cuts");
    assert!(
        cuts >= 15 && (1..=8).contains(&changes),
        "{changes} changes for {cuts} cuts"
    );
    load.more(50).await;
    assert!(
        load.history.worst_gap() < Duration::from_secs(10),
        "{:?}",
        load.history.worst_gap()
    );
    // It comes back by itself, only not at once.
    crate::support::whole(&net.stack, Duration::from_secs(90)).await;
    judge(&net, load).await;
}
