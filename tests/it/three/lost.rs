//! Sides that are lost, one, two in turn, two at once, and return.

use kambana::local::Action;

use super::{Lose, Return, Step, three, under_load};

const CRASH: Action = Action::Crash;
const START: Action = Action::Start;

#[tokio::test(flavor = "multi_thread")]
async fn any_one_side_is_lost_and_returns() {
    let scene = three().await;
    for steps in [
        [Lose(CRASH, &["a"]), Return(START, "a")],
        [Lose(CRASH, &["b"]), Return(START, "b")],
        [Lose(CRASH, &["c"]), Return(START, "c")],
        [Lose(Action::Freeze, &["b"]), Return(Action::Thaw, "b")],
    ] {
        under_load(&scene, &steps).await;
    }
    scene.finish().await;
}

/// In turn: first lost, then the second; and who returns first.
async fn two_in_turn(cases: &[(&'static [&'static str; 2], bool)]) {
    let scene = three().await;
    for ([first, second], first_returns_first) in cases {
        let back = match first_returns_first {
            true => [*first, *second],
            false => [*second, *first],
        };
        let lose = |name: &'static str| {
            let one: &'static [&'static str] = match name {
                "a" => &["a"],
                "b" => &["b"],
                _ => &["c"],
            };
            Lose(CRASH, one)
        };
        let steps: [Step; 4] = [
            lose(first),
            lose(second),
            Return(START, back[0]),
            Return(START, back[1]),
        ];
        under_load(&scene, &steps).await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn two_sides_are_lost_in_turn_and_return() {
    two_in_turn(&[(&["a", "b"], true), (&["c", "a"], false)]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn torture_any_two_sides_are_lost_in_turn_and_return_in_any_order() {
    let pairs: [&'static [&'static str; 2]; 6] = [
        &["a", "b"],
        &["a", "c"],
        &["b", "a"],
        &["b", "c"],
        &["c", "a"],
        &["c", "b"],
    ];
    let cases: Vec<_> = pairs
        .into_iter()
        .flat_map(|pair| [(pair, true), (pair, false)])
        .collect();
    two_in_turn(&cases).await;
}

/// Three of five votes are left, and one copy with everything.
#[tokio::test(flavor = "multi_thread")]
async fn two_sides_are_lost_at_the_same_instant() {
    let scene = three().await;
    under_load(
        &scene,
        &[Lose(CRASH, &["a", "b"]), Return(START, "b"), Return(START, "a")],
    )
    .await;
    scene.finish().await;
}

/// A side that is out keeps what waits for it, whoever else comes and goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_out_gets_everything_after_others_have_come_and_gone() {
    let scene = three().await;
    under_load(
        &scene,
        &[
            Lose(CRASH, &["c"]),
            Lose(CRASH, &["a"]),
            Return(START, "a"),
            Lose(CRASH, &["b"]),
            Return(START, "c"),
            Return(START, "b"),
        ],
    )
    .await;
    // Brought, not copied anew: whoever is said to have what it has not is taken for one that was restored.
    let mut events = String::new();
    for web in 0..2 {
        events += &scene.status(web).await["events"].to_string();
    }
    assert!(events.contains("is up to date"), "{events}");
    assert!(!events.contains("was rebuilt from"), "{events}");
    scene.finish().await;
}
