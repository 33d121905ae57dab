//! What nobody should send: a clear sentence, the same verdict at both instances, nothing changed on either side.

use reqwest::multipart;

use crate::bad_requests::{Bad, MISUNDERSTOOD, OP, addresses, fields, manners};
use crate::browser::{Browser, Page, send};
use crate::support::{assert_identical, dump, program, side, start};

async fn ask(browser: &Browser, base: &str, bad: &Bad) -> Page {
    let mut request = browser.request(bad.method, &format!("{base}{}", bad.path));
    for (name, value) in &bad.headers {
        request = request.header(*name, value.as_bytes());
    }
    send(request.body(bad.body.clone())).await
}

#[tokio::test]
async fn bad_requests_get_one_clear_verdict_and_change_nothing() {
    let stack = start(|options| {
        options
            .with_instances(&program())
            .with_setting("IMPORT_MAX_MB", "1")
    })
    .await;
    let urls = [stack.instance_url(0), stack.instance_url(1)];
    let browser = Browser::new();
    let new = browser.open(&urls[0], "/items/new").await.form("/items");
    browser.post(&urls[0], &new.with("name", "the only item")).await;
    let sides = [stack.dsn(side("a")), stack.dsn(side("b"))];
    let before = dump(&sides[0]).await;

    // Everything is asked before anything is judged: one report of all that is wrong.
    let mut wrong = Vec::new();
    for bad in fields().into_iter().chain(addresses()).chain(manners()) {
        for base in &urls {
            let stranger = Browser::new();
            let page = ask(&stranger, base, &bad).await;
            let text = String::from_utf8_lossy(&page.bytes).into_owned();
            let text = if text.starts_with('<') { page.text() } else { text };
            let is_api = bad.path.starts_with("/api") && bad.method != "HEAD";
            let kind = if is_api {
                "application/problem+json"
            } else {
                "text/html; charset=utf-8"
            };
            if page.status != bad.status
                || !text.contains(bad.says)
                || page.header("content-type") != kind
                || !page.header("x-instance").starts_with("web")
                || !page.header("set-cookie").is_empty()
            {
                let body = String::from_utf8_lossy(&bad.body[..bad.body.len().min(80)]).into_owned();
                let main = text.split_once("<main").map_or(text.as_str(), |(_, main)| main);
                let main: String = main.chars().take(400).collect();
                wrong.push(format!(
                    "{} {} {:?} {body}\n  wanted {} `{}`, got {} {} {:?}: {main}",
                    bad.method,
                    bad.path.chars().take(100).collect::<String>(),
                    bad.headers,
                    bad.status,
                    bad.says,
                    page.status,
                    page.header("content-type"),
                    page.header("set-cookie")
                ));
            }
        }
    }
    // A file larger than is allowed, and two files.
    let path = format!("/items/import?op_id={OP}");
    for base in &urls {
        for (files, status, says) in [(1, 413, "larger than 1 MB"), (2, 400, MISUNDERSTOOD)] {
            let mut body = multipart::Form::new();
            for _ in 0..files {
                let file = "name\n".to_owned() + &"x\n".repeat(if files == 1 { 600_000 } else { 1 });
                body = body.part(
                    "file",
                    multipart::Part::bytes(file.into_bytes()).file_name("f.csv"),
                );
            }
            let request = Browser::new().request("POST", &format!("{base}{path}"));
            let page = send(request.multipart(body)).await;
            assert_eq!(page.status, status, "{}", page.text());
            page.must_say(says);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    for dsn in &sides {
        assert_eq!(dump(dsn).await, before, "nothing was added, changed or deleted");
    }
    assert_identical(&stack).await;
    // Both are as well as before.
    for base in &urls {
        browser.open(base, "/items").await.must_say("the only item");
    }
    stack.stop().await.unwrap();
}
