//! Which membership follows an epoch: decided by more than half of the votes, before anything is written.
//!
//! # What is decided, and why there is never a second answer
//!
//! For every epoch `n` (the *parent*) one question is open: which child does it get? Each such question is one decision
//! of single-decree Paxos; the whole child is decided (number `n + 1`, sides, generation, reason), so numbers never jump and two children of
//! one parent cannot exist. `acceptor` is a voter, `proposer` a candidate, both pure; `tests` explores them exhaustively.
//!
//! 1. *Promise*: the candidate asks every voter not to take part in earlier ballots. Each tells what it has accepted for
//!    this parent.
//! 2. *Accept*: with promises of more than half, the candidate asks all to accept a child: the one accepted in the latest
//!    ballot it was told of, and its own wish only if it was told of none. Accepted by more than half: decided for ever.
//!
//! Two groups of more than half have a voter in common, and it remembers. A candidate that dies in the middle leaves what
//! any later one must propose again, so a change that was begun is finished by anyone.
//!
//! A voter that knows a newer epoch than the parent says so; the candidate adopts it. When a voter hears that `n` is
//! current it may forget what it knew about earlier parents: they have had their child. Hence a grant binds only while
//! its parent is current.
//!
//! Only after the decision is the child written, under the fence, on a side that is a member of parent **and** child and
//! stores the parent. Every write of epoch `n` needs that side, and is refused there from then on.
//!
//! # Who votes, and what it remembers where
//!
//! Instances and the witness: one fsynced file (`file`). Sides: one row in `kambana.vote`, changed over a candidate's
//! connection by one conditional `UPDATE` outside the fence (`side`). See [`proposer::Electorate`] for the weights.
//!
//! # A voter that has lost its memory
//!
//! It must not vote on a parent on which it may have voted already. So a voter without memory does not begin by itself
//! (`begin`): every voter that ever voted is named in `kambana.voter` on every side. One that is named nowhere, while all
//! sides answer and its seat is free, is new and may vote at once. Any other first asks the rest: voters of more than half of all
//! votes, itself not counted. It votes only on parents above every epoch they know or have accepted. This is safe: a
//! forgotten vote on parent `m` counts only if `m` is current, so more than half had accepted `m`, and one of them is among those asked.
//! Until then it abstains; an epoch change with unchanged members (`Action::Renew`) ends the waiting.
//! A side that was emptied, rebuilt or copied has no row of its own and votes from the epoch it is readmitted with.
//! The file of an instance that is the only voter is not protected like this: there is nobody else who could have acted.
//!
//! Not seen by this: a side's disk that was set back to an older state (that is a rebuild, not a start), and settings that
//! name different voters on different instances (shown in `status`).

mod acceptor;
mod begin;
mod file;
mod gather;
mod margin;
mod proposer;
mod remote;
mod side;
mod watch;

pub(super) use acceptor::Child;
pub(super) use file::answer;
pub(super) use gather::{Verdict, decide};
pub(super) use side::{admit, introduce, nobody_votes};
pub(super) use watch::{Assembly, Heard, run};

pub use file::Witness;
pub use margin::Margin;
pub use remote::{MAX_QUESTION, Peers, RemoteVoter};
pub use watch::{VoterKind, VoterStatus, Votes};

#[cfg(test)]
mod tests;
