//! Rules of tables, and conflicts that a person decides: on the page, by the API, at the terminal.

use std::process::{Command, Output};
use std::time::Duration;

use kambana::multipool::{Choice, ChooseError, Chosen, ConflictState, MultiPool, OpId, Rule, set_rule};
use tokio_postgres::Client;

use crate::browser::Browser;
use crate::doors::{config, finish, insert, installed, pool, sql};
use crate::support::{Running, assert_identical, healed, instances, number, program, rows, side};

/// Runs both statements so that neither side knows of the other's: the same rows on both sides at once, `first` before
/// `second`.
async fn clash(stack: &Running, first: (&str, &str), second: (&str, &str)) {
    let mut clients: Vec<Client> = Vec::new();
    for (name, text) in [first, second] {
        let client = sql(stack, name).await;
        client.batch_execute(&format!("BEGIN; {text}")).await.unwrap();
        clients.push(client);
    }
    let (x, y) = tokio::join!(
        clients[0].batch_execute("COMMIT"),
        clients[1].batch_execute("COMMIT")
    );
    x.and(y).unwrap();
    healed(stack, Duration::from_secs(20)).await;
    assert_identical(stack).await;
}

async fn content(stack: &Running, id: i64) -> Vec<String> {
    rows(
        &stack.dsn(side("b")),
        &format!("SELECT content FROM items WHERE id = {id}"),
    )
    .await
}

async fn with_rule(rule: Rule) -> (Running, MultiPool, i64) {
    let stack = installed().await;
    set_rule(&config(&stack, "rule"), &["items"], rule).await.unwrap();
    let pool = pool(&stack, "web1").await;
    let row = insert(&pool, "row").await;
    healed(&stack, Duration::from_secs(10)).await;
    (stack, pool, row)
}

fn update(id: i64, content: &str) -> String {
    format!("UPDATE items SET content = '{content}' WHERE id = {id}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_of_the_table_says_which_write_counts() {
    let (stack, pool, row) = with_rule(Rule::Newest).await;
    clash(&stack, ("a", &update(row, "older")), ("b", &update(row, "newer"))).await;
    assert_eq!(content(&stack, row).await, ["(newer)"]);
    clash(
        &stack,
        ("b", &update(row, "older")),
        ("a", &update(row, "newest")),
    )
    .await;
    assert_eq!(content(&stack, row).await, ["(newest)"]);
    // A side whose clock is ahead pulls the other's along: what is written later is newer.
    let b = sql(&stack, "b").await;
    b.batch_execute(&format!(
        "SELECT setval('kambana.clock', last_value + 3600000000) FROM kambana.clock; {}",
        update(row, "from the future")
    ))
    .await
    .unwrap();
    healed(&stack, Duration::from_secs(10)).await;
    clash(
        &stack,
        ("b", &update(row, "still older")),
        ("a", &update(row, "after the future")),
    )
    .await;
    assert_eq!(content(&stack, row).await, ["(\"after the future\")"]);
    // A newer delete wins as well, an older one does not.
    clash(
        &stack,
        ("a", &format!("DELETE FROM items WHERE id = {row}")),
        ("b", &update(row, "outlives")),
    )
    .await;
    assert_eq!(content(&stack, row).await, ["(outlives)"]);
    clash(
        &stack,
        ("a", &update(row, "gone")),
        ("b", &format!("DELETE FROM items WHERE id = {row}")),
    )
    .await;
    assert_eq!(content(&stack, row).await, Vec::<String>::new());
    let kept = pool.conflicts().await.unwrap();
    assert_eq!(kept.len(), 5, "{kept:#?}");
    assert!(
        kept.iter()
            .all(|c| c.state == ConflictState::Rule && c.rule == "newest"),
        "{kept:#?}"
    );

    let other = insert(&pool, "other").await;
    set_rule(&config(&stack, "rule"), &["items"], Rule::Side(side("b")))
        .await
        .unwrap();
    clash(
        &stack,
        ("b", &update(other, "from b")),
        ("a", &update(other, "from a, newer")),
    )
    .await;
    assert_eq!(content(&stack, other).await, ["(\"from b\")"]);
    set_rule(&config(&stack, "rule"), &["items"], Rule::Side(side("a")))
        .await
        .unwrap();
    clash(
        &stack,
        ("a", &update(other, "from a")),
        ("b", &update(other, "from b, newer")),
    )
    .await;
    assert_eq!(content(&stack, other).await, ["(\"from a\")"]);
    assert!(
        set_rule(&config(&stack, "rule"), &["items"], Rule::Side(side("c")))
            .await
            .is_err()
    );
    assert!(
        set_rule(&config(&stack, "rule"), &["nothing"], Rule::Ask)
            .await
            .is_err()
    );
    finish(stack, &[pool]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_chooses_the_loser_only_while_nobody_has_edited_the_row() {
    let (stack, pool, row) = with_rule(Rule::Ask).await;
    clash(
        &stack,
        ("a", &update(row, "from a")),
        ("b", &update(row, "from b")),
    )
    .await;
    assert_eq!(
        content(&stack, row).await,
        ["(\"from a\")"],
        "in effect until somebody decides"
    );
    let open = pool.conflicts().await.unwrap();
    assert_eq!((open.len(), open[0].state), (1, ConflictState::Open), "{open:#?}");
    let differing: Vec<&str> = open[0]
        .columns
        .iter()
        .filter(|c| c.differs)
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(differing, ["content"]);
    let id = open[0].id.clone();

    // Somebody edits the row meanwhile: nothing is overwritten.
    let a = sql(&stack, "a").await;
    a.batch_execute(&update(row, "edited later")).await.unwrap();
    healed(&stack, Duration::from_secs(10)).await;
    let refused = pool.choose(OpId::new(), &id, Choice::Lost).await;
    assert!(matches!(refused, Err(ChooseError::Changed)), "{refused:?}");
    assert_eq!(content(&stack, row).await, ["(\"edited later\")"]);
    assert_eq!(
        pool.conflict(&id).await.unwrap().unwrap().state,
        ConflictState::Open
    );
    a.batch_execute(&update(row, "from a")).await.unwrap();
    healed(&stack, Duration::from_secs(10)).await;

    // An ordinary operation: repeated under its name it is done once, on every side.
    let op = OpId::new();
    assert_eq!(pool.choose(op, &id, Choice::Lost).await.unwrap(), Chosen::Written);
    assert_eq!(content(&stack, row).await, ["(\"from b\")"]);
    let again = pool.choose(op, &id, Choice::Lost).await.unwrap();
    assert!(
        matches!(again, Chosen::Written | Chosen::AlreadyInEffect),
        "{again:?}"
    );
    for name in ["a", "b"] {
        let text = "SELECT state FROM kambana.conflict";
        assert_eq!(rows(&stack.dsn(side(name)), text).await, ["(lost)"]);
    }
    // Its name is spent for nothing else.
    assert!(matches!(
        pool.choose(OpId::new(), "nothing", Choice::Kept).await,
        Err(ChooseError::NotFound(_))
    ));

    // A deleted row that was edited elsewhere comes back when a person wants it.
    let delete = format!("DELETE FROM items WHERE id = {row}");
    clash(&stack, ("a", &delete), ("b", &update(row, "wanted"))).await;
    let open = pool.conflicts().await.unwrap();
    assert!(
        !open[0].kept_exists && open[0].lost_exists && open[0].state == ConflictState::Open,
        "{open:#?}"
    );
    pool.choose(OpId::new(), &open[0].id, Choice::Lost).await.unwrap();
    assert_eq!(content(&stack, row).await, ["(wanted)"]);

    // A truncate and an edit.
    clash(&stack, ("a", &update(row, "truncated?")), ("b", "TRUNCATE items")).await;
    assert_eq!(content(&stack, row).await, ["(truncated?)"]);
    let open = pool.conflicts().await.unwrap();
    let whole = open.iter().find(|c| c.key.is_empty()).unwrap();
    let refused = pool.choose(OpId::new(), &whole.id, Choice::Lost).await;
    assert!(matches!(refused, Err(ChooseError::WholeTable)), "{refused:?}");
    pool.choose(OpId::new(), &whole.id, Choice::Dismiss)
        .await
        .unwrap();
    assert_eq!(
        pool.conflicts()
            .await
            .unwrap()
            .iter()
            .filter(|c| c.state == ConflictState::Open)
            .count(),
        0
    );
    finish(stack, &[pool]).await;
}

fn conflicts(stack: &Running, args: &[&str]) -> Output {
    Command::new(program())
        .arg("conflicts")
        .args(args)
        .args(["--data", stack.place().dir.to_str().unwrap()])
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_decided_at_the_terminal_and_on_the_page() {
    let (stack, [web1, web2]) = instances().await;
    let watched = Command::new(program())
        .args(["watch", "items", "--on-conflict", "ask"])
        .args(["--data", stack.place().dir.to_str().unwrap()])
        .env_remove("DB1_USER")
        .output()
        .unwrap();
    assert!(watched.status.success(), "{watched:?}");
    let none = conflicts(&stack, &[]);
    assert_eq!(none.status.code(), Some(0), "{none:?}");
    let person = Browser::new();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let form = person.open(&web1, "/items/new").await.form("/items");
        person.submit(&web1, &form.with("name", name)).await;
        ids.push(
            number(
                &stack.dsn(side("a")),
                &format!("SELECT id::bigint FROM items WHERE name = '{name}'"),
            )
            .await,
        );
    }
    healed(&stack, Duration::from_secs(10)).await;
    for id in &ids {
        clash(
            &stack,
            ("a", &update(*id, "from a")),
            ("b", &update(*id, "from b <b>")),
        )
        .await;
    }
    let listed = conflicts(&stack, &[]);
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert!(
        said(&listed).contains("2 conflict(s) to decide"),
        "{}",
        said(&listed)
    );
    let json: serde_json::Value = serde_json::from_str(&said(&conflicts(&stack, &["--json"]))).unwrap();
    let conflict_of = |id: i64| {
        let all = json["conflicts"].as_array().unwrap();
        let of = all.iter().find(|c| c["key"] == format!("({id})")).unwrap();
        of["id"].as_str().unwrap().to_owned()
    };
    let (one, two) = (conflict_of(ids[0]), conflict_of(ids[1]));
    let shown = said(&conflicts(&stack, &["show", &one]));
    assert!(
        shown.contains("≠") && shown.contains("from a") && shown.contains("from b"),
        "{shown}"
    );
    let chosen = conflicts(&stack, &["choose", &one, "lost"]);
    assert_eq!(chosen.status.code(), Some(0), "{chosen:?}");
    assert_eq!(content(&stack, ids[0]).await, ["(\"from b <b>\")"]);
    assert_eq!(conflicts(&stack, &["show", "nothing"]).status.code(), Some(2));

    // The other one on the page of the other instance, in French; sent twice it counts once.
    let page = person.open(&web2, &format!("/conflicts/{two}?lang=fr")).await;
    page.must_say("Choisir l’autre version");
    assert!(
        page.html().contains("from b &#60;b&#62;") || page.html().contains("from b &lt;b&gt;"),
        "{}",
        page.html()
    );
    let form = page.form(&format!("/conflicts/{two}")).with("choose", "lost");
    person
        .submit(&web2, &form)
        .await
        .must_say("compte maintenant dans toutes les bases");
    let again = person.post(&web1, &form).await;
    assert_eq!(again.status, 303, "{}", again.text());
    assert_eq!(content(&stack, ids[1]).await, ["(\"from b <b>\")"]);
    person
        .open(&web1, "/conflicts?lang=en")
        .await
        .must_say("the other version was chosen");
    assert_eq!(conflicts(&stack, &[]).status.code(), Some(0));
    person.open(&web1, "/compare").await;
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}
