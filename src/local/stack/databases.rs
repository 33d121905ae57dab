//! The first content of the databases.

use std::process::Stdio;
use std::time::Duration;

use super::Stack;
use crate::local::LocalError;
use crate::local::cluster::explain;
use crate::multipool::SideId;

/// The application's tables.
const SCHEMA: &str = include_str!("../../../schema.sql");

/// For statements that make tables, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

impl Stack {
    /// On databases that were never used: the application's tables, and `kambana init`. Where a side was used before,
    /// nothing: an empty side beside a full one is for the pool to rebuild. Says whether it did anything.
    ///
    /// # Errors
    /// A database, or `kambana init`, refused.
    pub async fn prepare_databases(&self) -> Result<bool, LocalError> {
        let mut clients = Vec::new();
        for (side, cluster) in self.sides.iter() {
            clients.push((side, cluster.lock().await.connect().await?));
        }
        for (side, client) in &clients {
            let used = "-- stack::prepare_databases()\nSELECT to_regnamespace('kambana') IS NOT NULL";
            if within(*side, client.query_one(used, &[])).await?.get(0) {
                return Ok(false);
            }
        }
        for (side, client) in &clients {
            within(*side, client.batch_execute(SCHEMA)).await?;
        }
        drop(clients);
        if self.has_program {
            self.run_init().await?;
        }
        Ok(true)
    }

    /// `kambana init`, as anybody would run it: this room does not know what it does.
    async fn run_init(&self) -> Result<(), LocalError> {
        let Some(instance) = self.instances.first() else {
            return Ok(());
        };
        let wiring = self.wiring(0);
        let (program, env) = {
            let instance = instance.lock().await;
            let config = instance.config();
            (config.program.clone(), config.env(&wiring))
        };
        let child = tokio::process::Command::new(program)
            .arg("init")
            .envs(env)
            .current_dir(&self.place.dir)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let what = || "kambana init".to_owned();
        let output = match tokio::time::timeout(DEADLINE, child).await {
            Ok(output) => output.map_err(LocalError::io(what()))?,
            Err(_) => return Err(LocalError::Database("kambana init did not finish in time".into())),
        };
        LocalError::unless_success(output, what)
    }
}

async fn within<T>(
    side: SideId,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, LocalError> {
    let why = match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(e)) => explain(&e),
        Err(_) => "no answer in time".to_owned(),
    };
    Err(LocalError::Database(format!("side {side}: {why}")))
}
