//! HAProxy as a child, with the configuration file of this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Account, Launch, LocalError, Port, PortChoice, Service, http};

/// The same file that runs without `kambana up`.
const CONFIGURATION: &str = include_str!("../../haproxy/haproxy.cfg");

const START_DEADLINE: Duration = Duration::from_secs(15);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// For one question to its administration socket.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How often other ports are tried when somebody takes one between the choice and the start.
const PORT_ATTEMPTS: usize = 5;

/// What the proxy needs to know.
#[derive(Clone, Debug)]
pub struct HaproxyConfig {
    /// `haproxy`.
    pub program: PathBuf,
    /// Its directory: `haproxy.cfg` and `haproxy.log`.
    pub dir: PathBuf,
    /// Address it listens on for HTTP, without port.
    pub address: String,
    /// For HTTP.
    pub http: Port,
    /// For PostgreSQL clients, on 127.0.0.1.
    pub postgres: Port,
    /// For statistics and metrics, on 127.0.0.1.
    pub stats: Port,
    /// Its administration socket.
    pub admin_socket: PathBuf,
}

/// What is behind the proxy; known when it starts, because ports may have moved.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Ports of `web1` and `web2`.
    pub web: [u16; 2],
    /// Ports of the sides a and b, and of c where there is one.
    pub sides: Vec<u16>,
}

/// The proxy, running or not. Dropping it kills it.
#[derive(Debug)]
pub struct Haproxy {
    config: HaproxyConfig,
    service: Service,
}

impl Haproxy {
    /// Not started yet.
    pub fn new(config: HaproxyConfig) -> Haproxy {
        let log = config.dir.join("haproxy.log");
        Haproxy {
            service: Service::new("HAProxy", log),
            config,
        }
    }

    /// What all children have in common.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Its settings; ports may have moved since they were given.
    pub fn config(&self) -> &HaproxyConfig {
        &self.config
    }

    /// Base URL for people.
    pub fn url(&self) -> String {
        let host = match self.config.address.as_str() {
            "" | "*" | "0.0.0.0" => "127.0.0.1",
            address => address,
        };
        match self.config.http.number {
            80 => format!("http://{host}"),
            port => format!("http://{host}:{port}"),
        }
    }

    /// Statistics page.
    pub fn stats_url(&self) -> String {
        format!("http://127.0.0.1:{}/stats", self.config.stats.number)
    }

    /// Checks the configuration, starts it and waits until it sees a ready instance and a usable side.
    ///
    /// # Errors
    /// It runs already, or does not become ready; it is not running then.
    pub async fn start(&mut self, behind: &Behind) -> Result<(), LocalError> {
        for _ in 1..PORT_ATTEMPTS {
            let ports = [&self.config.http, &self.config.postgres, &self.config.stats];
            let movable = ports.iter().all(|port| port.movable);
            match self.start_on_ports(behind).await {
                Err(e) if e.is_address_in_use() && movable => {
                    tracing::debug!("other ports: {e}");
                    let mut taken = Vec::new();
                    for port in [
                        &mut self.config.http,
                        &mut self.config.postgres,
                        &mut self.config.stats,
                    ] {
                        *port = PortChoice::Any.choose("", "", &taken)?;
                        taken.push(port.number);
                    }
                }
                result => return result,
            }
        }
        self.start_on_ports(behind).await
    }

    /// Ends it; its clients' connections are closed.
    ///
    /// # Errors
    /// It is stuck.
    pub async fn stop(&mut self) -> Result<(), LocalError> {
        self.service.stop(Signal::SIGTERM, STOP_DEADLINE).await
    }

    async fn start_on_ports(&mut self, behind: &Behind) -> Result<(), LocalError> {
        let file = self.config.dir.join("haproxy.cfg");
        fs::write(&file, CONFIGURATION)
            .map_err(LocalError::io(format!("cannot write {}", file.display())))?;
        self.check(&file, behind)?;
        let launch = Launch {
            name: "HAProxy".into(),
            program: self.config.program.clone(),
            args: vec!["-db".into(), "-f".into(), file.into()],
            env: self.env(behind),
            dir: self.config.dir.clone(),
            account: Account::Ours,
            log: self.service.log().clone(),
            when_we_die: Signal::SIGKILL,
        };
        self.service.launch(&launch)?;
        let (url, socket) = (self.url(), self.config.admin_socket.clone());
        self.service
            .until_ready(START_DEADLINE, || ready(&url, &socket))
            .await
    }

    fn env(&self, behind: &Behind) -> Vec<(String, String)> {
        let config = &self.config;
        let local = |port: u16| format!("127.0.0.1:{port}");
        // A third one is in the configuration only where it is named.
        let sides = ["PG_A", "PG_B", "PG_C"].into_iter().zip(&behind.sides);
        let sides: Vec<(&str, String)> = sides.map(|(name, port)| (name, local(*port))).collect();
        [
            ("HTTP", format!("{}:{}", config.address, config.http.number)),
            ("WEB1", local(behind.web[0])),
            ("WEB2", local(behind.web[1])),
            ("PG_FRONT", local(config.postgres.number)),
            ("STATS_PORT", config.stats.number.to_string()),
            ("ADMIN_SOCKET", config.admin_socket.to_string_lossy().into_owned()),
        ]
        .into_iter()
        .chain(sides)
        .map(|(name, value)| (format!("KAMBANA_{name}"), value))
        .collect()
    }

    fn check(&self, file: &Path, behind: &Behind) -> Result<(), LocalError> {
        let what = || "haproxy -c (checking its configuration)".to_owned();
        let output = Command::new(&self.config.program)
            .args(["-c", "-f"])
            .arg(file)
            .envs(self.env(behind))
            .stdin(Stdio::null())
            .output()
            .map_err(LocalError::io(what()))?;
        LocalError::unless_success(output, what)
    }
}

/// Its port answers, and it has looked at every server; one that is down (crashed on purpose) stays out, no more.
async fn ready(url: &str, socket: &Path) -> Result<(), String> {
    let states = ask(socket, "show stat").await?;
    for (proxy, server, status) in server_states(&states) {
        // A server that was not checked yet counts as up, on probation: `UP 1/2`.
        if status.contains('/') {
            return Err(format!("{proxy}/{server} is {status}"));
        }
    }
    let answer = http::get(&format!("{url}/health/ready"), ASK_DEADLINE).await?;
    match answer.status {
        200 => Ok(()),
        status => Err(format!("{url}/health/ready answers {status}")),
    }
}

/// Asks the administration socket.
pub(super) async fn ask(socket: &Path, command: &str) -> Result<String, String> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    match tokio::time::timeout(ASK_DEADLINE, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(std::io::Error::to_string(&e)),
        Err(_) => Err("its administration socket does not answer".into()),
    }
}

/// Proxy, server and status of each line of `show stat`.
fn server_states(csv: &str) -> Vec<(&str, &str, &str)> {
    let Some(header) = csv.lines().next() else {
        return Vec::new();
    };
    let Some(status) = header.split(',').position(|column| column == "status") else {
        return Vec::new();
    };
    csv.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            Some((*fields.first()?, *fields.get(1)?, *fields.get(status)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let csv = "# pxname,svname,qcur,status,\nweb,web1,0,UP,\nweb,web2,0,DOWN 1/2,\n\n";
        assert_eq!(
            server_states(csv),
            [("web", "web1", "UP"), ("web", "web2", "DOWN 1/2")]
        );
    }
}
