//! The JSON API through both instances: statuses, names of operations, entity tags, pages.

use std::time::Duration;

use kambana::local::Stack;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::browser::{Browser, NAMES, Page};
use crate::support::{assert_identical, connect, eventually, instances, number, rows, side};

#[track_caller]
fn problem(answer: &Page, status: u16, said: &str) -> Value {
    assert_eq!(answer.status, status, "{}", answer.html());
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert!(
        problem["detail"].as_str().unwrap().contains(said),
        "{said}: {problem}"
    );
    problem
}

#[tokio::test]
async fn every_route_answers_as_it_is_described() {
    let (stack, [web1, web2]) = instances().await;
    let client = Browser::new();
    for (subject, body, changed, wrong) in [
        (
            "items",
            json!({"name": NAMES[1], "content": NAMES[3]}),
            json!({"name": "changed", "content": null}),
            json!({"name": ""}),
        ),
        (
            "servers",
            json!({"name": NAMES[2], "host": "db.example", "port": 5432}),
            json!({"name": "changed", "host": "::1", "port": 1, "active": false}),
            json!({"name": "x", "host": "h", "port": 65536}),
        ),
    ] {
        one_subject(
            &stack,
            &client,
            [&web1, &web2],
            subject,
            [&body, &changed, &wrong],
        )
        .await;
    }

    // What an operation became, by its UUID or by the name it was given.
    let named = [("Idempotency-Key", "order 7")];
    let url = format!("{web1}/api/items");
    let made = client
        .api("POST", &url, Some(&json!({"name": "named"})), &named)
        .await;
    assert_eq!(made.status, 201);
    for key in ["order%207", made.header("x-op-id")] {
        let found = client.get(&web2, &format!("/api/ops/{key}")).await;
        assert_eq!(found.status, 200, "{}", found.html());
        assert_eq!(found.json()["outcome"], "applied");
        assert_eq!(found.json()["op_id"], made.header("x-op-id"));
    }
    let unseen = client.get(&web1, &format!("/api/ops/{}", Uuid::now_v7())).await;
    assert_eq!(problem(&unseen, 404, "No database has seen")["outcome"], "unseen");
    let page = client
        .open(&web2, &format!("/ops/{}?of=items", made.header("x-op-id")))
        .await;
    page.must_say("Your change is saved");

    for (base, name) in [(&web1, "web1"), (&web2, "web2")] {
        let status = client.get(base, "/api/status").await;
        assert_eq!((status.status, status.header("x-instance")), (200, name));
        let status = status.json();
        assert_eq!(status["instance"], name);
        assert_eq!(status["members"], json!(["a", "b"]), "{status}");
        assert_eq!(
            (&status["leader"], &status["writable"]),
            (&json!("a"), &json!(true))
        );
        let epoch = number(&stack.dsn(side("b")), "SELECT n FROM kambana.epoch").await;
        assert_eq!(status["epoch"], epoch);
        for (path, status, body) in [
            ("/health/live", 200, "live\n"),
            ("/health/ready", 200, "ready\n"),
            ("/health/side/a", 200, "leader\n"),
            ("/health/side/b", 503, "not the leader\n"),
            ("/health/side/z", 404, "no side has this name\n"),
        ] {
            let answer = client.get(base, path).await;
            assert_eq!((answer.status, answer.html()), (status, body), "{path}");
            assert_eq!(answer.header("x-instance"), name);
            assert_eq!(answer.header("set-cookie"), "", "a probe needs no session");
        }
        let metrics = client.get(base, "/metrics").await;
        for line in [
            "kambana_writable 1",
            "kambana_side_active{side=\"b\"} 1",
            "kambana_http_requests_total{",
        ] {
            metrics.must_say(line);
        }
        let nothing = client.get(base, "/api/nothing").await;
        problem(&nothing, 404, "nothing at this address");
        let openapi = client.get(base, "/api/openapi.json").await;
        assert_eq!(openapi.json()["openapi"], "3.1.0");
    }
    let sessions = "SELECT count(*) FROM php_session";
    assert_eq!(
        number(&stack.dsn(side("a")), sessions).await,
        0,
        "programs get no session"
    );
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

/// One row from creation to deletion, each request through the other instance than the one before.
async fn one_subject(
    stack: &Stack,
    client: &Browser,
    [web1, web2]: [&str; 2],
    subject: &str,
    [body, changed, wrong]: [&Value; 3],
) {
    let list = format!("{web1}/api/{subject}");
    let empty = client.api("GET", &list, None, &[]).await;
    let nothing = json!({"items": [], "total": 0, "total_is_exact": true, "next": null, "previous": null});
    assert_eq!((empty.status, empty.json()), (200, nothing));

    // Created once, however often it is asked for and through whichever instance.
    let op = Uuid::now_v7().to_string();
    let key = [("Idempotency-Key", op.as_str())];
    let created = client.api("POST", &list, Some(body), &key).await;
    assert_eq!(created.status, 201, "{}", created.html());
    assert_eq!(
        (created.header("x-op-id"), created.header("x-instance")),
        (op.as_str(), "web1")
    );
    assert_eq!(created.header("idempotency-replayed"), "");
    let row = created.json();
    for (name, value) in body.as_object().unwrap() {
        assert_eq!(&row[name], value);
    }
    let path = format!("/api/{subject}/{}", row["id"]);
    assert_eq!(created.header("location"), path);
    let again = client
        .api("POST", &format!("{web2}/api/{subject}"), Some(body), &key)
        .await;
    assert_eq!((again.status, again.json()), (201, row.clone()));
    assert_eq!(again.header("idempotency-replayed"), "true");
    for name in ["a", "b"] {
        let sql = format!("SELECT row_to_json(r)::text FROM {subject} AS r");
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        let stored = client.query(&sql, &[]).await.unwrap();
        assert_eq!(stored.len(), 1);
        let stored: Value = serde_json::from_str(stored[0].get(0)).unwrap();
        assert_eq!(
            (&stored["id"], &stored["name"]),
            (&row["id"], &row["name"]),
            "side {name}"
        );
    }
    let spent = client.api("POST", &list, Some(changed), &key).await;
    assert_eq!(
        problem(&spent, 422, "used before for a different request")["op_id"],
        op
    );
    let refused = client.api("POST", &list, Some(wrong), &[]).await;
    let refused = problem(&refused, 422, "Nothing was changed");
    assert_eq!(refused["type"], "/api/openapi.json#invalid");
    assert!(refused["errors"][0]["field"].is_string(), "{refused}");

    // Read, and changed only as it was read.
    let url = format!("{web2}{path}");
    let read = client.api("GET", &url, None, &[]).await;
    assert_eq!((read.status, read.json()), (200, row.clone()));
    let etag = read.header("etag").to_owned();
    assert_eq!(created.header("etag"), etag);
    let op = Uuid::now_v7().to_string();
    let careful = [("Idempotency-Key", op.as_str()), ("If-Match", etag.as_str())];
    let updated = client.api("PUT", &url, Some(changed), &careful).await;
    assert_eq!(
        (updated.status, updated.header("x-op-id")),
        (200, op.as_str()),
        "{}",
        updated.html()
    );
    assert_eq!(
        (&updated.json()["name"], &updated.json()["id"]),
        (&json!("changed"), &row["id"])
    );
    assert_ne!(updated.header("etag"), etag);
    // The same request again is the same operation, though the row is no longer as it says; another one is a conflict.
    let replayed = client
        .api("PUT", &format!("{web1}{path}"), Some(changed), &careful)
        .await;
    assert_eq!(
        (replayed.status, replayed.json()),
        (200, updated.json()),
        "{}",
        replayed.html()
    );
    assert_eq!(replayed.header("idempotency-replayed"), "true");
    for method in ["PUT", "DELETE"] {
        let body = (method == "PUT").then_some(body);
        let late = client
            .api(method, &url, body, &[("If-Match", etag.as_str())])
            .await;
        let late = problem(&late, 409, "no longer as you had seen it");
        assert_eq!(
            (&late["current"], &late["etag"]),
            (&updated.json(), &json!(updated.header("etag")))
        );
        assert!(late["op_id"].is_string());
        let bad = client.api(method, &url, body, &[("If-Match", "unquoted")]).await;
        problem(&bad, 400, "If-Match takes");
    }
    let any = client.api("PUT", &url, Some(changed), &[("If-Match", "*")]).await;
    assert_eq!(any.status, 200);

    // Deleted once.
    let op = Uuid::now_v7().to_string();
    let key = [("X-Op-Id", op.as_str()), ("If-Match", any.header("etag"))];
    let deleted = client.api("DELETE", &url, None, &key).await;
    assert_eq!(
        (deleted.status, deleted.bytes.len()),
        (204, 0),
        "{}",
        deleted.html()
    );
    assert_eq!(deleted.header("x-op-id"), op);
    let replayed = client.api("DELETE", &format!("{web1}{path}"), None, &key).await;
    assert_eq!(
        (replayed.status, replayed.header("idempotency-replayed")),
        (204, "true")
    );
    for (method, body) in [("GET", None), ("PUT", Some(body)), ("DELETE", None)] {
        let gone = client.api(method, &url, body, &[]).await;
        problem(&gone, 404, "does not exist. Nothing was changed.");
    }
    // A creation that is repeated after the deletion does not bring the row back.
    let ghost = client
        .api(
            "POST",
            &list,
            Some(body),
            &[("Idempotency-Key", created.header("x-op-id"))],
        )
        .await;
    assert_eq!(
        (ghost.status, ghost.header("idempotency-replayed")),
        (201, "true")
    );
    for name in ["a", "b"] {
        let sql = format!("SELECT count(*) FROM {subject}");
        assert_eq!(number(&stack.dsn(side(name)), &sql).await, 0, "side {name}");
    }
    let head = client.api("HEAD", &list, None, &[]).await;
    assert_eq!((head.status, head.bytes.len()), (200, 0));
}

/// Rows enough for several pages, with equal and with missing values; written by another program on one side.
const ROWS: i64 = 230;

#[tokio::test]
async fn pages_hold_every_row_once_in_both_directions() {
    let (stack, [web1, web2]) = instances().await;
    let client = Browser::new();
    let psql = connect(&stack.dsn(side("a"))).await.unwrap();
    psql.batch_execute(&format!(
        "INSERT INTO servers (name, host, port, active, created_at)
         SELECT CASE i % 5 WHEN 0 THEN 'Éa' WHEN 1 THEN 'éB' WHEN 2 THEN '中' ELSE 'n' || i % 7 END,
                'h' || i % 11, 1 + i % 3, CASE i % 4 WHEN 0 THEN NULL ELSE i % 4 = 1 END,
                CASE i % 10 WHEN 0 THEN NULL ELSE timestamp '2026-01-01' + i % 9 * interval '0.000001 s' END
         FROM generate_series(1, {ROWS}) AS i"
    ))
    .await
    .unwrap();
    let on_b = stack.dsn(side("b"));
    eventually("the rows reach side b", Duration::from_secs(20), || async {
        number(&on_b, "SELECT count(*) FROM servers").await == ROWS
    })
    .await;

    for column in ["id", "name", "host", "port", "active", "created_at"] {
        for order in ["asc", "desc"] {
            // The test's own idea of the order, asked on the side that is not read.
            let collate = if matches!(column, "name" | "host") {
                "COLLATE \"C\""
            } else {
                ""
            };
            let sql =
                format!("SELECT id FROM servers ORDER BY {column} {collate} {order} NULLS LAST, id {order}");
            let expected: Vec<i64> = rows(&on_b, &sql)
                .await
                .iter()
                .map(|row| row.trim_matches(['(', ')']).parse().unwrap())
                .collect();
            let query = format!("/api/servers?sort={column}&order={order}&limit=37");
            let mut walked: Vec<i64> = Vec::new();
            let mut pages = Vec::new();
            let mut cursor = String::new();
            loop {
                // Each page through the other instance: a cursor means the same to both.
                let base = if pages.len() % 2 == 0 { &web1 } else { &web2 };
                let page = client.open(base, &format!("{query}{cursor}")).await.json();
                assert_eq!(
                    (&page["total"], &page["total_is_exact"]),
                    (&json!(ROWS), &json!(true))
                );
                let ids = ids_of(&page);
                walked.extend(&ids);
                let next = page["next"].as_str().map(|next| format!("&cursor={next}"));
                pages.push((ids, page));
                assert!(pages.len() < 20, "the pages do not end");
                match next {
                    Some(next) => cursor = next,
                    None => break,
                }
            }
            assert_eq!(walked, expected, "{column} {order}");
            // And back: the same pages.
            let (last, mut page) = pages.pop().unwrap();
            assert_eq!(last.len() as i64, ROWS % 37);
            while let Some((ids, _)) = pages.pop() {
                let previous = page["previous"].as_str().unwrap();
                page = client
                    .open(&web2, &format!("{query}&cursor={previous}"))
                    .await
                    .json();
                assert_eq!(ids_of(&page), ids, "{column} {order} backwards");
            }
            assert_eq!(page["previous"], Value::Null, "the first page");
        }
    }

    // A search keeps its own pages; what is special in a pattern is only a character.
    let mut found = Vec::new();
    let mut next = Some("/servers?search=H1&limit=10".to_owned());
    while let Some(address) = next {
        let page = client.open(&web1, &address).await;
        found.extend(page.ids());
        next = page.link("next");
    }
    let sql = "SELECT count(*) FROM servers WHERE host LIKE '%h1%'";
    assert_eq!(found.len() as i64, number(&on_b, sql).await);
    assert!(found.is_sorted() && found.len() > 10);
    for nothing in ["%25", "_", "%5C", "h1%25"] {
        let page = client
            .open(&web2, &format!("/api/servers?search={nothing}"))
            .await;
        assert_eq!(page.json()["total"], 0, "{nothing}");
    }

    // Rows that go while somebody pages shift nothing.
    let first = client.open(&web1, "/api/servers?limit=100").await.json();
    psql.batch_execute(
        "DELETE FROM servers WHERE id <= (SELECT id FROM servers ORDER BY id OFFSET 99 LIMIT 1)",
    )
    .await
    .unwrap();
    let next = first["next"].as_str().unwrap();
    let second = client
        .open(&web2, &format!("/api/servers?limit=100&cursor={next}"))
        .await;
    let sql = "SELECT min(id)::bigint FROM servers";
    assert_eq!(
        ids_of(&second.json())[0],
        number(&stack.dsn(side("a")), sql).await
    );
    assert_eq!(ids_of(&second.json()).len(), 100);
    eventually("the deletion reaches side b", Duration::from_secs(20), || async {
        number(&on_b, "SELECT count(*) FROM servers").await == ROWS - 100
    })
    .await;
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

fn ids_of(page: &Value) -> Vec<i64> {
    let rows = page["items"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
}
