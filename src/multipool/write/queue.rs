//! Where operations wait for a lane, and when a lane takes off with what has come.
//!
//! One transaction for many costs hardly more than one for one, so lanes do not share the queue out among themselves: while
//! one is on its way, the next waits until it lands, until enough have come, or for a moment. A lone caller never waits.
//!
//! One lane at a time has the [`Turn`]: it alone takes operations from the queue. It keeps it while it is on its way and
//! hands it over to the next lane when something comes that should not wait for it. So a lone caller always meets the same
//! lane, whose connections, and the servers' processes behind them, have everything at hand; and a busy pool the first few.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Notify, mpsc, oneshot};

use super::Job;

/// So many operations are worth a transaction of their own beside one that is on its way: with half of 32 callers in each
/// of two, one side works for the one while another side works for the other.
const ENOUGH: usize = 16;

/// How long those who have come wait for one that is on its way. A batch takes about a millisecond; one that takes longer
/// waits for a lock or a slow disk, and others need not.
const PATIENCE: Duration = Duration::from_millis(2);

/// The lanes that wait for their turn, and how many are on their way.
pub(in crate::multipool) struct Queue {
    idle: Mutex<Idle>,
    flying: AtomicUsize,
    /// Only the lane that gathers waits for this.
    landed: Notify,
    /// Held by a lane while statements of several callers lock rows: in any order, so that two such lanes could wait for each
    /// other.
    mixed: tokio::sync::Mutex<()>,
}

struct Idle {
    /// While no lane has the turn.
    jobs: Option<Jobs>,
    /// By number. Of those that wait the first is asked.
    lanes: BTreeMap<usize, oneshot::Sender<Turn>>,
}

/// The operations that no lane has taken.
struct Jobs {
    waiting: mpsc::Receiver<Job>,
    /// Came while the lane that had the turn was on its way.
    first: Option<Job>,
}

/// The right to take what waits. Dropped, it goes to the next lane.
pub(super) struct Turn {
    jobs: Option<Jobs>,
    queue: Arc<Queue>,
}

/// The right to lock rows for several callers' statements.
pub(super) type Mixed<'a> = tokio::sync::MutexGuard<'a, ()>;

/// One lane on its way, until this is dropped.
pub(super) struct Flight(Arc<Queue>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.flying.fetch_sub(1, Ordering::AcqRel);
        self.0.landed.notify_waiters();
    }
}

impl Queue {
    pub fn new(waiting: mpsc::Receiver<Job>) -> Queue {
        let jobs = Some(Jobs { waiting, first: None });
        Queue {
            idle: Mutex::new(Idle {
                jobs,
                lanes: BTreeMap::new(),
            }),
            flying: AtomicUsize::new(0),
            landed: Notify::new(),
            mixed: tokio::sync::Mutex::new(()),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of lane `number`. Nothing is lost when this is dropped before it is ready.
    pub(super) async fn turn(self: &Arc<Queue>, number: usize) -> Turn {
        loop {
            let given = {
                let mut idle = self.idle();
                if let Some(jobs) = idle.jobs.take() {
                    return Turn {
                        jobs: Some(jobs),
                        queue: Arc::clone(self),
                    };
                }
                let (give, given) = oneshot::channel();
                idle.lanes.insert(number, give);
                given
            };
            // An error: this lane was started anew and stands in the list twice.
            if let Ok(turn) = given.await {
                return turn;
            }
        }
    }

    /// Waits until no other lane of this instance locks rows for several callers' statements.
    pub(super) async fn mixed(&self) -> Mixed<'_> {
        self.mixed.lock().await
    }

    pub(super) fn take_off(self: &Arc<Queue>) -> Flight {
        self.flying.fetch_add(1, Ordering::AcqRel);
        Flight(Arc::clone(self))
    }
}

impl Turn {
    /// The next operation; `None` when no more can come. Nothing is lost when this is dropped before it is ready.
    pub(super) async fn next(&mut self) -> Option<Job> {
        let jobs = self.jobs.as_mut()?;
        match jobs.first.take() {
            Some(job) => Some(job),
            None => jobs.waiting.recv().await,
        }
    }

    /// One that waits already.
    pub(super) fn try_next(&mut self) -> Result<Job, TryRecvError> {
        match &mut self.jobs {
            Some(jobs) => jobs.first.take().map_or_else(|| jobs.waiting.try_recv(), Ok),
            None => Err(TryRecvError::Disconnected),
        }
    }

    /// What comes while it is worth waiting. Ends with an operation that runs alone.
    pub(super) async fn gather(&mut self, first: Job) -> Vec<Job> {
        let mut jobs = vec![first];
        let queue = Arc::clone(&self.queue);
        // Made once: a timer that is set anew for each of them wakes the runtime each time.
        let patience = tokio::time::sleep(PATIENCE);
        let landed = queue.landed.notified();
        tokio::pin!(patience, landed);
        // Asked for before it is looked whether there is anything to wait for.
        landed.as_mut().enable();
        while jobs.len() < ENOUGH && jobs.last().is_some_and(Job::shares) {
            if queue.flying.load(Ordering::Acquire) == 0 {
                break;
            }
            tokio::select! {
                job = self.next() => match job {
                    Some(job) => jobs.push(job),
                    None => break,
                },
                () = &mut landed => {
                    landed.set(queue.landed.notified());
                    landed.as_mut().enable();
                }
                () = &mut patience => break,
            }
        }
        // Who was answered a moment ago comes back in this one.
        tokio::task::yield_now().await;
        jobs
    }

    /// Hands the turn over, with the first operation that comes. Ends then, or when no more can come.
    pub(super) async fn pass_on(turn: &mut Option<Turn>) {
        if let Some(held) = turn {
            let first = held.next().await;
            if let (Some(Turn { jobs: Some(jobs), .. }), Some(first)) = (turn.as_mut(), first) {
                jobs.first = Some(first);
            }
            *turn = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(jobs) = self.jobs.take() else { return };
        let mut turn = Turn {
            jobs: Some(jobs),
            queue: Arc::clone(&self.queue),
        };
        loop {
            let mut idle = self.queue.idle();
            let Some((_, next)) = idle.lanes.pop_first() else {
                idle.jobs = turn.jobs.take();
                return;
            };
            drop(idle);
            match next.send(turn) {
                Ok(()) => return,
                // It no longer waits.
                Err(back) => turn = back,
            }
        }
    }
}
