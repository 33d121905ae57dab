//! Which databases a command works on: those of the environment, or those of a running `kambana up`.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;

use super::{Failure, data_dir};
use crate::config::{PoolConfig, SideConfig};
use crate::local::record::{Record, SideRecord};

/// Arguments of every command that reaches the databases.
#[derive(Debug, Args)]
pub struct DatabaseArgs {
    /// Use the databases of the `kambana up` that runs on this directory
    ///
    /// Without it: the databases of the environment or `.env` (DB1_HOST and so on, see env.example); if those name none,
    /// the ones of a `kambana up` on `var`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Settings of the pool for those databases.
pub fn pool_config(args: DatabaseArgs) -> Result<PoolConfig, Failure> {
    let from_env = PoolConfig::from_env();
    let asked = args.data.is_some();
    // After `from_env`, which read `.env`.
    if !asked && std::env::var_os("DB1_USER").is_some_and(|user| !user.is_empty()) {
        return Ok(from_env?);
    }
    match Record::read(&data_dir(args.data)) {
        Ok(record) => {
            let sides: Vec<SideConfig> = record.sides.values().map(SideRecord::config).collect();
            let vars = vars_of(&sides);
            Ok(PoolConfig::from_vars(|name| match name.strip_prefix("DB") {
                Some(_) => vars.get(name).cloned(),
                None => std::env::var(name).ok(),
            })?)
        }
        Err(e) if asked => Err(e.into()),
        // Neither: the variable that is missing says more than the directory that is.
        Err(_) => Ok(from_env?),
    }
}

fn vars_of(sides: &[SideConfig]) -> HashMap<String, String> {
    let mut vars = HashMap::new();
    for (n, side) in sides.iter().enumerate() {
        let mut set = |part, value: &str| vars.insert(format!("DB{}_{part}", n + 1), value.to_owned());
        set("HOST", &side.host);
        set("PORT", &side.port.to_string());
        set("NAME", &side.database);
        set("USER", &side.user);
        set("PASSWORD", side.password.expose());
    }
    vars
}

#[cfg(test)]
mod tests {
    use crate::config::Secret;

    use super::*;

    #[test]
    fn sides_of_a_record_become_settings() {
        let side = |port, database: &str| SideConfig {
            host: "127.0.0.1".into(),
            port,
            database: database.into(),
            user: "webuser".into(),
            password: Secret::new("secret"),
        };
        let sides = [side(1, "cluster_session_a"), side(2, "cluster_session_b")];
        let vars = vars_of(&sides);
        let config = PoolConfig::from_vars(|name| vars.get(name).cloned()).unwrap();
        let found: Vec<&SideConfig> = config.sides.iter().map(|(_, side)| side).collect();
        assert_eq!(found, sides.iter().collect::<Vec<_>>());
    }
}
