//! What stands behind a port: the web application, the minimal program, or PHP, each behind HAProxy.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kambana::local::{
    Account, Action, Behind, Haproxy, HaproxyConfig, Launch, Port, PortChoice, Process, ProcessId, Programs,
    Stack, Target,
};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

use crate::equal::{self, Inserted, Verdict};
use crate::meter::{Database, cpu_of_family};
use crate::systems::{Site, databases, fill, side};

const SCHEMA: &str = include_str!("../../../schema.sql");

/// One of them. Dropping it kills everything.
pub struct Front {
    /// Where clients connect on 127.0.0.1.
    pub port: u16,
    /// Acknowledged writes.
    pub inserted: Inserted,
    /// HAProxy and the programs behind it.
    pub processes: Vec<ProcessId>,
    /// Its copies.
    pub databases: Vec<Database>,
    /// Children that the stack does not know.
    pub children: Vec<Process>,
    haproxy: Option<Haproxy>,
    /// Its databases, and for the web application everything else.
    pub stack: Stack,
}

impl Front {
    /// Processor seconds: programs, databases.
    pub fn cpu_s(&self) -> [f64; 2] {
        let databases = self.databases.iter().map(|db| cpu_of_family(db.process));
        [
            self.processes.iter().copied().map(cpu_of_family).sum(),
            databases.sum(),
        ]
    }

    /// Whether the copies are equal.
    pub async fn verdict(&self) -> Result<Verdict> {
        equal::verdict(&self.databases, self.inserted).await
    }

    /// Stops everything.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(mut haproxy) = self.haproxy.take() {
            haproxy.stop().await?;
        }
        for child in &mut self.children {
            child.crash().await?;
        }
        Ok(self.stack.stop().await?)
    }
}

/// Two instances of the web application on two databases.
pub async fn web(site: &Site) -> Result<Front> {
    let program = Path::new(env!("CARGO_BIN_EXE_kambana"));
    // More patience, as the pools of the other cells have: a busy machine makes figures bad, and nothing else.
    let options = site
        .options()
        .with_instances(program)
        .with_haproxy()
        .with_setting("PROBE_DEADLINE_MS", "10000")
        .with_setting("OP_DEADLINE_MS", "30000");
    let stack = Stack::open(options).await?;
    stack.start_sides().await?;
    let databases = databases(site, &stack).await?;
    for database in &databases {
        database.client().batch_execute(SCHEMA).await?;
        fill(database.client()).await?;
    }
    stack.prepare_databases().await?;
    stack.start_instances().await?;
    stack.start_haproxy().await?;
    let record = stack.record();
    let haproxy = record.haproxy.as_ref().and_then(|haproxy| haproxy.process);
    let instances = record.instances.values().filter_map(|instance| instance.process);
    Ok(Front {
        port: port_of(&stack.url())?,
        inserted: Inserted::default(),
        processes: haproxy.into_iter().chain(instances).collect(),
        databases,
        children: Vec::new(),
        haproxy: None,
        stack,
    })
}

/// How long an instance takes from its start until it says that it is ready.
pub async fn ready_again(stack: &Stack) -> Result<Duration> {
    let instance = Target::Web(0);
    stack.act(Action::Stop, instance).await?;
    let began = Instant::now();
    stack.act(Action::Start, instance).await?;
    Ok(began.elapsed())
}

fn port_of(url: &str) -> Result<u16> {
    let (_, port) = url.rsplit_once(':').context("no port")?;
    Ok(port.parse()?)
}

/// The minimal program, twice, behind the same HAProxy.
pub async fn minimal(site: &Site) -> Result<Front> {
    let (stack, databases) = single(site).await?;
    let dsn = stack.dsn(side("a")?);
    let dir = site.dir("minimal")?;
    let mut taken = Vec::new();
    let mut choose = || -> Result<Port> {
        let port = PortChoice::Any.choose("the minimal program", "", &taken)?;
        taken.push(port.number);
        Ok(port)
    };
    let (mut children, mut ports) = (Vec::new(), Vec::new());
    for number in 1..=2 {
        let port = choose()?.number;
        children.push(Process::spawn(&Launch {
            name: format!("minimal{number}"),
            program: std::env::current_exe()?,
            args: vec!["minimal".into()],
            env: vec![("DSN".into(), dsn.clone()), ("PORT".into(), port.to_string())],
            dir: dir.clone(),
            account: Account::Ours,
            log: dir.join(format!("minimal{number}.log")),
            when_we_die: Signal::SIGKILL,
        })?);
        ports.push(port);
    }
    let mut haproxy = Haproxy::new(HaproxyConfig {
        program: Programs::find()?.haproxy()?,
        dir: dir.clone(),
        address: "127.0.0.1".into(),
        http: choose()?,
        postgres: choose()?,
        stats: choose()?,
        admin_socket: socket(site, "minimal"),
    });
    let database = stack.side_configs()[0].port;
    haproxy
        .start(&Behind {
            web: [ports[0], ports[1]],
            sides: vec![database; 2],
        })
        .await?;
    let mut processes: Vec<ProcessId> = children.iter().map(Process::id).collect();
    processes.extend(haproxy.service().process());
    Ok(Front {
        port: port_of(&haproxy.url())?,
        inserted: Inserted::default(),
        processes,
        databases,
        children,
        haproxy: Some(haproxy),
        stack,
    })
}

/// One database with the usual rows.
pub async fn single(site: &Site) -> Result<(Stack, Vec<Database>)> {
    let mut options = site.options();
    options.pg = vec![PortChoice::Any];
    let stack = Stack::start(options).await?;
    let databases = databases(site, &stack).await?;
    fill(databases[0].client()).await?;
    Ok((stack, databases))
}

/// A front whose children are not known to its stack.
pub fn of_children(port: u16, stack: Stack, databases: Vec<Database>, children: Vec<Process>) -> Front {
    Front {
        port,
        inserted: Inserted::default(),
        processes: children.iter().map(Process::id).collect(),
        databases,
        children,
        haproxy: None,
        stack,
    }
}

/// A short path for a Unix socket.
pub fn socket(site: &Site, name: &str) -> PathBuf {
    site.sockets.join(format!("{name}.sock"))
}
