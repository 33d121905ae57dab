//! Where operations wait for a lane, and when a lane takes off with what has come.
//!
//! One transaction for many costs hardly more than one for one, so lanes do not share the queue out among themselves: while
//! one is on its way, the next waits until it lands, until enough have come, or for a moment. A lone caller never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, mpsc};
use tokio::time::Instant;

use super::Job;

/// So many operations are worth a transaction of their own beside one that is on its way: with half of 32 callers in each
/// of two, one side works for the one while another side works for the other.
const ENOUGH: usize = 16;

/// How long those who have come wait for one that is on its way. A batch takes about a millisecond; one that takes longer
/// waits for a lock or a slow disk, and others need not.
const PATIENCE: Duration = Duration::from_millis(2);

/// The operations that no lane has taken, and how many lanes are on their way.
pub(in crate::multipool) struct Queue {
    waiting: Mutex<mpsc::Receiver<Job>>,
    flying: AtomicUsize,
    /// Only the lane that gathers waits for this.
    landed: Notify,
}

/// One lane on its way, until this is dropped.
pub(super) struct Flight(Arc<Queue>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.flying.fetch_sub(1, Ordering::AcqRel);
        self.0.landed.notify_waiters();
    }
}

/// The right to take what waits.
pub(super) type Waiting<'a> = MutexGuard<'a, mpsc::Receiver<Job>>;

impl Queue {
    pub fn new(waiting: mpsc::Receiver<Job>) -> Queue {
        Queue {
            waiting: Mutex::new(waiting),
            flying: AtomicUsize::new(0),
            landed: Notify::new(),
        }
    }

    /// The first that waits; `None` when no more can come. Nothing is lost when this is dropped before it is ready.
    pub(super) async fn next(&self) -> Option<(Job, Waiting<'_>)> {
        let mut waiting = self.waiting.lock().await;
        let first = waiting.recv().await;
        Some((first?, waiting))
    }

    /// What comes while it is worth waiting. Ends with an operation that runs alone.
    pub(super) async fn gather(&self, first: Job, waiting: &mut mpsc::Receiver<Job>) -> Vec<Job> {
        let mut jobs = vec![first];
        let deadline = Instant::now() + PATIENCE;
        while jobs.len() < ENOUGH && jobs.last().is_some_and(|job| job.changes().is_some()) {
            // Asked for before it is looked whether there is anything to wait for.
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            if self.flying.load(Ordering::Acquire) == 0 {
                break;
            }
            tokio::select! {
                job = waiting.recv() => match job {
                    Some(job) => jobs.push(job),
                    None => break,
                },
                () = landed => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        // Who was answered a moment ago comes back in this one.
        tokio::task::yield_now().await;
        jobs
    }

    pub(super) fn take_off(self: &Arc<Queue>) -> Flight {
        self.flying.fetch_add(1, Ordering::AcqRel);
        Flight(Arc::clone(self))
    }
}
