//! What a database cluster, an instance and the proxy have in common: a name, a log, a child and its state.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::error::LogTail;
use super::{Launch, LocalError, Patience, Process, ProcessId};

/// ```text
///            start                 freeze
///  Stopped ─────────▶ Running ◀───────────▶ Frozen
///     ▲   ▲              │  │      thaw        │
///     │   └──── stop ────┘  └── died ▶ Ended ◀─┘ crash
///     └── (start from Ended as from Stopped)
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum ServiceState {
    /// Not started yet, or stopped in order.
    #[default]
    Stopped,
    /// Started and, after `start` returned, ready.
    Running,
    /// Every process of it stands still.
    Frozen,
    /// It died, or was crashed; the text says how.
    Ended(String),
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceState::Stopped => f.write_str("stopped"),
            ServiceState::Running => f.write_str("running"),
            ServiceState::Frozen => f.write_str("frozen"),
            ServiceState::Ended(how) => write!(f, "ended ({how})"),
        }
    }
}

impl From<ServiceState> for String {
    fn from(state: ServiceState) -> String {
        state.to_string()
    }
}

impl From<String> for ServiceState {
    fn from(text: String) -> ServiceState {
        match text.as_str() {
            "running" => ServiceState::Running,
            "frozen" => ServiceState::Frozen,
            "stopped" => ServiceState::Stopped,
            how => {
                let how = how
                    .strip_prefix("ended (")
                    .and_then(|how| how.strip_suffix(')'))
                    .unwrap_or(how);
                ServiceState::Ended(how.to_owned())
            }
        }
    }
}

/// One child that can be started again.
#[derive(Debug)]
pub struct Service {
    name: String,
    log: PathBuf,
    process: Option<Process>,
    state: ServiceState,
}

impl Service {
    /// Not started yet.
    pub fn new(name: impl Into<String>, log: PathBuf) -> Service {
        Service {
            name: name.into(),
            log,
            process: None,
            state: ServiceState::Stopped,
        }
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log(&self) -> &PathBuf {
        &self.log
    }

    /// Which process it is, while it runs or is frozen.
    pub fn process(&self) -> Option<ProcessId> {
        match self.state {
            ServiceState::Running | ServiceState::Frozen => self.process.as_ref().map(Process::id),
            _ => None,
        }
    }

    /// As far as known; [`Service::notice_end`] brings it up to date.
    pub fn state(&self) -> &ServiceState {
        &self.state
    }

    /// Starts the child; it is not ready yet.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), LocalError> {
        self.notice_end();
        if let ServiceState::Running | ServiceState::Frozen = self.state {
            return Err(LocalError::State(format!(
                "{} is already {}",
                self.name, self.state
            )));
        }
        self.process = Some(Process::spawn(launch)?);
        self.state = ServiceState::Running;
        Ok(())
    }

    /// Whether the child has ended since the last look; says how.
    pub fn notice_end(&mut self) -> Option<String> {
        if !matches!(self.state, ServiceState::Running | ServiceState::Frozen) {
            return None;
        }
        let how = self.process.as_mut()?.ended()?.to_string();
        self.process = None;
        self.state = ServiceState::Ended(how.clone());
        Some(how)
    }

    /// Waits until `ready` answers; each answer that is not `Ok` is why it is not ready yet.
    ///
    /// # Errors
    /// The child ended, or was not ready in time; it is not running any more then.
    pub async fn until_ready<T, F>(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<T, LocalError>
    where
        F: Future<Output = Result<T, String>>,
    {
        let log_from = self.process.as_ref().map_or(0, |process| process.log_from);
        let mut patience = Patience::new(limit);
        loop {
            // Before asking: another program might answer on the port of a child that is gone.
            if let Some(status) = self.notice_end() {
                return Err(LocalError::Ended {
                    name: self.name.clone(),
                    status,
                    log: LogTail::of_file(&self.log, log_from),
                });
            }
            let asked = tokio::time::timeout(patience.left(), ready()).await;
            let why = match asked {
                Ok(Ok(value)) => match self.notice_end() {
                    None => return Ok(value),
                    Some(_) => continue,
                },
                Ok(Err(why)) => why,
                Err(_) => "no answer".to_owned(),
            };
            if !patience.pause().await {
                self.crash().await?;
                return Err(LocalError::NotReady {
                    name: self.name.clone(),
                    seconds: limit.as_secs(),
                    why,
                    log: LogTail::of_file(&self.log, log_from),
                });
            }
        }
    }

    /// Ends every process of it at once.
    ///
    /// # Errors
    /// It is not running, or something of it is stuck.
    pub async fn crash(&mut self) -> Result<(), LocalError> {
        self.running("crash")?.crash().await?;
        self.process = None;
        self.state = ServiceState::Ended("crashed".into());
        Ok(())
    }

    /// Makes it stand still.
    ///
    /// # Errors
    /// It is not running.
    pub async fn freeze(&mut self) -> Result<(), LocalError> {
        self.running("freeze")?.freeze().await?;
        self.state = ServiceState::Frozen;
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is not running.
    pub fn thaw(&mut self) -> Result<(), LocalError> {
        self.running("thaw")?.thaw();
        self.state = ServiceState::Running;
        Ok(())
    }

    /// Asks it to end with `signal` and waits; at the deadline it is killed. Fine if it is not running.
    ///
    /// # Errors
    /// Something of it is stuck.
    pub async fn stop(&mut self, signal: Signal, limit: Duration) -> Result<(), LocalError> {
        self.notice_end();
        if let Some(mut process) = self.process.take() {
            if self.state == ServiceState::Frozen {
                process.thaw();
            }
            process.signal(signal);
            if process.wait(limit).await.is_none() {
                tracing::warn!(name = %self.name, "did not stop in time and was killed");
                process.crash().await?;
            }
        }
        self.state = ServiceState::Stopped;
        Ok(())
    }

    fn running(&mut self, action: &str) -> Result<&mut Process, LocalError> {
        self.notice_end();
        let (name, state) = (&self.name, &self.state);
        match &mut self.process {
            Some(process) => Ok(process),
            None => Err(LocalError::State(format!(
                "cannot {action} {name}, which is not running: {state}"
            ))),
        }
    }
}
