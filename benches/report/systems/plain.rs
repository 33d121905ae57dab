//! Systems whose application has plain connections: one PostgreSQL, and a primary with a synchronous standby.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kambana::local::{Account, Launch, Patience, PortChoice, Process, Programs, Stack};
use nix::sys::signal::Signal;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::fill::fill;
use super::{Kind, Links, Site, System, databases, side};
use crate::meter::Database;
use crate::worker::Door;

const START_DEADLINE: Duration = Duration::from_secs(60);

/// The login of the standby.
const REPLICATOR: &str = "replicator";

/// One PostgreSQL.
pub async fn single(site: &Site) -> Result<System> {
    let mut options = site.options();
    options.pg = vec![PortChoice::Any];
    let stack = Stack::start(options).await?;
    let databases = databases(site, &stack).await?;
    fill(databases[0].client()).await?;
    let mut links = Links::default();
    let door = plain_door(site, &stack, &mut links).await?;
    let mut system = System::new(Kind::Single, stack, databases, vec![door]);
    system.links = links;
    Ok(system)
}

/// Plain connections to side a.
async fn plain_door(site: &Site, stack: &Stack, links: &mut Links) -> Result<Door> {
    let (dsn, port) = (stack.dsn(side("a")?), port(stack)?);
    let reached = links.to(site, port).await?;
    Ok(Door::Plain {
        dsn: dsn.replace(&format!(":{port}/"), &format!(":{reached}/")),
    })
}

fn port(stack: &Stack) -> Result<u16> {
    let record = stack.record();
    Ok(record.sides.get("a").context("there is no side a")?.port)
}

/// A primary that waits until its standby has flushed (`synchronous_commit = on`).
pub async fn standby(site: &Site) -> Result<System> {
    let mut options = site.options();
    options.pg = vec![PortChoice::Any];
    let stack = Stack::start(options).await?;
    let mut all = databases(site, &stack).await?;
    fill(all[0].client()).await?;
    let mut links = Links::default();
    let door = plain_door(site, &stack, &mut links).await?;

    let primary = superuser(&stack, "a", "postgres").await?;
    let password = Uuid::new_v4().simple().to_string();
    primary
        .batch_execute(&format!(
            "CREATE ROLE {REPLICATOR} REPLICATION LOGIN PASSWORD '{password}'"
        ))
        .await?;
    let home = stack.place().clusters.join("a");
    fs::OpenOptions::new()
        .append(true)
        .open(home.join("pg_hba.conf"))?
        .write_all(format!("host replication {REPLICATOR} 127.0.0.1/32 scram-sha-256\n").as_bytes())?;
    primary.batch_execute("SELECT pg_reload_conf()").await?;

    let account = Account::for_postgres()?;
    let dir = stack.place().clusters.join("standby");
    account.private_dir(&dir)?;
    let from = links.to(site, port(&stack)?).await?;
    base_backup(&dir, from, &password, &account).await?;
    let own_port = PortChoice::Any.choose("the standby", "", &[])?.number;
    let process = Process::spawn(&launch(site, &stack, &dir, &account, own_port)?)?;
    let dsn = stack
        .dsn(side("a")?)
        .replace(&format!(":{}/", port(&stack)?), &format!(":{own_port}/"));
    all.push(until_ready(&process, &dsn).await.with_context(|| log(&dir))?);
    site.check_server(process.id())?;

    primary
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        .await?;
    primary.batch_execute("SELECT pg_reload_conf()").await?;
    until_synchronous(&primary).await?;
    let mut system = System::new(Kind::Standby, stack, all, vec![door]);
    system.links = links;
    system.children.push(process);
    Ok(system)
}

/// As the kernel knows us, over the private socket.
pub async fn superuser(stack: &Stack, side: &str, database: &str) -> Result<Client> {
    let record = stack.record();
    let side = record.sides.get(side).context("there is no such side")?;
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(&side.socket_dir)
        .port(side.port)
        .user("postgres")
        .dbname(database)
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn base_backup(dir: &Path, port: u16, password: &str, account: &Account) -> Result<()> {
    let programs = Programs::find()?;
    let program = programs.postgres[0].bin.join("pg_basebackup");
    let mut command = Command::new(program);
    command
        .arg("--dbname")
        .arg(format!("host=127.0.0.1 port={port} user={REPLICATOR}"))
        .arg("--pgdata")
        .arg(dir.join("data"))
        .args([
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--wal-method=stream",
        ])
        .env("PGPASSWORD", password)
        .current_dir(dir)
        .stdin(Stdio::null());
    account.apply(&mut command);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        bail!(
            "pg_basebackup: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// The same settings as those of the primary.
fn launch(site: &Site, stack: &Stack, dir: &Path, account: &Account, port: u16) -> Result<Launch> {
    let home = stack.place().clusters.join("a");
    let settings = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", String::new()),
        ("hba_file", home.join("pg_hba.conf").display().to_string()),
        ("ident_file", home.join("pg_ident.conf").display().to_string()),
        ("max_connections", "200".into()),
        ("shared_buffers", "32MB".into()),
        ("max_prepared_transactions", "0".into()),
        ("fsync", "on".into()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
    ];
    let mut args: Vec<OsString> = vec!["-D".into(), dir.join("data").into()];
    for (name, value) in settings {
        args.push("-c".into());
        args.push(format!("{name}={value}").into());
    }
    Ok(Launch {
        name: "the standby".into(),
        program: Programs::find()?.postgres[0].bin.join("postgres"),
        args,
        env: [("LC_ALL".into(), "C.UTF-8".into())]
            .into_iter()
            .chain(site.server_variable())
            .collect(),
        dir: dir.to_path_buf(),
        account: account.clone(),
        log: dir.join("postgres.log"),
        when_we_die: Signal::SIGQUIT,
    })
}

async fn until_ready(process: &Process, dsn: &str) -> Result<Database> {
    let mut patience = Patience::new(START_DEADLINE);
    loop {
        match Database::connect("the standby", process.id(), dsn).await {
            Ok(database) => return Ok(database),
            Err(_) if process.id().is_alive() && patience.pause().await => {}
            Err(error) => return Err(error),
        }
    }
}

async fn until_synchronous(primary: &Client) -> Result<()> {
    let mut patience = Patience::new(START_DEADLINE);
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
    while primary.query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
        if !patience.pause().await {
            bail!("the standby does not become synchronous");
        }
    }
    Ok(())
}

/// The last lines of a log.
fn log(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("postgres.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}
