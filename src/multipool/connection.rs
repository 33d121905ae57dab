//! Connections to one side, and what an error of the driver means.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod, Runtime,
    TimeoutType,
};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Statement};

use super::lineage::{Looked, SERVER_SQL};
use super::{PerSide, SideFault, SideId};
use crate::config::{PoolConfig, SideConfig};

/// The session settings that images and time stamps depend on. `CURRENT_TIMESTAMP` stored in a `TIMESTAMP` column
/// depends on the time zone; record text depends on the others.
const SESSION_SETTINGS: &[(&str, &str)] = &[
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("default_transaction_isolation", "read\\ committed"),
    ("synchronous_commit", "on"),
    ("client_min_messages", "error"),
    // Every statement is short; compiling one costs more than it ever saves.
    ("jit", "off"),
];

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Transactions of lanes.
    Lane,
    /// Transactions of repair.
    Write,
    /// Statements of readers; the server refuses writes.
    Read,
}

/// The driver's settings for one side.
pub(super) fn pg_config(side: &SideConfig, pool: &PoolConfig, purpose: Purpose) -> tokio_postgres::Config {
    let mut options = String::new();
    for (name, value) in SESSION_SETTINGS {
        options.push_str(&format!("-c {name}={value} "));
    }
    let deadline_ms = match purpose {
        Purpose::Lane | Purpose::Write => pool.op_deadline,
        Purpose::Read => pool.op_deadline.min(READ_DEADLINE),
    }
    .as_millis();
    options.push_str(&format!(
        "-c lock_timeout={} -c statement_timeout={deadline_ms} -c idle_in_transaction_session_timeout={} ",
        pool.lock_timeout.as_millis(),
        IDLE_IN_TRANSACTION.as_millis(),
    ));
    if purpose == Purpose::Read {
        options.push_str("-c default_transaction_read_only=on");
    }
    let mut config = tokio_postgres::Config::new();
    config
        .host(&side.host)
        .port(side.port)
        .dbname(&side.database)
        .user(&side.user)
        .application_name(format!("kambana {}", pool.instance))
        .connect_timeout(pool.probe_deadline)
        // A host that is cut off sends nothing, not even a reset.
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(2)
        .tcp_user_timeout(Duration::from_secs(10))
        .options(options);
    if !side.password.expose().is_empty() {
        config.password(side.password.expose());
    }
    config
}

/// A transaction whose instance was paused must not hold the fence for ever: the server ends it after this long.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(3);

/// The server ends a statement of a reader after this long: before the reader's patience is over, so that he is told why.
const READ_DEADLINE: Duration = Duration::from_secs(4);

/// Prepared statements of a connection before it forgets them all.
const MAX_PREPARED: usize = 500;

/// Statements of the caller's that are longer have their values in their text: they do not come again.
const MAX_PREPARED_BYTES: usize = 8 << 10;

/// How often [`keep_awake`] says something: well within the timeout.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Keeps a transaction from being ended as idle while another side works for it; never resolves. An instance that stands
/// still does not do this: its servers end its transactions, and with them its locks and its fences, in seconds.
pub(super) async fn keep_awake(client: &Client) -> Infallible {
    loop {
        tokio::time::sleep(SIGN_OF_LIFE).await;
        // What went wrong is found by whoever does the work.
        let _ = client.batch_execute("SELECT 'still here'").await;
    }
}

/// The statements of lanes go by key, so they are planned once, and not by how much the journal held at that moment: planned
/// anew for each array of names, planning costs as much as running, and a plan made for an empty journal reads all of it
/// when it is full. Set after the login, so that `DEFAULT` still means what the server does for everybody.
const BY_KEY_SQL: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off";

/// A bounded set of connections to one side.
pub(super) fn pool(
    side: &SideConfig,
    config: &PoolConfig,
    purpose: Purpose,
    size: usize,
    looked: Arc<Looked>,
) -> Result<Pool, String> {
    let manager = Manager::from_config(
        pg_config(side, config, purpose),
        NoTls,
        ManagerConfig {
            recycling_method: match purpose {
                Purpose::Lane | Purpose::Write => RecyclingMethod::Verified,
                // A read is repeated when its connection turns out to be dead (`read`).
                Purpose::Read => RecyclingMethod::Fast,
            },
        },
    );
    let mut builder = Pool::builder(manager)
        .max_size(size)
        // The one that was used last: its server process has everything at hand.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(config.probe_deadline))
        .create_timeout(Some(config.probe_deadline))
        .recycle_timeout(Some(config.probe_deadline))
        .post_create(only_looked_at(looked, config.probe_deadline));
    if purpose == Purpose::Lane {
        builder = builder.post_create(Hook::async_fn(|client, _| {
            Box::pin(async { client.batch_execute(BY_KEY_SQL).await.map_err(HookError::Backend) })
        }));
    }
    builder.build().map_err(|e| e.to_string())
}

/// A connection leads to a server that the prober has looked at, or it is not used.
fn only_looked_at(looked: Arc<Looked>, deadline: Duration) -> Hook {
    Hook::async_fn(move |client, _| {
        let looked = Arc::clone(&looked);
        Box::pin(async move {
            match tokio::time::timeout(deadline, client.query_one(SERVER_SQL, &[])).await {
                Ok(Ok(row)) if looked.is(row.get(0)) => Ok(()),
                Ok(Ok(_)) => Err(HookError::message("it was started anew and is being looked at")),
                Ok(Err(error)) => Err(HookError::Backend(error)),
                Err(_) => Err(HookError::message("it accepts connections but does not answer")),
            }
        })
    })
}

/// What an error means for the attempt that met it.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The side itself is in trouble.
    Side(SideFault),
    /// Nothing is wrong with the side or the statement; the same work may succeed when repeated.
    Repeat(Repeat),
    /// The statement is at fault, on every side alike.
    Rejected(Rejection),
}

/// Why repeating makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A lock was not given within `lock_timeout`.
    Locked,
    /// Deadlock, serialization failure, a cached plan that no longer fits, an ended idle transaction, a reader's connection
    /// that died while nobody used it.
    Contention,
    /// The server cancelled the statement at its `statement_timeout`.
    Cancelled,
    /// All connections to the side are busy.
    Busy,
    /// The server has no slot for another connection; those that are open go on.
    NoSlot,
}

/// PostgreSQL's refusal of a statement.
#[derive(Debug, Clone)]
pub(super) struct Rejection {
    pub sqlstate: String,
    pub message: String,
    pub constraint: Option<String>,
    pub column: Option<String>,
}

impl Failure {
    /// A foreign key, unique or other constraint refused a row: it does not fit to the other rows of this side.
    pub fn breaks_constraint(&self) -> bool {
        matches!(self, Failure::Rejected(r) if r.sqlstate.starts_with("23"))
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        let Some(db) = error.as_db_error() else {
            if error.is_closed() || is_io(&error) {
                return Failure::Side(SideFault::Down(chain(&error)));
            }
            // The driver could not encode a parameter: the caller's value, nothing was sent.
            return Failure::Rejected(Rejection {
                sqlstate: "22023".into(),
                message: chain(&error),
                constraint: None,
                column: None,
            });
        };
        let code = db.code();
        if let Some(fault) = side_fault(code, db.message()) {
            return Failure::Side(fault);
        }
        if *code == SqlState::LOCK_NOT_AVAILABLE {
            return Failure::Repeat(Repeat::Locked);
        }
        if *code == SqlState::QUERY_CANCELED {
            return Failure::Repeat(Repeat::Cancelled);
        }
        if *code == SqlState::TOO_MANY_CONNECTIONS {
            return Failure::Repeat(Repeat::NoSlot);
        }
        let stale_plan = *code == SqlState::FEATURE_NOT_SUPPORTED && db.message().contains("cached plan");
        if stale_plan
            || [
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            ]
            .contains(code)
        {
            return Failure::Repeat(Repeat::Contention);
        }
        Failure::Rejected(Rejection {
            sqlstate: code.code().to_owned(),
            message: db.message().to_owned(),
            constraint: db.constraint().map(str::to_owned),
            column: db.column().map(str::to_owned),
        })
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Failure {
        match error {
            PoolError::Backend(e) | PoolError::PostCreateHook(HookError::Backend(e)) => e.into(),
            PoolError::PostCreateHook(HookError::Message(why)) => {
                Failure::Side(SideFault::Down(why.into_owned()))
            }
            PoolError::Timeout(TimeoutType::Wait) => Failure::Repeat(Repeat::Busy),
            PoolError::Timeout(_) => Failure::Side(SideFault::Silent),
            other => Failure::Side(SideFault::Down(other.to_string())),
        }
    }
}

/// SQLSTATEs that speak of the server, not of the statement.
fn side_fault(code: &SqlState, message: &str) -> Option<SideFault> {
    match code.code() {
        // operator intervention: shutdown, crash, starting up; but not a cancelled query
        "57P01" | "57P02" | "57P03" | "57P05" => Some(SideFault::Down(message.to_owned())),
        // no slot for one more connection; a statement that asks for too much memory or temporary space: the server is well
        "53300" | "53200" | "53400" => None,
        // disk full, no file left; system errors; read-only server
        "25006" | "XX001" | "XX002" => Some(SideFault::Unfit(message.to_owned())),
        // no such database; login
        "3D000" | "28000" | "28P01" => Some(SideFault::Refused(message.to_owned())),
        other if other.starts_with("08") => Some(SideFault::Down(message.to_owned())),
        other if other.starts_with("53") || other.starts_with("58") => {
            Some(SideFault::Unfit(message.to_owned()))
        }
        _ => None,
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<std::io::Error>() {
            return true;
        }
        source = inner.source();
    }
    // "error connecting", "timeout waiting for server", "error communicating with the server"
    let text = error.to_string();
    text.contains("connect") || text.contains("timeout") || text.contains("communicating")
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// One connection of a pool, with a cache of prepared statements.
///
/// While it is marked as busy, dropping it closes it instead of giving it back, so that no open transaction ever
/// returns to a pool.
pub(super) struct Conn {
    object: Option<Object>,
    busy: AtomicBool,
}

impl Conn {
    /// Takes a connection.
    pub async fn open(pool: &Pool) -> Result<Conn, Failure> {
        Ok(Conn {
            object: Some(pool.get().await?),
            busy: AtomicBool::new(false),
        })
    }

    /// Says whether a transaction may be open on it.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }

    /// Whether it was used before it was taken.
    pub fn was_used(&self) -> bool {
        self.object
            .as_ref()
            .is_some_and(|object| Object::metrics(object).recycle_count > 0)
    }

    fn object(&self) -> Result<&Object, Failure> {
        match &self.object {
            Some(object) if !object.is_closed() => Ok(object),
            _ => Err(Failure::Side(SideFault::Down("connection closed".into()))),
        }
    }

    /// The driver's client; requests on it are pipelined in the order their futures are first polled.
    pub fn client(&self) -> Result<&Client, Failure> {
        Ok(self.object()?)
    }

    /// A prepared statement of the caller's own text, which may be another one each time: the cache has a bound.
    pub async fn prepare_foreign(&self, sql: &str) -> Result<Statement, Failure> {
        let object = self.object()?;
        if sql.len() > MAX_PREPARED_BYTES {
            return Ok(object.prepare(sql).await?);
        }
        if object.statement_cache.size() >= MAX_PREPARED {
            object.statement_cache.clear();
        }
        let prepared = object.prepare_cached(sql).await;
        if prepared.is_err() {
            // The cache keeps a place for it.
            object.statement_cache.remove(sql, &[]);
        }
        Ok(prepared?)
    }

    /// A prepared statement, from the cache after the first time.
    pub async fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        Ok(self.object()?.prepare_cached(sql).await?)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.busy.load(Ordering::Acquire)
            && let Some(object) = self.object.take()
        {
            drop(Object::take(object));
        }
    }
}

/// One connection outside the pools, for who looks at a server first, and for long work.
pub(super) async fn connect(config: &PoolConfig, side: SideId, purpose: Purpose) -> Result<Client, Failure> {
    let driver = pg_config(&config.sides[side], config, purpose);
    let (client, connection) = driver.connect(NoTls).await?;
    // Ends by itself when the client is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%side, %error, "connection ended");
        }
    });
    Ok(client)
}

/// One connection to every side, outside the pools; for commands that are not an instance.
pub(super) async fn connect_all(config: &PoolConfig) -> Result<PerSide<Client>, (SideId, Failure)> {
    let mut clients = Vec::new();
    for (side, settings) in config.sides.iter() {
        let driver = pg_config(settings, config, Purpose::Write);
        let connected = tokio::time::timeout(COMMAND_CONNECT, driver.connect(NoTls)).await;
        let (client, connection) = match connected {
            Ok(Ok(pair)) => pair,
            Ok(Err(e)) => return Err((side, e.into())),
            Err(_) => return Err((side, Failure::Side(SideFault::Silent))),
        };
        // Ends by itself when the client is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection of a command ended");
            }
        });
        // A command may look at one side for minutes while its transaction on another one waits.
        client
            .batch_execute(
                "SET statement_timeout = '10min'; SET idle_in_transaction_session_timeout = '20min'",
            )
            .await
            .map_err(|e| (side, e.into()))?;
        clients.push(client);
    }
    let mut clients = clients.into_iter();
    let count = clients.len();
    Ok(PerSide::new(count, |_| {
        clients
            .next()
            .unwrap_or_else(|| unreachable!("one client a side"))
    }))
}

/// How long a command waits for a server to accept it.
const COMMAND_CONNECT: Duration = Duration::from_secs(5);

/// A failure as a sentence for a person.
pub(super) fn words(failure: &Failure) -> String {
    match failure {
        Failure::Side(fault) => fault.to_string(),
        Failure::Repeat(Repeat::NoSlot) => {
            "it has no slot for another connection (too many clients)".to_owned()
        }
        Failure::Repeat(why) => format!("the server is busy ({why:?}); try again"),
        Failure::Rejected(r) => format!("{} (SQLSTATE {})", r.message, r.sqlstate),
    }
}
