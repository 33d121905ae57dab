//! Three databases: any one, then any two lost in turn, while two instances write.

mod commits;
mod foreign;
mod lost;
mod repairs;
mod surface;

use std::time::Duration;

use kambana::local::Action;
use serde_json::json;
use uuid::Uuid;

use crate::faults::scene::{CROWDED, HEAL, Scene};
use crate::load::Load;
use crate::support::{eventually, number, side};

/// A side that is lost, or one that had stood still, is left out and comes back in this time.
const SEEN: Duration = Duration::from_secs(40);

/// Three databases and two instances.
async fn three() -> Scene {
    Scene::with(|options| options.with_third_side()).await
}

/// The members that a side knows, as a bit mask: a is 1, b is 2, c is 4.
async fn members(scene: &Scene, name: &str) -> i64 {
    number(
        &scene.dsn(side(name)),
        "SELECT members::bigint FROM kambana.epoch",
    )
    .await
}

fn mask(names: &[&str]) -> i64 {
    names.iter().map(|name| 1 << side(name).index()).sum()
}

/// Waits until exactly these sides are active, by the word of each of them.
async fn active(scene: &Scene, names: &[&str]) {
    let expected = mask(names);
    for name in names {
        eventually(&format!("{names:?} are active, says {name}"), SEEN, || async {
            members(scene, name).await == expected
        })
        .await;
    }
}

/// One thing that is done to the sides.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// They are lost, at the same moment.
    Lose(Action, &'static [&'static str]),
    /// It returns.
    Return(Action, &'static str),
}

use Step::{Lose, Return};

/// Does these steps under load through both instances; after each one the load goes on. In the end everything is judged.
async fn under_load(scene: &Scene, steps: &[Step]) {
    println!("--- {steps:?}");
    let urls = vec![scene.instance_url(0), scene.instance_url(1)];
    let load = Load::start(urls, 6, 24, true);
    load.more(30).await;
    let mut living = vec!["a", "b", "c"];
    for step in steps {
        match *step {
            Lose(action, names) => {
                futures::future::join_all(names.iter().map(|name| scene.side_act(action, name))).await;
                living.retain(|name| !names.contains(name));
            }
            Return(action, name) => {
                scene.side_act(action, name).await;
                living.push(name);
                living.sort_unstable();
            }
        }
        active(scene, &living).await;
        load.more(30).await;
        // A row that nothing writes again: whoever is out now must be brought this very write (`Scene::judge`).
        let server = json!({ "name": format!("{step:?}"), "host": "one", "port": 1 });
        let told = scene
            .send(0, Uuid::now_v7(), "POST", "/api/servers", Some(server))
            .await;
        assert!(told.applied(), "{told:?}");
    }
    let history = load.all_served(scene, HEAL).await;
    let limit = Duration::from_secs(5) * CROWDED;
    assert!(history.worst_gap() < limit, "worst gap {:?}", history.worst_gap());
}
