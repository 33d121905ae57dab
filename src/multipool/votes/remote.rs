//! Voters that are reached over a network, and what goes over it. This room only makes and reads the bytes.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::acceptor::{Answer, Ask};
use crate::multipool::epoch::Epoch;

/// The longest question or answer, in bytes; real ones are below 2 KiB.
pub const MAX_QUESTION: usize = 16 * 1024;

/// A voter somewhere else: another instance, or the witness.
pub trait RemoteVoter: Send + Sync {
    /// How people name it until it has said its own name.
    fn address(&self) -> &str;

    /// Brings a question there and the answer back. Must know that the answer comes from a voter of this pool. The future
    /// may be dropped at any time; a question that was lost or comes twice does no harm.
    fn ask(&self, question: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>>;
}

/// The voters beside this instance and the sides. Every instance must be given the same set.
#[derive(Clone, Default)]
pub struct Peers {
    /// The other instances.
    pub instances: Vec<Arc<dyn RemoteVoter>>,
    /// A vote without data.
    pub witness: Option<Arc<dyn RemoteVoter>>,
}

/// How many voters of each kind a candidate counts with: those of one pool must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seats {
    pub sides: usize,
    pub instances: usize,
    pub witness: bool,
}

impl fmt::Display for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let witness = if self.witness { "a" } else { "no" };
        write!(
            f,
            "{} sides, {} instances, {witness} witness",
            self.sides, self.instances
        )
    }
}

/// A question on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Question {
    pub lineage: Uuid,
    pub seats: Seats,
    pub parent: Epoch,
    pub ask: Ask,
}

/// An answer on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reply {
    /// Which voter this is, whatever its address.
    pub voter: Uuid,
    pub name: String,
    pub answer: Answer,
}

/// Reads a question.
///
/// # Errors
/// It is none.
pub(super) fn question(bytes: &[u8]) -> Result<Question, String> {
    if bytes.len() > MAX_QUESTION {
        return Err(format!("more than {MAX_QUESTION} bytes"));
    }
    serde_json::from_slice(bytes).map_err(|e| format!("not a question of a vote: {e}"))
}

/// Asks a remote voter.
pub(super) async fn ask(voter: &dyn RemoteVoter, question: &Question) -> Result<Reply, String> {
    let bytes = serde_json::to_vec(question).map_err(|e| e.to_string())?;
    let answer = voter.ask(bytes).await?;
    serde_json::from_slice(&answer).map_err(|e| format!("not an answer of a vote: {e}"))
}
