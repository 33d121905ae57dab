//! Two databases behind pgpool-II in its native replication: it sends every write to both, one after the other.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kambana::local::{Account, Launch, OWNER, Patience, PortChoice, Process, Stack};
use nix::sys::signal::Signal;
use tokio_postgres::NoTls;

use super::fill::fill;
use super::plain::superuser;
use super::{Kind, Links, Site, System};
use crate::machine::said;
use crate::meter::Database;
use crate::worker::Door;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// pgpool-II sends the name of the database on to every server: both must have the same.
const DATABASE: &str = "bench";

const SCHEMA: &str = include_str!("../../../schema.sql");

/// Starts it, where it is installed.
pub async fn build(site: &Site) -> Result<System> {
    let program = ["/usr/sbin/pgpool", "/usr/bin/pgpool", "/usr/local/bin/pgpool"]
        .iter()
        .map(PathBuf::from)
        .find(|program| program.is_file())
        .context("not installed")?;
    let stack = Stack::start(site.options()).await?;
    let (mut links, mut backends, mut databases) = (Links::default(), Vec::new(), Vec::new());
    for (name, side) in stack.record().sides {
        superuser(&stack, &name, "postgres")
            .await?
            .batch_execute(&format!(
                "CREATE DATABASE {DATABASE} OWNER {OWNER} TEMPLATE template0"
            ))
            .await?;
        let process = side.process.context("a database does not run")?;
        site.check_server(process)?;
        let dsn = side.dsn.replace(&side.database, DATABASE);
        let database = Database::connect(&format!("server {name}"), process, &dsn).await?;
        database.client().batch_execute(SCHEMA).await?;
        fill(database.client()).await?;
        databases.push(database);
        backends.push(links.to(site, side.port).await?);
    }

    let (dir, sockets) = (site.dir("pgpool")?, socket_dir(site)?);
    let port = PortChoice::Any.choose("pgpool-II", "", &[])?.number;
    let pcp = PortChoice::Any.choose("pgpool-II", "", &[port])?.number;
    let password = stack.side_configs()[0].password.expose().to_owned();
    write(
        &dir.join("pgpool.conf"),
        &configuration(&dir, &sockets, port, pcp, &backends),
    )?;
    write(
        &dir.join("pool_hba.conf"),
        "host all all 127.0.0.1/32 scram-sha-256\n",
    )?;
    write(&dir.join("pool_passwd"), &format!("{OWNER}:TEXT{password}\n"))?;
    write(&dir.join("pcp.conf"), "")?;
    let process = Process::spawn(&launch(&program, &dir))?;
    let dsn = format!("postgresql://{OWNER}:{password}@127.0.0.1:{port}/{DATABASE}");
    until_ready(&process, &dsn).await.with_context(|| {
        let log = fs::read_to_string(dir.join("postgres.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(6)..].join(" / ")
    })?;

    let mut system = System::new(Kind::Pgpool, stack, databases, vec![Door::Plain { dsn }]);
    system.links = links;
    system.between.push(process.id());
    system.children.push(process);
    Ok(system)
}

/// Which version is installed.
pub fn version() -> Option<String> {
    said("/usr/sbin/pgpool", &["--version"])
}

fn socket_dir(site: &Site) -> Result<PathBuf> {
    let dir = site.sockets.join(format!("pgpool-{:?}", site.condition));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn configuration(dir: &Path, sockets: &Path, port: u16, pcp: u16, backends: &[u16]) -> String {
    let (dir, sockets) = (dir.display(), sockets.display());
    let mut text = format!(
        "backend_clustering_mode = 'native_replication'\n\
         listen_addresses = '127.0.0.1'\nport = {port}\nsocket_dir = '{sockets}'\n\
         pcp_listen_addresses = '127.0.0.1'\npcp_port = {pcp}\npcp_socket_dir = '{sockets}'\n\
         wd_ipc_socket_dir = '{sockets}'\nuse_watchdog = off\n\
         pid_file_name = '{dir}/pgpool.pid'\nlogdir = '{dir}'\nlog_destination = 'stderr'\n\
         enable_pool_hba = on\npool_passwd = 'pool_passwd'\n\
         num_init_children = 140\nmax_pool = 1\nreserved_connections = 0\nchild_life_time = 0\n\
         load_balance_mode = off\nreplicate_select = off\ninsert_lock = on\n\
         sr_check_period = 0\nhealth_check_period = 0\nmemory_cache_enabled = off\n"
    );
    for (number, port) in backends.iter().enumerate() {
        text.push_str(&format!(
            "backend_hostname{number} = '127.0.0.1'\nbackend_port{number} = {port}\nbackend_weight{number} = 1\n\
             backend_flag{number} = 'ALLOW_TO_FAILOVER'\n"
        ));
    }
    text
}

/// Some of these hold passwords.
fn write(file: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(text.as_bytes())?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn launch(program: &Path, dir: &Path) -> Launch {
    let file = |name: &str| dir.join(name).into_os_string();
    Launch {
        name: "pgpool-II".into(),
        program: program.to_path_buf(),
        args: vec![
            "-n".into(),
            "-f".into(),
            file("pgpool.conf"),
            "-a".into(),
            file("pool_hba.conf"),
            "-F".into(),
            file("pcp.conf"),
        ],
        env: Vec::new(),
        dir: dir.to_path_buf(),
        account: Account::Ours,
        log: dir.join("postgres.log"),
        when_we_die: Signal::SIGINT,
    }
}

async fn until_ready(process: &Process, dsn: &str) -> Result<()> {
    let mut patience = Patience::new(START_DEADLINE);
    loop {
        let error = match tokio_postgres::connect(dsn, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                match client.batch_execute("SELECT 1").await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if !process.id().is_alive() || !patience.pause().await {
            bail!("pgpool-II does not serve: {error}");
        }
    }
}
