//! Part H: one side is not what the other is. The difference is named, costs one change of membership, and what is
//! mended is used again without anybody's command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kambana::local::{Account, Action, StackOptions, Target};
use kambana::multipool::failpoint::Point;
use serde_json::json;
use uuid::Uuid;

use super::points::{Points, with_failpoints};
use super::stage::{active, applied, epoch, insert, run, said_of, skipped, superuser};
use crate::load::{Load, http};
use crate::support::{
    assert_identical, connect, eventually, healed, instances, number, program, rows, side, start, whole,
};

const RETURN: Duration = Duration::from_secs(60);
const OUT: Duration = Duration::from_secs(20);

fn other(name: &str) -> &'static str {
    if name == "a" { "b" } else { "a" }
}

/// The epoch's members while `name` is out.
fn without(name: &str) -> i64 {
    if name == "a" { 2 } else { 1 }
}

/// A small disk of its own, unmounted when the test ends, however it ends.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Needs root; nothing where that is not given.
    fn mount(place: &Path, megabytes: u32) -> Option<SmallDisk> {
        let account = Account::for_postgres().ok()?;
        account.private_dir(place).ok()?;
        let options = format!("size={megabytes}m,mode=700,uid={}", account.uid());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(place)
            .output()
            .ok()?;
        mounted.status.success().then(|| SmallDisk(place.to_path_buf()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Not a byte is left.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        assert!(file.write_all(&[0; 4096]).is_err(), "the disk is full");
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Rows that need room: inserted through both instances until told to stop; every answer must be success.
fn growing(
    urls: [String; 2],
    stop: Arc<AtomicBool>,
    count: Arc<std::sync::atomic::AtomicUsize>,
) -> tokio::task::JoinHandle<Vec<Uuid>> {
    tokio::spawn(async move {
        let (http, mut ops) = (http(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let op = Uuid::now_v7();
            // Names do not compress, so that they take the room they seem to.
            let content: String = (0..60).map(|_| Uuid::new_v4().to_string()).collect();
            let answer = http
                .post(format!("{}/api/items", urls[ops.len() % 2]))
                .header("Idempotency-Key", op.to_string())
                .json(&json!({ "name": "grows", "content": content }))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
            ops.push(op);
            count.store(ops.len(), Ordering::Relaxed);
        }
        ops
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn case_52_a_full_disk_under_the_tables_of_one_side() {
    for name in ["b", "a"] {
        let (stack, urls) = instances().await;
        let place = stack.place().clusters.join(name).join("small");
        let Some(disk) = SmallDisk::mount(&place, 12) else {
            return skipped(52, "a small disk needs root (mount -t tmpfs)");
        };
        let root = superuser(&stack, name).await;
        let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", place.display());
        run(&root, &[&tablespace, "ALTER TABLE items SET TABLESPACE small"]).await;
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let writer = growing(urls.clone(), Arc::clone(&stop), Arc::clone(&count));
        let more = |rows: usize| {
            let (count, goal) = (Arc::clone(&count), count.load(Ordering::Relaxed) + rows);
            async move {
                eventually("more rows", OUT, || async {
                    count.load(Ordering::Relaxed) >= goal
                })
                .await;
            }
        };
        more(20).await;
        let before = epoch(&stack, other(name)).await;
        disk.fill();
        active(&stack, other(name), without(name), OUT).await;
        let ejected = epoch(&stack, other(name)).await;
        assert_eq!(ejected, before + 1);
        for url in &urls {
            eventually("the page names the cause", OUT, || async {
                said_of(url, name).await.1.contains("No space left on device")
            })
            .await;
        }
        more(100).await;
        assert_eq!(
            epoch(&stack, other(name)).await,
            ejected,
            "ejected once, however often its return is tried"
        );
        disk.free();
        whole(&stack, RETURN).await;
        more(20).await;
        stop.store(true, Ordering::Relaxed);
        let ops = writer.await.unwrap();
        healed(&stack, RETURN).await;
        assert_identical(&stack).await;
        for name in ["a", "b"] {
            assert_eq!(applied(&stack, name, &ops).await, ops.len() as i64);
        }
        stack.stop().await.unwrap();
    }
}

/// Without room for its write-ahead log a server dies, and stays dead until there is room.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_52_a_full_disk_under_the_log_of_one_side() {
    let (stack, urls) = instances().await;
    let load = Load::start(urls.to_vec(), 4, 20, false);
    load.more(50).await;
    let b = Target::Side(side("b"));
    stack.act(Action::Stop, b).await.unwrap();
    let data = stack.place().clusters.join("b/data");
    let place = stack.place().clusters.join("b/log");
    let Some(disk) = SmallDisk::mount(&place, 80) else {
        load.stop().await;
        return skipped(52, "a small disk needs root (mount -t tmpfs)");
    };
    let wal = place.join("pg_wal");
    // `cp -a` keeps the owner.
    for command in [
        vec![
            "cp",
            "-a",
            data.join("pg_wal").to_str().unwrap(),
            wal.to_str().unwrap(),
        ],
        vec!["rm", "-rf", data.join("pg_wal").to_str().unwrap()],
        vec![
            "ln",
            "-s",
            wal.to_str().unwrap(),
            data.join("pg_wal").to_str().unwrap(),
        ],
    ] {
        assert!(
            Command::new(command[0])
                .args(&command[1..])
                .status()
                .unwrap()
                .success()
        );
    }
    stack.act(Action::Start, b).await.unwrap();
    whole(&stack, RETURN).await;
    disk.fill();
    // The log goes on in its preallocated segment; a new one is asked for, until there is none.
    let root = superuser(&stack, "b").await;
    while root
        .batch_execute("SELECT pg_switch_wal(); CHECKPOINT")
        .await
        .is_ok()
    {}
    active(&stack, "a", 1, OUT).await;
    load.more(100).await;
    disk.free();
    eventually("its server can be started again", RETURN, || async {
        connect(&stack.dsn(side("b"))).await.is_ok() || stack.act(Action::Start, b).await.is_ok()
    })
    .await;
    whole(&stack, RETURN).await;
    load.more(50).await;
    load.all_served(&stack, RETURN).await;
    stack.stop().await.unwrap();
}

/// What an administrator may do to one server, how it is undone, and what the status page must say meanwhile.
const DEEDS: &[(&str, &[&str], &[&str])] = &[
    (
        "read-only transaction",
        &[
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        ],
        &[
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        ],
    ),
    (
        "has no privilege INSERT on table items",
        &["REVOKE INSERT ON items FROM webuser"],
        &["GRANT INSERT ON items TO webuser"],
    ),
    (
        "not permitted to log in",
        &["ALTER ROLE webuser NOLOGIN"],
        &["ALTER ROLE webuser LOGIN"],
    ),
    (
        "too many clients",
        &[
            "ALTER ROLE webuser CONNECTION LIMIT 0",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'kambana %'",
        ],
        &["ALTER ROLE webuser CONNECTION LIMIT -1"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn case_53_an_administrator_takes_something_away_on_one_side() {
    let (stack, urls) = instances().await;
    let password = stack.side_configs()[0].password.expose().to_owned();
    let changed: &[&str] = &["ALTER ROLE webuser PASSWORD 'another'"];
    let back = format!("ALTER ROLE webuser PASSWORD '{password}'");
    let back: &[&str] = &[&back];
    let load = Load::start(urls.to_vec(), 4, 20, false);
    load.more(100).await;
    for name in ["a", "b"] {
        let wrong = ("password authentication failed", changed, back);
        // A side that comes and goes is brought back ever more slowly: on the leader, what a follower cannot show.
        let deeds = if name == "a" { 2 } else { DEEDS.len() + 1 };
        for (says, take, give) in DEEDS.iter().copied().chain([wrong]).take(deeds) {
            let root = superuser(&stack, name).await;
            run(&root, take).await;
            active(&stack, other(name), without(name), OUT).await;
            for url in &urls {
                eventually(&format!("side {name}: {says}"), OUT, || async {
                    said_of(url, name).await.1.contains(says)
                })
                .await;
            }
            load.more(30).await;
            run(&root, give).await;
            whole(&stack, RETURN).await;
            load.more(30).await;
        }
    }
    load.all_served(&stack, RETURN).await;
    stack.stop().await.unwrap();
}

/// A leader that one instance can use no more, and another still can: what the other has begun there with the old members
/// finds the new ones on the follower, and begins anew with them.
#[tokio::test(flavor = "multi_thread")]
async fn case_53_a_write_that_the_old_leader_took_finds_the_new_members() {
    let stack = start(|options| with_failpoints(options.with_instances(&program()))).await;
    let urls = [0, 1].map(|index| stack.instance_url(index));
    let (http, first) = (http(), Points::of(&stack, 0));
    first.arm(Point::EjectFenced, "hold once");
    let root = superuser(&stack, "a").await;
    run(&root, &["REVOKE INSERT ON items FROM webuser"]).await;
    let refused = tokio::spawn(insert(&http, &urls[0], Uuid::now_v7(), "refused by a").send());
    first.wait(Point::EjectFenced).await;
    let server = json!({ "name": "taken by a", "host": "db.example", "port": 5432 });
    let request = http.post(format!("{}/api/servers", urls[1])).json(&server);
    let taken = tokio::spawn(request.send());
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kambana web2' \
                 AND wait_event_type = 'Lock' AND query LIKE '%fence IN ROW SHARE MODE; SET LOCAL kambana.apply%'";
    eventually("it waits for the follower's fence", OUT, || async {
        number(&stack.dsn(side("b")), waits).await == 1
    })
    .await;
    assert_eq!(epoch(&stack, "b").await, 1);
    first.release(Point::EjectFenced);
    for asked in [refused, taken] {
        let answer = asked.await.unwrap().unwrap();
        assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
    }
    assert_eq!(epoch(&stack, "b").await, 2);
    run(&root, &["GRANT INSERT ON items TO webuser"]).await;
    whole(&stack, RETURN).await;
    healed(&stack, RETURN).await;
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

/// No slot for another connection is no reason to give up a side whose open connections work.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_53_no_free_connection_slot_for_a_while_ejects_nobody() {
    let (stack, urls) = instances().await;
    let load = Load::start(urls.to_vec(), 16, 40, false);
    load.more(300).await;
    let before = epoch(&stack, "a").await;
    for name in ["a", "b"] {
        let root = superuser(&stack, name).await;
        run(&root, &["ALTER ROLE webuser CONNECTION LIMIT 0"]).await;
        let refused = connect(&stack.dsn(side(name))).await.err().unwrap();
        let code = refused.as_db_error().unwrap().code().code();
        assert_eq!(code, "53300", "nobody gets in");
        // Several probes over fresh connections fall into this time.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            load.more(10).await;
        }
        run(&root, &["ALTER ROLE webuser CONNECTION LIMIT -1"]).await;
    }
    load.all_served(&stack, RETURN).await;
    assert_eq!(epoch(&stack, "a").await, before, "nobody was ejected");
    stack.stop().await.unwrap();
}

/// What somebody does to the structure of one side, and how it is undone.
const STRUCTURES: &[(&str, &str)] = &[
    (
        "ALTER TABLE items ADD CONSTRAINT odd CHECK (name <> 'odd')",
        "ALTER TABLE items DROP CONSTRAINT odd",
    ),
    (
        "ALTER TABLE items ADD COLUMN odd int",
        "ALTER TABLE items DROP COLUMN odd",
    ),
    (
        "ALTER TABLE items ALTER COLUMN content TYPE varchar(500)",
        "ALTER TABLE items ALTER COLUMN content TYPE text",
    ),
    (
        "ALTER TABLE items ALTER COLUMN name TYPE text COLLATE \"C\"",
        "ALTER TABLE items ALTER COLUMN name TYPE text COLLATE \"default\"",
    ),
];

/// Found while it runs, by the look of every minute (shortened here), and found again when the side returns.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: scripts/torture"]
async fn case_54_a_constraint_column_type_or_collation_on_one_side() {
    let options = |options: StackOptions| {
        options
            .with_instances(&program())
            .with_setting("PROBE_INTERVAL_MS", "25")
    };
    let stack = start(options).await;
    let urls = [0, 1].map(|index| stack.instance_url(index));
    let load = Load::start(urls.to_vec(), 4, 20, false);
    load.more(50).await;
    let b = Target::Side(side("b"));
    for (n, (odd, even)) in STRUCTURES.iter().enumerate() {
        let root = superuser(&stack, "b").await;
        run(&root, &[odd]).await;
        active(&stack, "a", 1, RETURN).await;
        load.more(30).await;
        if n == 0 {
            // Out or new, the verdict is the same.
            stack.act(Action::Stop, b).await.unwrap();
            stack.act(Action::Start, b).await.unwrap();
        }
        for url in &urls {
            eventually(odd, OUT, || async {
                said_of(url, "b").await.1.contains("table items differs")
            })
            .await;
        }
        assert_eq!(
            number(&stack.dsn(side("a")), "SELECT members::bigint FROM kambana.epoch").await,
            1
        );
        let root = superuser(&stack, "b").await;
        run(&root, &[even]).await;
        whole(&stack, RETURN).await;
        load.more(30).await;
    }
    load.all_served(&stack, RETURN).await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_55_ids_after_a_crash_and_at_the_end_of_int4() {
    let (stack, urls) = instances().await;
    let http = http();
    let new = async |url: &str| {
        let answer = insert(&http, url, Uuid::now_v7(), "x").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let last = async |name: &str| number(&stack.dsn(side(name)), "SELECT last_value FROM items_id_seq").await;
    // A server that crashed goes on above what it had reserved in its log: a gap, on that side only.
    for _ in 0..3 {
        assert_eq!(new(&urls[0]).await.0, 201);
    }
    let before = last("a").await;
    stack.act(Action::Crash, Target::Side(side("a"))).await.unwrap();
    stack.act(Action::Start, Target::Side(side("a"))).await.unwrap();
    whole(&stack, RETURN).await;
    assert!(last("a").await > before + 2, "the sequence has a gap");
    for url in &urls {
        assert_eq!(new(url).await.0, 201);
    }
    healed(&stack, RETURN).await;
    assert_identical(&stack).await;

    // The last id of an int4, and one more.
    for name in ["a", "b"] {
        let root = superuser(&stack, name).await;
        let near = if name == "a" {
            2_147_483_645i64
        } else {
            2_147_483_646
        };
        run(&root, &[&format!("SELECT setval('items_id_seq', {near}, false)")]).await;
    }
    let then = epoch(&stack, "a").await;
    let mut given = 0;
    let refused = loop {
        let (status, text) = new(&urls[given % 2]).await;
        if status != 201 {
            break (status, text);
        }
        given += 1;
        assert!(given < 5, "ids beyond int4");
    };
    assert!(given > 0, "the last ids are handed out");
    for url in &urls {
        let (status, text) = new(url).await;
        assert_eq!(status, 422, "{text}");
        assert!(
            text.contains("reached maximum value of sequence") && text.contains("Nothing was changed"),
            "{text}"
        );
    }
    assert_eq!(refused.0, 422);
    assert_eq!(epoch(&stack, "a").await, then, "nobody is ejected for that");
    // A change of membership goes on all the same, and what needs no new id still works.
    stack.act(Action::Crash, Target::Side(side("a"))).await.unwrap();
    let ids = rows(&stack.dsn(side("b")), "SELECT max(id) FROM items").await;
    let id = ids[0].trim_matches(['(', ')']).to_owned();
    let answer = http
        .put(format!("{}/api/items/{id}", urls[0]))
        .json(&json!({ "name": "still changed" }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    stack.act(Action::Start, Target::Side(side("a"))).await.unwrap();
    whole(&stack, RETURN).await;
    healed(&stack, RETURN).await;
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}
