//! A page with a session in PHP: PHP-FPM behind HAProxy, a persistent PDO connection to one PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kambana::local::{Account, Launch, Patience, PortChoice, Process, Programs};
use nix::sys::signal::Signal;

use super::client::{Client, get};
use super::front::{Front, of_children, single};
use crate::systems::Site;

const SCRIPT: &str = include_str!("session.php");
const START_DEADLINE: Duration = Duration::from_secs(15);

/// What is in the session of [`SESSION_COOKIE`]: as in that of the web application.
const SESSION_SQL: &str = "INSERT INTO php_session (id, data, date_change)
    VALUES ('hasina', convert_to('user|s:6:\"hasina\";', 'UTF8'), '2026-01-01')";
pub const SESSION_COOKIE: &str = "PHPSESSID=hasina";

/// As many as clients that are measured in most cells; more requests wait in HAProxy, not behind an idle connection.
const CHILDREN: usize = 32;

/// Starts it, where it is installed.
pub async fn build(site: &Site) -> Result<Front> {
    let program = fpm().context("PHP-FPM is not installed")?;
    let haproxy = Programs::find()?.haproxy()?;
    let (stack, databases) = single(site).await?;
    for database in &databases {
        database.client().batch_execute(SESSION_SQL).await?;
    }
    let side = stack.side_configs()[0].clone();
    let dir = site.dir("php")?;
    let fpm_port = PortChoice::Any.choose("PHP-FPM", "", &[])?.number;
    let port = PortChoice::Any.choose("HAProxy", "", &[fpm_port])?.number;
    fs::write(dir.join("session.php"), SCRIPT)?;
    fs::write(dir.join("fpm.conf"), fpm_configuration(&dir, fpm_port))?;
    fs::write(
        dir.join("haproxy.cfg"),
        haproxy_configuration(&dir, fpm_port, port),
    )?;
    let launch = |name: &str, program: &Path, args: &[&str]| Launch {
        name: name.into(),
        program: program.to_path_buf(),
        args: args.iter().map(Into::into).collect(),
        env: vec![
            (
                "PDO_DSN".into(),
                format!("pgsql:host=127.0.0.1;port={};dbname={}", side.port, side.database),
            ),
            ("PDO_USER".into(), side.user.clone()),
            ("PDO_PASSWORD".into(), side.password.expose().into()),
        ],
        dir: dir.clone(),
        account: Account::Ours,
        log: dir.join(format!("{name}.log")),
        when_we_die: Signal::SIGKILL,
    };
    // -R: it may run as root in a container; -F: in the foreground.
    let fpm = Process::spawn(&launch("fpm", &program, &["-F", "-R", "-y", "fpm.conf"]))?;
    let proxy = Process::spawn(&launch("haproxy", &haproxy, &["-db", "-f", "haproxy.cfg"]))?;
    until_ready(port).await.with_context(|| {
        let log = fs::read_to_string(dir.join("fpm.log")).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    })?;
    Ok(of_children(port, stack, databases, vec![fpm, proxy]))
}

fn fpm() -> Option<PathBuf> {
    let versions = ["", "8.4", "8.3", "8.2", "8.1"];
    let programs = versions.map(|version| PathBuf::from(format!("/usr/sbin/php-fpm{version}")));
    programs.into_iter().find(|program| program.is_file())
}

fn fpm_configuration(dir: &Path, port: u16) -> String {
    let user = match Account::for_postgres() {
        // Root's processes must say whom they become.
        Ok(Account::Other { .. }) => "user = root\ngroup = root\n",
        _ => "",
    };
    format!(
        "[global]\ndaemonize = no\nerror_log = {}/fpm-error.log\n[www]\n{user}listen = 127.0.0.1:{port}\npm = static\n\
         pm.max_children = {CHILDREN}\nclear_env = no\n",
        dir.display()
    )
}

fn haproxy_configuration(dir: &Path, fpm: u16, port: u16) -> String {
    format!(
        "global\n    maxconn 2000\n    no strict-limits\n\
         defaults\n    mode http\n    timeout connect 2s\n    timeout client 35s\n    timeout server 35s\n\
         frontend http\n    bind 127.0.0.1:{port}\n    default_backend php\n\
         backend php\n    use-fcgi-app php\n    server fpm 127.0.0.1:{fpm} proto fcgi maxconn {CHILDREN}\n\
         fcgi-app php\n    docroot {}\n    index session.php\n    path-info ^(/.+\\.php)(/.*)?$\n",
        dir.display()
    )
}

async fn until_ready(port: u16) -> Result<()> {
    let mut patience = Patience::new(START_DEADLINE);
    loop {
        let asked = async {
            let mut client = Client::connect(port).await?;
            let (status, body) = client.ask(&get("/", Some(SESSION_COOKIE))).await?;
            let page = String::from_utf8_lossy(body);
            Ok::<_, anyhow::Error>((
                status,
                page.contains("hasina</span>") && page.trim_end().ends_with("</html>"),
            ))
        };
        match asked.await {
            Ok((200, true)) => return Ok(()),
            Ok((status, _)) if !patience.pause().await => bail!("it answers {status}"),
            Err(error) if !patience.pause().await => return Err(error),
            _ => {}
        }
    }
}
