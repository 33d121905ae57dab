//! How a voter without memory begins: at once if it is new, above everything that is known if it has lost its memory.

use std::collections::BTreeMap;

use futures::future::join_all;
use tokio::time::timeout;
use uuid::Uuid;

use super::acceptor::{Answer, Ask};
use super::gather;
use super::proposer::Seat;
use super::remote::Question;
use crate::multipool::connection::{Conn, Failure, words};
use crate::multipool::inner::Inner;
use crate::multipool::{Happened, SideId};

/// The voters that one side knows by name.
type Names = BTreeMap<String, Uuid>;

/// What the sides say of a voter without memory.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It has never voted.
    New,
    /// It may have voted.
    Known,
    /// A side that could know it does not answer.
    Unclear,
}

/// `sides`: what each side knows; `None` where it does not answer. `seats`: how many voters of its kind there can be.
fn standing(name: &str, voter: Uuid, sides: &[Option<Names>], seats: usize) -> Standing {
    let known = sides.iter().flatten();
    let kind = kind(name);
    let mut others: Vec<&String> = Vec::new();
    for (other, its_voter) in known.flatten() {
        if other == name && *its_voter != voter {
            return Standing::Known;
        }
        if other != name && self::kind(other) == kind && !others.contains(&other) {
            others.push(other);
        }
    }
    if others.len() >= seats {
        // It has taken the seat of another one, which may have voted.
        Standing::Known
    } else if sides.iter().all(Option::is_some) {
        Standing::New
    } else {
        Standing::Unclear
    }
}

fn kind(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

/// What a voter is called in `kambana.voter`; `None` for sides, which have a row of their own.
fn name(inner: &Inner, seat: Seat) -> Option<(String, usize)> {
    match seat {
        Seat::Instance(0) => {
            let seats = inner.assembly.seats().instances;
            Some((format!("instance {}", inner.config.instance), seats))
        }
        Seat::Witness => Some(("witness".to_owned(), 1)),
        Seat::Instance(_) | Seat::Side(_) => None,
    }
}

/// Lets a voter begin that calls itself `voter` and has no memory. Instances begin themselves, any of them begins the witness.
///
/// # Errors
/// Why it cannot yet; it is tried again.
pub(super) async fn begin(inner: &Inner, seat: Seat, voter: Uuid) -> Result<(), String> {
    let (Some((name, seats)), Some(lineage)) = (name(inner, seat), inner.lineage.get()) else {
        return Ok(());
    };
    let from = if inner.assembly.is_alone() {
        0
    } else {
        let known: Vec<Option<Names>> = join_all(inner.sides.ids().map(|side| names(inner, side))).await;
        match standing(&name, voter, &known, seats) {
            Standing::New => {
                for side in inner.sides.ids() {
                    register(inner, side, &name, voter)
                        .await
                        .map_err(|f| format!("side {side}: {}", words(&f)))?;
                }
                0
            }
            Standing::Known => {
                let from = above_everything(inner, seat).await?;
                for side in inner.well().iter() {
                    if let Err(failure) = register(inner, side, &name, voter).await {
                        tracing::debug!(%side, why = words(&failure), "a voter could not be registered");
                    }
                }
                let (kind, name) = inner.assembly.known_as(seat);
                let epoch = from;
                inner.event(Happened::VoterForgot { kind, name, epoch });
                from
            }
            Standing::Unclear => {
                return Err("it is new or has lost its memory; waiting for every side".into());
            }
        }
    };
    let question = Question {
        lineage: *lineage,
        seats: inner.assembly.seats(),
        parent: inner.view().epoch,
        ask: Ask::Begin { voter, from },
    };
    gather::ask(inner, seat, &question).await.map(drop)
}

async fn names(inner: &Inner, side: SideId) -> Option<Names> {
    if !inner.health(side).is_well() {
        return None;
    }
    let asked = async {
        let conn = Conn::open(&inner.sides[side].writes).await?;
        let rows = conn
            .client()?
            .query("-- votes::names()\nSELECT name, voter FROM kambana.voter", &[])
            .await?;
        Ok::<_, Failure>(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    timeout(inner.config.probe_deadline, asked).await.ok()?.ok()
}

async fn register(inner: &Inner, side: SideId, name: &str, voter: Uuid) -> Result<(), Failure> {
    let conn = Conn::open(&inner.sides[side].writes).await?;
    conn.client()?
        .execute(
            "-- votes::register()\nINSERT INTO kambana.voter (name, voter) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET voter = EXCLUDED.voter",
            &[&name, &voter],
        )
        .await?;
    Ok(())
}

/// The first epoch on which this voter cannot have voted, by what more than half of all votes know, its own not counted.
async fn above_everything(inner: &Inner, seat: Seat) -> Result<i64, String> {
    let Some(lineage) = inner.lineage.get() else {
        return Err("the pool is not known yet".into());
    };
    let electorate = inner.assembly.electorate();
    let question = Question {
        lineage: *lineage,
        seats: inner.assembly.seats(),
        parent: inner.view().epoch,
        ask: Ask::Look,
    };
    let question = &question;
    let others = electorate.seats().filter(|(other, _)| *other != seat);
    let answers = join_all(
        others.map(|(other, weight)| async move { (weight, gather::ask(inner, other, question).await) }),
    )
    .await;
    let (mut weight, mut highest) = (0, inner.view().epoch.n);
    for (its_weight, reply) in answers {
        // One that has no memory itself cannot tell.
        if let Ok(reply) = reply
            && let Answer::Seen(seen) = reply.answer
            && seen.from.is_some()
        {
            weight += its_weight;
            highest = highest.max(seen.highest());
        }
    }
    if weight < electorate.needed() {
        return Err(format!(
            "it has lost its memory; {} votes must say what is known, {weight} do",
            electorate.needed()
        ));
    }
    Ok(highest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_is_named_nowhere_is_new() {
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let side = |names: &[(&str, Uuid)]| {
            Some(
                names
                    .iter()
                    .map(|(n, v)| ((*n).to_owned(), *v))
                    .collect::<Names>(),
            )
        };
        let stands = |sides: &[Option<Names>]| standing("instance web1", ours, sides, 2);
        let (empty, witness) = (side(&[]), side(&[("witness", other)]));
        assert_eq!(stands(&[empty.clone(), witness]), Standing::New);
        assert_eq!(stands(&[empty.clone(), None]), Standing::Unclear);
        // We died between the sides, or began just now.
        let begun = side(&[("instance web1", ours)]);
        assert_eq!(stands(&[begun, empty.clone()]), Standing::New);
        let before = side(&[("instance web1", other)]);
        assert_eq!(stands(&[before, None]), Standing::Known);
        // A new name on a taken seat.
        let full = side(&[("instance web2", other), ("instance web3", other)]);
        assert_eq!(stands(&[full, empty.clone()]), Standing::Known);
        let one = side(&[("instance web2", other)]);
        assert_eq!(stands(&[one, empty]), Standing::New);
    }
}
