//! Mistakes in the settings: exit code 2, a sentence that names the side and what to do, nothing changed.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use kambana::config::SideConfig;
use kambana::local::{Action, Target};

use crate::support::{Running, TestDir, connect, dump, eventually, number, pair, program, side};

/// A command is one that fails at once or never: this is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// The environment of one command, as a person writes it into `.env`.
struct Settings {
    sides: [SideConfig; 2],
    more: Vec<(&'static str, String)>,
}

/// What a command said and did.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Settings {
    fn of(stack: &Running) -> Settings {
        Settings {
            sides: stack.side_configs().try_into().unwrap(),
            more: vec![],
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Settings {
        self.more.push((name, value.to_owned()));
        self
    }

    /// Runs `kambana` in an empty directory with nothing but these settings. A server that starts is a failed test.
    async fn run(&self, command: &str) -> Done {
        let dir = TestDir::new();
        let mut run = tokio::process::Command::new(program());
        run.arg(command)
            .env_clear()
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (n, config) in self.sides.iter().enumerate() {
            run.env(format!("DB{}_HOST", n + 1), &config.host)
                .env(format!("DB{}_PORT", n + 1), config.port.to_string())
                .env(format!("DB{}_NAME", n + 1), &config.database)
                .env(format!("DB{}_USER", n + 1), &config.user)
                .env(format!("DB{}_PASSWORD", n + 1), config.password.expose());
        }
        run.env("SESSION_SECRET", "s".repeat(64))
            .env("LISTEN", "127.0.0.1:0")
            .env("STATE_DIR", dir.path().join("state"));
        for (name, value) in &self.more {
            run.env(name, value);
        }
        let done = tokio::time::timeout(DEADLINE, run.output())
            .await
            .unwrap_or_else(|_| panic!("`kambana {command}` goes on instead of refusing: {:?}", self.more))
            .unwrap();
        Done {
            code: done.status.code(),
            out: String::from_utf8(done.stdout).unwrap(),
            err: String::from_utf8(done.stderr).unwrap(),
        }
    }

    /// The last line of a refused command, which says all of this; no password is in what it said.
    async fn refused(&self, command: &str, says: &[&str]) {
        let done = self.run(command).await;
        assert_eq!(done.code, Some(2), "kambana {command}: {done:?}");
        let last = done.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("kambana: "), "kambana {command}: {done:?}");
        for text in says {
            assert!(
                last.contains(text),
                "kambana {command} does not say `{text}`: {last}"
            );
        }
        for config in &self.sides {
            let password = config.password.expose();
            assert!(
                !done.err.contains(password) && !done.out.contains(password),
                "{done:?}"
            );
        }
    }
}

/// Every object, row and setting of one database that a command could have changed.
async fn everything(stack: &Running, name: &str) -> Vec<String> {
    let client = connect(&stack.dsn(side(name))).await.unwrap();
    let sql = "SELECT format('%s.%s %s', n.nspname, c.relname, c.relkind) FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'kambana')
               UNION ALL SELECT format('trigger %s', tgname) FROM pg_trigger WHERE NOT tgisinternal
               UNION ALL SELECT format('sequence %s %s %s %s', sequencename, start_value, increment_by, last_value) FROM pg_sequences
               ORDER BY 1";
    let objects = client.query(sql, &[]).await.unwrap();
    let mut all: Vec<String> = objects.iter().map(|row| row.get(0)).collect();
    all.extend(dump(&stack.dsn(side(name))).await);
    all
}

#[tokio::test]
async fn init_refuses_what_would_not_be_twins_and_changes_nothing() {
    let stack = pair().await;
    let on = async |name: &str, sql: &str| {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        client.batch_execute(sql).await.unwrap();
    };
    for name in ["a", "b"] {
        on(
            name,
            "INSERT INTO items (id, name, updated_at) VALUES (1, 'there before', '2026-01-01')",
        )
        .await;
    }
    let before = [everything(&stack, "a").await, everything(&stack, "b").await];
    let settings = || Settings::of(&stack);
    let secret = |text: &str| kambana::config::Secret::new(text);

    // Settings that cannot be understood.
    settings()
        .with("DB2_PORT", "abc")
        .refused("init", &["DB2_PORT", "abc"])
        .await;
    settings()
        .with("DB2_PORT", "65536")
        .refused("init", &["DB2_PORT", "65536"])
        .await;
    settings()
        .with("DB1_USER", "")
        .refused("init", &["DB1_USER is not set", "env.example"])
        .await;
    settings()
        .with("READ_FROM", "both")
        .refused("init", &["READ_FROM", "leader or nearest"])
        .await;
    settings()
        .with("WRITE_LANES", "0")
        .refused("init", &["WRITE_LANES must be at least 1"])
        .await;
    // Servers, databases and passwords.
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        let named = format!("side {name}");
        let mut wrong = settings();
        wrong.sides[index].password = secret("not the password");
        wrong
            .refused("init", &[&named, "password authentication failed"])
            .await;
        let mut wrong = settings();
        wrong.sides[index].database = "nothing_here".into();
        wrong
            .refused("init", &[&named, "\"nothing_here\" does not exist"])
            .await;
        let nobody = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut wrong = settings();
        wrong.sides[index].port = nobody;
        wrong.refused("init", &[&named, "onnect"]).await;
        let mut wrong = settings();
        wrong.sides[index].host = "no-such-host.invalid".into();
        wrong.refused("init", &[&named]).await;
    }
    let mut same = settings();
    same.sides[1] = same.sides[0].clone();
    same.refused(
        "init",
        &[
            "side b is the same database as another side",
            "must name a different one",
        ],
    )
    .await;
    same.sides[1].host = "localhost".into();
    same.refused("init", &["side b is the same database as another side"])
        .await;
    // Tables that are not the same.
    for (break_it, mend_it, says) in [
        (
            "ALTER TABLE servers RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO servers",
            &["side b", "`servers` is missing", "apply schema.sql first"][..],
        ),
        (
            "ALTER TABLE items ADD COLUMN extra text",
            "ALTER TABLE items DROP COLUMN extra",
            &["side b", "items", "extra", "make the schemas equal"],
        ),
        (
            "ALTER TABLE servers ALTER COLUMN port TYPE bigint",
            "ALTER TABLE servers ALTER COLUMN port TYPE integer",
            &["side b", "servers", "bigint"],
        ),
        (
            "ALTER TABLE items DROP CONSTRAINT items_pkey",
            "ALTER TABLE items ADD PRIMARY KEY (id)",
            &["side b", "items", "no primary key"],
        ),
        (
            "INSERT INTO items (id, name) VALUES (2, 'only here')",
            "DELETE FROM items WHERE id = 2",
            &["items has other rows on side b", "copy them first", "pg_dump"],
        ),
        (
            "UPDATE items SET name = 'other'",
            "UPDATE items SET name = 'there before'",
            &["items has other rows on side b"],
        ),
    ] {
        on("b", break_it).await;
        settings().refused("init", says).await;
        on("b", mend_it).await;
    }
    assert_eq!(everything(&stack, "a").await, before[0]);
    assert_eq!(everything(&stack, "b").await, before[1]);

    // A server that may forget acknowledged commits (the setting that nothing else in this test insists on).
    let auto = stack.record().sides["b"].data_dir.join("postgresql.auto.conf");
    let mut conf = std::fs::OpenOptions::new().append(true).open(&auto).unwrap();
    conf.write_all(b"full_page_writes = off\n").unwrap();
    let b = Target::Side(side("b"));
    stack.act(Action::Stop, b).await.unwrap();
    stack.act(Action::Start, b).await.unwrap();
    let off = "SELECT count(*) FROM pg_settings WHERE name = 'full_page_writes' AND setting = 'off'";
    assert_eq!(number(&stack.dsn(side("b")), off).await, 1, "the fault is there");
    settings()
        .refused(
            "init",
            &["side b", "full_page_writes=off", "set full_page_writes=on"],
        )
        .await;
    assert_eq!(everything(&stack, "b").await, before[1]);
    let safe = std::fs::read_to_string(&auto)
        .unwrap()
        .replace("full_page_writes = off", "");
    std::fs::write(&auto, safe).unwrap();
    stack.act(Action::Stop, b).await.unwrap();
    stack.act(Action::Start, b).await.unwrap();

    // And then it works, twice.
    for _ in 0..2 {
        let done = settings().run("init").await;
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(
            done.out.contains("table items is watched on every side"),
            "{done:?}"
        );
    }
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn serve_refuses_databases_that_are_not_its_twins() {
    let stack = pair().await;
    let settings = || Settings::of(&stack);
    settings()
        .refused(
            "serve",
            &["schema kambana is missing on every side", "run `kambana init`"],
        )
        .await;
    let done = settings().run("init").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    // What every start does must not count as a change: heartbeats are no objects.
    let before = [everything(&stack, "a").await, everything(&stack, "b").await];

    settings()
        .with("SESSION_SECRET", "short")
        .refused("serve", &["SESSION_SECRET is too short", "openssl rand"])
        .await;
    settings()
        .with("SESSION_SECRET", "")
        .refused("serve", &["SESSION_SECRET is not set"])
        .await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    settings()
        .with("LISTEN", &address)
        .refused("serve", &["cannot listen on", &address, "LISTEN"])
        .await;

    let mut swapped = settings();
    swapped.sides.swap(0, 1);
    for command in ["serve", "init"] {
        swapped.refused(command, &["the sides are swapped", "DB"]).await;
    }
    let mut same = settings();
    same.sides[1] = same.sides[0].clone();
    same.refused("serve", &["side b", "says it is side a"]).await;
    for (break_it, mend_it, says) in [
        (
            "ALTER TABLE items ADD COLUMN extra text",
            "ALTER TABLE items DROP COLUMN extra",
            &["side b", "items", "extra"][..],
        ),
        (
            "ALTER TABLE servers RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO servers",
            &["side b", "servers", "missing"],
        ),
        (
            "DROP TRIGGER \"!kambana\" ON items",
            "",
            &["side b", "items", "capture trigger is missing"],
        ),
    ] {
        let client = connect(&stack.dsn(side("b"))).await.unwrap();
        client.batch_execute(break_it).await.unwrap();
        settings().refused("serve", says).await;
        client.batch_execute(mend_it).await.unwrap();
    }
    // Installing again makes what was dropped.
    let done = settings().run("init").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(everything(&stack, "a").await, before[0]);
    assert_eq!(everything(&stack, "b").await, before[1]);
    nobody_was_here(&stack).await;
    stack.stop().await.unwrap();
}

/// A person's mistake in the settings of one instance must not put a healthy side out for everybody.
#[tokio::test]
async fn serve_refuses_a_login_that_either_side_refuses() {
    let stack = pair().await;
    let settings = || Settings::of(&stack);
    let secret = |text: &str| kambana::config::Secret::new(text);
    let done = settings().run("init").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    for index in [0, 1] {
        let named = ["side a", "side b"][index];
        let mut wrong = settings();
        wrong.sides[index].password = secret("not the password");
        wrong
            .refused("serve", &[named, "password authentication failed"])
            .await;
        let mut wrong = settings();
        wrong.sides[index].database = "nothing_here".into();
        wrong
            .refused("serve", &[named, "\"nothing_here\" does not exist"])
            .await;
    }
    nobody_was_here(&stack).await;
    stack.stop().await.unwrap();
}

/// No instance that was refused has changed who is active, or left a connection.
async fn nobody_was_here(stack: &Running) {
    for name in ["a", "b"] {
        let dsn = stack.dsn(side(name));
        let sql = "SELECT count(*) FROM kambana.epoch WHERE n = 1 AND members = 3";
        assert_eq!(number(&dsn, sql).await, 1, "side {name}");
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'kambana%'";
        eventually("no connection stays", Duration::from_secs(10), || async {
            number(&dsn, sql).await == 0
        })
        .await;
    }
}
