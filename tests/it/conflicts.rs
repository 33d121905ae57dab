//! Two people, two instances, one row: nobody overwrites silently, and no form counts twice.

use crate::browser::Browser;
use crate::support::{assert_identical, instances, number, rows, side};

#[tokio::test]
async fn nobody_overwrites_silently_and_no_form_counts_twice() {
    let (stack, [web1, web2]) = instances().await;
    let (one, two) = (Browser::new(), Browser::new());
    let new = one
        .open(&web1, "/items/new")
        .await
        .form("/items")
        .with("name", "a red house")
        .with("content", "first\nsecond\nthird");

    // One form, sent to both instances at the same moment, again and again: one row.
    let answers = futures::future::join_all((0..6).map(|n| {
        let (browser, base, form) = (one.clone(), if n % 2 == 0 { &web1 } else { &web2 }, new.clone());
        async move { browser.post(base, &form).await }
    }))
    .await;
    let places: Vec<_> = answers.iter().map(|answer| answer.header("location")).collect();
    assert!(answers.iter().all(|answer| answer.status == 303), "{answers:?}");
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
    for name in ["a", "b"] {
        assert_eq!(
            number(&stack.dsn(side(name)), "SELECT count(*) FROM items").await,
            1
        );
    }
    // The same form with another content is another wish under a name that is spent.
    let reused = one.post(&web2, &new.clone().with("name", "other")).await;
    assert_eq!(reused.status, 409);
    reused.must_say("This form was already sent");

    // Two people open one row; the second to save is asked, not obeyed.
    let here = places[0].to_owned();
    let edit = format!("{here}/edit");
    let mine = one.open(&web1, &edit).await.form(&here);
    let theirs = two.open(&web2, &edit).await.form(&here);
    let theirs = theirs
        .with("name", "a blue house")
        .with("content", "first\nsecond\nthird!");
    two.submit(&web1, &theirs).await.must_say("a blue house");
    let mine = mine
        .with("name", "a green house")
        .with("content", "FIRST\nsecond\nthird");
    let conflict = one.post(&web2, &mine).await;
    assert_eq!(conflict.status, 409, "{}", conflict.text());
    for text in [
        "Somebody else changed item",
        "Yours",
        "Theirs, saved now",
        "What it was",
        "a red house",
    ] {
        conflict.must_say(text);
    }
    assert!(conflict.html().contains("<ins>green</ins>") && conflict.html().contains("<ins>blue</ins>"));
    let is = |name: &'static str, content: &'static str| {
        let stack = &stack;
        async move {
            for which in ["a", "b"] {
                let found = rows(&stack.dsn(side(which)), "SELECT name, content FROM items").await;
                let row = |text: &str| format!("({text})");
                assert_eq!(found.len(), 1);
                assert!(
                    found[0] == row(&format!("\"{name}\",\"{content}\"")),
                    "{found:?} is not {name} {content}"
                );
            }
        }
    };
    is("a blue house", "first\nsecond\nthird!").await;
    // Both changes together, where they do not touch; the name, which both changed, is mine.
    let (start, merged) = conflict
        .html()
        .split_once("Or edit and save both together")
        .unwrap();
    assert!(
        start.contains("Keep mine") && merged.contains("FIRST\nsecond\nthird!"),
        "{merged}"
    );
    // Keeping mine is a decision, made on what is shown: again checked.
    let keep = conflict.form(&here);
    one.submit(&web1, &keep).await.must_say("a green house");
    is("a green house", "FIRST\nsecond\nthird").await;
    let late = two
        .post(
            &web2,
            &conflict
                .form(&here)
                .with("op_id", &uuid::Uuid::now_v7().to_string()),
        )
        .await;
    assert_eq!(late.status, 303, "both want the same now: {}", late.text());

    // Deleting a row that changed since the question was asked is asked again.
    let delete = format!("{here}/delete");
    let question = one.open(&web1, &delete).await.form(&delete);
    let form = two
        .open(&web2, &edit)
        .await
        .form(&here)
        .with("name", "not that one");
    two.submit(&web2, &form).await;
    let asked = one.post(&web1, &question).await;
    assert_eq!(asked.status, 409);
    asked.must_say("not that one");
    asked.must_say("Keep it");
    one.submit(&web2, &asked.form(&delete))
        .await
        .must_say("is deleted");
    // Somebody who still has the form open is told.
    let gone = two
        .post(&web1, &form.with("op_id", &uuid::Uuid::now_v7().to_string()))
        .await;
    assert_eq!(gone.status, 404);
    gone.must_say("Perhaps it was deleted in the meantime");
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}
