//! `kambana up` and `kambana local`, as a person uses them.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kambana::local::record::Record;
use kambana::local::{Account, Launch, Process, ProcessId, ServiceState, http};
use nix::sys::signal::Signal;

use crate::support::{TestDir, connect, eventually, program};

const READY: Duration = Duration::from_secs(60);

pub fn up(dir: &Path) -> Process {
    up_with(dir, "0,0")
}

/// With as many databases as there are ports.
pub fn up_with(dir: &Path, pg: &str) -> Process {
    let mut args = vec!["up", "--data", dir.to_str().unwrap()];
    args.extend([
        "--port",
        "0",
        "--web",
        "0,0",
        "--pg",
        pg,
        "--pg-front",
        "0",
        "--stats",
        "0",
    ]);
    Process::spawn(&Launch {
        name: "up".into(),
        program: program(),
        args: args.into_iter().map(Into::into).collect(),
        env: vec![],
        dir: dir.into(),
        account: Account::Ours,
        log: dir.join("up.log"),
        when_we_die: Signal::SIGTERM,
    })
    .unwrap()
}

/// Waits until the `up` says that everything is there.
pub async fn ready(up: &mut Process, dir: &Path) -> Record {
    eventually("`kambana up` is ready", READY, || {
        let log = std::fs::read_to_string(dir.join("up.log")).unwrap();
        assert!(up.ended().is_none(), "{log}");
        async move { log.contains("Ctrl-C stops everything") }
    })
    .await;
    Record::read(dir).unwrap()
}

fn everything(record: &Record) -> Vec<ProcessId> {
    let first = record.sides.values().filter_map(|side| side.process);
    let first = first.chain(record.instances.values().filter_map(|instance| instance.process));
    let first = first.chain(record.haproxy.iter().filter_map(|haproxy| haproxy.process));
    let family: Vec<ProcessId> = first.flat_map(ProcessId::family).collect();
    assert!(family.len() > 10, "{family:?}");
    family
}

pub fn local(dir: &Path, action: &str, target: &str) -> Output {
    Command::new(program())
        .args(["local", action, target, "--data"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test]
async fn up_runs_everything_and_ctrl_c_leaves_nothing() {
    let dir = TestDir::new();
    let dir = dir.path();
    let mut up = up(dir);
    let record = ready(&mut up, dir).await;
    let family = everything(&record);

    for url in record.urls() {
        let answer = http::get(&format!("{url}/health/ready"), Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{url}");
    }
    for private in ["up.json", "secrets.json", "pgpass"] {
        let mode = File::open(dir.join(private))
            .unwrap()
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{private}");
    }
    let config = record.sides["a"].config();
    let password = config.password.expose();
    for process in &family {
        let shown = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&shown).contains(password),
            "a password in the list of processes"
        );
    }
    for log in [
        &record.sides["a"].log,
        &record.instances["web1"].log,
        &dir.join("up.log"),
    ] {
        assert!(
            !std::fs::read_to_string(log).unwrap().contains(password),
            "{}",
            log.display()
        );
    }
    // The line that is printed for psql works as it is.
    let psql = Command::new("psql")
        .env("PGPASSFILE", &record.pgpass)
        .args([
            "-h",
            "127.0.0.1",
            "-U",
            "webuser",
            "-d",
            "cluster_session_b",
            "-Atc",
            "SELECT 1",
        ])
        .args(["-p", &record.sides["b"].port.to_string()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&psql.stdout).trim(), "1", "{psql:?}");

    // What is crashed stays down until it is started.
    let crashed = local(dir, "crash", "b");
    assert!(crashed.status.success(), "{crashed:?}");
    assert!(connect(&record.sides["b"].dsn).await.is_err());
    let now = Record::read(dir).unwrap();
    assert_eq!(now.sides["b"].state, ServiceState::Ended("crashed".into()));
    let again = local(dir, "crash", "b");
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert!(local(dir, "start", "b").status.success());
    assert!(connect(&record.sides["b"].dsn).await.is_ok());

    up.signal(Signal::SIGINT);
    let status = up.wait(READY).await.unwrap();
    assert_eq!(
        status.code(),
        Some(0),
        "{}",
        std::fs::read_to_string(dir.join("up.log")).unwrap()
    );
    assert!(family.iter().all(|process| !process.is_alive()));
    assert!(!dir.join("up.json").exists());
    let nobody = local(dir, "crash", "a");
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&nobody.stderr).contains("no `kambana up` is running"),
        "{nobody:?}"
    );
}

#[tokio::test]
async fn a_killed_up_is_cleaned_up_by_the_next() {
    let dir = TestDir::new();
    let dir = dir.path();
    let mut first = up(dir);
    let record = ready(&mut first, dir).await;
    let family = everything(&record);
    // Frozen processes do not notice that their parent died.
    assert!(local(dir, "freeze", "a").status.success());
    first.signal(Signal::SIGKILL);
    first.wait(READY).await.unwrap();

    std::fs::remove_file(dir.join("up.log")).unwrap();
    let mut second = up(dir);
    ready(&mut second, dir).await;
    assert!(family.iter().all(|process| !process.is_alive()));
    second.signal(Signal::SIGTERM);
    assert_eq!(second.wait(READY).await.unwrap().code(), Some(0));
}
