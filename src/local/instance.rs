//! One web instance: `kambana serve` as a child.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Account, Launch, LocalError, Port, PortChoice, Service, http};
use crate::config::{Secret, SideConfig};

/// Connecting to both sides and checking them is included.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// An instance that is asked to stop first lets HAProxy notice, then finishes what it has.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// For one question about readiness.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How often another port is tried when somebody takes ours between the choice and the start.
const PORT_ATTEMPTS: usize = 5;

/// What an instance needs to know.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// For example `web1`.
    pub name: String,
    /// Its directory: its state and `web1.log`.
    pub dir: PathBuf,
    /// The `kambana` program.
    pub program: PathBuf,
    /// On 127.0.0.1.
    pub port: Port,
    /// Signs session cookies.
    pub session_secret: Secret,
    /// Further settings, as in `env.example`.
    pub extra_env: Vec<(String, String)>,
}

/// What an instance is connected to; known when it starts, because ports may have moved.
#[derive(Clone, Debug, Default)]
pub struct Wiring {
    /// The databases, in order.
    pub sides: Vec<SideConfig>,
    /// Base URLs of the other instances.
    pub peers: Vec<String>,
}

/// An instance, running or not. Dropping it kills it.
#[derive(Debug)]
pub struct Instance {
    config: InstanceConfig,
    service: Service,
}

impl Instance {
    /// Not started yet.
    pub fn new(config: InstanceConfig) -> Instance {
        let log = config.dir.join(format!("{}.log", config.name));
        Instance {
            service: Service::new(format!("instance {}", config.name), log),
            config,
        }
    }

    /// What all children have in common.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Its settings; the port may have moved since it was given.
    pub fn config(&self) -> &InstanceConfig {
        &self.config
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.config.port.number
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// It runs already, or does not become ready; it is not running then.
    pub async fn start(&mut self, wiring: &Wiring) -> Result<(), LocalError> {
        let state_dir = self.config.state_dir();
        fs::create_dir_all(&state_dir)
            .map_err(LocalError::io(format!("cannot make {}", state_dir.display())))?;
        for _ in 1..PORT_ATTEMPTS {
            match self.start_on_port(wiring).await {
                Err(e) if e.is_address_in_use() && self.config.port.movable => {
                    tracing::debug!("another port: {e}");
                    self.config.port = PortChoice::Any.choose("", "", &[])?;
                }
                result => return result,
            }
        }
        self.start_on_port(wiring).await
    }

    /// Lets it finish what it has, and stops it.
    ///
    /// # Errors
    /// Something of it is stuck.
    pub async fn stop(&mut self) -> Result<(), LocalError> {
        self.service.stop(Signal::SIGTERM, STOP_DEADLINE).await
    }

    async fn start_on_port(&mut self, wiring: &Wiring) -> Result<(), LocalError> {
        let launch = self.launch(wiring);
        self.service.launch(&launch)?;
        let url = format!("{}/health/ready", self.url());
        self.service
            .until_ready(START_DEADLINE, || async {
                let answer = http::get(&url, ASK_DEADLINE).await?;
                match answer.status {
                    200 => Ok(()),
                    status => Err(format!(
                        "/health/ready answers {status}: {}",
                        String::from_utf8_lossy(&answer.body).trim()
                    )),
                }
            })
            .await
    }

    fn launch(&self, wiring: &Wiring) -> Launch {
        Launch {
            name: self.service.name().to_owned(),
            program: self.config.program.clone(),
            args: vec!["serve".into()],
            env: self.config.env(wiring),
            dir: self.config.dir.clone(),
            account: Account::Ours,
            log: self.service.log().clone(),
            when_we_die: Signal::SIGKILL,
        }
    }
}

impl InstanceConfig {
    fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The environment of `kambana serve`, `init` and the like.
    pub fn env(&self, wiring: &Wiring) -> Vec<(String, String)> {
        let text = |text: &str| text.to_owned();
        let mut env = Vec::new();
        for (n, side) in wiring.sides.iter().enumerate() {
            let mut set = |part, value| env.push((format!("DB{}_{part}", n + 1), value));
            set("HOST", text(&side.host));
            set("PORT", side.port.to_string());
            set("NAME", text(&side.database));
            set("USER", text(&side.user));
            set("PASSWORD", text(side.password.expose()));
        }
        // A `.env` in a directory above must not add a side.
        for part in ["HOST", "NAME"] {
            env.push((format!("DB{}_{part}", wiring.sides.len() + 1), String::new()));
        }
        let state_dir = self.state_dir().to_string_lossy().into_owned();
        env.push((text("INSTANCE"), self.name.clone()));
        env.push((text("LISTEN"), format!("127.0.0.1:{}", self.port.number)));
        env.push((text("PEERS"), wiring.peers.join(",")));
        env.push((text("SESSION_SECRET"), text(self.session_secret.expose())));
        env.push((text("STATE_DIR"), state_dir));
        env.extend(self.extra_env.iter().cloned());
        env
    }
}
