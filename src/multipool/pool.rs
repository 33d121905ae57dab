//! The pool: connections, what is known, and the public doors.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::catalog::Fingerprint;
use super::connection::{self, Purpose};
use super::epoch::{Epoch, StateFile};
use super::health::{self, Health};
use super::inner::{Inner, Side, View, lock};
use super::lineage::Looked;
use super::standstill::{self, Pulse};
use super::write::{Answered, Job, Lane, Pending, Queue, Work, may_share};
use super::{
    Applied, Change, ConnectError, Glance, Loss, NotApplied, OpId, Peers, PerSide, SideFault, SideId,
    SideSet, SideState, SideStatus, Status, Tx, Value, WriteError, change, check, lineage, membership, trim,
    votes,
};
use crate::config::PoolConfig;

/// Two or more ordinary PostgreSQL databases behind one door. Cheap to clone; all clones are one pool.
#[derive(Clone)]
pub struct MultiPool {
    inner: Arc<Inner>,
}

/// How much longer than its deadline a caller waits for the task that runs its operation.
const ANSWER_GRACE: Duration = Duration::from_millis(1500);

/// How long `close` waits for each background task.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

impl MultiPool {
    /// Connects to every side, checks that they are twins, and starts the background tasks. A side that does not
    /// answer is left out and caught up later; a side that answers but does not belong here is an error.
    ///
    /// # Errors
    /// Wrong identity or lineage, unsafe settings, missing schema, refused login, unreadable state file: by side and
    /// with what to do.
    pub async fn connect(config: PoolConfig) -> Result<MultiPool, ConnectError> {
        MultiPool::connect_among(config, Peers::default()).await
    }

    /// As [`MultiPool::connect`], beside other instances on the same databases: no side is left out or brought back
    /// without more than half of the votes. Every instance must be given all others and the same witness.
    ///
    /// # Errors
    /// As [`MultiPool::connect`].
    pub async fn connect_among(config: PoolConfig, peers: Peers) -> Result<MultiPool, ConnectError> {
        let (pool, waiting) = MultiPool::probing(config, peers, SideSet::EMPTY).await?;
        if let Err(error) = pool.first_look().await {
            pool.close().await;
            return Err(error);
        }
        let inner = &pool.inner;
        let shared = || Arc::clone(inner);
        let (deciding, voting, beating) = (shared(), shared(), shared());
        let (trimming, checking) = (shared(), shared());
        inner.spawn("membership".into(), move || {
            membership::run(Arc::clone(&deciding))
        });
        inner.spawn("votes".into(), move || votes::run(Arc::clone(&voting)));
        inner.spawn("pulse".into(), move || standstill::run(Arc::clone(&beating)));
        inner.spawn("trim".into(), move || trim::run(Arc::clone(&trimming)));
        inner.spawn("check".into(), move || check::run(Arc::clone(&checking)));
        let queue = Arc::new(Queue::new(waiting));
        for number in 0..inner.config.write_lanes {
            let (writing, queue) = (Arc::clone(inner), Arc::clone(&queue));
            inner.spawn(format!("lane {number}"), move || {
                Lane::new(number, Arc::clone(&writing), Arc::clone(&queue)).run()
            });
        }
        // The first membership is there at once when a side answers; otherwise writes are refused until one does.
        let _ = inner
            .writable(Instant::now() + inner.config.probe_deadline * 3)
            .await;
        Ok(pool)
    }

    /// A pool that only looks at the sides: for [`MultiPool::connect`], and for a command that repairs one. Which pool
    /// this is, `strangers` do not say.
    pub(super) async fn probing(
        config: PoolConfig,
        peers: Peers,
        strangers: SideSet,
    ) -> Result<(MultiPool, mpsc::Receiver<Job>), ConnectError> {
        if config.sides.count() < 2 {
            return Err(ConnectError(
                "a pool needs at least two databases (DB1_* and DB2_*)".into(),
            ));
        }
        let state_file = StateFile::open(&config.state_dir, &config.instance).map_err(ConnectError)?;
        let assembly = votes::Assembly::new(&config, peers).map_err(ConnectError)?;
        let mut sides = Vec::new();
        for (side, settings) in config.sides.iter() {
            let bad = |why| ConnectError(format!("side {side}: {why}"));
            // The repairer, lanes that ask for a name in doubt, and a few for status and trimming.
            let writes = config.write_lanes + 6;
            let looked = Arc::new(Looked::default());
            let pool = |purpose, size| {
                connection::pool(settings, &config, purpose, size, Arc::clone(&looked)).map_err(bad)
            };
            sides.push(Side {
                reads: pool(Purpose::Read, config.pool_size)?,
                lanes: pool(Purpose::Lane, config.write_lanes)?,
                writes: pool(Purpose::Write, writes)?,
                health: watch::Sender::new(Health::default()),
                doubted: Notify::new(),
                refit: AtomicBool::new(false),
                refusal: Mutex::default(),
                caught_up_keys: watch::Sender::new(0),
                open_rows: watch::Sender::new(None),
                highest_mark: AtomicI64::new(0),
                given_up: AtomicBool::new(false),
                looked,
            });
        }
        let mut sides = sides.into_iter();
        let sides = PerSide::new(config.sides.count(), |_| {
            sides
                .next()
                .unwrap_or_else(|| unreachable!("one entry a configured side"))
        });
        let bound = match cfg!(mutant = "queue_unbounded") {
            true => usize::MAX >> 4,
            false => config.write_queue,
        };
        let (queue, waiting) = mpsc::channel(bound);
        let inner = Arc::new(Inner {
            sides,
            lineage: OnceLock::new(),
            view: watch::Sender::new(View {
                epoch: Epoch::NONE,
                adopted: None,
                refusal: Some(NotApplied::NoSide),
                catching_up: None,
            }),
            state_file,
            assembly,
            pulse: Pulse::default(),
            stir: Notify::new(),
            closing: watch::Sender::new(false),
            queue,
            catalog: Mutex::default(),
            pending: Pending::default(),
            answered: Answered::default(),
            events: Mutex::default(),
            proof: Mutex::default(),
            tasks: Mutex::default(),
            config,
        });
        if let Some(found) = lineage::find(&inner, strangers).await {
            inner.lineage.get_or_init(|| found);
        }
        for side in inner.sides.ids() {
            let probing = Arc::clone(&inner);
            inner.spawn(format!("health {side}"), move || {
                health::run(Arc::clone(&probing), side)
            });
        }
        Ok((MultiPool { inner }, waiting))
    }

    /// What the tasks share, and the doors of other files in this room use.
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Waits for the first probe of every side and refuses what can only be a mistake.
    async fn first_look(&self) -> Result<(), ConnectError> {
        self.probed().await?;
        let faults: Vec<(SideId, SideFault)> = self
            .inner
            .sides
            .ids()
            .filter_map(|side| Some((side, self.inner.health(side).fault?)))
            .collect();
        let bare =
            |(_, fault): &(SideId, SideFault)| matches!(fault, SideFault::Lost(Loss::Empty | Loss::Stripped));
        if faults.len() == self.inner.sides.count() && faults.iter().all(bare) {
            return Err(ConnectError(
                "schema kambana is missing on every side; on new databases run `kambana init` first".into(),
            ));
        }
        let members = self.known_members();
        for (side, fault) in faults.iter().filter(|(side, _)| members.contains(*side)) {
            // A wrong setting here must not look like a broken side there. What is wrong with a side that is out
            // already is for the status page: the others serve.
            if matches!(fault, SideFault::Unfit(_) | SideFault::Refused(_)) {
                return Err(ConnectError(format!("side {side} {fault}")));
            }
        }
        if let Some(lineage) = self.inner.lineage.get() {
            self.inner.state_file.load(*lineage).map_err(ConnectError)?;
        }
        self.same_structure(members).await
    }

    /// Waits for the first probe of every side.
    pub(super) async fn probed(&self) -> Result<(), ConnectError> {
        for (side, state) in self.inner.sides.iter() {
            let mut health = state.health.subscribe();
            let probed = timeout(
                self.inner.config.probe_deadline * 4,
                health.wait_for(|h| h.rounds > 0),
            )
            .await;
            if !matches!(probed, Ok(Ok(_))) {
                return Err(ConnectError(format!("side {side} could not be probed")));
            }
        }
        Ok(())
    }

    /// The active sides, by what the sides that answer say; all of them before anybody has said anything.
    fn known_members(&self) -> SideSet {
        let newest = self
            .inner
            .well()
            .iter()
            .filter_map(|side| self.inner.health(side).epoch)
            .max_by_key(|e| e.n);
        newest.map_or(self.inner.sides.all(), |epoch| epoch.members)
    }

    /// Refuses to start on sides whose watched tables differ: the same write could succeed on one and fail on the
    /// other.
    async fn same_structure(&self, members: SideSet) -> Result<(), ConnectError> {
        let mut first: Option<Fingerprint> = None;
        for side in self.inner.well().and(members).iter() {
            let found = self.inner.fingerprint(side);
            let Ok(Ok(found)) = timeout(self.inner.config.probe_deadline * 2, found).await else {
                // It was well a moment ago; health will say what is wrong with it.
                continue;
            };
            match &first {
                None => first = Some(found),
                Some(first) => {
                    if let Some(difference) = super::catalog::difference(first, &found) {
                        return Err(ConnectError(format!(
                            "side {side}: {difference}; make the schemas equal"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// The declarative door: applies all changes on every active side, or none. Runs in a task of its own: dropping
    /// the future does not stop it. Repeating a call with the same `op_id` returns the first outcome.
    ///
    /// # Errors
    /// See [`WriteError`]; all variants but `Unknown` mean that nothing was changed.
    pub async fn change(&self, op_id: OpId, changes: Vec<Change>) -> Result<Applied, WriteError> {
        let digest = change::digest(&changes);
        let catalog = self.inner.catalog();
        // Before the first side was seen there is no catalogue; the operation waits for one like any other.
        if !catalog.is_empty() {
            super::statement::check(&catalog, &changes)?;
        }
        Ok(self.submit(op_id, digest, Work::Change(changes)).await?.0)
    }

    /// The general door: runs arbitrary SQL in a transaction on the leader; captured row changes go to the followers.
    /// The closure may run more than once (a side failed, a deadlock): it must do nothing but SQL. Its value is stored
    /// with the operation and returned to every repetition of the call.
    ///
    /// # Errors
    /// See [`WriteError`]. The closure's own error is returned as it is, with nothing changed.
    pub async fn transaction<T, F>(&self, op_id: OpId, closure: F) -> Result<(Applied, T), WriteError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: for<'a> Fn(&'a Tx) -> BoxFuture<'a, Result<T, WriteError>> + Send + Sync + 'static,
    {
        let closure = Arc::new(closure);
        let run = move |tx: &Tx| -> BoxFuture<'static, Result<serde_json::Value, WriteError>> {
            let (tx, closure) = (tx.clone(), Arc::clone(&closure));
            Box::pin(async move {
                let value = closure(&tx).await?;
                serde_json::to_value(value).map_err(|e| WriteError::Closure(e.to_string()))
            })
        };
        // The name stands for the closure: what it does cannot be looked into.
        let (applied, value) = self.submit(op_id, 0, Work::Transaction(Arc::new(run))).await?;
        let value = serde_json::from_value(value)
            .map_err(|e| WriteError::Closure(format!("the stored value of operation {op_id}: {e}")))?;
        Ok((applied, value))
    }

    /// One statement of arbitrary SQL, on every active side or on none.
    ///
    /// Statements that come at the same time and begin with `INSERT`, `UPDATE`, `DELETE`, `MERGE` or `WITH` may share a
    /// transaction: one sees what those before it have done, `now()` is the same for all, and a setting that a function
    /// makes with `SET LOCAL` lasts to the end of it. If one fails, or takes longer than 250 ms, each is run by itself. What
    /// needs a transaction of its own: [`MultiPool::transaction`].
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn transactional_write(&self, sql: &str, params: &[Value]) -> Result<Applied, WriteError> {
        let (sql, params) = (sql.to_owned(), params.to_vec());
        if may_share(&sql) {
            let work = Work::Statement(sql, params);
            return Ok(self.submit(OpId::new(), 0, work).await?.0);
        }
        let run = move |tx: &Tx| -> BoxFuture<'static, Result<serde_json::Value, WriteError>> {
            let (tx, sql, params) = (tx.clone(), sql.clone(), params.clone());
            Box::pin(async move {
                tx.execute(&sql, &params).await?;
                Ok(serde_json::Value::Null)
            })
        };
        Ok(self
            .submit(OpId::new(), 0, Work::Transaction(Arc::new(run)))
            .await?
            .0)
    }

    async fn submit(
        &self,
        op: OpId,
        digest: i64,
        work: Work,
    ) -> Result<(Applied, serde_json::Value), WriteError> {
        let inner = &self.inner;
        #[cfg(mutant = "forget_names")]
        let (_, op) = (op, OpId::new());
        if *inner.closing.borrow() {
            return Err(WriteError::NotApplied(NotApplied::Closing));
        }
        let deadline = Instant::now() + inner.config.op_deadline;
        let (job, answer, claim) = Job::new(Some(inner.pending.enter(op)), op, digest, work, deadline);
        if inner.queue.try_send(job).is_err() {
            metrics::counter!("kambana_writes_total", "outcome" => "overloaded").increment(1);
            return Err(WriteError::NotApplied(NotApplied::Overloaded));
        }
        let result = match timeout_at(deadline + ANSWER_GRACE, answer).await {
            Ok(Ok(result)) => result,
            // Still in the queue: it will not be run.
            Err(_) | Ok(Err(_)) if claim.take() => Err(WriteError::NotApplied(NotApplied::Deadline)),
            Err(_) | Ok(Err(_)) => Err(WriteError::Unknown(op)),
        };
        let outcome = match &result {
            Ok((applied, _)) if applied.replayed => "replayed",
            Ok(_) => "applied",
            Err(WriteError::NotApplied(_)) => "not_applied",
            Err(WriteError::Unknown(_)) => "unknown",
            Err(_) => "refused",
        };
        metrics::counter!("kambana_writes_total", "outcome" => outcome).increment(1);
        result
    }

    /// Answers another instance that asks for this one's vote, in the bytes of [`RemoteVoter::ask`](super::RemoteVoter::ask).
    /// Whoever calls this must have made sure that it is one.
    ///
    /// # Errors
    /// The bytes are no question.
    pub async fn answer_vote(&self, question: &[u8]) -> Result<Vec<u8>, String> {
        votes::answer(&self.inner, question).await
    }

    /// The most important part of [`MultiPool::status`], for a small part of its cost.
    pub fn glance(&self) -> Glance {
        self.glance_at(self.inner.view())
    }

    fn glance_at(&self, view: View) -> Glance {
        let inner = &self.inner;
        Glance {
            instance: inner.config.instance.clone(),
            epoch: view.epoch.n,
            members: view.epoch.members,
            refusal: view.refusal,
            states: inner.sides.map(|side, state| {
                let active = view.epoch.members.contains(side);
                match (active, view.catching_up == Some(side)) {
                    (true, _) => SideState::Active,
                    (false, true) => SideState::CatchingUp,
                    (false, false) if state.health.borrow().rebuild.is_some() => SideState::Rebuilding,
                    (false, false) => SideState::Out,
                }
            }),
        }
    }

    /// What the pool knows about itself; no I/O.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let view = inner.view();
        let epoch = view.epoch;
        let glance = self.glance_at(view);
        let members = glance.members;
        let leader = members.leader().filter(|_| glance.refusal.is_none());
        let proof = lock(&inner.proof).clone();
        Status {
            instance: glance.instance,
            epoch: glance.epoch,
            members,
            leader,
            writable: glance.refusal.is_none(),
            refusal: glance.refusal,
            sides: inner.sides.map(|side, state| {
                let health = state.health.borrow().clone();
                let settings = &inner.config.sides[side];
                let active = members.contains(side);
                let refused = inner.last_refusal(side).map(SideFault::Unfit);
                let missing = match state.given_up.load(Ordering::Acquire) {
                    true => SideFault::Lost(Loss::TooOld),
                    false => refused.unwrap_or(SideFault::Behind),
                };
                SideStatus {
                    state: glance.states[side],
                    leader: leader == Some(side),
                    fault: health.fault.or((!active).then_some(missing)),
                    rebuild: health.rebuild.filter(|_| !active),
                    address: format!("{}:{}/{}", settings.host, settings.port, settings.database),
                    server_version: health.server_version,
                    heartbeat_ms: health.heartbeat_ms,
                    seen_at: health.seen_at,
                    open_rows: *state.open_rows.borrow(),
                    caught_up_keys: *state.caught_up_keys.borrow(),
                }
            }),
            votes: inner.assembly.votes(&epoch),
            open_conflicts: proof.open_conflicts,
            held_changes: proof.held,
            certificate: proof.certificate,
            waiting_writes: inner.queue.max_capacity() - inner.queue.capacity(),
            events: lock(&inner.events).iter().cloned().collect(),
        }
    }

    /// Finishes what was begun and ends the background tasks. Later writes are refused.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        let tasks: Vec<_> = lock(&self.inner.tasks).drain(..).collect();
        for (name, mut handle) in tasks {
            match timeout(CLOSE_DEADLINE, &mut handle).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(task = name, %error, "a background task failed"),
                Err(_) => {
                    tracing::warn!(
                        task = name,
                        "a background task did not end in time and is dropped"
                    );
                    handle.abort();
                }
            }
        }
    }
}
