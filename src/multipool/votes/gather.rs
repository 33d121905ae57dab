//! Gathering votes: runs a [`Proposer`] against the real voters. All are asked at once, and nobody waits for the dead: an
//! attempt ends with the first majority, or as soon as none is possible. No fence is held meanwhile.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::acceptor::{Answer, Ask, Ballot, Child};
use super::proposer::{Progress, Proposer, Seat};
use super::remote::{Question, Reply};
use super::{file, remote, side};
use crate::multipool::epoch::Epoch;
use crate::multipool::failpoint::{Point, reach};
use crate::multipool::inner::Inner;

/// How long one voter may take to answer one question: some round trips and a flush. What is slower is counted as missing,
/// so that a frozen voter costs less than the freeze budget.
const VOTE_DEADLINE: Duration = Duration::from_millis(500);

/// Attempts before the caller looks again at what has become of the sides.
const ATTEMPTS: u32 = 5;

/// How a vote ended.
#[derive(Debug)]
pub(in crate::multipool) enum Verdict {
    /// This child follows, for ever; perhaps not the one that was wished for.
    Decided(Child),
    /// The parent is no longer current.
    Newer(Epoch),
    /// Too few votes: what is there, what is needed, who is missing and why.
    Missing(Missing),
    /// Another candidate is at it.
    Busy,
}

/// Why there was no majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::multipool) struct Missing {
    pub given: u32,
    pub needed: u32,
    pub who: Vec<String>,
}

/// Asks one voter.
pub(super) async fn ask(inner: &Inner, seat: Seat, question: &Question) -> Result<Reply, String> {
    let assembly = &inner.assembly;
    let asked = async {
        match seat {
            Seat::Side(side) => side::ask(inner, side, question).await,
            Seat::Instance(0) => {
                let known = inner.newest_known(question.lineage)?;
                file::ask(assembly.own(), question.clone(), known).await
            }
            Seat::Instance(_) | Seat::Witness => match assembly.remote(seat) {
                Some(voter) => remote::ask(voter.as_ref(), question).await,
                None => Err("it is not configured".into()),
            },
        }
    };
    timeout(VOTE_DEADLINE, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} ms", VOTE_DEADLINE.as_millis())))
}

/// Decides what follows `parent`. `wish` is proposed unless something was accepted before.
pub(in crate::multipool) async fn decide(inner: &Inner, parent: &Epoch, wish: Child) -> Verdict {
    let Some(lineage) = inner.lineage.get() else {
        return Verdict::Busy;
    };
    let mut round = 1;
    for attempt in 0..ATTEMPTS {
        let ballot = Ballot {
            round,
            attempt: Uuid::new_v4(),
        };
        let proposer = Proposer::new(inner.assembly.electorate().clone(), ballot, wish.clone());
        if reach(Point::VoteBefore).await.is_err() {
            return Verdict::Busy;
        }
        let (ended, outbid) = run(inner, *lineage, parent, ballot, proposer).await;
        match (ended, outbid) {
            (Verdict::Missing(_), Some(other)) => {
                // Two candidates that step back for the same time would meet again.
                round = other.round + 1;
                let pause = 5 + u64::from(ballot.attempt.as_bytes()[15] % 32) * u64::from(attempt + 1);
                sleep(Duration::from_millis(pause)).await;
                let now = inner.view().epoch;
                if now.n > parent.n {
                    return Verdict::Newer(now);
                }
            }
            (Verdict::Decided(child), _) => {
                return match reach(Point::VoteDecided).await {
                    Ok(()) => Verdict::Decided(child),
                    // As if we had not heard of it.
                    Err(_) => Verdict::Busy,
                };
            }
            (ended, _) => return ended,
        }
    }
    Verdict::Busy
}

async fn run(
    inner: &Inner,
    lineage: Uuid,
    parent: &Epoch,
    ballot: Ballot,
    mut proposer: Proposer,
) -> (Verdict, Option<Ballot>) {
    let electorate = inner.assembly.electorate();
    let mut question = Question {
        lineage,
        seats: inner.assembly.seats(),
        parent: *parent,
        ask: Ask::Promise(ballot),
    };
    let mut outbid = None;
    loop {
        let (mut given, mut who) = (0, Vec::new());
        let current = &question;
        let mut asked: FuturesUnordered<_> = electorate
            .seats()
            .map(|(seat, weight)| async move { (seat, weight, ask(inner, seat, current).await) })
            .collect();
        let mut next = None;
        let mut silent: BTreeSet<Seat> = electorate.seats().map(|(seat, _)| seat).collect();
        silent.retain(|seat| matches!(seat, Seat::Instance(_)));
        while let Some((seat, weight, reply)) = asked.next().await {
            silent.remove(&seat);
            let answer = match reply {
                Ok(reply) => {
                    if let Answer::Outbid(other) = &reply.answer {
                        outbid = outbid.max(Some(*other));
                    }
                    match why_not(&reply.answer) {
                        None => given += weight,
                        Some(why) => who.push(format!("{} {why}", inner.assembly.name(seat))),
                    }
                    Some((reply.voter, reply.answer))
                }
                Err(why) => {
                    who.push(format!("{}: {why}", inner.assembly.name(seat)));
                    None
                }
            };
            match proposer.hear(seat, answer) {
                Progress::Waiting => {}
                Progress::Next(ask) => {
                    next = Some(ask);
                    break;
                }
                Progress::Decided(child) => {
                    if !parent.members.is_subset(child.epoch.members) {
                        hear_readers(&mut asked, silent).await;
                    }
                    return (Verdict::Decided(child), None);
                }
                Progress::Newer(epoch) => return (Verdict::Newer(epoch), None),
                // The rest is heard only to say what is missing; another candidate is reason enough.
                Progress::Failed if outbid.is_none() => {}
                Progress::Failed => break,
            }
        }
        drop(asked);
        match next {
            Some(ask) => question.ask = ask,
            None => {
                // In whichever order they came.
                who.sort();
                let missing = Missing {
                    given,
                    needed: electorate.needed(),
                    who,
                };
                return (Verdict::Missing(missing), outbid);
            }
        }
    }
}

/// An instance that has accepted no longer reads from a side that is left out: before anything is acknowledged without that
/// side, every instance that answers in time has been heard.
async fn hear_readers<F, T>(asked: &mut FuturesUnordered<F>, mut silent: BTreeSet<Seat>)
where
    F: Future<Output = (Seat, u32, T)>,
{
    while !silent.is_empty()
        && let Some((seat, ..)) = asked.next().await
    {
        silent.remove(&seat);
    }
}

/// Why an answer is no vote.
fn why_not(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Promised(_) | Answer::Accepted | Answer::Seen(_) | Answer::Newer(_) => None,
        Answer::Outbid(_) => Some("votes for another candidate".into()),
        Answer::Abstains(Some(from)) => {
            Some(format!("has lost its memory and votes again from epoch {from}"))
        }
        Answer::Abstains(None) => Some("has no memory of this pool and does not vote yet".into()),
        Answer::Refused(why) => Some(format!("refuses: {why}")),
    }
}
