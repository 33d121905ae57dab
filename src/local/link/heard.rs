//! What a link overhears, for who wants to know how much an answer costs: the statements, and which went out together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Link;

/// More statements are not remembered: nobody counts so many one by one.
const MAX_HEARD: usize = 10_000;

/// A statement that was sent to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Number of its connection on this link.
    pub connection: u64,
    /// Answers that this connection had had before. Statements of one connection with the same number were sent without
    /// waiting for each other: they are one round trip.
    pub answers: u64,
    /// Its SQL.
    pub sql: Arc<str>,
}

/// The ear of a link.
#[derive(Debug, Default)]
pub(super) struct Ear {
    connections: AtomicU64,
    heard: Mutex<Option<Vec<Heard>>>,
}

impl Ear {
    /// A number for a new connection.
    pub fn number(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// A statement passes.
    pub fn hear(&self, connection: u64, answers: u64, sql: &Arc<str>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(heard) = heard.as_mut().filter(|heard| heard.len() < MAX_HEARD) {
            heard.push(Heard {
                connection,
                answers,
                sql: Arc::clone(sql),
            });
        }
    }
}

impl Link {
    /// What was sent to the server since the last call, in order; the first call begins to listen.
    pub fn overhear(&self) -> Vec<Heard> {
        let mut heard = self.wire.ear.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.replace(Vec::new()).unwrap_or_default()
    }
}
