//! Part D: clients and the proxy. Nothing is lost and nothing is applied twice, whoever hangs up, repeats or dies.

use std::time::{Duration, Instant};

use kambana::local::{Account, Action, Launch, PortChoice, Process, Programs, Target};
use kambana::multipool::failpoint::Point;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::points::{Points, with_failpoints};
use super::stage::{applied, insert, run, superuser, waiting_for_lock};
use crate::browser::{Browser, Form};
use crate::load::{Dice, Load, http};
use crate::support::{
    Running, assert_identical, connect, eventually, full, healed, instances, number, program, setting, side,
    start,
};

const SOON: Duration = Duration::from_secs(10);

/// Items on each side, asked by the test itself.
async fn items_on_both(stack: &Running, wanted: i64) {
    healed(stack, Duration::from_secs(20)).await;
    assert_identical(stack).await;
    for name in ["a", "b"] {
        let found = number(&stack.dsn(side(name)), "SELECT count(*) FROM items").await;
        assert_eq!(found, wanted, "rows on side {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_client_times_out_and_retries_on_the_other_instance() {
    let (stack, [web1, web2]) = instances().await;
    let (http, mut ops) = (http(), Vec::new());
    let locker = connect(&stack.dsn(side("a"))).await.unwrap();
    for round in 0..5 {
        let (op, name) = (Uuid::now_v7(), format!("round {round}"));
        ops.push(op);
        // Inserts wait, reads do not.
        run(&locker, &["BEGIN; LOCK TABLE items IN SHARE MODE"]).await;
        let impatient = insert(&http, &web1, op, &name).timeout(Duration::from_millis(150));
        assert!(impatient.send().await.unwrap_err().is_timeout());
        eventually("the first request is still at work", SOON, || async {
            waiting_for_lock(&stack, "a", "web1").await > 0
        })
        .await;
        let retry = tokio::spawn(insert(&http, &web2, op, &name).send());
        eventually("the second request waits too", SOON, || async {
            waiting_for_lock(&stack, "a", "web2").await > 0
        })
        .await;
        run(&locker, &["COMMIT"]).await;
        let second = retry.await.unwrap().unwrap();
        assert_eq!(second.status(), 201);
        let second: Value = second.json().await.unwrap();
        let third = insert(&http, &web1, op, &name).send().await.unwrap();
        assert_eq!(third.status(), 201, "asked once more, at the first instance");
        let third: Value = third.json().await.unwrap();
        assert_eq!(second["id"], third["id"], "every answer speaks of one row");
    }
    items_on_both(&stack, 5).await;
    for name in ["a", "b"] {
        assert_eq!(applied(&stack, name, &ops).await, 5);
    }
    stack.stop().await.unwrap();
}

/// actix drops a handler when the client resets the connection: the operation must not notice.
#[tokio::test(flavor = "multi_thread")]
async fn case_32_connections_reset_at_random_moments_leave_whole_operations() {
    let stack = full().await;
    let urls = [stack.instance_url(0), stack.instance_url(1)];
    let mut dice = Dice::new(42);
    let mut ops = Vec::new();
    for n in 0..100 {
        let op = Uuid::now_v7();
        let url = urls[n % 2].replace("http://", "");
        let body = format!("{{\"name\":\"reset {n}\"}}");
        let request = format!(
            "POST /api/items HTTP/1.1\r\nHost: {url}\r\nContent-Type: application/json\r\nIdempotency-Key: {op}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = tokio::net::TcpStream::connect(&url).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        // A moment inside the life of the request, not a wait for something.
        tokio::time::sleep(Duration::from_micros(dice.below(12_000))).await;
        // Lingering for no time makes the close a reset.
        socket.set_zero_linger().unwrap();
        drop(socket);
        ops.push(op);
    }
    healed(&stack, Duration::from_secs(20)).await;
    // Nobody waits for their answers: they are over when none has been added for longer than a write may take.
    let (mut known, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = applied(&stack, "a", &ops).await;
        if now != known {
            (known, since) = (now, Instant::now());
        }
    }
    assert!(known > 0, "some got through before their reset");
    assert_eq!(applied(&stack, "b", &ops).await, known);
    items_on_both(&stack, known).await;
    println!("{known} of 100 were applied");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_33_one_request_at_both_instances_at_once() {
    let (stack, urls) = instances().await;
    let http = http();
    let mut replays = 0;
    for round in 0..30 {
        let (op, name) = (Uuid::now_v7(), format!("twice {round}"));
        let answers =
            futures::future::join_all(urls.iter().map(|url| insert(&http, url, op, &name).send())).await;
        let mut ids = Vec::new();
        for answer in answers {
            let answer = answer.unwrap();
            assert_eq!(answer.status(), 201);
            assert_eq!(answer.headers()["x-op-id"], op.to_string().as_str());
            ids.push(answer.json::<Value>().await.unwrap()["id"].clone());
        }
        assert_eq!(ids[0], ids[1]);
        replays += 1;
    }
    items_on_both(&stack, replays).await;
    stack.stop().await.unwrap();
}

/// HAProxy with a configuration that repeats every request, POST too: what Kambana's own file forbids.
fn proxy_that_repeats(stack: &Running, ports: &[u16]) -> Process {
    let ours = include_str!("../../../haproxy/haproxy.cfg");
    let told = ours
        .replace("    http-request disable-l7-retry unless METH_GET\n", "")
        .replace(
            "retry-on conn-failure empty-response response-timeout",
            "retry-on all-retryable-errors",
        );
    assert!(told.contains("all-retryable-errors") && !told.contains("disable-l7-retry unless"));
    let dir = stack.place().dir.clone();
    let file = dir.join("repeats.cfg");
    std::fs::write(&file, told).unwrap();
    let record = stack.record();
    let web = |name: &str| format!("127.0.0.1:{}", record.instances[name].port);
    let env = [
        ("HTTP", format!("127.0.0.1:{}", ports[0])),
        ("WEB1", web("web1")),
        ("WEB2", web("web2")),
        ("PG_FRONT", format!("127.0.0.1:{}", ports[1])),
        ("PG_A", format!("127.0.0.1:{}", record.sides["a"].port)),
        ("PG_B", format!("127.0.0.1:{}", record.sides["b"].port)),
        ("STATS_PORT", ports[2].to_string()),
        ("ADMIN_SOCKET", dir.join("repeats.sock").display().to_string()),
    ];
    Process::spawn(&Launch {
        name: "a proxy that repeats".into(),
        program: Programs::find().unwrap().haproxy().unwrap(),
        args: vec!["-db".into(), "-f".into(), file.into()],
        env: env.map(|(name, value)| (format!("KAMBANA_{name}"), value)).into(),
        dir: dir.clone(),
        account: Account::Ours,
        log: dir.join("repeats.log"),
        when_we_die: Signal::SIGKILL,
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_34_a_proxy_that_repeats_posts_leaves_one_row() {
    let (stack, _) = instances().await;
    let mut ports = Vec::new();
    for _ in 0..3 {
        ports.push(PortChoice::Any.choose("", "", &ports).unwrap().number);
    }
    let proxy = proxy_that_repeats(&stack, &ports);
    let url = format!("http://127.0.0.1:{}", ports[0]);
    let http = http();
    eventually("the proxy answers", SOON, || async {
        let answer = http.get(format!("{url}/health/ready")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let root = superuser(&stack, "a").await;
    let mut ops = Vec::new();
    // Held at its statement, and at its COMMIT: the second is applied already when its instance dies.
    for round in 0..4 {
        let (op, name) = (Uuid::now_v7(), format!("repeated {round}"));
        ops.push(op);
        let at_commit = round % 2 == 1;
        let (hold, held, release): (&[&str], _, &[&str]) = match at_commit {
            false => (
                &["BEGIN; LOCK TABLE items IN SHARE MODE"],
                "wait_event_type = 'Lock'",
                &["COMMIT"],
            ),
            // A COMMIT that waits for a standby which does not exist is durable and not answered.
            true => (
                &[
                    "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
                    "SELECT pg_reload_conf()",
                ],
                "wait_event = 'SyncRep' AND query = 'COMMIT'",
                &[
                    "ALTER SYSTEM RESET synchronous_standby_names",
                    "SELECT pg_reload_conf()",
                ],
            ),
        };
        run(&root, hold).await;
        let client = tokio::spawn(insert(&http, &url, op, &name).send());
        let at_work = format!(
            "SELECT coalesce(max(right(application_name, 1)), '0')::bigint FROM pg_stat_activity \
             WHERE application_name LIKE 'kambana web%' AND {held}"
        );
        let dsn = stack.dsn(side("a"));
        eventually("the request is at work", SOON, || async {
            number(&dsn, &at_work).await > 0
        })
        .await;
        let victim = number(&dsn, &at_work).await;
        stack
            .act(Action::Crash, Target::Web(victim as usize - 1))
            .await
            .unwrap();
        run(&root, release).await;
        let answer = client.await.unwrap().unwrap();
        assert_eq!(answer.status(), 201, "round {round}");
        assert_ne!(
            answer.headers()["x-instance"],
            format!("web{victim}").as_str(),
            "the proxy repeated it at the other instance"
        );
        stack
            .act(Action::Start, Target::Web(victim as usize - 1))
            .await
            .unwrap();
        crate::support::whole(&stack, Duration::from_secs(30)).await;
    }
    items_on_both(&stack, 4).await;
    for name in ["a", "b"] {
        assert_eq!(applied(&stack, name, &ops).await, 4);
    }
    drop(proxy);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_35_rolling_restarts_under_load_fail_no_request() {
    let stack = full().await;
    let load = Load::start(vec![stack.url()], 8, 40, false);
    load.more(100).await;
    for round in 0..setting("KAMBANA_RESTARTS", 2) {
        for index in [0, 1] {
            let name = Target::Web(index).to_string();
            let before = stack.record().instances[&name].process;
            stack.act(Action::Stop, Target::Web(index)).await.unwrap();
            load.more(50).await;
            stack.act(Action::Start, Target::Web(index)).await.unwrap();
            let after = stack.record().instances[&name].process;
            assert_ne!(before, after, "round {round}: it was another process");
            load.more(50).await;
        }
    }
    load.all_served(&stack, Duration::from_secs(30)).await;
    stack.stop().await.unwrap();
}

/// A bug strikes a lane between the commits, more often than there are lanes: every client is answered, every outcome
/// becomes final, and the instance goes on.
#[tokio::test(flavor = "multi_thread")]
async fn case_36_a_panic_between_the_commits() {
    let stack = start(|options| with_failpoints(options.with_instances(&program()))).await;
    let urls = [stack.instance_url(0), stack.instance_url(1)];
    let (http, points) = (http(), Points::of(&stack, 0));
    let mut ops = Vec::new();
    for round in 0..6 {
        let (op, name) = (Uuid::now_v7(), format!("panic {round}"));
        let point = [Point::CommitLeader, Point::CommittedFollower, Point::AnswerBefore][round % 3];
        points.arm(point, "panic once");
        let answer = insert(&http, &urls[0], op, &name).send().await.unwrap();
        assert_eq!(points.reached(point), 1, "round {round}: it panicked");
        assert_eq!(answer.status(), 202, "an answer is sent, and it is honest");
        assert_eq!(answer.headers()["x-op-id"], op.to_string().as_str());
        // Whose connection the panic took away before its COMMIT was on the wire has not committed: then no side has.
        let may_be_none = point == Point::CommitLeader;
        eventually("the outcome is final", SOON, || async {
            let (a, b) = (
                applied(&stack, "a", &[op]).await,
                applied(&stack, "b", &[op]).await,
            );
            a == b && (may_be_none || a == 1)
        })
        .await;
        let again = insert(&http, &urls[0], op, &name).send().await.unwrap();
        assert_eq!(again.status(), 201, "the same instance still writes");
        ops.push(op);
    }
    items_on_both(&stack, 6).await;
    stack.stop().await.unwrap();
}

fn variable(name: &str, value: &str) -> Form {
    let fields = [("name", name), ("value", value)];
    Form {
        action: "/session/set".into(),
        fields: fields.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_58_one_session_written_by_two_requests_at_once_keeps_both() {
    let (stack, [web1, web2]) = instances().await;
    let person = Browser::new();
    person.submit(&web1, &variable("first", "0")).await;
    let rounds = 25;
    for round in 0..rounds {
        let set = |base: &str, who: &str| {
            let (person, base) = (person.clone(), base.to_owned());
            let form = variable(&format!("{who} {round}"), &format!("value {round}"));
            async move { person.post(&base, &form).await.status }
        };
        let (x, y) = tokio::join!(set(&web1, "one"), set(&web2, "two"));
        assert_eq!((x, y), (303, 303));
    }
    healed(&stack, Duration::from_secs(10)).await;
    assert_identical(&stack).await;
    for name in ["a", "b"] {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        let row = client
            .query_one("SELECT data FROM php_session", &[])
            .await
            .unwrap();
        let data = String::from_utf8_lossy(row.get(0)).into_owned();
        for round in 0..rounds {
            for who in ["one", "two"] {
                let written = format!("{who} {round}|s:");
                assert!(data.contains(&written), "{written} is lost on {name}: {data}");
            }
        }
    }
    stack.stop().await.unwrap();
}

/// Deleting expired sessions is an operation like others: on both sides or none, also while a side is out, and never
/// of a session that somebody uses at that moment.
#[tokio::test(flavor = "multi_thread")]
async fn case_58_expired_sessions_are_deleted_like_any_row() {
    let stack = start(|options| {
        options
            .with_instances(&program())
            .with_setting("SESSION_HOURS", "1")
    })
    .await;
    let urls = [stack.instance_url(0), stack.instance_url(1)];
    let person = Browser::new();
    person.submit(&urls[0], &variable("used", "0")).await;
    healed(&stack, SOON).await;
    let a = connect(&stack.dsn(side("a"))).await.unwrap();
    // More than one stroke of the deletion.
    let old = "INSERT INTO php_session (id, data, date_change) SELECT 'old ' || g, '', now() - interval '2 h' \
               FROM generate_series(1, 1200) AS g";
    a.execute(old, &[]).await.unwrap();
    healed(&stack, SOON).await;
    let mut pools = Vec::new();
    for name in ["gc1", "gc2"] {
        let mut config = kambana::config::PoolConfig::new(stack.side_configs(), name);
        config.state_dir = stack.place().dir.join("gc");
        pools.push(kambana::multipool::MultiPool::connect(config).await.unwrap());
    }
    stack.act(Action::Crash, Target::Side(side("b"))).await.unwrap();
    let hour = Duration::from_secs(3600);
    let meanwhile = variable("meanwhile", "1");
    let (x, y, page) = tokio::join!(
        kambana::session::delete_expired(&pools[0], hour),
        kambana::session::delete_expired(&pools[1], hour),
        person.submit(&urls[1], &meanwhile),
    );
    assert_eq!(x.unwrap() + y.unwrap(), 1200, "each is deleted once");
    page.must_say("meanwhile");
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();
    healed(&stack, Duration::from_secs(30)).await;
    assert_identical(&stack).await;
    let left = "SELECT count(*) FROM php_session";
    assert_eq!(
        number(&stack.dsn(side("b")), left).await,
        1,
        "nothing comes back, the one in use stays"
    );
    for pool in pools {
        pool.close().await;
    }
    stack.stop().await.unwrap();
}
