//! `kambana drill`: it finds nothing where nothing is wrong, finds what is made wrong, and leaves nothing broken.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kambana::local::record::{Record, SideRecord};
use kambana::local::{Account, Launch, Process, ServiceState};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_postgres::{Client, Config, NoTls};

use crate::support::{TestDir, connect, eventually, number, program, rows};
use crate::up::{ready, up};

/// The time of the faults, of the heals after them and of the verdict.
const LIMIT: Duration = Duration::from_secs(180);

fn drill(args: &[&str], dir: &Path) -> Output {
    Command::new(program())
        .arg("drill")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A drill that goes on beside the test.
fn drilling(args: &[&str], dir: &Path, log: &str) -> Process {
    Process::spawn(&Launch {
        name: "drill".into(),
        program: program(),
        args: ["drill"].iter().chain(args).map(|arg| (*arg).into()).collect(),
        env: vec![],
        dir: dir.into(),
        account: Account::Ours,
        log: dir.join(log),
        when_we_die: Signal::SIGTERM,
    })
    .unwrap()
}

/// May do what the pool's own role may not.
async fn superuser(side: &SideRecord) -> Client {
    let mut config = Config::new();
    config
        .host_path(&side.socket_dir)
        .port(side.port)
        .user("postgres")
        .dbname(&side.database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn drill_rows() -> String {
    "SELECT count(*) FROM items WHERE name LIKE 'drill %'".into()
}

#[test]
fn a_short_drill_on_a_cluster_of_its_own() {
    let dir = TestDir::new();
    let faults = "crash-side,freeze-side,stop-web,crash-web,crash-side-in-repair";
    let args = ["--own", "--minutes", "0.5", "--seed", "7", "--faults", faults];
    let output = drill(
        &[&args[..], &["--json", "--report", "page.html"]].concat(),
        dir.path(),
    );
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["fine"], &report["seed"], &report["own"]),
        (&true.into(), &7.into(), &true.into())
    );
    let verdict = &report["verdict"];
    let acknowledged = verdict["acknowledged"].as_u64().unwrap();
    assert!(acknowledged > 200, "{verdict}");
    assert_eq!(verdict["wrong"], serde_json::json!({}));
    let slices = report["acknowledged_per_100_ms"].as_array().unwrap();
    assert_eq!(
        slices.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(),
        acknowledged
    );
    let text = report["summary"].as_str().unwrap();
    assert!(
        text.starts_with(&format!(
            "acknowledged {acknowledged}, lost 0, doubled 0, different 0, "
        )),
        "{text}"
    );

    // Things did break: a side that died or stood still was left out, and came back.
    let done = report["faults"].as_array().unwrap();
    assert!(done.len() >= 3, "{done:?}");
    for fault in done {
        assert!(
            fault["healed_ms"].is_u64() && fault["acknowledged"].as_u64() > Some(0),
            "{fault}"
        );
        if fault["kind"].as_str().unwrap().contains("-side") {
            assert!(
                fault["epoch_after"].as_i64() >= fault["epoch_before"].as_i64().map(|n| n + 2),
                "{fault}"
            );
        }
    }
    assert_eq!(report["machine"]["postgresql"].as_object().unwrap().len(), 2);

    let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.contains("Every promise was kept"), "{page}");
    for outside in ["<script", "<link", "src=", "@import", "url("] {
        assert!(
            !page.contains(outside),
            "the page needs something beside it: {outside}"
        );
    }
}

#[test]
fn a_drill_that_cannot_begin() {
    let dir = TestDir::new();
    let nobody = drill(&["--data", "nowhere"], dir.path());
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&nobody.stderr).contains("no `kambana up` is running"),
        "{nobody:?}"
    );
    let unknown = drill(&["--faults", "burn"], dir.path());
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("crash-side"),
        "{unknown:?}"
    );
}

/// On a `kambana up` with rows of somebody else: left as they were; Ctrl-C mends; and a row that is flipped behind the
/// drill's back is a broken promise.
#[tokio::test]
#[ignore = "long: scripts/torture"]
async fn a_drill_beside_the_work_of_others() {
    let dir = TestDir::new();
    let dir = dir.path();
    let mut up = up(dir);
    let record = ready(&mut up, dir).await;
    let dsns = [&record.sides["a"].dsn, &record.sides["b"].dsn];
    let own = connect(dsns[0]).await.unwrap();
    own.batch_execute("INSERT INTO items (name, content) VALUES ('drilling machine', 'not theirs')")
        .await
        .unwrap();
    let mine = "SELECT * FROM items WHERE name = 'drilling machine'";
    let written = rows(dsns[0], mine).await;
    let data = dir.to_str().unwrap();

    // Stopped in the middle of a fault, it mends and gives its verdict.
    let faults = ["--data", data, "--minutes", "3", "--faults", "freeze-side"];
    let mut early = drilling(&faults, dir, "early.log");
    let log = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    eventually("a side is frozen", LIMIT, || async {
        let now = Record::read(dir).unwrap();
        now.sides.values().any(|side| side.state == ServiceState::Frozen)
    })
    .await;
    early.signal(Signal::SIGINT);
    let status = early.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", log("early.log"));
    assert!(
        log("early.log").contains("every promise was kept"),
        "{}",
        log("early.log")
    );
    let now = Record::read(dir).unwrap();
    assert!(
        now.sides.values().all(|side| side.state == ServiceState::Running),
        "{now:?}"
    );
    for dsn in dsns {
        assert_eq!(number(dsn, &drill_rows()).await, 0, "its rows are deleted");
        assert_eq!(rows(dsn, mine).await, written, "rows of others are as they were");
    }

    // Without triggers: nothing but a comparison of the rows can see it.
    let mut flipped = drilling(
        &["--data", data, "--minutes", "0.1", "--faults", "stop-web"],
        dir,
        "flipped.log",
    );
    let behind = superuser(&record.sides["b"]).await;
    behind
        .batch_execute("SET session_replication_role = replica")
        .await
        .unwrap();
    let flip = "UPDATE items SET updated_at = updated_at + interval '1 s' WHERE name LIKE 'drill %'";
    let mut count = 0;
    let status = loop {
        // Again and again until it has ended: its clients overwrite what they happen to write.
        count += behind.execute(flip, &[]).await.unwrap_or(0);
        if let Some(status) = flipped.wait(Duration::from_millis(200)).await {
            break status;
        }
    };
    assert!(count > 0, "rows were flipped");
    assert_eq!(status.code(), Some(1), "{}", log("flipped.log"));
    let text = log("flipped.log");
    assert!(text.contains("different: items ("), "{text}");
    assert!(
        text.contains("A PROMISE WAS BROKEN; to repeat it: kambana drill --seed "),
        "{text}"
    );
    assert!(
        text.contains("postgres.log"),
        "it says where the logs are: {text}"
    );
    assert!(
        number(dsns[1], &drill_rows()).await > 0,
        "rows are left to be looked at"
    );

    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait(LIMIT).await.unwrap().code(), Some(0));
}
