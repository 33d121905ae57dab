//! What a request costs the databases: statements, round trips, writes. Counted on the wire between instance and database.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kambana::local::{Fault, Heard, Link};

use crate::browser::{Browser, Form};
use crate::support::{Running, assert_identical, connect, eventually, healed, number, program, side, start};

const EPOCH: &str = "SELECT n FROM kambana.epoch";

/// Longer than an instance takes to send what it sends without waiting, shorter than the patience of a probe.
const DELAY: Duration = Duration::from_millis(100);

/// One connection for reads, so that all of them are on it; and only one instance is asked.
async fn stack() -> (Running, String, Browser) {
    let stack = start(|options| {
        options
            .with_instances(&program())
            .with_links()
            .with_setting("POOL_SIZE", "1")
            // A new connection takes several round trips, and each may be delayed.
            .with_setting("PROBE_DEADLINE_MS", "5000")
    })
    .await;
    let url = stack.instance_url(0);
    let person = Browser::new();
    let set = Form {
        action: "/session/set".into(),
        fields: [("name", "x"), ("value", "y")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    };
    person
        .submit(&url, &set)
        .await
        .must_say("“x” is saved in your session.");
    let form = person.open(&url, "/items/new").await.form("/items");
    let form = form.with("name", "one").with("content", "and only");
    person.submit(&url, &form).await.must_say("and only");
    (stack, url, person)
}

/// The names of the statements of one request, and its round trips.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    names: Vec<String>,
    round_trips: usize,
}

/// What was sent on the connection of the readers.
fn cost(heard: &[Heard], connection: u64) -> Cost {
    let name = |sql: &str| {
        let first = sql.lines().next().unwrap_or_default();
        first.trim_start_matches("-- ").to_owned()
    };
    // Now and then an instance asks for what it shows about itself.
    let asked_for_itself = |sql: &str| sql.starts_with("-- check::") || sql.starts_with("-- trim::");
    let ours: Vec<&Heard> = heard
        .iter()
        .filter(|heard| heard.connection == connection && !asked_for_itself(&heard.sql))
        .collect();
    Cost {
        names: ours.iter().map(|heard| name(&heard.sql)).collect(),
        round_trips: ours
            .iter()
            .map(|heard| heard.answers)
            .collect::<BTreeSet<_>>()
            .len(),
    }
}

/// The connection of the readers: it asked for an item.
fn readers(heard: &[Heard]) -> u64 {
    let asked = heard.iter().find(|heard| heard.sql.contains("items::get()"));
    asked.unwrap().connection
}

#[tokio::test]
async fn a_request_sends_no_more_than_it_needs_and_all_of_it_at_once() {
    let (stack, url, person) = stack().await;
    let link: &Link = stack.link(0, side("a")).unwrap();
    let stranger = Browser::new();
    const LIST: &str = "items::list_brief()";
    const SESSION: &str = "session::row()";
    let with_session = |names: &[&'static str]| [&[SESSION], names].concat();
    let cases: [(&Browser, &str, Vec<&str>); 17] = [
        (&stranger, "/api/items", vec!["items::list()"]),
        (&stranger, "/api/items?search=only", vec!["items::list()"]),
        (&stranger, "/api/items/1", vec!["items::get()"]),
        (&stranger, "/items", vec![LIST]),
        (&stranger, "/items/1", vec!["items::get()"]),
        (&stranger, "/", vec![]),
        (&person, "/", vec![SESSION]),
        (&person, "/items/new", vec![SESSION]),
        (&person, "/items", with_session(&[LIST])),
        (&person, "/items?sort=name&order=desc", with_session(&[LIST])),
        (&person, "/items?search=only", with_session(&[LIST])),
        (&person, "/items/1", with_session(&["items::get()"])),
        (&person, "/items/1/edit", with_session(&["items::get()"])),
        (&person, "/api/items/1", vec!["items::get()"]),
        (&person, "/cluster", vec![]),
        (&person, "/health/ready", vec![]),
        (&person, "/metrics", vec![]),
    ];
    // Everything is prepared after the first time.
    link.overhear();
    for (who, path, _) in &cases {
        who.open(&url, path).await;
    }
    let connection = readers(&link.overhear());
    // No answer can come before everything was sent.
    link.set(Fault::Delay(DELAY));
    for (who, path, names) in &cases {
        link.overhear();
        who.open(&url, path).await;
        let expected = Cost {
            round_trips: usize::from(!names.is_empty()),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(cost(&link.overhear(), connection), expected, "{path}");
    }
    assert!(link.hits() > 0, "it was delayed");
    // A style sheet asks nobody.
    let page = person.open(&url, "/cluster").await;
    let css = page.html().split_once("rel=\"stylesheet\" href=\"").unwrap().1;
    link.overhear();
    let css = person.open(&url, css.split_once('"').unwrap().0).await;
    assert_eq!(css.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(cost(&link.overhear(), connection).names, Vec::<String>::new());
    link.heal();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_page_far_down_is_found_by_the_index() {
    let (stack, url, person) = stack().await;
    let link = stack.link(0, side("a")).unwrap();
    let client = connect(&stack.dsn(side("a"))).await.unwrap();
    // Three rows, a page each. Whatever else PostgreSQL would do with so few is made unattractive.
    client
        .batch_execute(
            "INSERT INTO items (name) VALUES ('two'), ('three');
             SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off;
             SET plan_cache_mode = force_generic_plan",
        )
        .await
        .unwrap();
    for order in ["asc", "desc"] {
        let list = format!("/api/items?limit=1&order={order}");
        let turn = async |from: &serde_json::Value, to: &str| {
            let cursor = from[to]
                .as_str()
                .unwrap_or_else(|| panic!("no {to} page: {from}"));
            person.open(&url, &format!("{list}&cursor={cursor}")).await.json()
        };
        let first = person.open(&url, &list).await.json();
        link.overhear();
        let second = turn(&first, "next").await;
        turn(&second, "previous").await;
        let heard = link.overhear();
        let pages: Vec<_> = heard
            .iter()
            .filter(|heard| heard.sql.starts_with("-- items::") && heard.sql.contains("ORDER BY"))
            .collect();
        assert_eq!(pages.len(), 2, "one forward, one back: {heard:#?}");
        for page in pages {
            client
                .batch_execute(&format!("DEALLOCATE ALL; PREPARE page AS {}", page.sql))
                .await
                .unwrap();
            let plan = client.query("EXPLAIN EXECUTE page('2')", &[]).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            assert!(plan.contains("Index Cond: (id "), "{}\n{plan}", page.sql);
            assert!(
                !plan.contains("Sort") && !plan.contains("Filter"),
                "{}\n{plan}",
                page.sql
            );
        }
    }
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn who_only_looks_writes_nothing() {
    let (stack, url, person) = stack().await;
    let dsn = stack.dsn(side("a"));
    let ops = async || number(&dsn, "SELECT count(*) FROM kambana.op").await;
    let paths = [
        "/",
        "/items",
        "/items/1",
        "/items/1/edit",
        "/servers",
        "/cluster",
        "/nothing",
    ];
    let look = async || {
        for path in paths {
            let status = person.get(&url, path).await.status;
            assert_eq!(status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        }
    };
    // The messages of what was done before are taken out, which writes the session.
    let written = Instant::now();
    look().await;
    healed(&stack, Duration::from_secs(20)).await;
    let before = ops().await;
    for _ in 0..5 {
        look().await;
    }
    // On a machine that is slow, more than a minute may have passed.
    let due = written.elapsed().as_secs() / 60;
    let operations = (ops().await - before) as u64;
    assert!(
        operations <= due,
        "35 pages, {operations} operations instead of {due}"
    );

    // Once a minute the session is marked as used.
    let client = connect(&dsn).await.unwrap();
    client
        .execute(
            "UPDATE php_session SET date_change = date_change - interval '5 minutes'",
            &[],
        )
        .await
        .unwrap();
    let on_b = stack.dsn(side("b"));
    let old = "SELECT count(*) FROM php_session WHERE date_change < (now() AT TIME ZONE 'UTC') - interval '4 minutes'";
    eventually("the change reaches side b", Duration::from_secs(20), || async {
        number(&on_b, old).await == 1
    })
    .await;
    healed(&stack, Duration::from_secs(20)).await;
    let before = ops().await;
    for _ in 0..3 {
        look().await;
    }
    assert_eq!(ops().await, before + 1, "21 pages, one operation");
    assert_eq!(number(&dsn, old).await, 0);
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn connections_that_died_unnoticed_cost_no_read() {
    let (stack, url, person) = stack().await;
    let dsn = stack.dsn(side("a"));
    let client = connect(&dsn).await.unwrap();
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE application_name = 'kambana web1' AND query LIKE '-- items::get()%'";
    let epoch = number(&dsn, EPOCH).await;
    let mut killed = 0;
    for _ in 0..20 {
        // The answer of the server's end may be on its way, or not yet, when the next read is made.
        let (dead, page) = tokio::join!(client.query_one(kill, &[]), person.get(&url, "/api/items/1"));
        killed += dead.unwrap().get::<_, i64>(0);
        assert_eq!(page.status, 200, "{}", page.html());
        assert_eq!(person.get(&url, "/api/items/1").await.status, 200);
    }
    assert!(killed >= 10, "{killed}");
    assert_eq!(number(&dsn, EPOCH).await, epoch, "nobody was left out");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_search_without_end_is_ended_and_explained() {
    let (stack, url, person) = stack().await;
    let epoch = number(&stack.dsn(side("a")), EPOCH).await;
    // Stands for a table so large that looking through it takes minutes.
    let client = connect(&stack.dsn(side("a"))).await.unwrap();
    client
        .batch_execute(
            "CREATE POLICY slow ON items USING ((SELECT true FROM pg_sleep(20)));
             ALTER TABLE items ENABLE ROW LEVEL SECURITY;
             ALTER TABLE items FORCE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    for (path, says) in [
        ("/items?search=only&lang=en", "This search takes too long"),
        ("/items?search=only&lang=fr", "Cette recherche est trop longue"),
        ("/api/items?search=only", "too-long"),
    ] {
        let started = Instant::now();
        let page = Browser::new().get(&url, path).await;
        assert!(
            started.elapsed() < Duration::from_secs(6),
            "{path}: {:?}",
            started.elapsed()
        );
        assert_eq!(page.status, 503, "{path}");
        page.must_say(says);
    }
    client
        .batch_execute("ALTER TABLE items DISABLE ROW LEVEL SECURITY; DROP POLICY slow ON items")
        .await
        .unwrap();
    person.open(&url, "/items?search=only").await.must_say("and only");
    let after = number(&stack.dsn(side("a")), EPOCH).await;
    assert_eq!(after, epoch, "the side was never in doubt");
    stack.stop().await.unwrap();
}
