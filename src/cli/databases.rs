//! Which databases a command works on: those of the environment, or those of a running `kambana up`.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, data_dir};
use crate::config::PoolConfig;
use crate::local::record;

/// Arguments of every command that reaches the databases.
#[derive(Clone, Debug, Args)]
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
    // Reads `.env`, so that what it names counts below.
    let from_env = PoolConfig::from_env();
    let named = std::env::var_os("DB1_USER").is_some_and(|user| !user.is_empty());
    if args.data.is_none() && named {
        return Ok(from_env?);
    }
    let asked = args.data.is_some();
    match record::pool_config(&data_dir(args.data)) {
        Ok(config) => Ok(config),
        Err(e) if asked => Err(e.into()),
        // Neither: the variable that is missing says more than the directory that is.
        Err(_) => Ok(from_env?),
    }
}
