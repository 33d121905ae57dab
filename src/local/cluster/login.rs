//! Logging in to a cluster, and making its owner and database.

use tokio_postgres::{Client, Config, NoTls};

use super::{Cluster, LOGIN_DEADLINE, OWNER, START_DEADLINE};
use crate::local::LocalError;

impl Cluster {
    pub(super) fn superuser(&self, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.config.socket_dir)
            .port(self.port())
            .user("postgres")
            .dbname(database)
            .application_name("kambana up");
        config
    }

    pub(super) fn owner(&self) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port())
            .user(OWNER)
            .password(self.config.password.expose())
            .dbname(self.database())
            .application_name("kambana up");
        config
    }

    /// A connection as the owner of the database.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(&self) -> Result<Client, LocalError> {
        login(self.owner())
            .await
            .map_err(|why| LocalError::Database(format!("side {}: {why}", self.config.side)))
    }

    /// Owner role and database, where they are missing; the password as it is now.
    pub(super) async fn provision(&self, superuser: &Client) -> Result<(), LocalError> {
        let work = async {
            // A failed statement would be logged with the password in it, and a slow one.
            superuser
                .batch_execute(
                    "-- cluster::provision()\nSET log_min_error_statement = panic; \
                     SET log_min_duration_statement = -1",
                )
                .await?;
            let exists = "-- cluster::provision()\n\
                 SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1),\n\
                        EXISTS (SELECT FROM pg_database WHERE datname = $2)";
            let row = superuser.query_one(exists, &[&OWNER, &self.database()]).await?;
            let (role, database): (bool, bool) = (row.get(0), row.get(1));
            // Utility statements take no parameters: the server quotes them itself.
            let alter = format!(
                "-- cluster::provision()\n\
                 SELECT format('{} ROLE %I LOGIN NOSUPERUSER NOREPLICATION NOCREATEDB NOCREATEROLE NOBYPASSRLS \
                 PASSWORD %L', $1::text, $2::text)",
                if role { "ALTER" } else { "CREATE" }
            );
            let known = role && login(self.owner()).await.is_ok();
            if !known {
                let statement: String = superuser
                    .query_one(&alter, &[&OWNER, &self.config.password.expose()])
                    .await?
                    .get(0);
                superuser.batch_execute(&statement).await?;
            }
            if !database {
                let create = "-- cluster::provision()\n\
                     SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING ''UTF8'' \
                     LC_COLLATE ''C.UTF-8'' LC_CTYPE ''C.UTF-8''', $1::text, $2::text)";
                let statement: String = superuser
                    .query_one(create, &[&self.database(), &OWNER])
                    .await?
                    .get(0);
                superuser.batch_execute(&statement).await?;
            }
            Ok(())
        };
        let done: Result<Result<(), tokio_postgres::Error>, _> =
            tokio::time::timeout(START_DEADLINE, work).await;
        let why = match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e)) => explain(&e),
            Err(_) => "no answer in time".into(),
        };
        Err(LocalError::Database(format!(
            "side {}: the database and its owner cannot be made: {why}",
            self.config.side
        )))
    }
}

/// Logs in within [`LOGIN_DEADLINE`]; the connection ends with the client.
pub(super) async fn login(config: Config) -> Result<Client, String> {
    match tokio::time::timeout(LOGIN_DEADLINE, config.connect(NoTls)).await {
        Ok(Ok((client, connection))) => {
            tokio::spawn(connection);
            Ok(client)
        }
        Ok(Err(e)) => Err(explain(&e)),
        Err(_) => Err("no answer to a login".into()),
    }
}

/// The server's own words, or what the driver met.
pub(in crate::local) fn explain(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => db.message().to_owned(),
        (None, Some(source)) => source.to_string(),
        (None, None) => error.to_string(),
    }
}
