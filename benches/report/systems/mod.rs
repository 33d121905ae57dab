//! What is measured: a database, or several, with one or two instances of an application in front.

mod fill;
mod pgpool;
mod plain;
mod site;
mod twins;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use kambana::local::{Process, ProcessId, Stack};
use kambana::multipool::SideId;
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio_postgres::Client;

use crate::crew::Worker;
use crate::equal::{self, Inserted, Verdict};
use crate::meter::{Database, cpu_of_family, memory_mb};
use crate::results::Whose;
use crate::work::Work;
use crate::worker::{Answer, Door, Order};

pub use fill::fill;
pub use pgpool::version as pgpool_version;
pub use plain::superuser;
pub use site::{Condition, Links, Site, slow_fsync};

pub use twins::WATCHED;

/// For a child to end when it is told to.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// The systems, in the order of the report. A cell of every system is measured before the next work is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
pub enum Kind {
    /// One PostgreSQL.
    Single,
    /// Two, and one instance with a `MultiPool`.
    One,
    /// Two, and two instances.
    Two,
    /// A primary and a synchronous standby.
    Standby,
    /// Two behind pgpool-II.
    Pgpool,
}

impl Kind {
    /// Whether its instances have a `MultiPool`.
    pub fn is_pool(self) -> bool {
        matches!(self, Kind::One | Kind::Two)
    }

    /// Whose mistakes its mistakes are.
    pub fn whose(self) -> Whose {
        match self {
            Kind::Single | Kind::One | Kind::Two => Whose::Ours,
            Kind::Standby | Kind::Pgpool => Whose::Competitor,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Single => "single",
            Kind::One => "twins, one instance",
            Kind::Two => "twins, two instances",
            Kind::Standby => "synchronous standby",
            Kind::Pgpool => "pgpool-II",
        })
    }
}

/// A running system. Dropping it kills everything.
pub struct System {
    /// Which one.
    pub kind: Kind,
    /// Its copies.
    pub databases: Vec<Database>,
    workers: Vec<Worker>,
    doors: Vec<Door>,
    /// Whatever runs between the application and the databases.
    between: Vec<ProcessId>,
    inserted: Inserted,
    // Dropped last, when nobody is connected any more.
    children: Vec<Process>,
    links: Links,
    stack: Stack,
}

/// One cell as it was measured.
pub struct Measured {
    /// What the clients say.
    pub answer: Answer,
    /// Processor seconds of the application and what is between, and of the databases.
    pub cpu_s: [f64; 2],
    /// Bytes of log on all copies.
    pub log_bytes: i64,
}

/// Starts a system with its workers; `Err` says why it is not here.
pub async fn build(kind: Kind, site: &Site) -> Result<System> {
    let mut system = match kind {
        Kind::Single => plain::single(site).await?,
        Kind::One => twins::build(site, 1).await?,
        Kind::Two => twins::build(site, 2).await?,
        Kind::Standby => plain::standby(site).await?,
        Kind::Pgpool => pgpool::build(site).await?,
    };
    system.checkpoint().await?;
    system.start_workers().await?;
    Ok(system)
}

impl System {
    fn new(kind: Kind, stack: Stack, databases: Vec<Database>, doors: Vec<Door>) -> System {
        System {
            kind,
            databases,
            workers: Vec::new(),
            doors,
            between: Vec::new(),
            inserted: Inserted::default(),
            children: Vec::new(),
            links: Links::default(),
            stack,
        }
    }

    /// The first change of a page after a checkpoint costs a whole page of log: all systems begin alike.
    async fn checkpoint(&self) -> Result<()> {
        for (_, client) in self.superusers().await? {
            client.batch_execute("CHECKPOINT").await?;
        }
        Ok(())
    }

    /// A superuser's session on every server, outside the measured database.
    pub async fn superusers(&self) -> Result<Vec<(String, Client)>> {
        let mut found = Vec::new();
        for side in self.stack.record().sides.into_keys() {
            let client = superuser(&self.stack, &side, "postgres").await?;
            found.push((side, client));
        }
        Ok(found)
    }

    /// Starts the instances, all at once: each waits for the others.
    pub async fn start_workers(&mut self) -> Result<()> {
        for door in &self.doors {
            self.workers.push(Worker::spawn(door).await?);
        }
        for worker in &mut self.workers {
            worker.ready().await?;
        }
        Ok(())
    }

    /// Ends the instances in order.
    pub async fn stop_workers(&mut self) -> Result<()> {
        for worker in self.workers.drain(..) {
            worker.stop().await?;
        }
        Ok(())
    }

    /// Resident memory of an instance in MB: now, and at most so far.
    pub fn memory_mb(&self) -> Option<(f64, f64)> {
        memory_mb(self.workers.first()?.id())
    }

    /// Measures one cell; the clients are spread over the instances.
    pub async fn measure(
        &mut self,
        work: Work,
        clients: usize,
        cell: Duration,
        seed: u64,
    ) -> Result<Measured> {
        let mut order = Order {
            work,
            clients,
            ms: 0,
            seed,
        };
        self.run(&order).await?;
        order.ms = cell.as_millis() as u64;
        let (cpu, log) = (self.cpu_s(), self.log_position().await?);
        let answer = self.run(&order).await?;
        let (cpu_after, log_after) = (self.cpu_s(), self.log_position().await?);
        if work.plain() == Work::Insert {
            self.inserted.acknowledged += answer.acknowledged;
            self.inserted.doubtful += answer.failed;
        }
        Ok(Measured {
            answer,
            cpu_s: [cpu_after[0] - cpu[0], cpu_after[1] - cpu[1]],
            log_bytes: log_after - log,
        })
    }

    async fn run(&mut self, whole: &Order) -> Result<Answer> {
        let instances = self.workers.len();
        let mut busy = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let mut order = whole.clone();
            order.clients = (whole.clients + instances - 1 - number) / instances;
            // Far from the seeds of the other instances' clients.
            order.seed += number as u64 * 1000;
            if order.clients > 0 {
                worker.order(&order).await?;
                busy.push(worker);
            }
        }
        let mut answer = Answer::default();
        for worker in busy {
            answer.add(worker.answer(Duration::from_millis(whole.ms)).await?);
        }
        Ok(answer)
    }

    fn cpu_s(&self) -> [f64; 2] {
        let workers = self.workers.iter().map(Worker::id);
        let application = workers.chain(self.between.iter().copied()).map(cpu_of_family);
        let databases = self.databases.iter().map(|db| cpu_of_family(db.process));
        [application.sum(), databases.sum()]
    }

    async fn log_position(&self) -> Result<i64> {
        let mut sum = 0;
        for database in &self.databases {
            sum += database.log_position().await?;
        }
        Ok(sum)
    }

    /// Flushes of the log on all copies so far, where the servers count them.
    pub async fn flushes(&self) -> Result<Option<i64>> {
        let mut sum = Some(0);
        for database in &self.databases {
            let flushes = database.flushes().await?;
            sum = sum.zip(flushes).map(|(sum, flushes)| sum + flushes);
        }
        Ok(sum)
    }

    /// Whether the copies are equal now.
    pub async fn verdict(&self) -> Result<Verdict> {
        equal::verdict(&self.databases, self.inserted).await
    }

    /// Stops everything in order.
    pub async fn stop(mut self) -> Result<()> {
        self.stop_workers().await?;
        for mut child in self.children.drain(..) {
            child.signal(Signal::SIGINT);
            if child.wait(STOP_DEADLINE).await.is_none() {
                child.crash().await?;
            }
        }
        Ok(self.stack.stop().await?)
    }
}

/// A side by its letter.
pub fn side(letter: &str) -> Result<SideId> {
    letter.parse().map_err(anyhow::Error::msg)
}

/// The databases of a stack.
pub async fn databases(site: &Site, stack: &Stack) -> Result<Vec<Database>> {
    let mut databases = Vec::new();
    for (name, side) in stack.record().sides {
        let process = side
            .process
            .ok_or_else(|| anyhow::anyhow!("side {name} does not run"))?;
        site.check_server(process)?;
        databases.push(Database::connect(&format!("side {name}"), process, &side.dsn).await?);
    }
    Ok(databases)
}

/// Whether a path is in memory, where a flush costs nothing.
pub fn is_in_memory(dir: &Path) -> bool {
    filesystem(dir).is_some_and(|kind| kind == "tmpfs" || kind == "ramfs")
}

/// Kind of the file system that holds `dir`.
pub fn filesystem(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let here = mounts.filter(|(point, _)| dir.starts_with(point));
    here.max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
}
