//! A `MultiPool`, as a web instance has one.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kambana::config::{PoolConfig, Secret, SideConfig};
use kambana::local::Patience;
use kambana::multipool::{MultiPool, OpId, Peers, RemoteVoter, Value};
use serde::{Deserialize, Serialize};

use super::Order;
use super::clients::Doer;
use super::voter;
use crate::work::{Step, Work};

/// The instances of a cell start at the same moment and wait for each other.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// On a machine that is busy with other work everything is slow; nothing is to break for that reason alone.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
const OP_DEADLINE: Duration = Duration::from_secs(60);

/// One database as the application reaches it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Address {
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: String,
}

impl From<&SideConfig> for Address {
    fn from(side: &SideConfig) -> Address {
        Address {
            port: side.port,
            database: side.database.clone(),
            user: side.user.clone(),
            password: side.password.expose().to_owned(),
        }
    }
}

/// What a pool needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolDoor {
    /// The sides, in order.
    pub sides: Vec<Address>,
    /// Name of this instance.
    pub instance: String,
    /// Where it keeps what it must remember.
    pub dir: PathBuf,
    /// Where instances listen for each other.
    pub sockets: PathBuf,
    /// Names of the other instances.
    pub peers: Vec<String>,
}

impl PoolDoor {
    /// The pool's settings: the usual ones, but more patience.
    pub fn config(&self) -> PoolConfig {
        let sides = self.sides.iter().map(|side| SideConfig {
            host: "127.0.0.1".into(),
            port: side.port,
            database: side.database.clone(),
            user: side.user.clone(),
            password: Secret::new(side.password.clone()),
        });
        let mut config = PoolConfig::new(sides.collect(), &self.instance);
        config.state_dir = self.dir.join(format!("{}.state", self.instance));
        patient(config)
    }

    fn socket(&self, instance: &str) -> PathBuf {
        self.sockets.join(format!("{instance}.sock"))
    }
}

/// The same settings with more patience.
pub fn patient(mut config: PoolConfig) -> PoolConfig {
    (config.probe_deadline, config.op_deadline) = (PROBE_DEADLINE, OP_DEADLINE);
    config
}

/// An open pool.
pub struct Pool(MultiPool);

impl Pool {
    /// Connects and waits until every side is active.
    pub async fn connect(door: PoolDoor) -> Result<Pool> {
        let own: Arc<OnceLock<MultiPool>> = Arc::default();
        voter::listen(&door.socket(&door.instance), Arc::clone(&own))?;
        let peer = |name: &String| Arc::new(voter::Neighbour::new(door.socket(name))) as Arc<dyn RemoteVoter>;
        let peers = Peers {
            instances: door.peers.iter().map(peer).collect(),
            witness: None,
        };
        let pool = MultiPool::connect_among(door.config(), peers)
            .await
            .context("the pool does not open")?;
        let _ = own.set(pool.clone());
        let mut patience = Patience::new(START_DEADLINE);
        loop {
            let status = pool.status();
            if status.is_whole() && status.writable {
                return Ok(Pool(pool));
            }
            if !patience.pause().await {
                bail!("not every side became active: {:?}", status.refusal);
            }
        }
    }

    pub fn doers(&self, order: &Order) -> Vec<impl Doer + use<>> {
        let client = |_| PoolClient {
            pool: self.0.clone(),
            work: order.work,
        };
        (0..order.clients).map(client).collect()
    }

    pub async fn close(self) {
        self.0.close().await;
    }
}

struct PoolClient {
    pool: MultiPool,
    work: Work,
}

impl Doer for PoolClient {
    async fn act(&mut self, step: Step) -> Result<()> {
        let (pool, work) = (&self.pool, self.work);
        match work {
            Work::Insert | Work::Update | Work::Session => {
                pool.change(OpId::new(), vec![work.change(&step)]).await?;
            }
            Work::InsertSql | Work::UpdateSql => {
                pool.transactional_write(work.sql(), &values(work, &step)).await?;
            }
            Work::InsertClosure | Work::UpdateClosure => closure(pool, work, values(work, &step)).await?,
            Work::Point => {
                let rows = pool.read(work.sql(), &[&step.id]).await?;
                rows.first().context("the row is not there")?;
            }
            Work::List => {
                pool.read(work.sql(), &[&step.id, &step.page()]).await?;
            }
        }
        Ok(())
    }
}

/// Parameters of a statement.
fn values(work: Work, step: &Step) -> Vec<Value> {
    match work.plain() {
        Work::Insert => vec![step.name().into(), step.content().into()],
        _ => vec![step.content().into(), step.id.into()],
    }
}

/// The general door for more than one statement.
async fn closure(pool: &MultiPool, work: Work, params: Vec<Value>) -> Result<()> {
    let sql = work.sql();
    pool.transaction(OpId::new(), move |tx| {
        let (tx, params) = (tx.clone(), params.clone());
        Box::pin(async move { tx.execute(sql, &params).await })
    })
    .await?;
    Ok(())
}
