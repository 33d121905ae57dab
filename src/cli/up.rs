//! `kambana up`: everything on one machine, in the foreground.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, Verdict, data_dir, say, shell_word};
use crate::local::{LocalError, PortChoice, ProxyPorts, Stack, StackOptions, control, record::Record};

/// How often children are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Run everything on this machine: two or three databases, two instances, HAProxy
///
/// Makes two private PostgreSQL clusters under the data directory (or goes on with those of an earlier run), installs
/// what the application needs, starts two instances and HAProxy in front of them, and stays in the foreground. Ctrl-C
/// stops everything in order; the data is kept. Nothing else on the machine is touched: a PostgreSQL that runs already
/// is left alone, PostgreSQL never runs as root, and everything listens on this machine only.
///
/// What is crashed or killed is not restarted by itself: see `kambana local`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kambana up
  kambana up --port 8080 --data /srv/kambana
  kambana up --port 0 --web 0,0 --pg 0,0 --data /tmp/second     (any free ports: a second one beside the first)
  kambana up --pg 5432,54322,54323 --data var3                  (three databases: any two may be lost in turn)

Files in the data directory:
  up.json      processes, ports, connection strings (mode 600: holds the password)
  pgpass       for PGPASSFILE
  a, b, c      the databases and their logs
  web1, web2   logs of the instances

Exit codes:
  0  stopped by Ctrl-C or SIGTERM
  2  something could not be started; nothing is left running")]
pub struct UpArgs {
    /// Data directory; made if it is not there [default: var]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Port of the pages [default: 80 if we may, else 8080]
    #[arg(long, value_name = "N")]
    port: Option<PortChoice>,
    /// Address of the pages; `*` for every network of this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    address: String,
    /// Ports of the instances [default: 8001,8002, or the next free ones]
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    web: Vec<PortChoice>,
    /// Ports of the databases, two or three [default: 5432,54322, or the next free ones; as many as there were]
    #[arg(long, value_name = "N,N[,N]", value_delimiter = ',')]
    pg: Vec<PortChoice>,
    /// HAProxy's port for PostgreSQL clients [default: 5433, or the next free one]
    #[arg(long, value_name = "N")]
    pg_front: Option<PortChoice>,
    /// Port of HAProxy's statistics page [default: 8404, or the next free one]
    #[arg(long, value_name = "N")]
    stats: Option<PortChoice>,
}

pub async fn run(args: UpArgs) -> Result<Verdict, Failure> {
    // From the first moment on, so that an early Ctrl-C leaves nothing behind either.
    let mut signals = Signals::new()?;
    let dir = data_dir(args.data.clone());
    let (options, note) = options(args, &dir)?;
    let stack = Arc::new(Stack::open(options).await?);
    for note in note.iter().chain(stack.notes()) {
        say(format!("  note: {note}"));
    }
    let started = tokio::select! {
        started = start(&stack) => started,
        () = signals.next() => Err(Failure("stopped before everything had started".into())),
    };
    let result = match started {
        Ok(()) => stay(&stack, &dir, &mut signals).await,
        Err(failure) => Err(failure),
    };
    stop(&stack, &mut signals).await?;
    result?;
    say(format!(
        "Stopped. The data is kept in {}.",
        stack.place().dir.display()
    ));
    Ok(Verdict::Fine)
}

fn options(args: UpArgs, dir: &Path) -> Result<(StackOptions, Option<String>), Failure> {
    let (http, note) = match args.port {
        Some(port) => (port, None),
        None => pages_port(),
    };
    let preferably = |wanted: Option<PortChoice>, usual| wanted.unwrap_or(PortChoice::Preferably(usual));
    let options = StackOptions {
        links: false,
        dir: dir.to_path_buf(),
        pg: databases(args.pg, dir.join("c").is_dir())?,
        web: pair("--web", args.web, [8001, 8002])?,
        program: Some(std::env::current_exe()?),
        haproxy: Some(ProxyPorts {
            address: args.address,
            http,
            postgres: preferably(args.pg_front, 5433),
            stats: preferably(args.stats, 8404),
        }),
        template_cache: None,
        durable: true,
        extra_env: Vec::new(),
        server_env: Vec::new(),
        server_settings: Vec::new(),
        instance_env: Vec::new(),
    };
    Ok((options, note))
}

/// `third`: the directory holds a third database from an earlier run.
fn databases(asked: Vec<PortChoice>, third: bool) -> Result<Vec<PortChoice>, Failure> {
    let usual = [5432, 54322, 54323].map(PortChoice::Preferably);
    match (asked.len(), third) {
        (0, false) => Ok(usual[..2].into()),
        (0, true) => Ok(usual.into()),
        (2 | 3, _) => Ok(asked),
        (n, _) => Err(Failure(format!(
            "--pg takes two or three ports, for example --pg 5432,54322; {n} given"
        ))),
    }
}

fn pair(flag: &str, asked: Vec<PortChoice>, usual: [u16; 2]) -> Result<Vec<PortChoice>, Failure> {
    match asked.len() {
        0 => Ok(usual.map(PortChoice::Preferably).into()),
        2 => Ok(asked),
        n => Err(Failure(format!(
            "{flag} takes two ports, for example {flag} {},{}; {n} given",
            usual[0], usual[1]
        ))),
    }
}

/// 80 needs a privilege on most systems; only trying tells.
fn pages_port() -> (PortChoice, Option<String>) {
    match TcpListener::bind(("127.0.0.1", 80)) {
        Ok(_) => (PortChoice::Exactly(80), None),
        Err(e) => {
            let note = format!("port 80 may not be used ({e}): the pages are on 8080 or the next free port");
            (PortChoice::Preferably(8080), Some(note))
        }
    }
}

async fn start(stack: &Stack) -> Result<(), Failure> {
    let ready = format!("databases {} are ready", names(stack));
    step(&ready, stack.start_sides()).await?;
    let begun = Instant::now();
    match stack.prepare_databases().await? {
        true => done("tables and the pool's objects are installed", begun),
        false => done("the data of an earlier run is used", begun),
    }
    step("instances web1 and web2 are ready", stack.start_instances()).await?;
    step("HAProxy is ready", stack.start_haproxy()).await
}

/// `a and b`, `a, b and c`.
fn names(stack: &Stack) -> String {
    let record = stack.record();
    let mut names: Vec<&str> = record.sides.keys().map(String::as_str).collect();
    let last = names.pop().unwrap_or_default();
    format!("{} and {last}", names.join(", "))
}

async fn step(what: &str, work: impl Future<Output = Result<(), LocalError>>) -> Result<(), Failure> {
    let begun = Instant::now();
    work.await?;
    done(what, begun);
    Ok(())
}

fn done(what: &str, begun: Instant) {
    say(format!("  {what:<45} {:>5.1} s", begun.elapsed().as_secs_f64()));
}

/// Until a signal: carries out the commands of `kambana local`, and says what ends by itself.
async fn stay(stack: &Arc<Stack>, dir: &Path, signals: &mut Signals) -> Result<Verdict, Failure> {
    let listener = control::listen(&stack.place().control_socket())?;
    let commands = tokio::spawn(control::serve(listener, stack.clone(), tell));
    let kambana = command_prefix(dir);
    welcome(&stack.record(), &kambana);
    let mut interval = tokio::time::interval(WATCH_INTERVAL);
    loop {
        tokio::select! {
            () = signals.next() => break,
            _ = interval.tick() => {
                for (target, how) in stack.newly_ended() {
                    let back = kambana("start", &target.to_string());
                    tell(&format!("{target} ended ({how}); `{back}` brings it back"));
                }
            }
        }
    }
    commands.abort();
    Ok(Verdict::Fine)
}

/// In order; a second signal kills what is left.
async fn stop(stack: &Stack, signals: &mut Signals) -> Result<(), Failure> {
    say("Stopping; Ctrl-C again stops at once.");
    tokio::select! {
        stopped = stack.stop() => Ok(stopped?),
        () = signals.next() => {
            stack.kill().await?;
            Err(Failure("stopped at once; the databases recover when they start again".into()))
        }
    }
}

fn welcome(record: &Record, kambana: &impl Fn(&str, &str) -> String) {
    say("");
    let line = |what: &str, text: &str| say(format!("  {what:<16}{text}"));
    if let Some(haproxy) = &record.haproxy {
        line("Pages", &haproxy.url);
        let instances: Vec<&str> = record.instances.values().map(|i| i.url.as_str()).collect();
        line("Instances", &instances.join("   "));
        line("HAProxy", &haproxy.stats_url);
    }
    for (name, side) in &record.sides {
        let psql = format!(
            "PGPASSFILE={} psql -h {} -p {} -U {} -d {}",
            shell_word(&record.pgpass.to_string_lossy()),
            side.host,
            side.port,
            side.user,
            side.database
        );
        line(&format!("Side {name}"), &psql);
    }
    say("\nIn another terminal:");
    let hints = [
        ("crash", "b", "side b dies; go on editing"),
        ("start", "b", "it returns and catches up"),
        ("freeze", "a", "side a stands still; `thaw` lets it go on"),
    ];
    let hints = hints.map(|(action, target, what)| (kambana(action, target), what));
    let width = hints.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    for (command, what) in hints {
        say(format!("  {command:width$}   {what}"));
    }
    say("\nCtrl-C stops everything; the data is kept.\n");
}

/// How this program was called, with what finds this data directory again.
fn command_prefix(dir: &Path) -> impl Fn(&str, &str) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "kambana".into());
    let data = match dir == data_dir(None) {
        true => String::new(),
        false => format!(" --data {}", shell_word(&dir.to_string_lossy())),
    };
    let program = shell_word(&program);
    move |action, target| format!("{program} local {action} {target}{data}")
}

/// Says what happened, and when.
fn tell(what: &str) {
    say(format!("{}  {what}", jiff::Zoned::now().strftime("%H:%M:%S")));
}

/// Ctrl-C, SIGTERM, and a terminal that is closed.
pub(super) struct Signals([Signal; 3]);

impl Signals {
    pub(super) fn new() -> Result<Signals, Failure> {
        Ok(Signals([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    pub(super) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_or_three_databases() {
        let ports = |n| vec![PortChoice::Any; n];
        assert_eq!(databases(ports(0), false).unwrap().len(), 2);
        assert_eq!(databases(ports(3), false).unwrap().len(), 3);
        assert_eq!(databases(ports(0), true).unwrap().len(), 3, "as it was");
        for n in [1, 4] {
            assert!(databases(ports(n), false).is_err(), "{n}");
        }
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_word("/srv/a-b.c"), "/srv/a-b.c");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
        assert_eq!(shell_word(""), "''");
    }
}
