//! Machines that burn, with and without a witness; both sides dead, in every order: cases 23 and 24.

use std::process::Stdio;
use std::time::Duration;

use kambana::local::{Action, PortChoice, StackOptions, Target};

use super::{Net, SECRET, voter};
use crate::load::Load;
use crate::support::{TestDir, eventually, healed, program, side, whole};

/// A witness as a child of the test; dropping it kills it.
struct Witness {
    port: u16,
    dir: TestDir,
    child: Option<tokio::process::Child>,
}

impl Witness {
    fn new() -> Witness {
        Witness {
            port: PortChoice::Any.choose("the witness", "", &[]).unwrap().number,
            dir: TestDir::new(),
            child: None,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn start(&mut self) {
        let mut command = tokio::process::Command::new(program());
        command
            .args([
                "witness",
                "--listen",
                &format!("127.0.0.1:{}", self.port),
                "--state",
            ])
            .arg(self.dir.path())
            .env("SESSION_SECRET", SECRET)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        self.child = Some(command.spawn().unwrap());
    }

    async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }
}

async fn act(net: &Net, action: Action, targets: [Target; 2]) {
    let (one, two) = futures::join!(
        net.stack.act(action, targets[0]),
        net.stack.act(action, targets[1])
    );
    one.unwrap();
    two.unwrap();
    net.aim();
}

/// A machine with one side and one instance is gone; the other one goes on with the witness, and takes it back.
async fn a_machine_burns(lost: usize) {
    let mut witness = Witness::new();
    witness.start();
    let net = Net::start(|options: StackOptions| options.with_setting("WITNESS", &witness.url())).await;
    net.all_vote().await;
    let status = net.status(0).await;
    assert_eq!(
        (&status["votes"]["total"], &status["votes"]["needed"]),
        (&5.into(), &3.into())
    );
    let left = 1 - lost;
    let (name, other) = [("a", "b"), ("b", "a")][left];
    let load = Load::start(vec![net.stack.instance_url(left)], 4, 20, true);
    load.more(50).await;
    let machine = [Target::Side(side(other)), Target::Web(lost)];
    act(&net, Action::Crash, machine).await;
    net.until(left, "the other machine goes on", |s| {
        s["epoch"] == 2 && s["writable"] == true
    })
    .await;
    load.more(50).await;
    assert_eq!(net.epoch(name).await, (2, if name == "a" { 1 } else { 2 }));
    // The witness remembers over a restart.
    witness.kill().await;
    net.until(left, "the witness is missed", |s| {
        voter(s, &witness.url())["votes"] == false
    })
    .await;
    witness.start();
    act(&net, Action::Start, machine).await;
    whole(&net.stack, Duration::from_secs(60)).await;
    net.all_vote().await;
    load.judged(&net.stack, Duration::from_secs(30)).await;
    net.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_witness_the_machine_with_side_a_may_burn() {
    a_machine_burns(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_witness_the_machine_with_side_b_may_burn() {
    a_machine_burns(1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn without_a_witness_the_rest_of_side_b_refuses_and_says_what_is_missing() {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    net.written(1, "before").await;
    act(&net, Action::Crash, [Target::Side(side("a")), Target::Web(0)]).await;
    let status = net
        .until(1, "writes are refused", |s| s["writable"] == false)
        .await;
    let text = status["refusal"].as_str().unwrap();
    for part in ["2 of 3", "side a", "instance web1", "Bring one of these back"] {
        assert!(text.contains(part), "`{part}` is not said: {text}");
    }
    let (code, answer) = net.write(1, "refused").await;
    assert!(code == 503 && answer.contains("2 of 3"), "{code} {answer}");
    assert_eq!(net.epoch("b").await, (1, 3), "nothing was changed");
    // One of the missing is enough.
    let config = net.stack.record();
    assert_eq!(config.instances.len(), 2);
    net.stack
        .act(Action::Start, Target::Side(side("a")))
        .await
        .unwrap();
    net.until(1, "writes are accepted again", |s| s["writable"] == true)
        .await;
    net.written(1, "after").await;
    net.stack.act(Action::Start, Target::Web(0)).await.unwrap();
    net.aim();
    healed(&net.stack, super::PATIENCE).await;
    crate::support::assert_identical(&net.stack).await;
    let names = crate::support::rows(&net.stack.dsn(side("b")), "SELECT name FROM items ORDER BY id").await;
    assert!(
        !names.contains(&"(refused)".to_owned()) && names.contains(&"(after)".to_owned()),
        "{names:?}"
    );
    net.stack.stop().await.unwrap();
}

/// Cases 23 and 24: `first` dies, the other goes on alone and dies too; then they return in some order.
async fn both_die(first: &str, back_first: &str) {
    let net = Net::start(|options| options).await;
    net.all_vote().await;
    net.written(0, "on both").await;
    let (second, last) = (other(first), other(back_first));
    net.stack
        .act(Action::Crash, Target::Side(side(first)))
        .await
        .unwrap();
    for index in [0, 1] {
        net.until(index, "the other goes on alone", |s| {
            s["epoch"] == 2 && s["writable"] == true
        })
        .await;
    }
    net.written(1, "on one").await;
    net.stack
        .act(Action::Crash, Target::Side(side(second)))
        .await
        .unwrap();
    for index in [0, 1] {
        net.until(index, "nothing can be written", |s| s["writable"] == false)
            .await;
    }
    net.stack
        .act(Action::Start, Target::Side(side(back_first)))
        .await
        .unwrap();
    if back_first == first {
        // It was out when the last write was made: it must not serve, however well it feels.
        for index in [0, 1] {
            let why = format!("side {first} answers, but it was out");
            net.until(index, "it is not believed", |s| {
                s["refusal"].to_string().contains(&why)
            })
            .await;
        }
        assert_eq!(net.write(0, "never").await.0, 503);
    } else {
        net.written(0, "by the last one").await;
    }
    net.stack
        .act(Action::Start, Target::Side(side(last)))
        .await
        .unwrap();
    healed(&net.stack, super::PATIENCE).await;
    crate::support::assert_identical(&net.stack).await;
    eventually("both instances accept writes", super::PATIENCE, || async {
        net.status(0).await["writable"] == true && net.status(1).await["writable"] == true
    })
    .await;
    let names = crate::support::rows(&net.stack.dsn(side(first)), "SELECT name FROM items ORDER BY id").await;
    assert!(names.contains(&"(\"on both\")".to_owned()) && names.contains(&"(\"on one\")".to_owned()));
    assert!(!names.contains(&"(never)".to_owned()), "{names:?}");
    net.stack.stop().await.unwrap();
}

fn other(name: &str) -> &'static str {
    if name == "a" { "b" } else { "a" }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_23_both_die_and_the_one_that_was_last_returns_first() {
    for (first, back_first) in [("a", "b"), ("b", "a")] {
        both_die(first, back_first).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_24_both_die_and_the_one_that_was_out_returns_first() {
    for (first, back_first) in [("a", "a"), ("b", "b")] {
        both_die(first, back_first).await;
    }
}
