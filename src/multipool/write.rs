//! One write on every active side, in the steps of DESIGN section 3.
//!
//! A *lane* is a task with one connection a side. It takes waiting operations, runs them in one transaction a side,
//! commits all sides at once and answers. Its batches are numbered; the number of the last batch that each side has
//! answered travels with the next one, and that is what settles journal rows.
//!
//! Crash rule: before the first COMMIT is sent nothing has happened anywhere. After it, the batch is *in doubt* until
//! every member of the current epoch was asked, under its fence, whether it has the operation.

mod answered;
mod attempt;
mod enter;
mod follow;
mod group;
mod guard;
mod job;
mod known;
mod lead;
mod queue;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{Instant, timeout};

pub(super) use answered::Answered;
use job::Outcome;
pub(super) use job::{Job, Pending, Work, may_share};
pub(super) use queue::Queue;
use queue::{Flight, Turn};

use super::connection::{Conn, Failure, words};
use super::epoch::Epoch;
use super::failpoint::{Point, reach};
use super::inner::Inner;
use super::{Applied, NotApplied, OpId, PerSide, SideFault, SideId, WriteError, merge};

/// Operations that share one transaction a side; more would overflow nothing but patience.
const MAX_BATCH: usize = 64;

/// As [`MAX_BATCH`], where there are statements of callers among them, which may take long.
const MAX_MIXED: usize = 16;

/// A batch that has so many bytes takes no further operation: every row passes through memory several times.
const BATCH_BYTES: usize = 4 << 20;

/// A lane that had nothing to do for this long settles what it wrote last.
const SETTLE_AFTER: Duration = Duration::from_millis(100);

/// After so long a lane takes a new name: only what a finished lane has written is ever trimmed.
const LANE_LIFE: Duration = Duration::from_secs(900);

/// Lock timeouts of one operation before it is answered "not applied": together longer than the servers let an instance
/// stand still with a lock in its hands.
const LOCK_TRIES: u32 = 4;

/// Merges before a write until it is asked whether the row is held (see `merge::held`).
const HELD_TRIES: u32 = 5;

/// After so many failures that only need repeating, a lane takes fresh connections.
const STALE_AFTER: u32 = 3;

/// Pause before work that met a deadlock or a moving epoch is repeated.
const REPEAT_PAUSE: Duration = Duration::from_millis(10);

/// How long a lane keeps asking about a batch in doubt while no side can answer.
const DOUBT_DEADLINE: Duration = Duration::from_secs(600);

/// A writer: one connection a side, batches in sequence.
pub(super) struct Lane {
    number: usize,
    inner: Arc<Inner>,
    queue: Arc<Queue>,
    /// While it is on its way.
    flight: Option<Flight>,
    /// Work that could not join the batch it was taken with.
    held: VecDeque<Job>,
    /// Name of this lane in `kambana.lane`; a new one in every epoch, and now and then.
    id: i64,
    epoch: i64,
    /// When it got this name.
    named: Instant,
    batch: i64,
    /// The last batch whose COMMIT each side answered.
    confirmed: PerSide<i64>,
    unsettled: bool,
    /// For which its connections have prepared statements.
    structure: i64,
    conns: PerSide<Option<Arc<Conn>>>,
}

/// How one attempt at a batch ended.
enum Attempt {
    /// Every job has its outcome, durable on every member.
    Done(Vec<Result<(Applied, Json), WriteError>>),
    /// Something concerns one job of several, the one at this place: run it after the others. If the place is not known, run
    /// them one by one.
    Split(Option<usize>),
    /// A final refusal of the only job; nothing happened.
    Refused(WriteError),
    /// Repeat the batch for this reason; nothing happened.
    Again(Again),
    /// At least one COMMIT was sent and not every member answered it.
    InDoubt(SideId, SideFault),
}

/// Why a batch is repeated.
#[derive(Debug)]
enum Again {
    Trouble(SideId, SideFault),
    EpochMoved,
    Locked,
    Contention,
    /// A side has changes of these rows that another lacks: bring them together first.
    Merge,
    /// A follower refuses what the leader took.
    Refused(SideId, SideFault),
    Catalog,
}

/// Whether PostgreSQL says that our role may not do this.
fn is_privilege(error: &WriteError) -> bool {
    matches!(error, WriteError::Rejected { sqlstate, .. } if sqlstate == "42501")
}

/// Answers jobs that will not be tried again.
fn give_up(jobs: Vec<Job>, in_doubt: bool, reason: &NotApplied) {
    for job in jobs {
        let error = match in_doubt {
            true => WriteError::Unknown(job.op),
            false => WriteError::NotApplied(reason.clone()),
        };
        job.answer(Err(error));
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.inner.answered.forget(self.id);
    }
}

impl Lane {
    pub fn new(number: usize, inner: Arc<Inner>, queue: Arc<Queue>) -> Lane {
        let confirmed = inner.sides.map(|_, _| 0);
        let conns = inner.sides.map(|_, _| None);
        Lane {
            number,
            inner,
            queue,
            flight: None,
            held: VecDeque::new(),
            id: 0,
            epoch: 0,
            named: Instant::now(),
            batch: 0,
            confirmed,
            unsettled: false,
            structure: 0,
            conns,
        }
    }

    /// The named background task `lane <n>`: runs until the pool closes and its queue is empty.
    pub async fn run(mut self) {
        let mut turn = None;
        loop {
            if let Some(job) = self.held.pop_front() {
                self.fly(vec![job], &mut turn).await;
                continue;
            }
            if self.has_done_enough() {
                turn = None;
                self.settle().await;
                self.leave_name();
            }
            let idle = if self.unsettled {
                SETTLE_AFTER
            } else {
                Duration::from_secs(3600)
            };
            let queue = Arc::clone(&self.queue);
            let next = async {
                if turn.is_none() {
                    turn = Some(queue.turn(self.number).await);
                }
                match &mut turn {
                    Some(turn) => turn.next().await,
                    None => None,
                }
            };
            let taken = tokio::select! {
                biased;
                taken = next => taken,
                () = tokio::time::sleep(idle) => {
                    // Another one takes what comes meanwhile.
                    turn = None;
                    self.settle().await;
                    continue;
                }
                () = self.inner.closed() => None,
            };
            let (Some(first), Some(taking)) = (taken, &mut turn) else {
                drop(turn);
                self.settle().await;
                return;
            };
            let came = taking.gather(first).await;
            let jobs = self.choose(came, taking);
            if !jobs.is_empty() {
                self.fly(jobs, &mut turn).await;
            }
        }
    }

    /// Runs a batch. What comes meanwhile is another lane's.
    async fn fly(&mut self, jobs: Vec<Job>, turn: &mut Option<Turn>) {
        self.flight = Some(self.queue.take_off());
        {
            let flight = self.process(jobs, false);
            tokio::pin!(flight);
            loop {
                tokio::select! {
                    biased;
                    () = &mut flight => break,
                    () = Turn::pass_on(turn), if turn.is_some() => {}
                }
            }
        }
        self.flight = None;
    }

    /// Those that share a batch, of what came and what waits behind it; the others are held for batches of their own.
    fn choose(&mut self, came: Vec<Job>, turn: &mut Turn) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        let (mut bytes, mut mixed) = (0, false);
        let mut came = came.into_iter();
        loop {
            let most = if mixed { MAX_MIXED } else { MAX_BATCH };
            let room = self.held.is_empty() && jobs.len() < most && bytes < BATCH_BYTES;
            let next = match came.next() {
                Some(job) => job,
                None if room => match turn.try_next() {
                    Ok(job) => job,
                    Err(_) => return jobs,
                },
                None => return jobs,
            };
            bytes += next.work.bytes();
            if next.claim() {
                mixed |= next.is_statement();
                let alone = !next.shares() || jobs.iter().any(|j| j.op == next.op);
                match alone || !room {
                    true => self.held.push_back(next),
                    false => jobs.push(next),
                }
            }
        }
    }

    /// Runs a batch until every job has an answer. `in_doubt`: a COMMIT of it was sent before.
    async fn process(&mut self, jobs: Vec<Job>, in_doubt: bool) {
        let now = Instant::now();
        let (late, jobs): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| !in_doubt && job.deadline <= now);
        give_up(late, false, &NotApplied::Deadline);
        if jobs.is_empty() {
            return;
        }
        let mut aside = Vec::new();
        self.process_together(jobs, in_doubt, &mut aside).await;
        for (job, in_doubt) in aside {
            Box::pin(self.process(vec![job], in_doubt)).await;
        }
    }

    /// As [`Lane::process`], but those that fail or hold up the others are put aside.
    async fn process_together(
        &mut self,
        mut jobs: Vec<Job>,
        mut in_doubt: bool,
        aside: &mut Vec<(Job, bool)>,
    ) {
        let deadline = jobs.iter().map(|j| j.deadline).min().unwrap_or_else(Instant::now);
        let (mut locked, mut merges, mut contended) = (0, 0, 0);
        let (mut refused_by, mut looked) = (None, false);
        loop {
            // What is in doubt must be settled however long it takes; the caller was told "unknown" by then.
            let until = if in_doubt {
                Instant::now() + DOUBT_DEADLINE
            } else {
                deadline
            };
            let epoch = match self.inner.writable(until).await {
                Ok(epoch) => epoch,
                Err(_) if in_doubt && !*self.inner.closing.borrow() => continue,
                Err(reason) => return give_up(jobs, in_doubt, &reason),
            };
            let again = match self.attempt(epoch, &jobs, until).await {
                Attempt::Done(outcomes) => {
                    // What fails here fails nothing: every side has committed.
                    let _ = reach(Point::AnswerBefore).await;
                    // Before its callers come back with their next operations.
                    self.flight = None;
                    for (job, outcome) in jobs.into_iter().zip(outcomes) {
                        job.answer(outcome);
                    }
                    let _ = reach(Point::AnswerAfter).await;
                    return;
                }
                Attempt::Split(Some(place)) if jobs.len() > 1 && place < jobs.len() => {
                    aside.push((jobs.remove(place), in_doubt));
                    continue;
                }
                Attempt::Split(_) => {
                    for job in jobs {
                        Box::pin(self.process(vec![job], in_doubt)).await;
                    }
                    return;
                }
                // Perhaps only this side has lost a privilege: then it is the side's fault, not the statement's.
                Attempt::Refused(error) if is_privilege(&error) && !looked => {
                    looked = true;
                    if let Some(leader) = epoch.members.leader() {
                        self.inner.look_anew(leader).await;
                    }
                    continue;
                }
                Attempt::Refused(error) => {
                    // A refusal after a lost COMMIT must hold on a side that comes back with the change.
                    if let Some(job) = jobs.into_iter().next() {
                        let outcome = match in_doubt && !matches!(job.work, Work::Tombstone) {
                            true => self.bury(job.op, error).await,
                            false => Err(error),
                        };
                        job.answer(outcome);
                    }
                    return;
                }
                Attempt::InDoubt(side, fault) => {
                    in_doubt = true;
                    Again::Trouble(side, fault)
                }
                Attempt::Again(again) => again,
            };
            // A batch that has just come into doubt is settled by going on, whatever its deadline was.
            if !in_doubt && Instant::now() >= until {
                return give_up(jobs, in_doubt, &NotApplied::Deadline);
            }
            tracing::debug!(?again, in_doubt, "a batch is repeated");
            let again = match again {
                Again::Refused(side, fault) => {
                    // Perhaps the row and not the side is to blame: then this row waits, and nobody is ejected for it.
                    if !in_doubt && self.inner.holds_changes(&epoch).await {
                        return self.refuse(jobs, &NotApplied::Held).await;
                    }
                    Again::Trouble(side, fault)
                }
                other => other,
            };
            if merges >= HELD_TRIES && !in_doubt && self.inner.holds_changes(&epoch).await {
                // One row must not hold up those it was taken with, nor this lane.
                return self.refuse(jobs, &NotApplied::Held).await;
            }
            match again {
                Again::Refused(..) => {}
                Again::Trouble(side, fault) => {
                    tracing::debug!(%side, %fault, "a side failed in the middle of a batch");
                    if let SideFault::Unfit(why) = &fault {
                        self.inner.sides[side].refit.store(true, Ordering::Release);
                        // The second time, with a probe in between.
                        if refused_by.replace(side) == Some(side)
                            && !self.inner.refuses_writes(side, &epoch, why)
                            && !in_doubt
                        {
                            return self.refuse(jobs, &NotApplied::Unable(side, why.clone())).await;
                        }
                    }
                    self.inner.doubt(side);
                    self.inner
                        .wait_change(side, self.inner.config.probe_interval)
                        .await;
                }
                Again::EpochMoved => {
                    self.inner.refresh().await;
                    tokio::time::sleep(REPEAT_PAUSE).await;
                }
                Again::Contention => {
                    contended += 1;
                    // A plan that no longer fits its table fails for ever on the connection that keeps it.
                    if contended % STALE_AFTER == 0 {
                        self.conns = self.inner.sides.map(|_, _| None);
                    }
                    tokio::time::sleep(REPEAT_PAUSE).await;
                }
                Again::Locked => {
                    locked += 1;
                    if locked == LOCK_TRIES && !in_doubt {
                        if jobs.len() == 1 {
                            return give_up(jobs, in_doubt, &NotApplied::Locked);
                        }
                        for job in jobs {
                            Box::pin(self.process(vec![job], false)).await;
                        }
                        return;
                    }
                }
                Again::Merge => {
                    merges += 1;
                    let merged = tokio::select! {
                        merged = merge::sweep(&self.inner, &epoch) => merged,
                        (side, fault) = self.inner.trouble(epoch.members) => Err((side, Failure::Side(fault))),
                    };
                    if let Err((side, failure)) = merged {
                        tracing::debug!(%side, why = words(&failure), "a merge before a write failed");
                    }
                    tokio::time::sleep(REPEAT_PAUSE * merges).await;
                }
                Again::Catalog => {
                    if let Some(leader) = epoch.members.leader()
                        && self.inner.load_catalog(leader).await.is_err()
                    {
                        self.inner.doubt(leader);
                    }
                }
            }
        }
    }

    /// No side could take these jobs: says so when there is only one, and finds out which of several it is.
    async fn refuse(&mut self, jobs: Vec<Job>, why: &NotApplied) {
        if jobs.len() == 1 {
            return give_up(jobs, false, why);
        }
        for job in jobs {
            Box::pin(self.process(vec![job], false)).await;
        }
    }

    /// Makes a refusal final: the operation's name is taken by a tombstone on every member. If the first try turns out
    /// to have been applied after all, that is the answer.
    async fn bury(&mut self, op: OpId, refusal: WriteError) -> Outcome {
        let (job, answer, _claim) = Job::new(None, op, 0, Work::Tombstone, Instant::now() + DOUBT_DEADLINE);
        Box::pin(self.process(vec![job], false)).await;
        match answer.await {
            Ok(Ok((applied, value))) if applied.replayed => Ok((applied, value)),
            Ok(Ok(_)) => Err(refusal),
            _ => {
                // What this lane leaves in doubt must stay open: a later batch of the lane would say that every side has it.
                self.leave_name();
                Err(WriteError::Unknown(op))
            }
        }
    }

    /// Starts a new lane when the epoch is not the one of the last batch, or the old one has done enough.
    fn enter_epoch(&mut self, epoch: &Epoch) {
        if self.epoch != epoch.n || self.id == 0 {
            self.leave_name();
            self.epoch = epoch.n;
            self.id = super::journal::new_lane();
            self.named = Instant::now();
            self.batch = 0;
            self.unsettled = false;
            self.confirmed = self.inner.sides.map(|_, _| 0);
        }
    }

    /// While a side is out no lane can be closed: more of them would only be more to look at.
    fn has_done_enough(&self) -> bool {
        let inner = &self.inner;
        // Asked before every batch, and nearly always the answer.
        if self.id == 0 || self.named.elapsed() <= LANE_LIFE.min(inner.config.journal_retention) {
            return false;
        }
        let members = inner.view().epoch.members;
        let awaited =
            |side: SideId| !members.contains(side) && !inner.sides[side].given_up.load(Ordering::Acquire);
        !inner.sides.ids().any(awaited)
    }

    /// The next batch is that of a new lane.
    fn leave_name(&mut self) {
        self.inner.answered.forget(self.id);
        self.id = 0;
    }

    fn confirmed_array(&self) -> Vec<i64> {
        self.confirmed.iter().map(|(_, batch)| *batch).collect()
    }

    /// Tells every side that answers which batches all of them have. Never needed for correctness: what a lane leaves
    /// unsettled the sweeper finds on every side and settles.
    async fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        self.batch += 1;
        let confirmed = self.confirmed_array();
        let _ = reach(Point::SettleBefore).await;
        for side in self.inner.view().epoch.members.iter() {
            let Some(conn) = &self.conns[side] else { continue };
            let told = async {
                let statement = conn
                    .prepare(
                        "-- write::settle()\nINSERT INTO kambana.settled (lane, batch, confirmed) \
                         SELECT lane, $2, $3 FROM kambana.lane WHERE lane = $1",
                    )
                    .await?;
                conn.client()?
                    .execute(&statement, &[&self.id, &self.batch, &confirmed])
                    .await?;
                reach(Point::SettleSide).await
            };
            if !matches!(timeout(self.inner.config.probe_deadline, told).await, Ok(Ok(()))) {
                self.conns[side] = None;
            }
        }
    }
}
