//! One private PostgreSQL cluster: one side.

mod login;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::place::remove_dir;
use super::process::{all_gone, working_in};
use super::{Account, Launch, LocalError, Port, PortChoice, PostgresPrograms, Service, template};
use crate::config::{Secret, SideConfig};
use crate::multipool::SideId;
use login::login;

pub(super) use login::explain;

/// The ordinary role that owns the database.
pub const OWNER: &str = "webuser";

/// Recovery after a crash of a cluster under load is included.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A fast shutdown writes one checkpoint.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// For one attempt to log in.
const LOGIN_DEADLINE: Duration = Duration::from_secs(5);
/// How often another port is tried when somebody takes ours between the choice and the start.
const PORT_ATTEMPTS: usize = 5;

/// What a cluster needs to know.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Which side it is.
    pub side: SideId,
    /// Its directory: `data` and `postgres.log` are in it.
    pub dir: PathBuf,
    /// Keeps the template of empty clusters.
    pub template_cache: PathBuf,
    /// For its Unix socket.
    pub socket_dir: PathBuf,
    /// Whom it runs as.
    pub account: Account,
    /// Installed servers, the newest first.
    pub postgres: Vec<PostgresPrograms>,
    /// On 127.0.0.1.
    pub port: Port,
    /// Of [`OWNER`].
    pub password: Secret,
    /// Whether a new cluster must survive a power cut right after it was made. Commits always do: `fsync` stays on.
    pub durable: bool,
    /// Added to the server's environment.
    pub extra_env: Vec<(String, String)>,
    /// Added to the server's settings; the stronger ones.
    pub extra_settings: Vec<(String, String)>,
}

/// A cluster, running or not. Dropping it kills it.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    service: Service,
}

impl Cluster {
    /// Not started yet.
    pub fn new(config: ClusterConfig) -> Cluster {
        let log = config.dir.join("postgres.log");
        Cluster {
            service: Service::new(format!("side {}", config.side), log),
            config,
        }
    }

    /// What all children have in common.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.config.port.number
    }

    /// The cluster itself.
    pub fn data_dir(&self) -> PathBuf {
        self.config.dir.join("data")
    }

    /// For `psql -h DIR -U postgres` by this process's user.
    pub fn socket_dir(&self) -> &PathBuf {
        &self.config.socket_dir
    }

    /// Name of the side's database.
    pub fn database(&self) -> String {
        format!("cluster_session_{}", self.config.side)
    }

    /// How the application reaches it.
    pub fn side_config(&self) -> SideConfig {
        SideConfig {
            host: "127.0.0.1".into(),
            port: self.port(),
            database: self.database(),
            user: OWNER.into(),
            password: self.config.password.clone(),
        }
    }

    /// Starts it, an empty one if there is none, and waits until the owner can log in.
    ///
    /// # Errors
    /// It runs already, or does not become ready; it is not running then.
    pub async fn start(&mut self) -> Result<(), LocalError> {
        self.prepare().await?;
        for _ in 1..PORT_ATTEMPTS {
            match self.start_on_port().await {
                Err(e) if e.is_address_in_use() && self.config.port.movable => {
                    tracing::debug!("another port: {e}");
                    self.config.port = PortChoice::Any.choose("", "", &[])?;
                }
                result => return result,
            }
        }
        self.start_on_port().await
    }

    /// Ends what an earlier run left behind in our data directory.
    ///
    /// # Errors
    /// It does not end.
    pub async fn end_leftovers(&self) -> Result<(), LocalError> {
        let left = working_in(&self.data_dir(), "postgres");
        for process in &left {
            process.kill_family();
        }
        all_gone(&left, STOP_DEADLINE).await
    }

    /// Waits for connected programs' transactions to be rolled back and writes a checkpoint ("fast" shutdown).
    ///
    /// # Errors
    /// Something of it is stuck.
    pub async fn stop(&mut self) -> Result<(), LocalError> {
        self.service.stop(Signal::SIGINT, STOP_DEADLINE).await
    }

    /// Stops it and deletes its data; the next start makes an empty cluster.
    ///
    /// # Errors
    /// It cannot be stopped, or its files cannot be deleted.
    pub async fn wipe(&mut self) -> Result<(), LocalError> {
        self.stop().await?;
        self.end_leftovers().await?;
        remove_dir(&self.data_dir())
    }

    async fn prepare(&mut self) -> Result<(), LocalError> {
        let config = &self.config;
        if self.service.process().is_none() {
            self.end_leftovers().await?;
        }
        config.account.private_dir(&config.dir)?;
        let data = self.data_dir();
        if !data.join("PG_VERSION").is_file() {
            let (config, data) = (config.clone(), data.clone());
            let made = tokio::task::spawn_blocking(move || {
                let postgres = newest(&config)?;
                let scratch = config.dir.parent().unwrap_or(&config.dir);
                template::create(
                    &data,
                    &config.template_cache,
                    scratch,
                    postgres,
                    &config.account,
                    config.durable,
                )
            });
            made.await
                .map_err(|e| LocalError::State(format!("making a cluster failed: {e}")))??;
        }
        self.write_access_rules()
    }

    /// Who may log in: the owner by password over TCP; we ourselves as superuser, known by the kernel, over the private
    /// socket. There is no superuser's password.
    fn write_access_rules(&self) -> Result<(), LocalError> {
        let rules = "local all postgres peer map=kambana\n\
                     local all all scram-sha-256\n\
                     host all all 127.0.0.1/32 scram-sha-256\n";
        let mut names = String::new();
        for name in self.config.account.login_names() {
            names.push_str(&format!("kambana \"{name}\" postgres\n"));
        }
        for (file, content) in [("pg_hba.conf", rules), ("pg_ident.conf", &names)] {
            let file = self.config.dir.join(file);
            fs::OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&file)
                .and_then(|mut out| out.write_all(content.as_bytes()))
                .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))
                .map_err(LocalError::io(format!("cannot write {}", file.display())))?;
            self.config.account.own(&file)?;
        }
        Ok(())
    }

    /// PostgreSQL refuses to start while the number in a lock file belongs to any process: a stranger that got it after a
    /// crash, or one that is dead but not yet reaped. Nothing of ours works in the directory any more when this is called.
    fn remove_stale_locks(&self) -> Result<(), LocalError> {
        if self.service.process().is_some() || !working_in(&self.data_dir(), "postgres").is_empty() {
            return Ok(());
        }
        let socket = self.config.socket_dir.join(format!(".s.PGSQL.{}", self.port()));
        let socket_lock = socket.with_file_name(format!(".s.PGSQL.{}.lock", self.port()));
        for file in [self.data_dir().join("postmaster.pid"), socket_lock, socket] {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LocalError::io(format!("cannot delete {}", file.display()))(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn start_on_port(&mut self) -> Result<(), LocalError> {
        self.remove_stale_locks()?;
        let launch = self.launch()?;
        self.service.launch(&launch)?;
        let superuser = self.superuser("postgres");
        let client = self
            .service
            .until_ready(START_DEADLINE, || login(superuser.clone()))
            .await?;
        let provisioned = self.provision(&client).await;
        if let Err(e) = provisioned {
            self.service.crash().await?;
            return Err(e);
        }
        let owner = self.owner();
        self.service
            .until_ready(START_DEADLINE, || login(owner.clone()))
            .await?;
        Ok(())
    }

    fn launch(&self) -> Result<Launch, LocalError> {
        let config = &self.config;
        let (data, dir) = (self.data_dir(), &config.dir);
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let settings = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", config.port.number.to_string()),
            (
                "unix_socket_directories",
                format!("\"{}\"", config.socket_dir.display()),
            ),
            ("unix_socket_permissions", "0700".into()),
            ("hba_file", path(dir.join("pg_hba.conf"))),
            ("ident_file", path(dir.join("pg_ident.conf"))),
            ("password_encryption", "scram-sha-256".into()),
            ("max_connections", "100".into()),
            // What was slow, and who waited for whom, is what one looks for afterwards.
            ("log_min_duration_statement", "500ms".into()),
            ("log_lock_waits", "on".into()),
            // Not the values: they are what people have stored, sessions among them.
            ("log_parameter_max_length", "0".into()),
            ("shared_buffers", "32MB".into()),
            // Stated, because the pool promises to need neither.
            ("max_prepared_transactions", "0".into()),
            ("fsync", "on".into()),
            ("logging_collector", "off".into()),
            ("log_destination", "stderr".into()),
            ("log_line_prefix", "%m [%p] %q%u@%d ".into()),
            ("cluster_name", format!("kambana_{}", config.side)),
        ];
        let mut args: Vec<OsString> = vec!["-D".into(), data.clone().into()];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        for (name, value) in settings.iter().chain(&config.extra_settings) {
            args.push("-c".into());
            args.push(format!("{name}={value}").into());
        }
        Ok(Launch {
            name: self.service.name().to_owned(),
            program: self.programs()?.bin.join("postgres"),
            args,
            // A stray setting of the shell must not change what the server speaks or where it looks.
            env: [("LC_ALL".into(), "C.UTF-8".into())]
                .into_iter()
                .chain(config.extra_env.iter().cloned())
                .collect(),
            dir: dir.clone(),
            account: config.account.clone(),
            log: self.service.log().clone(),
            // "Immediate" shutdown: like a crash, but nothing is left behind.
            when_we_die: Signal::SIGQUIT,
        })
    }

    /// The server that made the cluster: another major cannot read it.
    fn programs(&self) -> Result<&PostgresPrograms, LocalError> {
        let file = self.data_dir().join("PG_VERSION");
        let version =
            fs::read_to_string(&file).map_err(LocalError::io(format!("cannot read {}", file.display())))?;
        let made_by = self
            .config
            .postgres
            .iter()
            .find(|programs| programs.major.to_string() == version.trim());
        made_by.ok_or_else(|| {
            LocalError::Missing(format!(
                "{} was made by PostgreSQL {}, which is not installed; install that version, or delete the \
                 directory (and its data) to start with an empty one",
                self.data_dir().display(),
                version.trim()
            ))
        })
    }
}

fn newest(config: &ClusterConfig) -> Result<&PostgresPrograms, LocalError> {
    config
        .postgres
        .first()
        .ok_or_else(|| LocalError::Missing("no PostgreSQL server is installed".into()))
}
