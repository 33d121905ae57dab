//! Who votes, and what was heard of each voter lately: for the status, and for decisions that only voters can bring up
//! (a newer epoch, a change that nobody finished, a voter that waits for the next epoch).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use serde::Serialize;
use tokio::time::timeout;
use uuid::Uuid;

use super::acceptor::{Answer, Ask, Child, Seen};
use super::file::FileVoter;
use super::margin::{Margin, margin};
use super::proposer::{Electorate, Seat};
use super::remote::{Peers, Question, RemoteVoter, Seats};
use super::{begin, gather};
use crate::config::PoolConfig;
use crate::multipool::SideId;
use crate::multipool::connection::{Conn, Failure};
use crate::multipool::epoch::Epoch;
use crate::multipool::inner::{Inner, lock};
use crate::multipool::status::rfc3339;

/// Pause between two rounds of looking at every voter: the status must be true within two seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The same while this instance does not vote yet; only so often, for it may have to wait for a side for long.
const BEGIN_INTERVAL: Duration = Duration::from_millis(50);
const BEGIN_ROUNDS: u32 = 100;

/// A candidate that lives finishes its change within this time; after it anyone does.
const UNFINISHED_AFTER: Duration = Duration::from_millis(1500);

/// What kind of voter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VoterKind {
    /// A web instance.
    Instance,
    /// A vote without data.
    Witness,
    /// A database.
    Side,
}

impl fmt::Display for VoterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VoterKind::Instance => "instance",
            VoterKind::Witness => "the witness",
            VoterKind::Side => "side",
        })
    }
}

/// One voter as this instance sees it.
#[derive(Clone, Debug, Serialize)]
pub struct VoterStatus {
    /// What it is.
    pub kind: VoterKind,
    /// Its name; its address while it has not said its name.
    pub name: String,
    /// How many votes it has.
    pub weight: u32,
    /// Whether it would vote now.
    pub votes: bool,
    /// Why not, if not.
    pub why: Option<String>,
    /// Since when it is like this.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
}

/// The votes as this instance sees them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Votes {
    /// Everybody who votes.
    pub voters: Vec<VoterStatus>,
    /// All votes.
    pub total: u32,
    /// More than half: what a change of the active sides needs.
    pub needed: u32,
    /// What could be had now.
    pub present: u32,
    /// What one more failure would stop.
    pub margin: Margin,
    /// Settings that do not fit together, with what to do.
    pub warnings: Vec<String>,
}

/// What was heard of one voter.
#[derive(Clone, Debug)]
struct Report {
    name: Option<String>,
    voter: Option<Uuid>,
    said: Result<Seen, String>,
    since: SystemTime,
}

/// What voters have brought up about the current epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::multipool) struct Heard {
    /// A newer epoch.
    pub newer: Option<Epoch>,
    /// A change without new members that was accepted somewhere and that nobody has finished.
    pub unfinished: Option<Child>,
    /// A voter has lost its memory and votes from the next epoch on.
    pub waiting: bool,
}

/// Everybody who votes, with what is known of them.
pub(in crate::multipool) struct Assembly {
    electorate: Electorate,
    seats: Seats,
    instance: String,
    own: Arc<FileVoter>,
    peers: Peers,
    reports: Mutex<BTreeMap<Seat, Report>>,
    /// An accepted child of the current parent, and when it was first seen.
    unfinished: Mutex<Option<(Child, Instant)>>,
    warnings: Mutex<Vec<String>>,
}

impl Assembly {
    /// # Errors
    /// The directory for this instance's own vote cannot be made.
    pub fn new(config: &PoolConfig, peers: Peers) -> Result<Assembly, String> {
        let seats = Seats {
            sides: config.sides.count(),
            instances: 1 + peers.instances.len(),
            witness: peers.witness.is_some(),
        };
        Ok(Assembly {
            electorate: Electorate::new(seats.sides, seats.instances, seats.witness),
            seats,
            instance: config.instance.clone(),
            own: Arc::new(FileVoter::open(&config.state_dir, &config.instance)?),
            peers,
            reports: Mutex::default(),
            unfinished: Mutex::default(),
            warnings: Mutex::default(),
        })
    }

    pub(super) fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    pub(super) fn seats(&self) -> Seats {
        self.seats
    }

    pub(super) fn own(&self) -> Arc<FileVoter> {
        Arc::clone(&self.own)
    }

    /// Whether this instance has agreed to go on without a side that is still a member. Others may have acknowledged
    /// writes without it by now, and its open connections may go on to answer.
    pub fn leaves_out(&self, side: SideId, current: &Epoch) -> bool {
        self.own.leaves_out(side, current)
    }

    /// Whether this instance has been seen to vote.
    fn has_begun(&self) -> bool {
        let reports = lock(&self.reports);
        let own = reports.get(&Seat::Instance(0));
        own.and_then(|report| report.said.as_ref().ok())
            .is_some_and(|seen| seen.from.is_some())
    }

    /// Whether this instance is the only voter.
    pub(super) fn is_alone(&self) -> bool {
        self.electorate.seats().count() == 1
    }

    pub(super) fn remote(&self, seat: Seat) -> Option<&Arc<dyn RemoteVoter>> {
        match seat {
            Seat::Witness => self.peers.witness.as_ref(),
            Seat::Instance(n) => self.peers.instances.get(n.checked_sub(1)?),
            Seat::Side(_) => None,
        }
    }

    /// What people call a voter.
    pub(super) fn name(&self, seat: Seat) -> String {
        let (kind, name) = self.known_as(seat);
        format!("{kind} {name}")
    }

    /// What a voter is, and its name; its address while it has not said its name.
    pub(super) fn known_as(&self, seat: Seat) -> (VoterKind, String) {
        let said = || {
            lock(&self.reports)
                .get(&seat)
                .and_then(|report| report.name.clone())
        };
        match seat {
            Seat::Side(side) => (VoterKind::Side, side.to_string()),
            Seat::Instance(0) => (VoterKind::Instance, self.instance.clone()),
            Seat::Instance(_) => (VoterKind::Instance, said().unwrap_or_else(|| self.address(seat))),
            Seat::Witness => (VoterKind::Witness, self.address(seat)),
        }
    }

    fn address(&self, seat: Seat) -> String {
        self.remote(seat)
            .map_or_else(String::new, |voter| voter.address().to_owned())
    }

    /// What voters have brought up, as seen from this epoch.
    pub fn heard(&self, current: &Epoch) -> Heard {
        let reports = lock(&self.reports);
        let seen = || reports.values().filter_map(|report| report.said.as_ref().ok());
        let unfinished = lock(&self.unfinished).clone();
        Heard {
            newer: seen()
                .map(|seen| seen.newest)
                .filter(|epoch| epoch.n > current.n)
                .max_by_key(|epoch| epoch.n),
            unfinished: unfinished
                .filter(|(child, since)| {
                    child.epoch.parent == current.n && since.elapsed() > UNFINISHED_AFTER
                })
                .map(|(child, _)| child),
            waiting: seen().any(|seen| seen.from.is_some_and(|from| from > current.n)),
        }
    }

    /// For the status.
    pub fn votes(&self, current: &Epoch) -> Votes {
        let mut present = Vec::new();
        let voters: Vec<VoterStatus> = self
            .electorate
            .seats()
            .map(|(seat, weight)| {
                let report = lock(&self.reports).get(&seat).cloned();
                let why = match report.as_ref().map(|report| &report.said) {
                    None => Some("not asked yet".to_owned()),
                    Some(Err(why)) => Some(why.clone()),
                    Some(Ok(seen)) => match seen.from {
                        None => Some("has no memory of votes yet".into()),
                        Some(from) if from > current.n => {
                            Some(format!("has lost its memory; votes again from epoch {from}"))
                        }
                        Some(_) => None,
                    },
                };
                if why.is_none() {
                    present.push(seat);
                }
                let (kind, name) = self.known_as(seat);
                VoterStatus {
                    kind,
                    name,
                    weight,
                    votes: why.is_none(),
                    why,
                    since: report.map_or_else(SystemTime::now, |report| report.since),
                }
            })
            .collect();
        Votes {
            voters,
            total: self.electorate.total(),
            needed: self.electorate.needed(),
            present: self.electorate.weight(&present),
            margin: margin(&self.electorate, &present, current.members),
            warnings: lock(&self.warnings).clone(),
        }
    }

    fn note(&self, seat: Seat, said: Result<(String, Uuid, Seen), String>) {
        let mut reports = lock(&self.reports);
        let before = reports.get(&seat);
        let (name, voter, said) = match said {
            Ok((name, voter, seen)) => (Some(name), Some(voter), Ok(seen)),
            Err(why) => {
                let known = before.and_then(|before| before.name.clone());
                (known, before.and_then(|before| before.voter), Err(why))
            }
        };
        let same = |before: &&Report| before.said.is_ok() == said.is_ok();
        let since = before
            .filter(same)
            .map_or_else(SystemTime::now, |before| before.since);
        let report = Report {
            name,
            voter,
            said,
            since,
        };
        reports.insert(seat, report);
    }

    fn note_unfinished(&self, current: &Epoch) {
        let found = lock(&self.reports)
            .values()
            .filter_map(|report| report.said.as_ref().ok()?.accepted.clone())
            .find(|child| child.epoch.parent == current.n && child.epoch.members.is_subset(current.members));
        let mut unfinished = lock(&self.unfinished);
        *unfinished = match (found, unfinished.take()) {
            (Some(found), Some((_, since))) => Some((found, since)),
            (Some(found), None) => Some((found, Instant::now())),
            (None, _) => None,
        };
    }
}

/// The named background task `votes`: looks at every voter until the pool closes, and lets newcomers begin.
pub(in crate::multipool) async fn run(inner: Arc<Inner>) {
    let mut said = String::new();
    let mut rounds: u32 = 0;
    loop {
        round(&inner, &mut said).await;
        rounds = rounds.saturating_add(1);
        let pause = match rounds > BEGIN_ROUNDS || inner.assembly.has_begun() {
            true => LOOK_INTERVAL,
            false => BEGIN_INTERVAL,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inner.closed() => return,
        }
    }
}

async fn round(inner: &Inner, said: &mut String) {
    let Some(lineage) = inner.lineage.get() else {
        return;
    };
    let assembly = &inner.assembly;
    let current = inner.view().epoch;
    let question = Question {
        lineage: *lineage,
        seats: assembly.seats(),
        parent: current,
        ask: Ask::Look,
    };
    let before = assembly.heard(&current);
    let looks = assembly.electorate().seats().map(|(seat, _)| {
        let question = &question;
        async move {
            let fault = match seat {
                Seat::Side(side) => inner.health(side).fault,
                _ => None,
            };
            let said = match fault {
                Some(fault) => Err(fault.to_string()),
                None => gather::ask(inner, seat, question)
                    .await
                    .and_then(|reply| match reply.answer {
                        Answer::Seen(seen) => Ok((reply.name, reply.voter, seen)),
                        Answer::Refused(why) => Err(why),
                        other => Err(format!("an answer that does not fit: {other:?}")),
                    }),
            };
            (seat, said)
        }
    });
    for (seat, report) in join_all(looks).await {
        let newcomer = match (&seat, &report) {
            (Seat::Instance(0) | Seat::Witness, Ok((_, voter, seen))) if seen.from.is_none() => Some(*voter),
            _ => None,
        };
        assembly.note(seat, report);
        if let Some(voter) = newcomer
            && let Err(why) = begin::begin(inner, seat, voter).await
            && *said != why
        {
            tracing::warn!("{} does not vote yet: {why}", assembly.name(seat));
            *said = why;
        }
    }
    assembly.note_unfinished(&current);
    let warnings = warnings(inner).await;
    for warning in &warnings {
        if !lock(&assembly.warnings).contains(warning) {
            tracing::warn!("{warning}");
        }
    }
    *lock(&assembly.warnings) = warnings;
    if assembly.heard(&current) != before {
        inner.stir.notify_one();
    }
}

/// Settings that name different voters on different instances.
async fn warnings(inner: &Inner) -> Vec<String> {
    let mut warnings = Vec::new();
    let (mut names, mut unnamed) = (Vec::new(), 0);
    let mut voters: BTreeMap<Uuid, Seat> = BTreeMap::new();
    {
        let reports = lock(&inner.assembly.reports);
        for (seat, _) in inner.assembly.electorate().seats() {
            let Some(report) = reports.get(&seat) else {
                continue;
            };
            if let Some(voter) = report.voter
                && let Some(twice) = voters.insert(voter, seat)
            {
                warnings.push(format!(
                    "{} and {} are the same voter, which counts once: PEERS must name the other instances only, each once",
                    describe(inner, twice, &report.name),
                    describe(inner, seat, &report.name),
                ));
            }
            match (seat, &report.name) {
                (Seat::Instance(n), None) if n > 0 => unnamed += 1,
                (Seat::Instance(_), Some(name)) => names.push(name.clone()),
                _ => {}
            }
        }
    }
    let strangers: Vec<String> = others(inner)
        .await
        .into_iter()
        .filter(|name| !names.contains(name))
        .collect();
    if strangers.len() > unnamed {
        warnings.push(format!(
            "{} uses these databases but is not among the peers of this instance: give every instance the addresses of \
             all others (PEERS) and the same WITNESS, or some of them could go on apart from each other",
            strangers.join(", ")
        ));
    }
    warnings
}

fn describe(inner: &Inner, seat: Seat, name: &Option<String>) -> String {
    match inner.assembly.address(seat) {
        address if address.is_empty() => name.clone().unwrap_or_else(|| seat.to_string()),
        address => address,
    }
}

/// Names of the other instances whose hearts beat on the leader.
async fn others(inner: &Inner) -> Vec<String> {
    let Some(leader) = inner.view().epoch.members.and(inner.well()).leader() else {
        return Vec::new();
    };
    let asked = async {
        let conn = Conn::open(&inner.sides[leader].writes).await?;
        let statement = conn
            .prepare(
                "-- votes::others()\nSELECT instance FROM kambana.heartbeat \
                 WHERE instance <> $1 AND at > clock_timestamp() - interval '3 s' ORDER BY instance",
            )
            .await?;
        let rows = conn
            .client()?
            .query(&statement, &[&inner.config.instance])
            .await?;
        Ok::<_, Failure>(rows.iter().map(|row| row.get(0)).collect())
    };
    let deadline = inner.config.probe_deadline;
    timeout(deadline, asked)
        .await
        .unwrap_or_else(|_| Ok(Vec::new()))
        .unwrap_or_default()
}
