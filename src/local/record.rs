//! `DIR/up.json`: what runs where, for people, scripts, `kambana local` and the next start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::record_file;
use super::secrets::write_private;
use crate::config::PoolConfig;

use super::{LocalError, ProcessId, ServiceState};

/// Everything that one `kambana up` runs. Holds passwords: the file has mode 600.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `kambana up` itself.
    pub up: Option<ProcessId>,
    /// The data directory.
    pub data: PathBuf,
    /// Socket for `kambana local`.
    pub control: PathBuf,
    /// For `PGPASSFILE`.
    pub pgpass: PathBuf,
    /// The databases, by name of side.
    pub sides: BTreeMap<String, SideRecord>,
    /// The web instances, by name.
    pub instances: BTreeMap<String, InstanceRecord>,
    /// The proxy, if there is one.
    pub haproxy: Option<HaproxyRecord>,
}

/// One database cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideRecord {
    /// Its first process, while it runs.
    #[serde(flatten)]
    pub process: Option<ProcessId>,
    /// Whether it runs.
    pub state: ServiceState,
    /// Always 127.0.0.1.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// Its owner, an ordinary role.
    pub user: String,
    /// Complete connection string, with password.
    pub dsn: String,
    /// For `psql -h … -U postgres` (superuser), by the user who runs `kambana up` only.
    pub socket_dir: PathBuf,
    /// PostgreSQL's own files.
    pub data_dir: PathBuf,
    /// PostgreSQL's log.
    pub log: PathBuf,
}

/// One web instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its process, while it runs.
    #[serde(flatten)]
    pub process: Option<ProcessId>,
    /// Whether it runs.
    pub state: ServiceState,
    /// Base URL.
    pub url: String,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// Its log.
    pub log: PathBuf,
}

/// The proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HaproxyRecord {
    /// Its process, while it runs.
    #[serde(flatten)]
    pub process: Option<ProcessId>,
    /// Whether it runs.
    pub state: ServiceState,
    /// Base URL of the application.
    pub url: String,
    /// TCP port of the application.
    pub port: u16,
    /// Statistics page; `/metrics` beside it.
    pub stats_url: String,
    /// TCP port for PostgreSQL clients on 127.0.0.1.
    pub postgres_port: u16,
    /// Administration socket.
    pub admin_socket: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

impl Record {
    /// Of the `kambana up` that runs on `dir`, or ran there last and did not end in order.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn read(dir: &Path) -> Result<Record, LocalError> {
        let file = record_file(dir);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(LocalError::NotUp(dir.to_path_buf()));
            }
            Err(e) => return Err(LocalError::io(format!("cannot read {}", file.display()))(e)),
        };
        serde_json::from_slice(&bytes)
            .map_err(|e| LocalError::State(format!("{} cannot be understood: {e}", file.display())))
    }

    /// Replaces the file in one step.
    pub(super) fn write(&self) -> Result<(), LocalError> {
        let json = serde_json::to_vec_pretty(self).unwrap_or_default();
        write_private(&record_file(&self.data), &json)
    }

    /// Base URLs to ask for the status, the proxy first.
    pub fn urls(&self) -> Vec<String> {
        let proxy = self.haproxy.iter().map(|haproxy| haproxy.url.clone());
        proxy
            .chain(self.instances.values().map(|i| i.url.clone()))
            .collect()
    }

    /// Every process named here.
    pub(super) fn processes(&self) -> Vec<ProcessId> {
        let sides = self.sides.values().filter_map(|side| side.process);
        let instances = self.instances.values().filter_map(|instance| instance.process);
        let haproxy = self.haproxy.iter().filter_map(|haproxy| haproxy.process);
        haproxy.chain(instances).chain(sides).collect()
    }
}

/// How to reach the databases of the `kambana up` that runs in `dir`, for commands that ask them directly.
///
/// # Errors
/// Nothing runs there, or its record cannot be read.
pub fn pool_config(dir: &Path) -> Result<PoolConfig, LocalError> {
    let record = Record::read(dir)?;
    let sides = record.sides.values().map(SideRecord::config).collect();
    Ok(PoolConfig::new(sides, "command"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let side = |process, state| SideRecord {
            process,
            state,
            host: "127.0.0.1".into(),
            port: 5432,
            database: "cluster_session_a".into(),
            user: "webuser".into(),
            dsn: "postgresql://webuser:secret@127.0.0.1:5432/cluster_session_a".into(),
            socket_dir: "pg".into(),
            data_dir: "a/data".into(),
            log: "a/postgres.log".into(),
        };
        let process = Some(ProcessId { pid: 7, started: 8 });
        let mut record = Record::default();
        record
            .sides
            .insert("a".into(), side(process, ServiceState::Running));
        record
            .sides
            .insert("b".into(), side(None, ServiceState::Ended("crashed".into())));
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(
            (&json["sides"]["a"]["pid"], &json["sides"]["b"]["pid"]),
            (&7.into(), &().into())
        );
        assert_eq!(json["sides"]["b"]["state"], "ended (crashed)");
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record);
        assert_eq!(record.sides["a"].config().password.expose(), "secret");
    }
}
