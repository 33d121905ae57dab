//! One instance: routes, pages, JSON, errors, security. Knows no SQL.
//!
//! Crash rule: an instance holds nothing that is not in the databases; the other one answers the next request.

mod api;
mod edge;
mod health;
pub mod import;
pub mod lang;
mod metrics;
pub mod pages;
pub mod params;
pub mod problem;
mod routes;
mod security;
mod state;
pub mod votes;
pub mod witness;

pub use state::AppState;

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::multipool::{ConnectError, MultiPool};
use crate::session;

/// Threads that answer requests: two instances share a small machine, and the databases do the work.
const WORKERS: usize = 2;
/// Longer than the default deadline of one operation, so that a stopping instance answers what it has begun.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// How long a connection without a request is kept: longer than HAProxy keeps one, which then rarely finds it closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Pause between two rounds of deleting expired sessions.
const SESSION_GC_INTERVAL: Duration = Duration::from_secs(600);
/// Pause between two rounds of summing up what was measured.
const SUM_UP_INTERVAL: Duration = Duration::from_secs(5);

/// Why an instance cannot serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The databases cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The address is taken or may not be used.
    #[error("cannot listen on {address} (LISTEN): {source}")]
    Listen {
        /// As configured.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The server failed.
    #[error("the web server failed: {0}")]
    Serve(#[from] io::Error),
}

/// Connects, listens and serves until SIGTERM or SIGINT.
///
/// # Errors
/// See [`ServeError`].
pub async fn run(config: Config) -> Result<(), ServeError> {
    let address = config.listen.clone();
    let listen = |source| ServeError::Listen {
        address: address.clone(),
        source,
    };
    // The address first: a second instance on it must not touch the databases at all.
    let listener = TcpListener::bind(&config.listen).map_err(listen)?;
    let peers = votes::peers(&config).map_err(ConnectError)?;
    let pool = MultiPool::connect_among(config.pool.clone(), peers).await?;
    let server = Server::build(config, pool, listener)?;
    tracing::info!(port = server.port, "serving");
    server.run_until_stopped().await?;
    Ok(())
}

/// A built instance: listening, not yet answering.
pub struct Server {
    /// The port it listens on; useful when 0 was asked for.
    pub port: u16,
    state: web::Data<AppState>,
    inner: actix_web::dev::Server,
}

impl Server {
    /// Prepares an instance on `listener`; must be called inside a tokio runtime that outlives it.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub fn build(config: Config, pool: MultiPool, listener: TcpListener) -> io::Result<Server> {
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Handle::current();
        let state = web::Data::new(AppState::new(config, pool, runtime, metrics::install()));
        let for_workers = state.clone();
        let inner = HttpServer::new(move || {
            App::new()
                .app_data(for_workers.clone())
                .configure(routes::configure(&for_workers))
                .wrap(from_fn(edge::edge))
        })
        .workers(WORKERS)
        .keep_alive(KEEP_ALIVE)
        .disable_signals()
        .shutdown_timeout(STOP_DEADLINE.as_secs())
        .listen(listener)?
        .run();
        Ok(Server { port, state, inner })
    }

    /// Serves until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// The server failed.
    pub async fn run_until_stopped(self) -> io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        self.run_until(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
    }

    /// Serves until `stop` resolves; then drains, finishes what was begun, and closes the pool.
    ///
    /// # Errors
    /// The server failed.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let Server { state, inner, .. } = self;
        let handle = inner.handle();
        let mut serving = tokio::spawn(inner);
        let sweeping = tokio::spawn(delete_expired_sessions(state.clone()));
        let counting = tokio::spawn(sum_up(state.clone()));
        let ended_early = tokio::select! {
            result = &mut serving => Some(result),
            () = stop => None,
        };
        let result = match ended_early {
            Some(result) => result,
            None => {
                tracing::info!("draining: readiness answers 404");
                state.drain();
                sleep(state.config.drain).await;
                handle.stop(true).await;
                serving.await
            }
        };
        sweeping.abort();
        counting.abort();
        if timeout(STOP_DEADLINE, state.imports.finish()).await.is_err() {
            tracing::warn!("an import is cut short; submitting its file again continues it");
        }
        if timeout(STOP_DEADLINE, state.pool.close()).await.is_err() {
            tracing::warn!("the pool did not close in time");
        }
        tracing::info!("stopped");
        result.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }
}

/// A task with an end, as [`delete_expired_sessions`]: what was measured waits in memory, each request by itself, until it is
/// summed up, and perhaps nobody ever asks for `/metrics`.
async fn sum_up(state: web::Data<AppState>) {
    loop {
        sleep(SUM_UP_INTERVAL).await;
        state.metrics.run_upkeep();
    }
}

/// A task with an end: it is aborted when the instance stops (a delete that was begun goes on in a task of the pool's).
async fn delete_expired_sessions(state: web::Data<AppState>) {
    loop {
        sleep(SESSION_GC_INTERVAL).await;
        match session::delete_expired(&state.pool, state.config.session_lifetime).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "expired sessions deleted"),
            Err(error) => tracing::warn!(%error, "expired sessions could not be deleted"),
        }
    }
}
