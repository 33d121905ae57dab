//! What the handlers of one instance share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Handle;

use super::import::Imports;
use crate::config::Config;
use crate::multipool::MultiPool;

/// One value a process, behind `web::Data`.
pub struct AppState {
    /// The databases.
    pub pool: MultiPool,
    /// All settings; `Debug` redacts the secrets.
    pub config: Config,
    /// When this instance was started.
    pub started: SystemTime,
    /// Imports this instance runs or ran.
    pub imports: Imports,
    /// The runtime of the process. Work that outlives its request is spawned here: the runtime of a worker ends with the
    /// worker.
    pub runtime: Handle,
    pub(super) metrics: PrometheusHandle,
    draining: AtomicBool,
}

impl AppState {
    pub(super) fn new(
        config: Config,
        pool: MultiPool,
        runtime: Handle,
        metrics: PrometheusHandle,
    ) -> AppState {
        AppState {
            pool,
            config,
            started: SystemTime::now(),
            imports: Imports::default(),
            runtime,
            metrics,
            draining: AtomicBool::new(false),
        }
    }

    /// Name of this instance.
    pub fn instance(&self) -> &str {
        &self.config.pool.instance
    }

    /// Whether this instance was told to stop and wants no new requests.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}
