//! An instance dies between the commits of its followers: three databases, three different states.

use kambana::local::Action;
use kambana::multipool::failpoint::Point;

use super::{HEAL, three};
use crate::support::{eventually, whole};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn an_instance_dies_between_the_commits_of_its_followers() {
    let scene = three().await;
    // Which COMMITs do not go out; how many followers and leaders answer theirs; which of a, b, c have it then; and whether
    // the leader dies as well.
    let held_follower = (Point::CommitFollower, "hold once");
    let held_leader = (Point::CommitLeader, "hold");
    for (number, (held, answered, have, leader_dies)) in [
        (vec![held_leader], [2, 0], [false, true, true], false),
        (vec![held_follower], [1, 1], [true, false, true], false),
        (
            vec![held_follower, held_leader],
            [1, 0],
            [false, false, true],
            false,
        ),
        (
            vec![held_follower, held_leader],
            [1, 0],
            [false, false, true],
            true,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let row = scene.make(1, "before").await;
        let content = format!("half {number}");
        let points = scene.points(0);
        for (point, order) in &held {
            points.arm(*point, order);
        }
        let answers = [Point::CommittedFollower, Point::CommittedLeader];
        for point in answers {
            points.arm(point, "sleep 0");
        }
        let (op, asked) = scene.put(0, row, &content);
        for (point, _) in &held {
            points.wait(*point).await;
        }
        // By files, not by questions: soon the instance would ask again by name.
        eventually("the other COMMITs are answered", HEAL, || async {
            answers.map(|point| points.reached(point)) == answered
        })
        .await;
        scene.web_act(Action::Crash, 0).await;
        for point in held.iter().map(|(point, _)| *point).chain(answers) {
            points.disarm(point);
        }
        assert_eq!(asked.await.unwrap().status, None, "nobody was answered");
        for (name, has) in ["a", "b", "c"].into_iter().zip(have) {
            // That the others lack it does not last: web2 finds it.
            assert!(
                !has || scene.has(name, op).await,
                "{name} had answered its COMMIT"
            );
        }
        if leader_dies {
            scene.side_act(Action::Crash, "a").await;
        }
        // The next writer of the row brings them together first.
        scene.must_put(1, row, &format!("after {number}")).await;
        if leader_dies {
            scene.side_act(Action::Start, "a").await;
        }
        scene.web_act(Action::Start, 0).await;
        whole(&scene, HEAL).await;
        eventually("every side has it by name", HEAL, || async {
            let mut all = true;
            for name in ["a", "b", "c"] {
                all &= scene.has(name, op).await;
            }
            all
        })
        .await;
        scene.both_have(row, &format!("after {number}"), HEAL).await;
        scene.judge().await;
    }
    scene.stop().await.unwrap();
}
