//! One child process and everything it forked. Nothing here knows what the child is.

mod family;
mod spawn;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::programs::find_in_path;
use super::{Account, LocalError, Patience};
use spawn::spawn_from_lasting_thread;

pub use family::ProcessId;
pub(super) use family::{all_gone, working_in};

/// A killed process that is still there after this long is stuck in the kernel.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Launch {
    /// For messages.
    pub name: String,
    /// Absolute path.
    pub program: PathBuf,
    /// Visible to everybody in the list of processes: never a secret.
    pub args: Vec<OsString>,
    /// Added to our own environment; secrets go here.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub dir: PathBuf,
    /// Whom it runs as.
    pub account: Account,
    /// Its standard output and error are added to this file.
    pub log: PathBuf,
    /// What the kernel sends it when we die.
    pub when_we_die: Signal,
}

/// A running (or just ended) child. Dropping it kills the whole family and waits for it.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    child: Child,
    ended: Option<ExitStatus>,
    /// Length of the log before this start.
    pub(in crate::local) log_from: u64,
}

impl Process {
    /// Starts a child in a process group of its own: a Ctrl-C at the terminal is for us alone.
    ///
    /// # Errors
    /// The program cannot be run, or its log cannot be written.
    pub fn spawn(launch: &Launch) -> Result<Process, LocalError> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&launch.log)
            .map_err(LocalError::io(format!("cannot write {}", launch.log.display())))?;
        let log_from = log.metadata().map_or(0, |meta| meta.len());
        let errors = log.try_clone().map_err(LocalError::io("cannot share the log"))?;

        let mut command = match find_in_path("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.arg("--pdeathsig").arg(launch.when_we_die.as_str());
                command.arg("--").arg(&launch.program);
                command
            }
            None => Command::new(&launch.program),
        };
        command
            .args(&launch.args)
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&launch.dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        launch.account.apply(&mut command);
        let mut child = spawn_from_lasting_thread(command).map_err(LocalError::io(format!(
            "cannot start {} ({})",
            launch.name,
            launch.program.display()
        )))?;
        let pid = child.id() as i32;
        let Some(id) = ProcessId::of(pid) else {
            // Only an unmounted /proc hides a child that was not waited for yet.
            let _ = child.kill();
            let _ = child.wait();
            return Err(LocalError::Missing(
                "/proc is needed to look after children".into(),
            ));
        };
        Ok(Process {
            id,
            child,
            ended: None,
            log_from,
        })
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut patience = Patience::new(limit);
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if !patience.pause().await {
                return None;
            }
        }
    }

    /// Sends a signal to the child itself.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            self.id.signal(signal);
        }
    }

    /// SIGKILL to the whole family; returns when every member is gone and the child is reaped.
    ///
    /// # Errors
    /// One of them is still there at the deadline.
    pub async fn crash(&mut self) -> Result<(), LocalError> {
        let family = self.kill_family();
        self.wait(GONE_DEADLINE).await;
        all_gone(&family, GONE_DEADLINE).await
    }

    fn kill_family(&mut self) -> Vec<ProcessId> {
        match self.ended() {
            Some(_) => Vec::new(),
            None => self.id.kill_family(),
        }
    }

    /// SIGSTOP to the child, then to everything it forked; returns when all stand still.
    ///
    /// # Errors
    /// One of them still runs at the deadline.
    pub async fn freeze(&mut self) -> Result<(), LocalError> {
        let mut patience = Patience::new(GONE_DEADLINE);
        loop {
            self.signal(Signal::SIGSTOP);
            // Looked at again each time: the child may have forked before it stood still.
            let family = self.id.family();
            for member in &family {
                member.signal(Signal::SIGSTOP);
            }
            if family.iter().all(|member| member.is_stopped()) {
                return Ok(());
            }
            if !patience.pause().await {
                return Err(LocalError::State("it does not stand still".into()));
            }
        }
    }

    /// SIGCONT to the whole family.
    pub fn thaw(&mut self) {
        if self.ended().is_none() {
            for member in self.id.family() {
                member.signal(Signal::SIGCONT);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.kill_family();
        let mut patience = Patience::new(GONE_DEADLINE);
        while self.ended().is_none() || family.iter().any(|member| member.is_alive()) {
            if !patience.pause_blocking() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &std::path::Path) -> Process {
        Process::spawn(&Launch {
            name: "shell".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![],
            dir: dir.into(),
            account: Account::Ours,
            log: dir.join("log"),
            when_we_die: Signal::SIGKILL,
        })
        .unwrap()
    }

    async fn family_of(process: &Process, members: usize) -> Vec<ProcessId> {
        let mut patience = Patience::new(Duration::from_secs(5));
        loop {
            let family = process.id().family();
            if family.len() == members {
                return family;
            }
            assert!(patience.pause().await, "{family:?}");
        }
    }

    #[tokio::test]
    async fn freeze_thaw_and_crash_reach_the_whole_family() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("sleep 60 & (sleep 60 & wait) & wait", dir.path());
        let family = family_of(&process, 4).await;
        process.freeze().await.unwrap();
        assert!(
            family
                .iter()
                .all(|member| member.is_alive() && member.is_stopped())
        );
        process.thaw();
        assert!(family.iter().all(|member| member.is_alive()));
        process.crash().await.unwrap();
        assert!(family.iter().all(|member| !member.is_alive()));
        assert!(process.ended().is_some());
    }

    #[tokio::test]
    async fn dropping_leaves_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("sleep 60 & wait", dir.path());
        let family = family_of(&process, 2).await;
        process.freeze().await.unwrap();
        drop(process);
        assert!(family.iter().all(|member| !member.is_alive()));
    }
}
