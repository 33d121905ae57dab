//! Every setting, read from the environment (and `.env`). `Debug` redacts secrets; units are in the names.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::multipool::PerSide;

/// A setting that is missing or cannot be understood; the text names the variable and what it takes.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// A value that never appears in logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    /// The secret itself; only for handing it to the server it belongs to.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How to reach one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideConfig {
    /// `DBn_HOST`: a host name, an address or the directory of a Unix socket.
    pub host: String,
    /// `DBn_PORT`.
    pub port: u16,
    /// `DBn_NAME`.
    pub database: String,
    /// `DBn_USER`.
    pub user: String,
    /// `DBn_PASSWORD`.
    pub password: Secret,
}

/// Where reads go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The leader: no reader sees a value that one failure can undo.
    #[default]
    Leader,
    /// The active side with the quickest heartbeat: may show a value a moment before the leader has it.
    Nearest,
}

/// Settings of the pool (the heart); usable without the web application.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The databases, in order: the first active one leads.
    pub sides: PerSide<SideConfig>,
    /// `INSTANCE`: name of this process among its peers.
    pub instance: String,
    /// `READ_FROM`.
    pub read_from: ReadFrom,
    /// `STATE_DIR`: where this instance keeps the latest epoch it knows (one small fsynced file).
    pub state_dir: PathBuf,
    /// `POOL_SIZE`: connections for reads, per side.
    pub pool_size: usize,
    /// `WRITE_LANES`: writes in flight at once, each with one connection a side.
    pub write_lanes: usize,
    /// `WRITE_QUEUE`: writes that may wait for a lane before new ones are refused.
    pub write_queue: usize,
    /// `OP_DEADLINE_MS`: the longest one operation may take, retries included.
    pub op_deadline: Duration,
    /// `PROBE_INTERVAL_MS`: pause between two heartbeats of a side.
    pub probe_interval: Duration,
    /// `PROBE_DEADLINE_MS`: a side that has not answered a heartbeat after this long is frozen.
    pub probe_deadline: Duration,
    /// `LOCK_TIMEOUT_MS`: the longest a write waits for a row or table lock of somebody else.
    pub lock_timeout: Duration,
    /// `JOURNAL_RETENTION_HOURS`: how long settled journal rows and outcomes of operations are kept.
    pub journal_retention: Duration,
    /// `COMPARE_EVERY_MINUTES`: pause between two comparisons of all tables in the background; 0 is off.
    pub compare_every: Duration,
    /// `JOURNAL_MAX_ROWS`: so many journal rows are kept for a side that is out; above, it is given up and rebuilt.
    pub journal_max_rows: i64,
}

/// Settings of the web application.
#[derive(Clone, Debug)]
pub struct Config {
    /// The heart's settings.
    pub pool: PoolConfig,
    /// `LISTEN`: address and port of this instance.
    pub listen: String,
    /// `PEERS`: base URLs of the other instances, separated by commas.
    pub peers: Vec<String>,
    /// `WITNESS`: base URL of the witness, if there is one.
    pub witness: Option<String>,
    /// `SESSION_SECRET`: at least 64 bytes, the same on every instance; signs the session cookie.
    pub session_secret: Secret,
    /// `SESSION_HOURS`: a session unused for this long is deleted.
    pub session_lifetime: Duration,
    /// `IMPORT_MAX_MB`: largest CSV file.
    pub import_max_bytes: usize,
    /// `DRAIN_MS`: how long an instance that was told to stop answers readiness with 404 before it stops, so that HAProxy
    /// (which asks every half second and wants two answers) sends it nothing new.
    pub drain: Duration,
}

impl PoolConfig {
    /// Reads `.env` if there is one, then the environment.
    ///
    /// # Errors
    /// A variable that is missing or cannot be understood, by name.
    pub fn from_env() -> Result<PoolConfig, ConfigError> {
        load_dotenv()?;
        PoolConfig::from_vars(|name| std::env::var(name).ok())
    }

    /// Defaults for everything but the databases and the instance's name.
    pub fn new(sides: Vec<SideConfig>, instance: &str) -> PoolConfig {
        let mut sides = sides.into_iter();
        let count = sides.len();
        PoolConfig {
            sides: PerSide::new(count, |_| {
                sides
                    .next()
                    .unwrap_or_else(|| unreachable!("count is the length"))
            }),
            instance: instance.to_owned(),
            read_from: ReadFrom::Leader,
            state_dir: PathBuf::from("var/state"),
            pool_size: 8,
            write_lanes: 4,
            write_queue: 256,
            op_deadline: Duration::from_secs(10),
            probe_interval: Duration::from_millis(250),
            probe_deadline: Duration::from_millis(1000),
            lock_timeout: Duration::from_millis(900),
            journal_retention: Duration::from_secs(24 * 3600),
            compare_every: Duration::from_secs(60 * 60),
            journal_max_rows: 1_000_000,
        }
    }

    /// Reads the settings through `var` (the environment, or a map in tests).
    ///
    /// # Errors
    /// A variable that is missing or cannot be understood, by name.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<PoolConfig, ConfigError> {
        let vars = Vars(&var);
        let mut sides = Vec::new();
        for n in 1..=crate::multipool::MAX_SIDES {
            let named = ["HOST", "NAME"].map(|part| vars.get(&format!("DB{n}_{part}")));
            if n > 2 && named.iter().all(Option::is_none) {
                break;
            }
            let letter = char::from(b'a' + n as u8 - 1);
            sides.push(SideConfig {
                host: vars.or(&format!("DB{n}_HOST"), "127.0.0.1".to_owned())?,
                port: vars.or(&format!("DB{n}_PORT"), 5432)?,
                database: vars.or(&format!("DB{n}_NAME"), format!("cluster_session_{letter}"))?,
                user: vars.required(&format!("DB{n}_USER"))?,
                password: Secret(var(&format!("DB{n}_PASSWORD")).unwrap_or_default()),
            });
        }
        let ms = |name: &str, default: Duration| -> Result<Duration, ConfigError> {
            Ok(Duration::from_millis(vars.or(name, default.as_millis() as u64)?))
        };
        let instance = vars.or("INSTANCE", "web1".to_owned())?;
        let d = PoolConfig::new(sides, &instance);
        Ok(PoolConfig {
            read_from: match var("READ_FROM").as_deref() {
                None | Some("" | "leader") => ReadFrom::Leader,
                Some("nearest") => ReadFrom::Nearest,
                Some(other) => {
                    return Err(ConfigError(format!(
                        "READ_FROM=`{other}`: takes leader or nearest"
                    )));
                }
            },
            state_dir: vars.or("STATE_DIR", d.state_dir)?,
            pool_size: vars.positive("POOL_SIZE", d.pool_size)?,
            write_lanes: vars.positive("WRITE_LANES", d.write_lanes)?,
            write_queue: vars.positive("WRITE_QUEUE", d.write_queue)?,
            op_deadline: ms("OP_DEADLINE_MS", d.op_deadline)?,
            probe_interval: ms("PROBE_INTERVAL_MS", d.probe_interval)?,
            probe_deadline: ms("PROBE_DEADLINE_MS", d.probe_deadline)?,
            lock_timeout: ms("LOCK_TIMEOUT_MS", d.lock_timeout)?,
            journal_retention: Duration::from_secs(3600 * vars.or("JOURNAL_RETENTION_HOURS", 24u64)?),
            compare_every: Duration::from_secs(60 * vars.or("COMPARE_EVERY_MINUTES", 60u64)?),
            journal_max_rows: vars.positive("JOURNAL_MAX_ROWS", d.journal_max_rows as usize)? as i64,
            sides: d.sides,
            instance: d.instance,
        })
    }
}

impl Config {
    /// Reads `.env` if there is one, then the environment.
    ///
    /// # Errors
    /// A variable that is missing or cannot be understood, by name.
    pub fn from_env() -> Result<Config, ConfigError> {
        load_dotenv()?;
        Config::from_vars(|name| std::env::var(name).ok())
    }

    /// As [`Config::from_env`], from any source.
    ///
    /// # Errors
    /// A variable that is missing or cannot be understood, by name.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let pool = PoolConfig::from_vars(&var)?;
        let vars = Vars(&var);
        let session_secret = session_secret(&vars)?;
        let peers = var("PEERS").map(|s| split_list(&s)).unwrap_or_default();
        let witness = vars.get("WITNESS").map(|s| s.trim().to_owned());
        for (name, url) in peers
            .iter()
            .map(|url| ("PEERS", url))
            .chain(witness.iter().map(|url| ("WITNESS", url)))
        {
            if !url.starts_with("http://") {
                return Err(ConfigError(format!(
                    "{name}=`{url}`: takes base URLs such as http://127.0.0.1:8002 (no TLS: use a network that you trust)"
                )));
            }
        }
        Ok(Config {
            pool,
            listen: vars.or("LISTEN", "127.0.0.1:8001".to_owned())?,
            peers,
            witness,
            session_secret,
            session_lifetime: Duration::from_secs(3600 * vars.or("SESSION_HOURS", 24u64)?),
            import_max_bytes: vars.or("IMPORT_MAX_MB", 64usize)? * 1024 * 1024,
            drain: Duration::from_millis(vars.or("DRAIN_MS", 1500u64)?),
        })
    }
}

/// Only `SESSION_SECRET`, for the witness: from `.env` if there is one, then from the environment.
///
/// # Errors
/// It is missing or too short.
pub fn session_secret_from_env() -> Result<Secret, ConfigError> {
    load_dotenv()?;
    session_secret(&Vars(&|name| std::env::var(name).ok()))
}

fn session_secret(vars: &Vars<'_>) -> Result<Secret, ConfigError> {
    let secret: String = vars.required("SESSION_SECRET")?;
    if secret.len() < 64 {
        return Err(ConfigError(
            "SESSION_SECRET is too short: give at least 64 characters, the same on every instance \
             (for example the output of `openssl rand -hex 32`)"
                .into(),
        ));
    }
    Ok(Secret(secret))
}

fn load_dotenv() -> Result<(), ConfigError> {
    match dotenvy::dotenv() {
        Ok(_) => Ok(()),
        Err(e) if e.not_found() => Ok(()),
        Err(e) => Err(ConfigError(format!(".env cannot be read: {e}"))),
    }
}

fn split_list(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Looks variables up and names them in errors; an empty variable counts as not given.
struct Vars<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Vars<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn or<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text.trim().parse().map_err(|_| {
                ConfigError(format!(
                    "{name}=`{text}` is not a valid {}",
                    std::any::type_name::<T>()
                ))
            }),
        }
    }

    fn positive(&self, name: &str, default: usize) -> Result<usize, ConfigError> {
        match self.or(name, default)? {
            0 => Err(ConfigError(format!("{name} must be at least 1"))),
            n => Ok(n),
        }
    }

    fn required(&self, name: &str) -> Result<String, ConfigError> {
        self.get(name)
            .ok_or_else(|| ConfigError(format!("{name} is not set; see env.example for all settings")))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const EXAMPLE: &str = include_str!("../env.example");

    /// Names and values of `env.example`: `NAME=value`, or `#NAME=default`.
    fn example() -> BTreeMap<String, String> {
        let settings = EXAMPLE.lines().filter_map(|line| {
            let (name, value) = line.trim_start_matches('#').split_once('=')?;
            let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            (!name.is_empty() && name.chars().all(is_name)).then(|| (name.to_owned(), value.to_owned()))
        });
        settings.collect()
    }

    fn required(name: &str) -> Option<String> {
        match name {
            "DB1_USER" | "DB2_USER" => Some("webuser".into()),
            "SESSION_SECRET" => Some("x".repeat(64)),
            _ => None,
        }
    }

    #[test]
    fn env_example_and_code_name_the_same_variables() {
        let asked = RefCell::new(BTreeSet::new());
        Config::from_vars(|name| {
            asked.borrow_mut().insert(name.to_owned());
            required(name)
        })
        .unwrap();
        let mut asked = asked.into_inner();
        // Only looked for, to see whether there is a third side.
        assert!(asked.remove("DB3_HOST") && asked.remove("DB3_NAME"));
        assert_eq!(asked, example().into_keys().collect());
    }

    #[test]
    fn env_example_shows_the_defaults() {
        let example = example();
        let shown = |name: &str| match name {
            "SESSION_SECRET" => required(name),
            _ => example.get(name).cloned(),
        };
        let (shown, default) = (
            Config::from_vars(shown).unwrap(),
            Config::from_vars(required).unwrap(),
        );
        // The example tells the two databases apart; all else is the default.
        let (mut a, mut b) = (format!("{shown:?}"), format!("{default:?}"));
        for config in [&mut a, &mut b] {
            *config = config.replace("port: 54322", "port: 5432");
        }
        assert_eq!(a, b);
    }

    #[test]
    fn bad_settings_are_named() {
        let with = |name: &'static str, value: &'static str| {
            let config = Config::from_vars(|asked| match asked == name {
                true => Some(value.to_owned()),
                false => required(asked),
            });
            config.map(drop).map_err(|e| e.to_string())
        };
        for (name, value) in [
            ("DB2_PORT", "abc"),
            ("DB1_PORT", "65536"),
            ("POOL_SIZE", "0"),
            ("READ_FROM", "b"),
            ("SESSION_SECRET", "short"),
            ("PEERS", "10.0.0.2:8001"),
            ("WITNESS", "https://10.0.0.3"),
            ("DB1_USER", ""),
        ] {
            assert!(with(name, value).unwrap_err().contains(name), "{name}={value}");
        }
        // Given but empty is not given: no third side.
        assert_eq!(with("DB3_HOST", ""), Ok(()));
        assert!(with("DB3_HOST", "c.example").unwrap_err().contains("DB3_USER"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = Config::from_vars(|name| match name {
            "DB1_PASSWORD" => Some("hunter2".into()),
            _ => required(name),
        });
        let shown = format!("{:?}", config.unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("xxxx"), "{shown}");
    }
}
