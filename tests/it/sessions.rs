//! Sessions: one cookie, any instance, any database, and PHP reads them.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use kambana::local::{Action, Stack, Target};
use serde_json::Value;

use crate::browser::{Browser, Form, NAMES, send};
use crate::support::{assert_identical, connect, eventually, full, healed, instances, number, rows, side};

/// What a real PHP makes of a session's bytes, or of the code it runs instead: `$_SESSION` as JSON.
fn php(code: &str, input: &[u8]) -> Vec<u8> {
    let saved = tempfile::tempdir().unwrap();
    let run = Command::new("php")
        .args([
            "-d",
            "session.use_cookies=0",
            "-d",
            "session.cache_limiter=",
            "-d",
            "display_errors=stderr",
        ])
        .args(["-d", "session.serialize_handler=php", "-d"])
        .arg(format!("session.save_path={}", saved.path().display()))
        .args(["-r", &format!("session_start(); {code}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut run = run.unwrap_or_else(|e| {
        panic!("this test needs a real PHP ({e}); install it, for example: apt-get install php-cli")
    });
    run.stdin.take().unwrap().write_all(input).unwrap();
    let done = run.wait_with_output().unwrap();
    assert!(
        done.status.success() && done.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    done.stdout
}

fn decoded_by_php(data: &[u8]) -> Value {
    let code = "session_decode(stream_get_contents(STDIN)) || exit(1); echo json_encode($_SESSION, JSON_THROW_ON_ERROR);";
    serde_json::from_slice(&php(code, data)).unwrap()
}

/// The only session's id and data on one side.
async fn stored(stack: &Stack, name: &str) -> (String, Vec<u8>) {
    let client = connect(&stack.dsn(side(name))).await.unwrap();
    let row = client
        .query_one("SELECT id, data FROM php_session", &[])
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

fn value(name: &str, value: &str) -> Form {
    let fields = [("name", name), ("value", value)];
    Form {
        action: "/session/set".into(),
        fields: fields.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

/// The value of the cookie, without its name.
fn cookie(browser: &Browser, base: &str) -> String {
    let cookies = browser.cookies(base);
    let ours = cookies
        .split("; ")
        .find_map(|cookie| cookie.strip_prefix("PHPSESSID="));
    ours.unwrap_or_else(|| panic!("no session cookie: {cookies}"))
        .to_owned()
}

#[tokio::test]
async fn a_session_outlives_each_instance_and_each_database() {
    let stack = full().await;
    let proxy = stack.url();
    let person = Browser::new();
    assert_eq!(
        person.open(&proxy, "/items").await.header("set-cookie"),
        "",
        "looking costs no session"
    );
    let first = person.post(&proxy, &value("firstname", "Harena")).await;
    assert_eq!(first.status, 303, "{}", first.text());
    let set = first.header("set-cookie");
    for part in ["PHPSESSID=", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    let name = cookie(&person, &proxy);
    let remembered = async |base: &str, values: &[(&str, &str)]| {
        let page = person.open(base, "/").await;
        for (name, value) in values {
            assert!(
                page.html().contains(&format!("<strong>{name}</strong>")),
                "{}",
                page.text()
            );
            page.must_say(value);
        }
        assert_eq!(cookie(&person, base), name, "still the same session");
        page
    };
    remembered(&proxy, &[("firstname", "Harena")]).await;

    for (lost, url) in [(0, stack.instance_url(1)), (1, stack.instance_url(0))] {
        stack.act(Action::Crash, Target::Web(lost)).await.unwrap();
        let dead = stack.instance_url(lost);
        assert!(person.request("GET", &dead).send().await.is_err(), "it is dead");
        let page = remembered(&url, &[("firstname", "Harena")]).await;
        page.must_say(&format!("Answered by web{}", 2 - lost));
        let word = format!("without web{}", lost + 1);
        let page = person
            .submit(&url, &value(&format!("instance{lost}"), &word))
            .await;
        page.must_say(&format!("“instance{lost}” is saved in your session."));
        stack.act(Action::Start, Target::Web(lost)).await.unwrap();
        remembered(&stack.instance_url(lost), &[(&format!("instance{lost}"), &word)]).await;
    }
    for (lost, other, members) in [("a", "b", 2), ("b", "a", 1)] {
        stack.act(Action::Crash, Target::Side(side(lost))).await.unwrap();
        let word = format!("while {lost} is out");
        let page = person.submit(&proxy, &value(&format!("side{lost}"), &word)).await;
        page.must_say(&word);
        let sql = "SELECT members::bigint FROM kambana.epoch";
        assert_eq!(
            number(&stack.dsn(side(other)), sql).await,
            members,
            "side {lost} is out"
        );
        assert!(connect(&stack.dsn(side(lost))).await.is_err());
        remembered(
            &proxy,
            &[("firstname", "Harena"), (&format!("side{lost}"), &word)],
        )
        .await;
        // Another instance than the one that has saved it hears of it with its next heartbeat.
        let out = format!("Database {lost} is out.");
        for instance in 0..2 {
            let url = stack.instance_url(instance);
            eventually("the page says so", Duration::from_secs(3), || async {
                person.open(&url, "/").await.says(&out)
            })
            .await;
        }
        stack.act(Action::Start, Target::Side(side(lost))).await.unwrap();
        healed(&stack, Duration::from_secs(30)).await;
    }
    // Everything that was ever saved, on both sides, as PHP reads it.
    for name in ["a", "b"] {
        let decoded = decoded_by_php(&stored(&stack, name).await.1);
        for (variable, saved) in [
            ("firstname", "Harena"),
            ("instance0", "without web1"),
            ("instance1", "without web2"),
            ("sidea", "while a is out"),
            ("sideb", "while b is out"),
        ] {
            assert_eq!(decoded[variable], saved, "side {name}: {decoded}");
        }
    }
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn php_reads_and_writes_the_same_sessions_and_a_forged_cookie_opens_none() {
    let (stack, [web1, web2]) = instances().await;
    let person = Browser::new();
    for (n, name) in NAMES.into_iter().enumerate() {
        let base = if n % 2 == 0 { &web1 } else { &web2 };
        let page = person.submit(base, &value(&format!("name {n}"), name)).await;
        page.must_say(name);
    }
    let (id, data) = stored(&stack, "a").await;
    let decoded = decoded_by_php(&data);
    for (n, name) in NAMES.into_iter().enumerate() {
        assert_eq!(decoded[format!("name {n}")], name);
    }
    // The cookie names the row, signed; the page shows a beginning of it only.
    let ours = cookie(&person, &web1);
    assert!(ours.ends_with(&id) || ours.contains(&id), "{ours}");
    assert!(!person.open(&web1, "/").await.says(&id));

    // A PHP program writes its own variables into the same row; ours stay, and nothing of its types is lost.
    let code = "session_decode(stream_get_contents(STDIN)) || exit(1); $_SESSION['n'] = 7; $_SESSION['f'] = 0.1; \
                $_SESSION['list'] = [1, 'x', [true, null]]; $_SESSION['map'] = ['05' => 'a', 5 => 'b']; \
                $_SESSION['bytes'] = \"\\xff\\x00\"; $o = new stdClass; $o->p = 1; $_SESSION['object'] = $o; echo session_encode();";
    let written = php(code, &data);
    let on_a = connect(&stack.dsn(side("a"))).await.unwrap();
    on_a.execute("UPDATE php_session SET data = $1", &[&written])
        .await
        .unwrap();
    eventually("side b has what PHP wrote", Duration::from_secs(10), || async {
        stored(&stack, "b").await.1 == written
    })
    .await;
    let page = person.submit(&web2, &value("ours", "after PHP")).await;
    for text in ["after PHP", "[1,\"x\",[true,null]]", NAMES[0]] {
        page.must_say(text);
    }
    for name in ["a", "b"] {
        let data = stored(&stack, name).await.1;
        let code = "session_decode(stream_get_contents(STDIN)) || exit(1); $s = $_SESSION; \
                    var_export([$s['n'] === 7, $s['f'] === 0.1, $s['list'] === [1, 'x', [true, null]], \
                    $s['map'] === ['05' => 'a', 5 => 'b'], $s['bytes'] === \"\\xff\\x00\", $s['object']->p === 1, \
                    $s['ours'] === 'after PHP', count($s) >= 16]);";
        let said = String::from_utf8(php(code, &data)).unwrap();
        assert!(
            !said.contains("false") && said.matches("true").count() == 8,
            "{said}"
        );
    }

    // Removed by one instance, gone for the other.
    let remove = person
        .open(&web1, "/")
        .await
        .form("/session/remove")
        .with("key", "ours");
    let page = person.submit(&web1, &remove).await;
    page.must_say("“ours” was removed from your session.");
    assert!(!person.open(&web2, "/").await.says("after PHP"));

    // Whoever does not know the secret has no session, whatever he sends; the row is untouched.
    let before = stored(&stack, "a").await;
    let (signature, key) = ours.split_at(ours.len() - id.len());
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    for forged in [
        id.clone(),
        format!("{flipped}{}{key}", &signature[1..]),
        format!("{signature}{}", id.replace(&id[..4], "0000")),
        "%00%ff".into(),
        "x".repeat(4000),
        String::new(),
    ] {
        for base in [&web1, &web2] {
            let cookie = format!("PHPSESSID={forged}");
            let page = send(
                Browser::new()
                    .request("GET", &format!("{base}/"))
                    .header("Cookie", &cookie),
            )
            .await;
            assert_eq!(page.status, 200, "{}", page.text());
            assert!(!page.says(NAMES[0]), "{cookie} opened the session");
            let fields = value("name 0", "overwritten").fields;
            let request = Browser::new().request("POST", &format!("{base}/session/set"));
            let answer = send(request.header("Cookie", &cookie).form(&fields)).await;
            assert_eq!(answer.status, 303);
            let started = answer.header("set-cookie");
            assert!(
                started.contains("PHPSESSID=") && !started.contains(&id),
                "{started}"
            );
        }
    }
    let sql = format!("SELECT data FROM php_session WHERE id = '{id}'");
    for name in ["a", "b"] {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        let data: Vec<u8> = client.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(data, before.1, "side {name}");
    }
    // A row that is no PHP session is shown to nobody and overwritten by nobody.
    on_a.execute("UPDATE php_session SET data = 'not php' WHERE id = $1", &[&id])
        .await
        .unwrap();
    for base in [&web1, &web2] {
        let page = person.get(base, "/").await;
        assert_eq!(page.status, 503);
        page.must_say("your session holds something that cannot be read");
        let answer = person.post(base, &value("x", "y")).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    let damaged = rows(&stack.dsn(side("a")), &format!("{sql} AND data = 'not php'")).await;
    assert_eq!(damaged.len(), 1);
    on_a.execute(
        "UPDATE php_session SET data = $2 WHERE id = $1",
        &[&id, &before.1],
    )
    .await
    .unwrap();

    // Destroyed through one instance: no row on any side, no cookie, nothing for the other instance.
    let page = person.open(&web2, "/").await;
    let page = person.submit(&web2, &page.form("/session/destroy")).await;
    page.must_say("Your session was destroyed.");
    assert!(
        !person.cookies(&web2).contains("PHPSESSID="),
        "{}",
        person.cookies(&web2)
    );
    person.set_cookie(&web1, &format!("PHPSESSID={ours}; Path=/"));
    assert!(
        !person.open(&web1, "/").await.says(NAMES[0]),
        "an old cookie finds nothing"
    );
    for name in ["a", "b"] {
        let sql = format!("SELECT count(*) FROM php_session WHERE id = '{id}'");
        let dsn = stack.dsn(side(name));
        eventually("the row is gone", Duration::from_secs(10), || async {
            number(&dsn, &sql).await == 0
        })
        .await;
    }
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}
