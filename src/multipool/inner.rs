//! What the doors and the background tasks share: connections, and what is known about every side.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use deadpool_postgres::Pool;
use futures::FutureExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::catalog::{Catalog, Fingerprint};
use super::check::Proof;
use super::connection::{Conn, Failure};
use super::epoch::{Epoch, StateFile};
use super::health::Health;
use super::lineage::Looked;
use super::refusal::Refusal;
use super::standstill::Pulse;
use super::write::{Answered, Job, Pending};
use super::{Event, Happened, NotApplied, PerSide, SideFault, SideId, SideSet, votes};
use crate::config::PoolConfig;

/// One side's connections and what is known about it.
pub(super) struct Side {
    pub reads: Pool,
    /// One connection a lane.
    pub lanes: Pool,
    /// Repair, trimming, and what else is not a write of a caller.
    pub writes: Pool,
    pub health: watch::Sender<Health>,
    /// Asks for a probe now.
    pub doubted: Notify,
    /// Asks that the next probe looks at identity, settings and schema again.
    pub refit: AtomicBool,
    /// What it did not take although its heartbeat was fine.
    pub refusal: Mutex<Option<Refusal>>,
    /// Keys copied in the current catch-up.
    pub caught_up_keys: watch::Sender<u64>,
    pub open_rows: watch::Sender<Option<i64>>,
    /// The server that may be used, once the prober has looked at it.
    pub looked: Arc<Looked>,
    /// The highest mark this side is known to have answered.
    pub highest_mark: AtomicI64,
    /// The journal no longer holds what this side misses.
    pub given_up: AtomicBool,
}

impl Side {
    pub fn mark(&self) -> i64 {
        self.highest_mark.load(Ordering::Acquire)
    }

    pub fn learn_mark(&self, mark: i64) {
        self.highest_mark.fetch_max(mark, Ordering::AcqRel);
    }
}

/// What writers act on.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// `n` is 0 until a membership is known.
    pub epoch: Epoch,
    /// When this instance made it its own.
    pub adopted: Option<std::time::Instant>,
    /// Why writes are refused, if they are.
    pub refusal: Option<NotApplied>,
    /// The side being caught up.
    pub catching_up: Option<SideId>,
}

/// Shared by the doors and the background tasks.
pub(super) struct Inner {
    pub config: PoolConfig,
    pub sides: PerSide<Side>,
    pub lineage: OnceLock<Uuid>,
    pub view: watch::Sender<View>,
    pub state_file: StateFile,
    pub assembly: votes::Assembly,
    pub pulse: Pulse,
    /// Wakes the membership task.
    pub stir: Notify,
    pub closing: watch::Sender<bool>,
    pub queue: mpsc::Sender<Job>,
    pub catalog: Mutex<Known>,
    pub pending: Pending,
    pub answered: Answered,
    pub events: Mutex<VecDeque<Event>>,
    pub proof: Mutex<Proof>,
    pub tasks: Mutex<Vec<(String, JoinHandle<()>)>>,
}

/// The structure of the watched tables, as the leader has it.
#[derive(Default)]
pub(super) struct Known {
    catalog: Arc<Catalog>,
    /// As the leader counted it when the rest was read.
    structure: i64,
    leader: Option<SideId>,
    fingerprint: Arc<Fingerprint>,
}

/// How many events are kept for the status page.
const MAX_EVENTS: usize = 100;

/// How long a write waits for a leader before it is answered "not applied": a freeze is healed in less.
pub(super) const LEADER_PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a task that panicked is started anew: a bug that strikes at once must not keep the machine busy.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these leaves plain data that is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The newest epoch this instance knows of a pool, though no side may have answered yet.
    pub fn newest_known(&self, lineage: Uuid) -> Result<Epoch, String> {
        match self.view.borrow().epoch {
            known if known.n > 0 => Ok(known),
            _ => Ok(self.state_file.load(lineage)?.unwrap_or(Epoch::NONE)),
        }
    }

    pub fn health(&self, side: SideId) -> Health {
        self.sides[side].health.borrow().clone()
    }

    /// The sides whose last probe was good.
    pub fn well(&self) -> SideSet {
        self.sides
            .ids()
            .filter(|side| self.sides[*side].health.borrow().is_well())
            .collect()
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&lock(&self.catalog).catalog)
    }

    /// The watched tables, and the leader's count of migrations when they were read.
    pub fn catalog_of(&self) -> (Arc<Catalog>, i64) {
        let known = lock(&self.catalog);
        (Arc::clone(&known.catalog), known.structure)
    }

    /// The structure every side is held against, and the side it was read from.
    pub fn reference(&self) -> Option<(SideId, Arc<Fingerprint>)> {
        let known = lock(&self.catalog);
        known
            .leader
            .map(|leader| (leader, Arc::clone(&known.fingerprint)))
    }

    /// The structure of the watched tables as a side has it now.
    pub async fn fingerprint(&self, side: SideId) -> Result<Fingerprint, Failure> {
        let conn = Conn::open(&self.sides[side].writes).await?;
        super::catalog::fingerprint(conn.client()?).await
    }

    /// Reads the watched tables from a side.
    pub async fn load_catalog(&self, side: SideId) -> Result<(), Failure> {
        match timeout(self.config.probe_deadline * 2, self.read_catalog(side)).await {
            Ok(done) => done,
            Err(_) => Err(Failure::Side(SideFault::Silent)),
        }
    }

    async fn read_catalog(&self, side: SideId) -> Result<(), Failure> {
        let conn = Conn::open(&self.sides[side].writes).await?;
        // First: what changes while we read makes the next write read again.
        let structure = super::catalog::structure(conn.client()?).await?;
        let catalog = super::catalog::load(conn.client()?).await?;
        let fingerprint = super::catalog::fingerprint(conn.client()?).await?;
        *lock(&self.catalog) = Known {
            catalog: Arc::new(catalog),
            structure,
            leader: Some(side),
            fingerprint: Arc::new(fingerprint),
        };
        Ok(())
    }

    /// Records what happened, for the log and the status page.
    pub fn event(&self, what: Happened) {
        let epoch = self.view.borrow().epoch.n;
        tracing::info!(epoch, "{what}");
        let mut events = lock(&self.events);
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(Event {
            at: SystemTime::now(),
            epoch,
            what,
        });
    }

    /// What is known of the marks of all other sides, for one of them to remember.
    pub fn marks_but(&self, side: SideId) -> (Vec<String>, Vec<i64>) {
        self.sides
            .iter()
            .filter(|(other, state)| *other != side && state.mark() > 0)
            .map(|(other, state)| (other.to_string(), state.mark()))
            .unzip()
    }

    /// Asks for a probe of a side that made trouble.
    pub fn doubt(&self, side: SideId) {
        self.sides[side].doubted.notify_one();
        self.stir.notify_one();
    }

    /// Has a side probed, its identity, privileges and structure included, and waits for what is found.
    pub async fn look_anew(&self, side: SideId) {
        let mut health = self.sides[side].health.subscribe();
        // One probe may be on its way already.
        let enough = health.borrow().rounds + 2;
        self.sides[side].refit.store(true, Ordering::Release);
        self.doubt(side);
        let _ = timeout(
            self.config.probe_deadline * 2,
            health.wait_for(|h| h.rounds >= enough),
        )
        .await;
    }

    /// Resolves when a member of `members` is known to be in trouble; never, if there is none.
    pub async fn trouble(&self, members: SideSet) -> (SideId, SideFault) {
        if members.is_empty() {
            return std::future::pending().await;
        }
        let mut watches: Vec<_> = members
            .iter()
            .map(|side| (side, self.sides[side].health.subscribe()))
            .collect();
        loop {
            for (side, health) in &mut watches {
                if let Some(fault) = &health.borrow_and_update().fault {
                    return (*side, fault.clone());
                }
            }
            let changed = watches.iter_mut().map(|(_, health)| Box::pin(health.changed()));
            futures::future::select_all(changed).await.0.unwrap_or_default();
        }
    }

    /// Waits until the view or the health of a side changes, or `patience` is over.
    pub async fn wait_change(&self, side: SideId, patience: Duration) {
        let (mut view, mut health) = (self.view.subscribe(), self.sides[side].health.subscribe());
        let _ = timeout(patience, async {
            tokio::select! {
                _ = view.changed() => {}
                _ = health.changed() => {}
            }
        })
        .await;
    }

    /// The membership to write to, once writes are accepted.
    pub async fn writable(&self, deadline: Instant) -> Result<Epoch, NotApplied> {
        let now = self.view();
        if now.epoch.n > 0 && now.refusal.is_none() && !*self.closing.borrow() {
            return Ok(now.epoch);
        }
        let mut view = self.view.subscribe();
        let patience = deadline.min(Instant::now() + LEADER_PATIENCE);
        let waited = timeout_at(patience, async {
            tokio::select! {
                found = view.wait_for(|v| v.epoch.n > 0 && v.refusal.is_none()) => found.ok().map(|v| v.epoch),
                () = self.closed() => None,
            }
        })
        .await;
        match waited {
            Ok(Some(epoch)) => Ok(epoch),
            Ok(None) => Err(NotApplied::Closing),
            Err(_) => Err(self.view.borrow().refusal.clone().unwrap_or(NotApplied::NoSide)),
        }
    }

    /// Resolves when the pool is being closed.
    pub async fn closed(&self) {
        // An error would mean that the sender is gone, and it lives as long as `self`.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Runs a named background task until it ends. One that panics is started anew: an instance without its lanes or
    /// its probes would look alive and do nothing. What a lane had in its hands is answered as unknown.
    pub fn spawn<F>(self: &Arc<Self>, name: String, mut task: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (inner, task_name) = (Arc::clone(self), name.clone());
        let handle = tokio::spawn(async move {
            while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
                inner.event(Happened::Restarted {
                    task: task_name.clone(),
                });
                if cfg!(mutant = "lanes_stay_dead") {
                    return;
                }
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        });
        lock(&self.tasks).push((name, handle));
    }
}
