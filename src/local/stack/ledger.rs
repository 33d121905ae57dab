//! Keeping `up.json` and `pgpass` true.

use super::Stack;
use crate::config::{Secret, SideConfig};
use crate::local::record::{HaproxyRecord, InstanceRecord, Record, SideRecord};
use crate::local::secrets::write_private;
use crate::local::{Cluster, Haproxy, Instance, LocalError, ProcessId, Target};
use crate::multipool::SideId;

impl Stack {
    /// What runs where, as in `up.json`.
    pub fn record(&self) -> Record {
        self.record
            .lock()
            .map(|record| record.clone())
            .unwrap_or_default()
    }

    /// Complete connection string of a side, with password.
    pub fn dsn(&self, side: SideId) -> String {
        let record = self.record();
        let side = record.sides.get(&side.to_string());
        side.map(|side| side.dsn.clone()).unwrap_or_default()
    }

    /// How the application reaches the sides, in order.
    pub fn side_configs(&self) -> Vec<SideConfig> {
        self.record().sides.values().map(SideRecord::config).collect()
    }

    /// Base URL of an instance, counted from 0.
    pub fn instance_url(&self, index: usize) -> String {
        let name = Target::Web(index).to_string();
        let record = self.record();
        let instance = record.instances.get(&name);
        instance.map(|instance| instance.url.clone()).unwrap_or_default()
    }

    /// Base URL of the proxy; empty if there is none.
    pub fn url(&self) -> String {
        self.record()
            .haproxy
            .map(|haproxy| haproxy.url)
            .unwrap_or_default()
    }

    /// The record of a stack in which nothing runs yet.
    pub(super) fn open_record(&mut self) -> Result<(), LocalError> {
        let mut record = Record {
            up: ProcessId::of(std::process::id() as i32),
            data: self.place.dir.clone(),
            control: self.place.control_socket(),
            pgpass: self.place.dir.join("pgpass"),
            ..Record::default()
        };
        for (side, cluster) in self.sides.iter_mut() {
            record
                .sides
                .insert(side.to_string(), side_record(cluster.get_mut()));
        }
        for (index, instance) in self.instances.iter_mut().enumerate() {
            let name = Target::Web(index).to_string();
            record.instances.insert(name, instance_record(instance.get_mut()));
        }
        record.haproxy = self
            .haproxy
            .as_mut()
            .map(|haproxy| haproxy_record(haproxy.get_mut()));
        self.write(|old| *old = record)
    }

    pub(super) fn note_side(&self, cluster: &mut Cluster, side: SideId) -> Result<(), LocalError> {
        let new = side_record(cluster);
        self.aim_links(side, new.port);
        self.write(|record| {
            record.sides.insert(side.to_string(), new);
        })
    }

    pub(super) fn note_instance(&self, instance: &mut Instance, index: usize) -> Result<(), LocalError> {
        let new = instance_record(instance);
        self.write(|record| {
            record.instances.insert(Target::Web(index).to_string(), new);
        })
    }

    pub(super) fn note_haproxy(&self, haproxy: &mut Haproxy) -> Result<(), LocalError> {
        let new = haproxy_record(haproxy);
        self.write(|record| record.haproxy = Some(new))
    }

    fn write(&self, change: impl FnOnce(&mut Record)) -> Result<(), LocalError> {
        // The lock is held while writing, so that the file ends with the newest state.
        let mut record = self
            .record
            .lock()
            .map_err(|_| LocalError::State("the record of what runs is lost".into()))?;
        change(&mut record);
        write_private(&record.pgpass, pgpass(&record).as_bytes())?;
        record.write()
    }
}

impl SideRecord {
    /// How the application reaches it.
    pub fn config(&self) -> SideConfig {
        SideConfig {
            host: self.host.clone(),
            port: self.port,
            database: self.database.clone(),
            user: self.user.clone(),
            password: Secret::new(self.password()),
        }
    }

    fn password(&self) -> &str {
        let credentials = self
            .dsn
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('@'));
        credentials
            .and_then(|(user, _)| user.split_once(':'))
            .map_or("", |(_, password)| password)
    }
}

fn side_record(cluster: &mut Cluster) -> SideRecord {
    let config = cluster.side_config();
    let (data_dir, socket_dir) = (cluster.data_dir(), cluster.socket_dir().clone());
    let service = cluster.service();
    SideRecord {
        process: service.process(),
        state: service.state().clone(),
        // The password is hexadecimal: nothing in it needs escaping.
        dsn: format!(
            "postgresql://{}:{}@{}:{}/{}",
            config.user,
            config.password.expose(),
            config.host,
            config.port,
            config.database
        ),
        host: config.host,
        port: config.port,
        database: config.database,
        user: config.user,
        socket_dir,
        data_dir,
        log: service.log().clone(),
    }
}

fn instance_record(instance: &mut Instance) -> InstanceRecord {
    let (url, port) = (instance.url(), instance.port());
    let service = instance.service();
    InstanceRecord {
        process: service.process(),
        state: service.state().clone(),
        url,
        port,
        log: service.log().clone(),
    }
}

fn haproxy_record(haproxy: &mut Haproxy) -> HaproxyRecord {
    let (url, stats_url) = (haproxy.url(), haproxy.stats_url());
    let config = haproxy.config().clone();
    let service = haproxy.service();
    HaproxyRecord {
        process: service.process(),
        state: service.state().clone(),
        url,
        port: config.http.number,
        stats_url,
        postgres_port: config.postgres.number,
        admin_socket: config.admin_socket,
        log: service.log().clone(),
    }
}

/// A line per address at which the owner may log in.
fn pgpass(record: &Record) -> String {
    let mut lines = String::new();
    for side in record.sides.values() {
        let ports = [
            Some(side.port),
            record.haproxy.as_ref().map(|haproxy| haproxy.postgres_port),
        ];
        for port in ports.into_iter().flatten() {
            let (host, database, user) = (&side.host, &side.database, &side.user);
            lines.push_str(&format!("{host}:{port}:{database}:{user}:{}\n", side.password()));
        }
    }
    lines
}
