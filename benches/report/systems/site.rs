//! Where a system is built, and under which conditions: slower flushes, slower links.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kambana::local::{Fault, Link, ProcessId, StackOptions};
use serde::Serialize;

use crate::profile::LIBRARY;

/// Makes flushes slower.
const SLOW_FSYNC: &str = include_str!("slow_fsync.c");
const SLOW_FSYNC_LIBRARY: &str = "kambana-slow-fsync.so";

/// Added to every round trip under [`Condition::SlowLink`].
const LINK_DELAY: Duration = Duration::from_micros(500);

/// Under which conditions everything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Condition {
    /// As the machine is.
    Plain,
    /// Every fsync of a database takes 1 ms longer.
    SlowFlush,
    /// Every round trip between two machines takes 0.5 ms longer.
    SlowLink,
    /// Through HTTP and HAProxy.
    Http,
}

/// What building needs to know.
#[derive(Clone, Debug)]
pub struct Site {
    /// An empty directory for it.
    pub dir: PathBuf,
    /// Keeps the template of empty clusters.
    pub templates: PathBuf,
    /// For Unix sockets, whose paths must be short.
    pub sockets: PathBuf,
    /// The conditions.
    pub condition: Condition,
    /// The library that the servers load.
    pub preload: Option<PathBuf>,
    /// Whether the servers count what every statement costs.
    pub counts_statements: bool,
}

impl Site {
    /// The same site for one of its systems.
    pub fn within(&self, name: &str) -> Site {
        Site {
            dir: self.dir.join(name),
            ..self.clone()
        }
    }

    /// The options of every pair of databases here.
    pub fn options(&self) -> StackOptions {
        let mut options = StackOptions::pair(&self.dir.join("stack"), &self.templates)
            // 128 clients, each with a connection of its own.
            .with_server_setting("max_connections", "200");
        if self.counts_statements {
            options = options
                .with_server_setting("shared_preload_libraries", LIBRARY)
                .with_server_setting("pg_stat_statements.track", "all");
        }
        if let Some((name, value)) = self.server_variable() {
            options = options.with_server_variable(&name, &value);
        }
        options
    }

    /// A variable in the environment of the servers.
    pub fn server_variable(&self) -> Option<(String, String)> {
        let library = self.preload.as_ref()?;
        Some(("LD_PRELOAD".into(), library.display().to_string()))
    }

    /// Refuses to measure a server that has ignored the library, which the loader only warns about.
    pub fn check_server(&self, process: ProcessId) -> Result<()> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        if self.preload.is_some() && !maps.contains(SLOW_FSYNC_LIBRARY) {
            bail!("the server has not loaded {SLOW_FSYNC_LIBRARY}");
        }
        Ok(())
    }

    /// A directory of this system.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// Builds the library that makes flushes slower.
pub fn slow_fsync(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (dir.join("slow_fsync.c"), dir.join(SLOW_FSYNC_LIBRARY));
    std::fs::write(&source, SLOW_FSYNC)?;
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .args([&library, &source])
        .stdin(Stdio::null())
        .output()
        .context("no C compiler (`cc`)")?;
    if !built.status.success() {
        bail!("cc: {}", String::from_utf8_lossy(&built.stderr).trim());
    }
    Ok(library)
}

/// The wires of a system, where there are any.
#[derive(Debug, Default)]
pub struct Links(Vec<Link>);

impl Links {
    /// The port at which somebody on another machine reaches a server: over a wire of his own if wires are slow.
    pub async fn to(&mut self, site: &Site, server: u16) -> Result<u16> {
        if site.condition != Condition::SlowLink {
            return Ok(server);
        }
        let link = Link::open(server).await?;
        link.set(Fault::Delay(LINK_DELAY));
        let port = link.port();
        self.0.push(link);
        Ok(port)
    }
}
