//! A wire between one instance and one database that knows PostgreSQL's messages and can be broken at a chosen one.
//!
//! # Layout
//!
//! - [`Link`]: listens, and carries every connection to its server; [`Fault`]: what it does to them, changed at run time.
//! - `carry`: the two directions of one connection. `frames`: the stream cut into messages; `statements`: which SQL a
//!   message runs; `heard`: what passed, for who counts. `alarm`: waking to a fraction of a millisecond.
//!
//! ```no_run
//! # use kambana::local::{Fault, Link, LocalError, Passing, Then};
//! # async fn example() -> Result<(), LocalError> {
//! let link = Link::open(5432).await?; // connect to 127.0.0.1:link.port()
//! link.set_once(Fault::LoseCommitReply(Passing::CommitOf("write::enter()".into()), Then::Hang));
//! // … the next COMMIT of a transaction that ran `write::enter()` reaches the server; its answer is lost
//! assert_eq!(link.hits(), 1); // the proof that the fault happened
//! link.heal();
//! # Ok(())
//! # }
//! ```
//!
//! This room knows no SQL of the pool: texts to look for are given. Crash rule: a link dies with its [`Link`], and its
//! connections with it, as a cut cable.

mod alarm;
mod carry;
mod frames;
mod heard;
mod statements;

pub use heard::Heard;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{LocalError, PortChoice};

/// How often another port is tried when somebody takes ours between the choice and the start.
const PORT_ATTEMPTS: usize = 5;

/// One direction, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the client sends.
    ToServer,
    /// What the server answers.
    ToClient,
    /// Both.
    Both,
}

impl Way {
    fn covers(self, way: Way) -> bool {
        self == way || self == Way::Both
    }
}

/// A moment in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Any COMMIT.
    Commit,
    /// The COMMIT of a transaction in which SQL with this text ran, for example `write::enter()`.
    CommitOf(String),
    /// SQL with this text, for example `write::guard()`.
    Text(String),
}

/// What comes after a lost reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Silence: what the client sends arrives, nothing comes back.
    Hang,
    /// The connection is reset.
    Cut,
}

/// What a link does to its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Resets every connection, and every new one at once.
    Cut,
    /// A black hole: connections are accepted and bytes are taken, nothing is passed on until the fault ends.
    Hold(Way),
    /// Requests arrive, replies are thrown away. Who lost one is cut when the fault ends.
    DropReplies,
    /// The COMMIT reaches the server, its answer is lost. Other statements pass.
    LoseCommitReply(Passing, Then),
    /// The message is not passed on, nor what its connection sends after it, until [`Link::release`].
    HoldAt(Passing),
    /// The connection is reset instead of passing the message on.
    CutAt(Passing),
    /// Every request arrives so much later: one delay a round trip. Precise to about a tenth of a millisecond.
    Delay(Duration),
}

/// What has happened on a link since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Connections accepted.
    pub connections: u64,
    /// COMMITs passed on to the server.
    pub commits: u64,
    /// Answers to COMMIT passed on to the client.
    pub answered: u64,
    /// Answers to COMMIT that the server gave and the client did not get.
    pub lost: u64,
    /// Messages that were held.
    pub held: u64,
    /// Connections reset by a fault.
    pub cut: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    commits: AtomicU64,
    answered: AtomicU64,
    lost: AtomicU64,
    held: AtomicU64,
    cut: AtomicU64,
}

/// The present fault and how often it has acted.
#[derive(Clone, Debug, Default)]
struct State {
    fault: Fault,
    /// It ends with the first message it meets.
    once: bool,
    hits: u64,
    /// Counts the releases: what was held before the last one may go on.
    releases: u64,
}

/// What the connections of a link share with it.
#[derive(Debug)]
struct Wire {
    server: AtomicU16,
    state: watch::Sender<State>,
    counters: Counters,
    ear: heard::Ear,
}

/// A wire to a server on this machine. Dropping it cuts it.
#[derive(Debug)]
pub struct Link {
    port: u16,
    wire: Arc<Wire>,
    listening: AbortHandle,
}

impl Link {
    /// Listens on a free port of 127.0.0.1, in front of `server` (a port of 127.0.0.1). Needs a tokio runtime, and lives
    /// in its tasks.
    ///
    /// # Errors
    /// No port is free.
    pub async fn open(server: u16) -> Result<Link, LocalError> {
        let mut tries = 0;
        let (port, listener) = loop {
            let port = PortChoice::Any.choose("a link", "", &[])?.number;
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => break (port, listener),
                Err(_) if tries < PORT_ATTEMPTS => tries += 1,
                Err(e) => return Err(LocalError::io(format!("a link cannot listen on port {port}"))(e)),
            }
        };
        let wire = Arc::new(Wire {
            server: AtomicU16::new(server),
            state: watch::Sender::default(),
            counters: Counters::default(),
            ear: heard::Ear::default(),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&wire))).abort_handle();
        Ok(Link {
            port,
            wire,
            listening,
        })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go to this port from now on: the server has moved.
    pub fn aim(&self, server: u16) {
        self.wire.server.store(server, Ordering::Relaxed);
    }

    /// From now on this happens. What is held stays held; [`Link::hits`] starts at 0.
    pub fn set(&self, fault: Fault) {
        self.change(fault, false);
    }

    /// As [`Link::set`], for the first message that the fault meets; then nothing happens any more. For faults at a
    /// message only.
    pub fn set_once(&self, fault: Fault) {
        self.change(fault, true);
    }

    /// Nothing happens from now on, and what is held goes on. Connections that lost a reply are cut.
    pub fn heal(&self) {
        self.wire.state.send_modify(|state| {
            state.fault = Fault::None;
            state.releases += 1;
        });
    }

    /// Messages that are held go on; the fault stays.
    pub fn release(&self) {
        self.wire.state.send_modify(|state| state.releases += 1);
    }

    /// How often the fault that was set last has acted: the proof that it happened.
    pub fn hits(&self) -> u64 {
        self.wire.state.borrow().hits
    }

    /// What has happened since it was opened.
    pub fn counts(&self) -> LinkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.wire.counters;
        LinkCounts {
            connections: read(&counters.connections),
            commits: read(&counters.commits),
            answered: read(&counters.answered),
            lost: read(&counters.lost),
            held: read(&counters.held),
            cut: read(&counters.cut),
        }
    }

    fn change(&self, fault: Fault, once: bool) {
        self.wire.state.send_modify(|state| {
            state.fault = fault;
            state.once = once;
            state.hits = 0;
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The task of a link: accepts until it is aborted; the connections end with it.
async fn listen(listener: TcpListener, wire: Arc<Wire>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    wire.counters.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(carry::carry(client, Arc::clone(&wire)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Wire {
    fn server(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.server.load(Ordering::Relaxed)).into()
    }

    fn hit(&self) {
        // Nobody waits for the number: no need to wake anybody.
        self.state.send_if_modified(|state| {
            state.hits += 1;
            false
        });
    }

    /// Whether the fault concerns this message; counts it, and ends the fault if it was for one message.
    fn takes(&self, concerns: impl Fn(&Fault) -> bool) -> Option<(Fault, u64)> {
        let mut taken = None;
        self.state.send_if_modified(|state| {
            if concerns(&state.fault) {
                taken = Some((state.fault.clone(), state.releases));
                state.hits += 1;
                if state.once {
                    state.fault = Fault::None;
                }
            }
            false
        });
        taken
    }
}
