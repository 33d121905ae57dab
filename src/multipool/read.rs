//! Reads: from the leader or the nearest side, repeated over another connection or from another side when one fails.
//!
//! A connection of the pool is not asked whether it lives before it is used: that would double the round trips of every
//! read. One that turns out to be dead is thrown away and the read is made again over another; only a failure of a new
//! connection says something about the side. A frozen side is seen by its prober, and every read listens to it.
//!
//! Reads that one request makes at the same moment share a connection ([`together`]): their statements are in one packet.
//!
//! Crash rule: a read changes nothing; whoever asked asks again.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connection::{Conn, Failure, Repeat};
use super::epoch::Epoch;
use super::inner::{Inner, LEADER_PATIENCE};
use super::{MultiPool, NotApplied, OpId, OpOutcome, ReadError, SideFault, SideId, SideSet, standstill};
use crate::config::ReadFrom;

/// Pause before a reader asks again for a connection slot that the server did not have.
const SLOT_PAUSE: Duration = Duration::from_millis(100);

/// A reader whose side was voted out looks again after this, though nothing has changed: a vote may come to nothing.
const READER_PAUSE: Duration = Duration::from_millis(50);

/// A connection in use by the reads of one request.
struct Lease {
    conn: Conn,
    /// It was used before: that it is dead says nothing about the side yet.
    reused: bool,
    /// Statements whose answer has not come.
    unanswered: AtomicUsize,
    spoiled: AtomicBool,
}

impl Lease {
    async fn open(inner: &Inner, side: SideId) -> Result<Lease, Failure> {
        let conn = Conn::open(&inner.sides[side].reads).await?;
        Ok(Lease {
            reused: conn.was_used(),
            conn,
            unanswered: AtomicUsize::new(0),
            spoiled: AtomicBool::new(false),
        })
    }

    async fn ask(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failure> {
        self.unanswered.fetch_add(1, Ordering::AcqRel);
        let asked = async {
            let statement = self.conn.prepare(sql).await?;
            Ok::<_, Failure>(self.conn.client()?.query(&statement, params).await?)
        };
        let answer = asked.await;
        self.unanswered.fetch_sub(1, Ordering::AcqRel);
        match answer {
            Err(Failure::Side(SideFault::Down(_))) if self.reused => {
                self.spoiled.store(true, Ordering::Release);
                Err(Failure::Repeat(Repeat::Contention))
            }
            // Its plan may no longer fit the table: the next try is made on a connection that never saw it.
            Err(failure @ (Failure::Side(_) | Failure::Repeat(Repeat::Contention))) => {
                self.spoiled.store(true, Ordering::Release);
                Err(failure)
            }
            answer => answer,
        }
    }
}

impl Drop for Lease {
    /// A read that was given up leaves a statement behind that the server may work on for long: nobody shall wait for it.
    fn drop(&mut self) {
        let unfinished = *self.unanswered.get_mut() > 0;
        self.conn.set_busy(unfinished || *self.spoiled.get_mut());
    }
}

/// The connection that the reads of one request share while at least one of them is under way.
#[derive(Default)]
struct Shared(Mutex<Option<(usize, SideId, Weak<Lease>)>>);

impl Shared {
    async fn lease(&self, inner: &Arc<Inner>, side: SideId) -> Result<Arc<Lease>, Failure> {
        let pool = Arc::as_ptr(inner) as usize;
        // Held while the connection is opened: the others of this request wait for it.
        let mut slot = self.0.lock().await;
        if let Some((of, from, lease)) = &*slot
            && (*of, *from) == (pool, side)
            && let Some(lease) = lease.upgrade()
            && !lease.spoiled.load(Ordering::Acquire)
        {
            return Ok(lease);
        }
        let lease = Arc::new(Lease::open(inner, side).await?);
        *slot = Some((pool, side, Arc::downgrade(&lease)));
        Ok(lease)
    }
}

tokio::task_local! {
    static SHARED: Arc<Shared>;
}

/// Reads that are made inside `work` at the same moment share one connection, and their statements go out together: one
/// round trip for all. A slow one delays those behind it.
pub async fn together<F: Future>(work: F) -> F::Output {
    match SHARED.try_with(Arc::clone) {
        Ok(_) => work.await,
        Err(_) => SHARED.scope(Arc::default(), work).await,
    }
}

async fn lease(inner: &Arc<Inner>, side: SideId) -> Result<Arc<Lease>, Failure> {
    match SHARED.try_with(Arc::clone) {
        Ok(shared) => shared.lease(inner, side).await,
        Err(_) => Ok(Arc::new(Lease::open(inner, side).await?)),
    }
}

impl MultiPool {
    /// A read from the leader (or the nearest side, by configuration). When that side fails, the read waits for the
    /// next leader and is repeated there. The server refuses statements that write.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, ReadError> {
        let inner = self.inner();
        let deadline = Instant::now() + LEADER_PATIENCE;
        let mut busy = 0;
        loop {
            // Before the side: what is believed of it is no newer.
            let believed = inner.view.borrow().epoch.n;
            let Some(side) = self.reader_that_stays() else {
                if Instant::now() >= deadline {
                    let refusal = inner.view().refusal.unwrap_or(NotApplied::NoSide);
                    return Err(ReadError::Unavailable(refusal));
                }
                let mut view = inner.view.subscribe();
                // Subscribed before looked again: no change is missed.
                let until = match (self.reader_that_stays(), self.reader()) {
                    (Some(_), _) => continue,
                    (None, None) => deadline,
                    // Only our vote is against it. Those who go on know the next leader first.
                    (None, Some(_)) => {
                        inner.well().iter().for_each(|side| inner.doubt(side));
                        deadline.min(Instant::now() + READER_PAUSE)
                    }
                };
                let _ = timeout_at(until, view.changed()).await;
                continue;
            };
            let attempt = async { lease(inner, side).await?.ask(sql, params).await };
            let failure = tokio::select! {
                result = timeout_at(deadline, attempt) => match result {
                    // Asked after the read: nobody had moved on when it was answered.
                    Ok(Ok(rows)) => match standstill::moved_on_without_us(inner, side, believed).await {
                        false => return Ok(rows),
                        true => Failure::Side(SideFault::Behind),
                    },
                    Ok(Err(failure)) => failure,
                    Err(_) => Failure::Side(SideFault::Silent),
                },
                (_, fault) = inner.trouble(SideSet::EMPTY.with(side)) => Failure::Side(fault),
            };
            if Instant::now() >= deadline {
                return Err(ReadError::Unavailable(NotApplied::Deadline));
            }
            match failure {
                Failure::Rejected(r) => {
                    return Err(ReadError::Rejected {
                        sqlstate: r.sqlstate,
                        message: r.message,
                    });
                }
                Failure::Repeat(Repeat::Busy) => {
                    busy += 1;
                    if busy == 3 {
                        return Err(ReadError::Unavailable(NotApplied::Overloaded));
                    }
                }
                Failure::Repeat(Repeat::Cancelled) => return Err(ReadError::TooLong),
                Failure::Repeat(Repeat::NoSlot) => tokio::time::sleep(SLOT_PAUSE).await,
                Failure::Repeat(_) => {}
                // A statement that writes: the session of a reader may not, and no other side would let it.
                Failure::Side(SideFault::Unfit(message)) if message.contains("read-only transaction") => {
                    return Err(ReadError::Rejected {
                        sqlstate: "25006".into(),
                        message,
                    });
                }
                Failure::Side(_) => {
                    inner.doubt(side);
                    inner.wait_change(side, inner.config.probe_interval).await;
                }
            }
        }
    }

    /// The side that a read asks now; `None` while no side may be read.
    pub fn reader(&self) -> Option<SideId> {
        self.pick(|_, _| true)
    }

    /// For a moment nobody, while others may be going on without the side that would be asked.
    fn reader_that_stays(&self) -> Option<SideId> {
        self.pick(|side, epoch| !self.inner().assembly.leaves_out(side, epoch))
    }

    fn pick(&self, stays: impl Fn(SideId, &Epoch) -> bool) -> Option<SideId> {
        let inner = self.inner();
        let view = inner.view.borrow();
        let members = view.epoch.members;
        match inner.config.read_from {
            // While a leader is in doubt its epoch still stands; readers wait for the next one.
            ReadFrom::Leader => members
                .leader()
                .filter(|side| view.refusal.is_none() && stays(*side, &view.epoch)),
            ReadFrom::Nearest => members
                .and(inner.well())
                .iter()
                .filter(|side| stays(*side, &view.epoch))
                .filter_map(|side| Some((side, inner.sides[side].health.borrow().heartbeat_ms?)))
                .min_by(|(_, x), (_, y)| x.total_cmp(y))
                .map(|(side, _)| side),
        }
    }

    /// What is known about operations, in the order asked.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn operations(&self, ops: &[OpId]) -> Result<Vec<OpOutcome>, ReadError> {
        let ids: Vec<Uuid> = ops.iter().map(|op| op.uuid()).collect();
        let pending: Vec<bool> = ops.iter().map(|op| self.inner().pending.contains(*op)).collect();
        let rows = self
            .read(
                "-- pool::operations()\nSELECT o.applied FROM unnest($1::uuid[]) WITH ORDINALITY AS u(op, place) \
                 LEFT JOIN kambana.op AS o ON o.op = u.op ORDER BY u.place",
                &[&ids],
            )
            .await?;
        Ok(rows
            .iter()
            .zip(pending)
            .map(|(row, pending)| match (pending, row.get(0)) {
                // On the leader but perhaps not yet on every side.
                (true, _) => OpOutcome::Pending,
                (false, Some(true)) => OpOutcome::Applied,
                (false, Some(false)) => OpOutcome::NotApplied,
                (false, None) => OpOutcome::Unseen,
            })
            .collect())
    }
}
