//! What was used: processor time and memory from `/proc`, the log from the databases.

use std::fs;

use anyhow::Result;
use kambana::local::ProcessId;
use tokio_postgres::{Client, NoTls};

/// Clock ticks of `/proc/PID/stat` a second; the same on every Linux.
const TICKS: f64 = 100.0;

/// Processor seconds of a process, of its living children and of those it has waited for.
pub fn cpu_of_family(root: ProcessId) -> f64 {
    let own = times(root.pid).map_or(0.0, |(own, waited_for)| own + waited_for);
    let children = root.family().into_iter().skip(1);
    own + children
        .filter_map(|child| times(child.pid))
        .map(|(own, _)| own)
        .sum::<f64>()
}

fn times(pid: i32) -> Option<(f64, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it are numbers, the third field first.
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |number: usize| -> Option<f64> { rest.split_whitespace().nth(number - 3)?.parse().ok() };
    Some((
        (field(14)? + field(15)?) / TICKS,
        (field(16)? + field(17)?) / TICKS,
    ))
}

/// Resident memory of a process in MB: now, and at most so far.
pub fn memory_mb(process: ProcessId) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let kilobytes = |name: &str| -> Option<f64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((kilobytes("VmRSS:")? / 1024.0, kilobytes("VmHWM:")? / 1024.0))
}

/// One database server and a way to ask it that nobody else uses.
pub struct Database {
    /// For messages.
    pub name: String,
    /// Its first process.
    pub process: ProcessId,
    client: Client,
}

impl Database {
    /// Connects as the owner.
    pub async fn connect(name: &str, process: ProcessId, dsn: &str) -> Result<Database> {
        let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
        tokio::spawn(connection);
        Ok(Database {
            name: name.to_owned(),
            process,
            client,
        })
    }

    /// For plain SQL.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Position of the log in bytes: written here, or received from a primary.
    pub async fn log_position(&self) -> Result<i64> {
        let sql = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
                   ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint";
        Ok(self.client.query_one(sql, &[]).await?.get(0))
    }

    /// Flushes of the log so far, where the server counts them. Sessions report theirs at the latest when they end.
    pub async fn flushes(&self) -> Result<Option<i64>> {
        let version: i32 = self
            .client
            .query_one("SELECT current_setting('server_version_num')::int", &[])
            .await?
            .get(0);
        let sql = match version {
            ..140_000 => return Ok(None),
            140_000..180_000 => "SELECT wal_sync FROM pg_stat_wal",
            _ => "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'",
        };
        Ok(Some(self.client.query_one(sql, &[]).await?.get(0)))
    }
}
