//! Everything together: databases, instances, proxy, in one data directory.

mod databases;
mod faults;
mod ledger;
mod links;
mod options;

use std::fs;
use std::path::Path;
use std::sync::Mutex as StdMutex;

use futures::future::try_join_all;
use tokio::sync::{Mutex, MutexGuard};

use super::record::Record;
use super::{
    Account, Behind, Cluster, ClusterConfig, Haproxy, HaproxyConfig, Instance, InstanceConfig, Link,
    LocalError, Place, Port, PortChoice, Programs, Secrets, Target, Wiring,
};
use crate::multipool::{PerSide, SideId};

pub use options::{ProxyPorts, StackOptions};

/// Databases, instances and proxy. Each has a lock of its own: several may be started or broken at the same time.
/// Dropping it kills everything.
#[derive(Debug)]
pub struct Stack {
    // Dropped in this order; last the lock on the directory, when nothing runs in it any more.
    haproxy: Option<Mutex<Haproxy>>,
    instances: Vec<Mutex<Instance>>,
    sides: PerSide<Mutex<Cluster>>,
    links: Vec<PerSide<Link>>,
    record: StdMutex<Record>,
    notes: Vec<String>,
    has_program: bool,
    place: Place,
}

impl Stack {
    /// Takes the directory, ends what an earlier run left behind in it, finds programs and ports. Starts nothing.
    ///
    /// # Errors
    /// The directory is in use, a program is missing, a port is busy.
    pub async fn open(options: StackOptions) -> Result<Stack, LocalError> {
        let programs = Programs::find()?;
        let haproxy_program = match &options.haproxy {
            Some(ports) => Some((programs.haproxy()?, ports)),
            None => None,
        };
        let account = Account::for_postgres()?;
        let place = Place::open(&options.dir, &account)?;
        end_leftovers(&place.dir).await?;
        if let Some(more) = SideId::from_index(options.pg.len())
            && place.clusters.join(more.to_string()).is_dir()
        {
            return Err(LocalError::State(format!(
                "{} holds a database of side {more} too: give --pg a port for it",
                place.clusters.display()
            )));
        }

        let mut ports = Ports::default();
        let mut pg = Vec::new();
        for (index, choice) in options.pg.iter().enumerate() {
            let side = SideId::from_index(index)
                .ok_or_else(|| LocalError::State("more sides than a pool can have".into()))?;
            pg.push(ports.choose(*choice, &format!("the database of side {side}"), "--pg")?);
        }
        let mut web = Vec::new();
        for (index, choice) in options.web.iter().enumerate() {
            web.push(ports.choose(*choice, &format!("instance {}", Target::Web(index)), "--web")?);
        }
        let haproxy = match haproxy_program {
            None => None,
            Some((program, wanted)) => Some(Mutex::new(Haproxy::new(HaproxyConfig {
                program,
                dir: place.dir.clone(),
                address: wanted.address.clone(),
                http: ports.choose(wanted.http, "the web console", "--port")?,
                postgres: ports.choose(wanted.postgres, "HAProxy's PostgreSQL front", "--pg-front")?,
                stats: ports.choose(wanted.stats, "HAProxy's statistics", "--stats")?,
                admin_socket: place.haproxy_socket(),
            }))),
        };

        let secrets = Secrets::load_or_create(&place.dir.join("secrets.json"))?;
        let sides = PerSide::new(pg.len(), |side| {
            Mutex::new(Cluster::new(ClusterConfig {
                side,
                dir: place.clusters.join(side.to_string()),
                template_cache: options.template_cache.clone().unwrap_or(place.clusters.clone()),
                socket_dir: place.postgres_sockets.clone(),
                account: account.clone(),
                postgres: programs.postgres.clone(),
                port: pg[side.index()].clone(),
                password: secrets.database_password.clone(),
                durable: options.durable,
                extra_env: options.server_env.clone(),
                extra_settings: options.server_settings.clone(),
            }))
        });
        let program = match (&options.program, web.is_empty()) {
            (None, false) => return Err(LocalError::State("instances need the kambana program".into())),
            (program, _) => program.clone().unwrap_or_default(),
        };
        let instance = |(index, port): (usize, Port)| {
            let name = Target::Web(index).to_string();
            Mutex::new(Instance::new(InstanceConfig {
                dir: place.dir.join(&name),
                name,
                program: program.clone(),
                port,
                session_secret: secrets.session_secret.clone(),
                extra_env: options.env_of(index),
            }))
        };
        let links = match options.links {
            true => links::open(web.len(), &pg).await?,
            false => Vec::new(),
        };
        let mut stack = Stack {
            haproxy,
            links,
            instances: web.into_iter().enumerate().map(instance).collect(),
            sides,
            record: StdMutex::default(),
            notes: place.note.iter().cloned().chain(ports.notes).collect(),
            has_program: options.program.is_some(),
            place,
        };
        stack.open_record()?;
        Ok(stack)
    }

    /// Opens and starts everything, with the application's tables and the pool's objects on unused databases.
    ///
    /// # Errors
    /// Something did not become ready; nothing is running then.
    pub async fn start(options: StackOptions) -> Result<Stack, LocalError> {
        let stack = Stack::open(options).await?;
        stack.start_sides().await?;
        stack.prepare_databases().await?;
        stack.start_instances().await?;
        stack.start_haproxy().await?;
        Ok(stack)
    }

    /// Sentences about what is not where it is expected.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where everything is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A side's cluster, for what [`Stack::act`] does not offer.
    pub async fn side(&self, side: SideId) -> MutexGuard<'_, Cluster> {
        self.sides[side].lock().await
    }

    /// Starts every database, all at once.
    ///
    /// # Errors
    /// One did not become ready.
    pub async fn start_sides(&self) -> Result<(), LocalError> {
        try_join_all(self.sides.ids().map(|side| self.start_side(side))).await?;
        Ok(())
    }

    /// Starts every instance, all at once.
    ///
    /// # Errors
    /// One did not become ready.
    pub async fn start_instances(&self) -> Result<(), LocalError> {
        let before = self.wiring(usize::MAX).peers;
        try_join_all((0..self.instances.len()).map(|index| self.start_instance(index))).await?;
        if self.wiring(usize::MAX).peers != before {
            // A port was taken at the last moment and moved: tell the peers.
            for index in 0..self.instances.len() {
                self.instances[index].lock().await.stop().await?;
                self.start_instance(index).await?;
            }
        }
        Ok(())
    }

    /// Starts the proxy, if there is one.
    ///
    /// # Errors
    /// It did not become ready, or there are not two or three databases and two instances.
    pub async fn start_haproxy(&self) -> Result<(), LocalError> {
        let Some(haproxy) = &self.haproxy else {
            return Ok(());
        };
        let mut haproxy = haproxy.lock().await;
        let started = match self.behind() {
            Some(behind) => haproxy.start(&behind).await,
            None => Err(LocalError::State(
                "HAProxy's configuration is made for two or three databases and two instances".into(),
            )),
        };
        self.note_haproxy(&mut haproxy)?;
        started
    }

    /// Stops everything in order: proxy, instances, databases. `up.json` is deleted: nothing runs any more.
    ///
    /// # Errors
    /// Something is stuck.
    pub async fn stop(&self) -> Result<(), LocalError> {
        if let Some(haproxy) = &self.haproxy {
            haproxy.lock().await.stop().await?;
        }
        let instances = self.instances.iter();
        try_join_all(instances.map(async |instance| instance.lock().await.stop().await)).await?;
        let sides = self.sides.iter();
        try_join_all(sides.map(async |(_, side)| side.lock().await.stop().await)).await?;
        let _ = fs::remove_file(self.place.record());
        Ok(())
    }

    /// Kills everything at once, whatever is being done to it at the moment.
    ///
    /// # Errors
    /// Something is stuck.
    pub async fn kill(&self) -> Result<(), LocalError> {
        for process in self.record().processes() {
            process.end_family().await?;
        }
        Ok(())
    }

    async fn start_side(&self, side: SideId) -> Result<(), LocalError> {
        let mut cluster = self.sides[side].lock().await;
        let started = cluster.start().await;
        self.note_side(&mut cluster, side)?;
        started
    }

    async fn start_instance(&self, index: usize) -> Result<(), LocalError> {
        let wiring = self.wiring(index);
        let mut instance = self.instances[index].lock().await;
        let started = instance.start(&wiring).await;
        self.note_instance(&mut instance, index)?;
        started
    }

    /// What instance `index` is connected to, as things are now.
    fn wiring(&self, index: usize) -> Wiring {
        let name = Target::Web(index.min(99)).to_string();
        let record = self.record();
        let peers = record.instances.iter().filter(|(other, _)| **other != name);
        Wiring {
            sides: self.over_links(index, record.sides.values().map(|side| side.config()).collect()),
            peers: peers.map(|(_, peer)| peer.url.clone()).collect(),
        }
    }

    fn behind(&self) -> Option<Behind> {
        let record = self.record();
        let web: Vec<u16> = record.instances.values().map(|instance| instance.port).collect();
        let sides: Vec<u16> = record.sides.values().map(|side| side.port).collect();
        let sides = (2..=3).contains(&sides.len()).then_some(sides)?;
        Some(Behind {
            web: web.try_into().ok()?,
            sides,
        })
    }
}

/// Chooses ports that differ from each other.
#[derive(Default)]
struct Ports {
    taken: Vec<u16>,
    notes: Vec<String>,
}

impl Ports {
    fn choose(&mut self, choice: PortChoice, what: &str, flag: &str) -> Result<Port, LocalError> {
        let port = choice.choose(what, flag, &self.taken)?;
        self.taken.push(port.number);
        self.notes.extend(port.note.clone());
        Ok(port)
    }
}

/// Ends the processes that an earlier `kambana up` on this directory left behind. The lock on the directory is ours: it
/// is not running any more.
async fn end_leftovers(dir: &Path) -> Result<(), LocalError> {
    let Ok(record) = Record::read(dir) else {
        return Ok(());
    };
    for process in record.processes() {
        if process.is_alive() {
            tracing::warn!(pid = process.pid, "ending what an earlier run left behind");
            process.end_family().await?;
        }
    }
    Ok(())
}
