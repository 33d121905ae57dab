//! What a person sees while a side is out, and while none answers.

use std::time::Duration;

use kambana::local::{Action, Target};

use crate::browser::Browser;
use crate::support::{assert_identical, connect, eventually, healed, instances, number, rows, side};

#[tokio::test]
async fn a_missing_side_is_announced_and_no_side_is_said_clearly() {
    let (stack, [web1, web2]) = instances().await;
    let person = Browser::new();
    let form = person.open(&web1, "/items/new").await.form("/items");
    person.submit(&web1, &form.with("name", "before")).await;

    stack.act(Action::Crash, Target::Side(side("b"))).await.unwrap();
    let form = person.open(&web1, "/items/new").await.form("/items");
    person.submit(&web1, &form.with("name", "without b")).await;
    let members = number(&stack.dsn(side("a")), "SELECT members::bigint FROM kambana.epoch").await;
    assert_eq!(members, 1, "side b is out");
    let limit = Duration::from_secs(10);
    for base in [&web1, &web2] {
        for path in ["/items", "/", "/servers/new", "/cluster"] {
            eventually("a banner on every page", limit, || async {
                person
                    .open(base, path)
                    .await
                    .says("Database b is out. Your work goes on: changes are saved on a")
            })
            .await;
        }
    }
    let cluster = person.open(&web2, "/cluster?lang=fr").await;
    cluster.must_say("La base b est hors service.");
    person.open(&web2, "/cluster?lang=en").await;
    let why = "Bases utilisées désormais : a (la base b ne répond pas :";
    said_in_french(&[&web1, &web2], why).await;

    // Now nobody answers. An instance says so by itself, with a status that machines understand.
    let form = person
        .open(&web1, "/items/new")
        .await
        .form("/items")
        .with("name", "kept on the page");
    stack.act(Action::Crash, Target::Side(side("a"))).await.unwrap();
    assert!(connect(&stack.dsn(side("a"))).await.is_err());
    for base in [&web1, &web2] {
        eventually("readiness says no", limit, || async {
            person.get(base, "/health/ready").await.status == 503
        })
        .await;
        assert_eq!(person.get(base, "/health/live").await.status, 200);
    }
    // Each of these waits a few seconds for a side to come back; all of them wait together.
    let stranger = Browser::new();
    let reads = [&web1, &web2].into_iter().flat_map(|base| {
        ["/items", "/servers/1", "/items/1/edit", "/items/export.csv"].map(|path| {
            let stranger = stranger.clone();
            async move {
                let page = stranger.get(base, path).await;
                assert_eq!(page.status, 503, "{path}: {}", page.text());
                assert_eq!(page.header("retry-after"), "2", "{path}");
                page.must_say("This cannot be shown right now");
                page.must_say("No database could answer.");
            }
        })
    });
    let others = [&web1, &web2].map(|base| {
        let (person, stranger, form) = (person.clone(), stranger.clone(), form.clone());
        async move {
            // What needs no database is there, with the same warning.
            let start = stranger.open(base, "/").await;
            start.must_say("Changes are refused at the moment: no database answers.");
            person
                .open(base, "/cluster")
                .await
                .must_say("Changes are refused at the moment");
            // A session that cannot be read is no empty session.
            let (session, api, written) = futures::join!(
                person.get(base, "/items"),
                stranger.get(base, "/api/items"),
                stranger.post(base, &form),
            );
            assert_eq!(session.status, 503, "{}", session.text());
            session.must_say("Nothing was changed");
            assert_eq!(
                (api.status, api.header("content-type")),
                (503, "application/problem+json")
            );
            // "Not applied", and what was typed comes back in a form that can be sent again.
            assert_eq!((written.status, written.header("retry-after")), (503, "2"));
            written.must_say("Your change was not saved");
            let again = written.form("/items");
            assert_eq!(again.get("name"), "kept on the page");
            assert_eq!(again.get("op_id"), form.get("op_id"));
        }
    });
    futures::join!(
        futures::future::join_all(reads),
        futures::future::join_all(others)
    );

    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    // Side b missed a write: it answers and must not be believed.
    let (one, two) = futures::join!(person.get(&web1, "/api/items"), person.get(&web2, "/api/items"));
    assert_eq!((one.status, two.status), (503, 503), "b alone is not the truth");
    stack.act(Action::Start, Target::Side(side("a"))).await.unwrap();
    healed(&stack, Duration::from_secs(30)).await;
    for base in [&web1, &web2] {
        eventually("the instance works again", limit, || async {
            person.get(base, "/health/ready").await.status == 200
        })
        .await;
    }
    let why = "Bases utilisées désormais : a, b (la base b est de nouveau à jour).";
    said_in_french(&[&web1, &web2], why).await;
    person.submit(&web2, &form).await.must_say("kept on the page");
    for name in ["a", "b"] {
        let sql = "SELECT name FROM items ORDER BY name";
        let names = rows(&stack.dsn(side(name)), sql).await;
        assert_eq!(names, ["(before)", "(\"kept on the page\")", "(\"without b\")"]);
    }
    let page = person.open(&web1, "/items").await;
    assert!(
        !page.says("is out"),
        "the banner goes with the fault: {}",
        page.text()
    );
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

/// By the instance that has done it; another may hear of it before it hears why.
async fn said_in_french(instances: &[&String], what: &str) {
    let reader = Browser::new();
    eventually(
        "what happened is said in French",
        Duration::from_secs(10),
        || async {
            let mut said = false;
            for base in instances {
                said |= reader.open(base, "/cluster?lang=fr").await.says(what);
            }
            said
        },
    )
    .await;
}
