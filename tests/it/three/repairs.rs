//! Repairs of one side beside the life of two others: none waits for what does not concern it.

use std::time::Duration;

use kambana::local::Action;
use kambana::multipool::failpoint::Point;
use kambana::multipool::{Change, Fields, MultiPool, OpId};

use super::{CROWDED, HEAL, active, mask, members, three, under_load};
use crate::doors::{TABLES, config, finish, insert, sql};
use crate::faults::scene::Scene;
use crate::support::{Running, eventually, healed, number, side, start, whole};

/// Three databases with the pool's objects, for pools in this process.
async fn installed() -> Running {
    let stack = start(|options| options.with_third_side()).await;
    kambana::multipool::install(&config(&stack, "init"), &TABLES)
        .await
        .unwrap();
    stack
}

/// A pool that is patient with a crowded machine: nothing here is about how soon a silent side is found.
async fn pool(stack: &Running) -> MultiPool {
    let mut config = config(stack, "web1");
    config.probe_deadline = Duration::from_secs(4);
    config.op_deadline = HEAL;
    MultiPool::connect(config).await.unwrap()
}

async fn act(stack: &Running, action: Action, name: &str) {
    stack
        .act(action, kambana::local::Target::Side(side(name)))
        .await
        .unwrap();
}

async fn are_active(stack: &Running, witness: &str, names: &[&str]) {
    let (dsn, expected) = (stack.dsn(side(witness)), mask(names));
    eventually(&format!("{names:?} are active"), HEAL, || async {
        number(&dsn, "SELECT members::bigint FROM kambana.epoch").await == expected
    })
    .await;
}

/// A change that b refuses waits on a. The return of c is no business of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_waits_between_two_sides_does_not_stop_writes_when_the_third_returns() {
    let stack = installed().await;
    let pool = pool(&stack).await;
    let row = insert(&pool, "edited on a").await;
    healed(&stack, HEAL * CROWDED).await;
    let (a, b) = (sql(&stack, "a").await, sql(&stack, "b").await);
    b.batch_execute("ALTER TABLE items ADD CONSTRAINT only_here CHECK (name <> 'poison')")
        .await
        .unwrap();
    a.batch_execute(&format!("UPDATE items SET name = 'poison' WHERE id = {row}"))
        .await
        .unwrap();
    eventually("the row is held", HEAL, || async {
        pool.held_changes().await.is_ok_and(|held| held.len() == 1)
    })
    .await;
    act(&stack, Action::Crash, "c").await;
    are_active(&stack, "a", &["a", "b"]).await;
    insert(&pool, "while c is out").await;
    act(&stack, Action::Start, "c").await;
    whole(&stack, HEAL * CROWDED).await;
    insert(&pool, "when c is back").await;
    b.batch_execute("ALTER TABLE items DROP CONSTRAINT only_here")
        .await
        .unwrap();
    eventually("the row is brought to b", Duration::from_secs(60), || async {
        let sql = format!("SELECT count(*) FROM items WHERE id = {row} AND name = 'poison'");
        number(&stack.dsn(side("b")), &sql).await == 1
    })
    .await;
    finish(stack, &[pool]).await;
}

/// b cannot be brought back, for it refuses what the others have; c can.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_cannot_be_brought_back_does_not_keep_out_another() {
    let stack = installed().await;
    let pool = pool(&stack).await;
    let row = insert(&pool, "harmless").await;
    sql(&stack, "b")
        .await
        .batch_execute("ALTER TABLE items ADD CONSTRAINT only_here CHECK (name <> 'poison')")
        .await
        .unwrap();
    for name in ["b", "c"] {
        act(&stack, Action::Crash, name).await;
    }
    are_active(&stack, "a", &["a"]).await;
    let set = Fields::new().with("name", "poison");
    let change = Change::update("items", Fields::new().with("id", row), set);
    pool.change(OpId::new(), vec![change]).await.unwrap();
    for name in ["b", "c"] {
        act(&stack, Action::Start, name).await;
    }
    are_active(&stack, "a", &["a", "c"]).await;
    insert(&pool, "with c").await;
    sql(&stack, "b")
        .await
        .batch_execute("ALTER TABLE items DROP CONSTRAINT only_here")
        .await
        .unwrap();
    whole(&stack, Duration::from_secs(90)).await;
    finish(stack, &[pool]).await;
}

/// c is out, and there are writes for it; both instances are stopped in the middle of its first pass.
async fn held_in_a_pass(scene: &Scene) {
    scene.side_act(Action::Crash, "c").await;
    active(scene, &["a", "b"]).await;
    for n in 0..5 {
        scene.make(0, &format!("while c is out {n}")).await;
    }
    for web in [0, 1] {
        scene.points(web).arm(Point::PassBegin, "hold");
    }
    scene.side_act(Action::Start, "c").await;
    eventually("somebody catches c up", HEAL, || async {
        (0..2).any(|web| scene.points(web).reached(Point::PassBegin) > 0)
    })
    .await;
}

fn let_pass(scene: &Scene) {
    for web in [0, 1] {
        scene.points(web).disarm(Point::PassBegin);
    }
}

/// A long catch-up holds up nothing between the members.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_hand_crosses_while_another_side_is_caught_up() {
    let scene = three().await;
    let row = scene.make(0, "before").await;
    healed(&scene, HEAL).await;
    held_in_a_pass(&scene).await;
    let sql = format!("UPDATE items SET content = 'by hand' WHERE id = {row}");
    scene.sql("b").await.batch_execute(&sql).await.unwrap();
    eventually("it reaches a", Duration::from_secs(2) * CROWDED, || async {
        scene.content("a", row).await.as_deref() == Some("by hand")
    })
    .await;
    assert_eq!(members(&scene, "a").await, mask(&["a", "b"]), "c is not back yet");
    let_pass(&scene);
    whole(&scene, HEAL).await;
    scene.both_have(row, "by hand", HEAL).await;
    scene.finish().await;
}

/// The source dies in the middle of a pass: the other living side leads, and c is caught up from there.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_while_another_side_is_caught_up() {
    let scene = three().await;
    held_in_a_pass(&scene).await;
    scene.side_act(Action::Crash, "a").await;
    eventually("b goes on alone or with c", HEAL, || async {
        members(&scene, "b").await & 1 == 0
    })
    .await;
    scene
        .must_put(1, scene.make(1, "led by b").await, "written on b")
        .await;
    let_pass(&scene);
    active(&scene, &["b", "c"]).await;
    scene.side_act(Action::Start, "a").await;
    whole(&scene, HEAL).await;
    scene.finish().await;
}

/// The readmission of c is written on the leader, which dies before anybody else stores it. The other member has
/// everything and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_between_the_two_halves_of_a_readmission() {
    let scene = three().await;
    scene.side_act(Action::Crash, "c").await;
    active(&scene, &["a", "b"]).await;
    let row = scene.make(0, "acknowledged on a and b").await;
    for web in [0, 1] {
        scene.points(web).arm(Point::MergeBetween, "hold");
        // Nor can b store it yet.
        scene.points(web).arm(Point::EjectFenced, "error");
    }
    scene.side_act(Action::Start, "c").await;
    eventually(
        "a stores the readmission, and its instances know",
        HEAL,
        || async {
            let all = serde_json::json!(["a", "b", "c"]);
            members(&scene, "a").await == mask(&["a", "b", "c"])
                && scene.status(0).await["members"] == all
                && scene.status(1).await["members"] == all
        },
    )
    .await;
    scene.side_act(Action::Crash, "a").await;
    assert_eq!(
        members(&scene, "b").await,
        mask(&["a", "b"]),
        "b has not stored it"
    );
    for web in [0, 1] {
        scene.points(web).disarm(Point::MergeBetween);
        scene.points(web).disarm(Point::EjectFenced);
    }
    scene.must_put(1, row, "written without a").await;
    active(&scene, &["b", "c"]).await;
    scene.side_act(Action::Start, "a").await;
    whole(&scene, HEAL).await;
    scene.both_have(row, "written without a", HEAL).await;
    scene.finish().await;
}

/// b was out when c came back. What b holds open for c, the others have closed long ago: as the trim does it after a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_was_out_learns_what_the_others_have_closed() {
    let scene = three().await;
    scene.side_act(Action::Crash, "c").await;
    active(&scene, &["a", "b"]).await;
    for n in 0..5 {
        scene.make(0, &format!("for a and b {n}")).await;
    }
    scene.side_act(Action::Crash, "b").await;
    active(&scene, &["a"]).await;
    scene.side_act(Action::Start, "c").await;
    active(&scene, &["a", "c"]).await;
    let everywhere = "UPDATE kambana.lane AS l SET closed = true, confirmed = k.confirmed FROM kambana.lane_settled AS k \
        WHERE k.lane = l.lane AND NOT EXISTS (SELECT FROM kambana.op AS o \
        WHERE o.lane = l.lane AND o.batch > ANY (k.confirmed))";
    for name in ["a", "c"] {
        assert!(
            scene.sql(name).await.execute(everywhere, &[]).await.unwrap() > 0,
            "nothing to close on {name}"
        );
    }
    scene.side_act(Action::Start, "b").await;
    whole(&scene, HEAL).await;
    healed(&scene, HEAL).await;
    scene.finish().await;
}

/// Whichever of the living sides leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_side_is_rebuilt_from_either_of_the_others() {
    let scene = three().await;
    under_load(
        &scene,
        &[
            super::Lose(Action::Wipe, &["c"]),
            super::Return(Action::Start, "c"),
        ],
    )
    .await;
    under_load(
        &scene,
        &[
            super::Lose(Action::Crash, &["a"]),
            super::Lose(Action::Wipe, &["c"]),
            super::Return(Action::Start, "c"),
            super::Return(Action::Start, "a"),
        ],
    )
    .await;
    scene.finish().await;
}
