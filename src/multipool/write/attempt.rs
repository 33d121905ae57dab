//! One attempt at a batch: leader, followers, commit. The step names are those of the protocol's model.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures::future::{BoxFuture, join, join_all};
use serde_json::Value as Json;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::NoTls;
use tokio_postgres::types::ToSql;

use super::{Again, Attempt, Job, Lane, Work};
use crate::multipool::connection::{Conn, Failure, Repeat, keep_awake};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::journal::{self, Entry, OpRow};
use crate::multipool::{Applied, NotApplied, SideFault, SideId, SideSet, WriteError};

/// How long a side that is well may take to roll back before its connection is thrown away.
const ROLLBACK_DEADLINE: std::time::Duration = std::time::Duration::from_millis(300);

/// How a batch begins on the leader, where `kambana.enter` takes the fence.
pub(super) const BEGIN_SQL: &str = "-- write::begin()\nBEGIN";

/// A transaction behind the fence.
pub(super) const FENCE_SQL: &str = "BEGIN; LOCK TABLE kambana.fence IN ROW SHARE MODE";

/// How a batch begins on a follower: the names come last there. Capture is switched off.
pub(super) const FOLLOWER_FENCE_SQL: &str =
    "BEGIN; LOCK TABLE kambana.fence IN ROW SHARE MODE; SET LOCAL kambana.apply = 'on'";

/// For the caller's own SQL, and for whole tables: planned as the server plans for everybody.
pub(super) const AS_USUAL_SQL: &str = "SET LOCAL plan_cache_mode TO DEFAULT; SET LOCAL enable_seqscan TO DEFAULT; \
    SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT";

/// Why an attempt ended before the first COMMIT.
pub(super) enum Stop {
    /// It concerns one job of several: the one at this place, if that is known.
    Split(Option<usize>),
    /// Several callers' statements take too long together. They may still run: their connections must be closed.
    Overdue,
    Refused(WriteError),
    Again(Again),
    /// The leader knows the only job's name already.
    Known(OpRow),
}

impl From<Again> for Stop {
    fn from(again: Again) -> Stop {
        Stop::Again(again)
    }
}

/// What the leader did: to be repeated on the followers.
pub(super) struct Collected {
    pub entries: Vec<Entry>,
    /// Whether the leader's triggers have written these entries to its journal.
    pub captured: bool,
    pub results: Vec<Option<String>>,
    pub values: Vec<Json>,
}

pub(super) type Sql<'a> = &'a (dyn ToSql + Sync);

/// Polls futures in the order given, so that their requests go out in this order and without waiting in between.
pub(super) async fn in_order<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut first_open = 0;
    std::future::poll_fn(move |context| {
        for place in first_open..futures.len() {
            if results[place].is_none()
                && let Poll::Ready(value) = Pin::new(&mut futures[place]).poll(context)
            {
                results[place] = Some(value);
            }
        }
        while results.get(first_open).is_some_and(Option::is_some) {
            first_open += 1;
        }
        match first_open == results.len() {
            true => Poll::Ready(results.drain(..).flatten().collect()),
            false => Poll::Pending,
        }
    })
    .await
}

/// A failure at a side before the first COMMIT.
pub(super) fn stop_at(side: SideId, failure: Failure, alone: bool) -> Stop {
    match failure {
        Failure::Side(fault) => Again::Trouble(side, fault).into(),
        Failure::Repeat(Repeat::Locked) => Again::Locked.into(),
        Failure::Repeat(Repeat::Busy | Repeat::NoSlot) => Again::Contention.into(),
        Failure::Repeat(Repeat::Contention) if alone => Again::Contention.into(),
        Failure::Repeat(Repeat::Cancelled) if alone => {
            Stop::Refused(WriteError::NotApplied(NotApplied::Deadline))
        }
        Failure::Rejected(r) if alone => Stop::Refused(WriteError::Rejected {
            sqlstate: r.sqlstate,
            message: r.message,
            constraint: r.constraint,
            column: r.column,
        }),
        Failure::Repeat(_) | Failure::Rejected(_) => Stop::Split(None),
    }
}

/// A failure of the protocol's own statements: waiting for the fence or for a name means that something moves.
pub(super) fn stop_own(side: SideId, failure: Failure) -> Stop {
    match failure {
        Failure::Repeat(Repeat::Locked) => Again::EpochMoved.into(),
        Failure::Repeat(_) => Again::Contention.into(),
        Failure::Rejected(r) => Again::Trouble(
            side,
            SideFault::Unfit(format!("{} (SQLSTATE {})", r.message, r.sqlstate)),
        )
        .into(),
        Failure::Side(fault) => Again::Trouble(side, fault).into(),
    }
}

impl Lane {
    /// Runs the batch once in this epoch.
    pub(super) async fn attempt(&mut self, epoch: Epoch, jobs: &[Job], until: Instant) -> Attempt {
        self.enter_epoch(&epoch);
        self.batch += 1;
        let Some(leader) = epoch.members.leader() else {
            return Attempt::Again(Again::EpochMoved);
        };
        if let Err(Failure::Side(fault)) = reach(Point::WriteBegin).await {
            return Attempt::Again(Again::Trouble(leader, fault));
        }
        let inner = Arc::clone(&self.inner);
        let (_, structure) = inner.catalog_of();
        if std::mem::replace(&mut self.structure, structure) != structure {
            // Statements keep the types that their parameters had.
            self.conns = inner.sides.map(|_, _| None);
        }
        let opened = tokio::select! {
            biased;
            opened = self.open(epoch.members) => opened,
            // A frozen side takes a new connection and says nothing; that it is frozen is known already.
            trouble = inner.trouble(epoch.members) => Err(trouble),
        };
        if let Err((side, fault)) = opened {
            return Attempt::Again(Again::Trouble(side, fault));
        }
        for (_, conn) in self.conns.iter() {
            if let Some(conn) = conn {
                conn.set_busy(true);
            }
        }
        let prepared = {
            let conns: Vec<Arc<Conn>> = self.conns.iter().filter_map(|(_, conn)| conn.clone()).collect();
            let clients = conns.iter().filter_map(|conn| conn.client().ok());
            let awake = join_all(clients.map(keep_awake));
            let before = self.before_commit(&epoch, leader, jobs);
            tokio::select! {
                // A closure may think, and a follower may have much to apply, while another side waits.
                _ = awake => Err(None),
                result = timeout_at(until, before) => result.map_err(|_| None),
                (side, fault) = inner.trouble(epoch.members) => Err(Some((side, fault))),
            }
        };
        match prepared {
            Err(interrupted) => {
                self.abandon(epoch.members).await;
                match interrupted {
                    Some((side, fault)) => Attempt::Again(Again::Trouble(side, fault)),
                    None if jobs.len() == 1 => Attempt::Refused(WriteError::NotApplied(NotApplied::Deadline)),
                    None => Attempt::Split(None),
                }
            }
            Ok(Ok(collected)) => self.commit(&epoch, leader, jobs, collected).await,
            Ok(Err(Stop::Overdue)) => {
                self.abandon(epoch.members).await;
                Attempt::Split(None)
            }
            Ok(Err(stop)) => {
                self.roll_back(epoch.members).await;
                match stop {
                    Stop::Split(place) => Attempt::Split(place),
                    Stop::Overdue => Attempt::Split(None),
                    Stop::Refused(error) if jobs.len() == 1 => Attempt::Refused(error),
                    Stop::Refused(_) => Attempt::Split(None),
                    Stop::Again(again) => Attempt::Again(again),
                    Stop::Known(stored) => self.known(&epoch, leader, jobs, stored).await,
                }
            }
        }
    }

    /// Takes a connection to every member.
    async fn open(&mut self, members: SideSet) -> Result<(), (SideId, SideFault)> {
        for side in self.inner.sides.ids() {
            if !members.contains(side) {
                self.conns[side] = None;
                continue;
            }
            if self.conns[side]
                .as_ref()
                .is_some_and(|conn| conn.client().is_ok())
            {
                continue;
            }
            // Given back first: the pool has one connection for each lane.
            self.conns[side] = None;
            let opening = Conn::open(&self.inner.sides[side].lanes);
            match timeout(self.inner.config.probe_deadline, opening).await {
                Ok(Ok(conn)) => self.conns[side] = Some(Arc::new(conn)),
                Ok(Err(Failure::Side(fault))) => return Err((side, fault)),
                Ok(Err(failure)) => {
                    return Err((
                        side,
                        SideFault::Down(crate::multipool::connection::words(&failure)),
                    ));
                }
                Err(_) => return Err((side, SideFault::Silent)),
            }
        }
        Ok(())
    }

    pub(super) fn conn(&self, side: SideId) -> Result<&Arc<Conn>, Stop> {
        self.conns[side]
            .as_ref()
            .ok_or_else(|| Again::Trouble(side, SideFault::Down("no connection".into())).into())
    }

    /// Steps 1 to 3: run and collect on the leader, apply and guard on the followers. Nothing is committed.
    async fn before_commit(&self, epoch: &Epoch, leader: SideId, jobs: &[Job]) -> Result<Collected, Stop> {
        let (catalog, structure) = self.inner.catalog_of();
        let followers: Vec<SideId> = epoch.members.iter().filter(|side| *side != leader).collect();
        let fences = join_all(followers.iter().map(|side| async move {
            let fenced = async {
                self.conn_client(*side)?.batch_execute(FOLLOWER_FENCE_SQL).await?;
                reach(Point::FollowFenced).await
            };
            fenced.await.map_err(|failure| stop_own(*side, failure))
        }));
        // Before any fence: who waits for this one must not hold up those who change the members.
        let mixed = match jobs.len() > 1 && jobs.iter().any(Job::is_statement) {
            true => Some(self.queue.mixed().await),
            false => None,
        };
        let lead = self.lead(epoch, leader, jobs, (&catalog, structure), mixed);
        let (collected, fenced) = match jobs {
            // The caller's SQL takes its time; the followers' fences are not held for it.
            [
                Job {
                    work: Work::Transaction(_) | Work::Statement(..),
                    ..
                },
            ] => {
                let collected = lead.await?;
                (Ok(collected), fences.await)
            }
            _ => join(lead, fences).await,
        };
        let collected = collected?;
        fenced.into_iter().collect::<Result<(), Stop>>()?;
        let (on_leader, followed) = join(
            self.store_guarded(leader, &followers, &collected),
            join_all(
                followers
                    .iter()
                    .map(|side| self.follow(epoch, leader, *side, jobs, &collected, &catalog)),
            ),
        )
        .await;
        let on_leader = on_leader?;
        let mut doubtful = Vec::new();
        for found in followed {
            doubtful.extend(found?);
        }
        // Only now: the followers' rows are locked, so whoever was in flight there has committed or never will.
        for (side, batches) in followers.iter().zip(on_leader) {
            self.ask(*side, batches).await?;
        }
        self.ask(leader, doubtful).await?;
        // A side that has gone in the meantime must be found before the first COMMIT, not by it.
        for side in epoch.members.iter() {
            self.conn_client(side)
                .map_err(|failure| stop_own(side, failure))?;
        }
        reach(Point::GuardPassed)
            .await
            .map_err(|failure| stop_own(leader, failure))?;
        Ok(collected)
    }

    pub(super) fn conn_client(&self, side: SideId) -> Result<&tokio_postgres::Client, Failure> {
        match &self.conns[side] {
            Some(conn) => conn.client(),
            None => Err(Failure::Side(SideFault::Down("no connection".into()))),
        }
    }

    /// Step 4 and 5: COMMIT on all sides at once, the followers' first on the wire; acknowledge when all answered.
    async fn commit(&mut self, epoch: &Epoch, leader: SideId, jobs: &[Job], collected: Collected) -> Attempt {
        let order: Vec<SideId> = epoch
            .members
            .iter()
            .filter(|side| *side != leader)
            .chain([leader])
            .collect();
        let answers = {
            let (lane, inner) = (&*self, &self.inner);
            let commits = order.iter().map(|side| async move {
                let (before, after) = match *side == leader {
                    true => (Point::CommitLeader, Point::CommittedLeader),
                    false => (Point::CommitFollower, Point::CommittedFollower),
                };
                let sent = async {
                    reach(before).await?;
                    lane.conn_client(*side)?.batch_execute("COMMIT").await?;
                    reach(after).await
                };
                #[cfg(mutant = "commit_waits")]
                return (*side, sent.await);
                #[cfg(not(mutant = "commit_waits"))]
                tokio::select! {
                    answer = sent => (*side, answer),
                    (_, fault) = inner.trouble(SideSet::EMPTY.with(*side)) => (*side, Err(Failure::Side(fault))),
                    // Heartbeats are answered and this is not: the answer is lost, or the connection. Asking again, by name,
                    // finds out sooner than waiting.
                    () = tokio::time::sleep(inner.config.probe_deadline * 2) => (*side, Err(Failure::Side(SideFault::Silent))),
                }
            });
            in_order(
                commits
                    .map(|commit| Box::pin(commit) as BoxFuture<'_, _>)
                    .collect(),
            )
            .await
        };
        let mut doubt = None;
        for (side, answer) in answers {
            match answer {
                Ok(()) => {
                    self.confirmed[side] = self.batch;
                    self.unsettled = true;
                    if let Some(conn) = &self.conns[side] {
                        conn.set_busy(false);
                    }
                }
                // An error at COMMIT does not mean "not committed".
                Err(failure) => {
                    self.conns[side] = None;
                    let fault = match failure {
                        Failure::Side(fault) => fault,
                        other => SideFault::Down(crate::multipool::connection::words(&other)),
                    };
                    // With three sides several may be in doubt; each is looked at, one is waited for.
                    self.inner.doubt(side);
                    doubt = Some((side, fault));
                }
            }
        }
        self.inner.answered.note(self.id, &self.confirmed);
        #[cfg(mutant = "ack_before_follower")]
        let doubt = doubt.filter(|_| !self.unsettled);
        #[cfg(mutant = "commit_error_means_abort")]
        if doubt.is_some() {
            return Attempt::Refused(WriteError::NotApplied(NotApplied::Deadline));
        }
        if let Some((side, fault)) = doubt {
            // The next attempt asks every member of the epoch of then by taking the same names again.
            return Attempt::InDoubt(side, fault);
        }
        let catalog = self.inner.catalog();
        let outcomes = jobs.iter().zip(collected.values).map(|(job, value)| {
            let rows = collected
                .entries
                .iter()
                .filter(|e| e.op == job.op.uuid())
                .map(|e| journal::changed_row(&catalog, e))
                .collect();
            Ok((
                Applied {
                    op_id: job.op,
                    rows,
                    replayed: false,
                },
                value,
            ))
        });
        Attempt::Done(outcomes.collect())
    }

    /// Ends the open transactions of an attempt that stopped by itself.
    async fn roll_back(&mut self, members: SideSet) {
        let conns: Vec<(SideId, Arc<Conn>)> = members
            .iter()
            .filter_map(|side| Some((side, self.conns[side].clone()?)))
            .collect();
        let ended = join_all(conns.iter().map(|(side, conn)| async move {
            let end = async { Ok::<_, Failure>(conn.client()?.batch_execute("ROLLBACK").await?) };
            (*side, matches!(timeout(ROLLBACK_DEADLINE, end).await, Ok(Ok(()))))
        }))
        .await;
        for (side, ok) in ended {
            match &self.conns[side] {
                Some(conn) if ok => conn.set_busy(false),
                _ => self.conns[side] = None,
            }
        }
    }

    /// Ends an attempt in the middle of its statements: the sides that are well must not go on waiting for a lock with
    /// the fence in their hands. The connections are closed, so that a late cancel request hits nothing else.
    async fn abandon(&mut self, members: SideSet) {
        let tokens: Vec<_> = members
            .and(self.inner.well())
            .iter()
            .filter_map(|side| Some(self.conns[side].as_ref()?.client().ok()?.cancel_token()))
            .collect();
        let cancelled = join_all(
            tokens
                .iter()
                .map(|token| timeout(ROLLBACK_DEADLINE, token.cancel_query(NoTls))),
        );
        for result in cancelled.await {
            if let Ok(Err(error)) = result {
                tracing::debug!(%error, "cancel request");
            }
        }
        for side in members.iter() {
            self.conns[side] = None;
        }
    }
}

/// What one statement of a pipeline answered.
pub(super) enum Reply {
    Nothing(()),
    Count(u64),
    Rows(Vec<tokio_postgres::Row>),
}

impl Reply {
    pub fn rows(self) -> Vec<tokio_postgres::Row> {
        match self {
            Reply::Rows(rows) => rows,
            Reply::Nothing(()) | Reply::Count(_) => Vec::new(),
        }
    }
}
