//! One connection through a link: two directions, each taking a packet, deciding about its messages, passing it on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::alarm;
use super::frames::{Frames, Piece, asks_for_encryption};
use super::statements::{Statements, commits};
use super::{Fault, Passing, State, Then, Way, Wire};

/// One read.
const PACKET: usize = 64 * 1024;

/// Delayed packets on their way; more would only fill memory.
const MAX_QUEUE: usize = 256;

/// Statements of one transaction that are remembered, for [`Passing::CommitOf`].
const MAX_REMEMBERED: usize = 200;

/// A server on this machine answers a connection at once or not at all.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// The connection is to be reset.
struct Cut;

/// What one direction tells the other.
#[derive(Default)]
struct Talk {
    /// Number of the connection.
    number: u64,
    /// Requests the server has answered.
    answers: AtomicU64,
    /// Answers of one byte that the server owes.
    lone: AtomicU32,
    encrypted: AtomicBool,
    /// The answer to the COMMIT that passed last is to be lost, and the connection is to be cut then.
    lose: AtomicBool,
    lose_by_cut: AtomicBool,
    /// The client has closed.
    gone: Notify,
}

/// Carries one connection until both ends have closed or it is cut.
pub(super) async fn carry(mut client: TcpStream, wire: Arc<Wire>) {
    if wire.state.borrow().fault == Fault::Cut {
        wire.hit();
        return reset(&wire, &client, None);
    }
    let Ok(Ok(mut server)) = timeout(CONNECT_DEADLINE, TcpStream::connect(wire.server())).await else {
        // As a server that is not there: no fault of ours.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let talk = Talk {
        number: wire.ear.number(),
        ..Talk::default()
    };
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                requests(from_client, to_server, &wire, &talk),
                replies(from_server, to_client, &wire, &talk)
            )
        };
        tokio::select! {
            ended = both => ended.map(drop),
            () = until(&wire, |state| state.fault == Fault::Cut) => {
                wire.hit();
                Err(Cut)
            }
        }
    };
    if let Err(Cut) = ended {
        reset(&wire, &client, Some(&server));
    }
}

/// Both ends see a reset when the sockets are dropped.
fn reset(wire: &Wire, client: &TcpStream, server: Option<&TcpStream>) {
    wire.counters.cut.fetch_add(1, Ordering::Relaxed);
    let _ = client.set_zero_linger();
    if let Some(server) = server {
        let _ = server.set_zero_linger();
    }
}

/// Waits until the link's state is as wanted.
async fn until(wire: &Wire, wanted: impl FnMut(&State) -> bool) {
    // An error would mean that the link is gone, and with it this task.
    let _ = wire.state.subscribe().wait_for(wanted).await;
}

/// Waits while bytes in this direction are swallowed by a black hole.
async fn passable(wire: &Wire, way: Way) {
    let open = |state: &State| !matches!(state.fault, Fault::Hold(held) if held.covers(way));
    if !open(&wire.state.borrow()) {
        wire.hit();
        until(wire, open).await;
    }
}

/// From the client to the server.
async fn requests(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    wire: &Wire,
    talk: &Talk,
) -> Result<(), Cut> {
    let (mut frames, mut judge) = (Frames::of_client(), Judge::default());
    let mut buffer = vec![0; PACKET];
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    // Rings when the first of the queue is due.
    let mut due: Option<oneshot::Receiver<()>> = None;
    loop {
        if due.is_none() {
            due = queue.front().map(|(at, _)| alarm::at(*at));
        }
        let read = tokio::select! {
            biased;
            () = rung(due.as_mut()), if due.is_some() => {
                due = None;
                if let Some((_, bytes)) = queue.pop_front() {
                    let _ = to.write_all(&bytes).await;
                }
                continue;
            }
            read = from.read(&mut buffer), if queue.len() < MAX_QUEUE => read.unwrap_or(0),
        };
        if read == 0 {
            for (at, bytes) in queue {
                let _ = alarm::at(at).await;
                let _ = to.write_all(&bytes).await;
            }
            passable(wire, Way::ToServer).await;
            let _ = to.shutdown().await;
            talk.gone.notify_one();
            return Ok(());
        }
        passable(wire, Way::ToServer).await;
        if talk.encrypted.load(Ordering::Acquire) {
            frames.set_opaque();
        }
        frames.push(&buffer[..read]);
        let mut out = Vec::with_capacity(read);
        while let Some(piece) = frames.next() {
            if let Some(hold) = judge.about(&piece, wire, talk)? {
                // What came before it is on its way.
                let _ = to.write_all(&std::mem::take(&mut out)).await;
                until(wire, |state| state.releases > hold).await;
            }
            out.extend(piece.into_bytes());
        }
        let delay = match wire.state.borrow().fault {
            Fault::Delay(delay) => Some(delay),
            _ => None,
        };
        match delay {
            None if queue.is_empty() => {
                let _ = to.write_all(&out).await;
            }
            delay => {
                if delay.is_some() {
                    wire.hit();
                }
                queue.push_back((Instant::now() + delay.unwrap_or_default(), out));
            }
        }
    }
}

async fn rung(alarm: Option<&mut oneshot::Receiver<()>>) {
    if let Some(alarm) = alarm {
        let _ = alarm.await;
    }
}

/// Decides about what a client sends.
#[derive(Default)]
struct Judge {
    statements: Statements,
    /// What ran since the last COMMIT.
    transaction: Vec<Arc<str>>,
}

impl Judge {
    /// `Some(releases)`: hold the piece until the link has counted more releases.
    fn about(&mut self, piece: &Piece, wire: &Wire, talk: &Talk) -> Result<Option<u64>, Cut> {
        let Piece::Message { kind, bytes, body } = piece else {
            return Ok(None);
        };
        if *kind == 0 && asks_for_encryption(bytes) {
            talk.lone.fetch_add(1, Ordering::AcqRel);
        }
        let Some(sql) = self.statements.runs(*kind, bytes.get(*body..).unwrap_or(&[])) else {
            return Ok(None);
        };
        let answers = talk.answers.load(Ordering::Acquire);
        wire.ear.hear(talk.number, answers, &sql);
        let commit = commits(&sql);
        if self.transaction.len() < MAX_REMEMBERED {
            self.transaction.push(Arc::clone(&sql));
        }
        let meets = |passing: &Passing| match passing {
            Passing::Commit => commit,
            Passing::CommitOf(text) => {
                commit && self.transaction.iter().any(|ran| ran.contains(text.as_str()))
            }
            Passing::Text(text) => sql.contains(text.as_str()),
        };
        let taken = wire.takes(|fault| match fault {
            Fault::LoseCommitReply(passing, _) => commit && meets(passing),
            Fault::HoldAt(passing) | Fault::CutAt(passing) => meets(passing),
            _ => false,
        });
        if commit {
            self.transaction.clear();
            wire.counters.commits.fetch_add(1, Ordering::Relaxed);
        }
        match taken {
            Some((Fault::LoseCommitReply(_, then), _)) => {
                talk.lose_by_cut.store(then == Then::Cut, Ordering::Release);
                talk.lose.store(true, Ordering::Release);
                Ok(None)
            }
            Some((Fault::HoldAt(_), releases)) => {
                wire.counters.held.fetch_add(1, Ordering::Relaxed);
                Ok(Some(releases))
            }
            Some((Fault::CutAt(_), _)) => Err(Cut),
            _ => Ok(None),
        }
    }
}

/// From the server to the client.
async fn replies(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, wire: &Wire, talk: &Talk) -> Result<(), Cut> {
    let mut frames = Frames::of_server();
    let mut buffer = vec![0; PACKET];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        passable(wire, Way::ToClient).await;
        if wire.state.borrow().fault == Fault::DropReplies {
            wire.hit();
            return mute(from, wire, talk, |state| state.fault != Fault::DropReplies).await;
        }
        if read == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        frames.expect_lone(talk.lone.swap(0, Ordering::AcqRel));
        frames.push(&buffer[..read]);
        let mut out = Vec::with_capacity(read);
        while let Some(piece) = frames.next() {
            if let Piece::Message { kind, bytes, body } = &piece {
                if *body == 1 && matches!(kind, b'S' | b'G') {
                    frames.set_opaque();
                    talk.encrypted.store(true, Ordering::Release);
                }
                // Ready for the next one.
                if *kind == b'Z' {
                    talk.answers.fetch_add(1, Ordering::AcqRel);
                }
                let tag = bytes.get(*body..).unwrap_or(&[]);
                if *kind == b'C' && (tag.starts_with(b"COMMIT") || tag.starts_with(b"ROLLBACK")) {
                    if talk.lose.swap(false, Ordering::AcqRel) {
                        wire.counters.lost.fetch_add(1, Ordering::Relaxed);
                        let _ = to.write_all(&out).await;
                        if talk.lose_by_cut.load(Ordering::Acquire) {
                            return Err(Cut);
                        }
                        let releases = wire.state.borrow().releases;
                        return mute(from, wire, talk, |state| state.releases > releases).await;
                    }
                    wire.counters.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            out.extend(piece.into_bytes());
        }
        if to.write_all(&out).await.is_err() {
            // The client is gone; the server will notice through the other direction.
            return Ok(());
        }
    }
}

/// Throws away what the server says, until the fault ends or the client has closed.
async fn mute(
    mut from: ReadHalf<'_>,
    wire: &Wire,
    talk: &Talk,
    over: impl FnMut(&State) -> bool,
) -> Result<(), Cut> {
    let discard = async {
        let mut buffer = vec![0; PACKET];
        while from.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        // The server has closed, and the client does not hear that either.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = discard => Ok(()),
        () = talk.gone.notified() => Ok(()),
        () = until(wire, over) => Err(Cut),
    }
}
