//! Processes by number, and everything they forked, as `/proc` shows them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::GONE_DEADLINE;
use crate::local::{LocalError, Patience};

/// A process that is never mistaken for another one which got its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl ProcessId {
    /// The process with this number now.
    pub fn of(pid: i32) -> Option<ProcessId> {
        ProcStat::read(pid).map(|stat| stat.id)
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(self) -> bool {
        ProcStat::read(self.pid).is_some_and(|now| now.id == self && !now.is_dead())
    }

    pub(super) fn is_stopped(self) -> bool {
        ProcStat::read(self.pid).is_none_or(|now| now.id != self || now.is_dead() || now.state == 'T')
    }

    /// This process and everything it forked.
    pub fn family(self) -> Vec<ProcessId> {
        let all = ProcStat::all();
        let mut family = vec![self];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(
                all.iter()
                    .filter(|stat| stat.parent == parent.pid)
                    .map(|stat| stat.id),
            );
            next += 1;
        }
        family
    }

    pub(super) fn signal(self, signal: Signal) {
        // Gone in the meantime is as good as signalled.
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// SIGKILL to the whole family. The parent is stopped first, so that it cannot fork between our look and the kill.
    pub fn kill_family(self) -> Vec<ProcessId> {
        self.signal(Signal::SIGSTOP);
        let family = self.family();
        for member in &family {
            member.signal(Signal::SIGKILL);
        }
        family
    }

    /// Kills the whole family and waits until every member is gone.
    ///
    /// # Errors
    /// One of them is still there at the deadline.
    pub async fn end_family(self) -> Result<(), LocalError> {
        all_gone(&self.kill_family(), GONE_DEADLINE).await
    }
}

/// Waits until none of these runs any more.
pub(in crate::local) async fn all_gone(processes: &[ProcessId], limit: Duration) -> Result<(), LocalError> {
    let mut patience = Patience::new(limit);
    while let Some(left) = processes.iter().find(|process| process.is_alive()) {
        if !patience.pause().await {
            let pid = left.pid;
            return Err(LocalError::State(format!("process {pid} does not end")));
        }
    }
    Ok(())
}

/// What `/proc/PID/stat` says.
struct ProcStat {
    id: ProcessId,
    parent: i32,
    state: char,
}

impl ProcStat {
    fn read(pid: i32) -> Option<ProcStat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; field 3 (the state) follows the last one.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        Some(ProcStat {
            id: ProcessId {
                pid,
                started: fields.get(19)?.parse().ok()?,
            },
            parent: fields.get(1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
        })
    }

    fn all() -> Vec<ProcStat> {
        pids().into_iter().filter_map(ProcStat::read).collect()
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Processes of program `program` whose working directory is `dir`: what an earlier run left behind.
pub(in crate::local) fn working_in(dir: &Path, program: &str) -> Vec<ProcessId> {
    let Ok(dir) = dir.canonicalize() else {
        return Vec::new();
    };
    let runs = |pid: &i32| {
        let works_here = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
        works_here && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
    };
    pids()
        .into_iter()
        .filter(runs)
        .filter_map(ProcessId::of)
        .collect()
}
