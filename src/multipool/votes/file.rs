//! A voter with a file: an instance, or the witness, which is nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::acceptor::{Answer, Ask, Memory, Seen};
use super::remote::{self, Question, Reply};
use crate::multipool::SideId;
use crate::multipool::epoch::{self, Epoch};
use crate::multipool::inner::{Inner, lock};

/// One witness can serve some pools; more than this is a mistake.
const MAX_POOLS: usize = 32;

/// A child that was decided is written, or given up, within this time; what was not is finished by anyone, too.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// Keeps its memory in one small file a pool.
pub(in crate::multipool) struct FileVoter {
    dir: PathBuf,
    name: String,
    /// What it calls itself in a pool of which it has no memory yet.
    newcomer: Uuid,
    /// By lineage; the lock is held while writing, so answers are given one after the other.
    known: Mutex<BTreeMap<Uuid, Option<Stored>>>,
    /// The last child it has accepted, and when.
    accepted: Mutex<Option<(Epoch, Instant)>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    voter: Uuid,
    #[serde(flatten)]
    memory: Memory,
}

impl FileVoter {
    /// The directory is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path, name: &str) -> Result<FileVoter, String> {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(FileVoter {
            dir: dir.to_path_buf(),
            name: name.to_owned(),
            newcomer: Uuid::new_v4(),
            known: Mutex::default(),
            accepted: Mutex::default(),
        })
    }

    fn path(&self, lineage: Uuid) -> PathBuf {
        let safe = |c: char| if c.is_alphanumeric() { c } else { '_' };
        let name: String = self.name.chars().map(safe).collect();
        self.dir.join(format!("votes-{name}-{lineage}.json"))
    }

    fn load(&self, lineage: Uuid) -> Result<Option<Stored>, String> {
        let path = self.path(lineage);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| format!("{} is not a record of votes: {e}", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }

    /// One question; waits for the disk. `known` is the newest epoch it knows from elsewhere.
    pub fn answer(&self, question: &Question, known: &Epoch) -> Reply {
        let reply = |voter, answer| Reply {
            voter,
            name: self.name.clone(),
            answer,
        };
        // A panic in here leaves what was last written.
        let mut pools = lock(&self.known);
        if !pools.contains_key(&question.lineage) {
            if pools.len() == MAX_POOLS {
                let why = format!("it serves {MAX_POOLS} pools already");
                return reply(self.newcomer, Answer::Refused(why));
            }
            match self.load(question.lineage) {
                Ok(stored) => pools.insert(question.lineage, stored),
                Err(why) => return reply(self.newcomer, Answer::Refused(why)),
            };
        }
        let stored = pools.get(&question.lineage).cloned().flatten();
        let mut now = match (&stored, &question.ask) {
            (Some(stored), _) => stored.clone(),
            (None, Ask::Begin { voter, from }) if *voter == self.newcomer => Stored {
                voter: *voter,
                memory: Memory::new(*from),
            },
            (None, Ask::Look | Ask::Begin { .. }) => {
                let seen = Seen {
                    newest: *known,
                    from: None,
                    accepted: None,
                };
                return reply(self.newcomer, Answer::Seen(seen));
            }
            (None, Ask::Promise(_) | Ask::Accept(..)) => return reply(self.newcomer, Answer::Abstains(None)),
        };
        let answer = now.memory.answer(known, &question.parent, &question.ask);
        let voter = now.voter;
        if stored.as_ref() != Some(&now) {
            let path = self.path(question.lineage);
            let written = serde_json::to_vec(&now)
                .map_err(std::io::Error::other)
                .and_then(|bytes| epoch::replace_file(&path, &bytes));
            if let Err(e) = written {
                // What is on the disk now is not known: the next question reads it again.
                pools.remove(&question.lineage);
                return reply(voter, Answer::Refused(format!("{}: {e}", path.display())));
            }
            pools.insert(question.lineage, Some(now));
        }
        if let (Ask::Accept(_, child), Answer::Accepted) = (&question.ask, &answer) {
            *lock(&self.accepted) = Some((child.epoch, Instant::now()));
        }
        reply(voter, answer)
    }

    /// Whether it has just accepted an epoch after `current` to which `side` does not belong.
    pub fn leaves_out(&self, side: SideId, current: &Epoch) -> bool {
        if cfg!(mutant = "read_on") {
            return false;
        }
        lock(&self.accepted).is_some_and(|(child, at)| {
            child.n > current.n && !child.members.contains(side) && at.elapsed() < WRITTEN_WITHIN
        })
    }
}

/// A vote without data, on a machine of its own.
pub struct Witness(Arc<FileVoter>);

impl Witness {
    /// Keeps what it has promised in `dir`, one small file a pool. The directory is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path) -> Result<Witness, String> {
        Ok(Witness(Arc::new(FileVoter::open(dir, "witness")?)))
    }

    /// Answers a question that came over a [`RemoteVoter`](super::RemoteVoter).
    ///
    /// # Errors
    /// The bytes are no question.
    pub async fn answer(&self, question: &[u8]) -> Result<Vec<u8>, String> {
        let question = remote::question(question)?;
        // A witness knows nothing but what it is told.
        bytes(ask(Arc::clone(&self.0), question, Epoch::NONE).await?)
    }
}

/// Answers for this instance. It tells only candidates of its own pool, who count with the same voters.
pub(in crate::multipool) async fn answer(inner: &Inner, question: &[u8]) -> Result<Vec<u8>, String> {
    let question = remote::question(question)?;
    let own = inner.assembly.own();
    let refusal = if inner.lineage.get().is_some_and(|ours| *ours != question.lineage) {
        Some("it belongs to another pool".to_owned())
    } else if question.seats != inner.assembly.seats() {
        Some(format!(
            "it counts with other voters ({} here): give every instance all others (PEERS) and the same WITNESS",
            inner.assembly.seats()
        ))
    } else {
        None
    };
    let reply = match (refusal, inner.newest_known(question.lineage)) {
        (Some(why), _) | (None, Err(why)) => Reply {
            voter: own.newcomer,
            name: own.name.clone(),
            answer: Answer::Refused(why),
        },
        (None, Ok(known)) => ask(own, question, known).await?,
    };
    bytes(reply)
}

fn bytes(reply: Reply) -> Result<Vec<u8>, String> {
    serde_json::to_vec(&reply).map_err(|e| e.to_string())
}

/// Asks a file voter without holding up other tasks while the disk works.
pub(super) async fn ask(voter: Arc<FileVoter>, question: Question, known: Epoch) -> Result<Reply, String> {
    tokio::task::spawn_blocking(move || voter.answer(&question, &known))
        .await
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::acceptor::{Ballot, Child};
    use super::super::remote::Seats;
    use super::*;
    use crate::multipool::SideSet;

    fn epoch(n: i64, mask: i32) -> Epoch {
        Epoch {
            n,
            parent: n - 1,
            members: SideSet::from_mask(mask),
            generation: Uuid::nil(),
        }
    }

    fn about(lineage: u128, parent: Epoch, ask: Ask) -> Question {
        Question {
            lineage: Uuid::from_u128(lineage),
            seats: Seats {
                sides: 2,
                instances: 2,
                witness: false,
            },
            parent,
            ask,
        }
    }

    #[test]
    fn a_file_voter_remembers_over_a_restart_and_a_newcomer_waits() {
        let dir = tempfile::tempdir().unwrap();
        let open = || FileVoter::open(dir.path(), "web/1").unwrap();
        let ballot = |round| Ballot {
            round,
            attempt: Uuid::from_u128(9),
        };
        let child = Child {
            epoch: epoch(2, 1),
            reason: "b is gone".into(),
        };
        let answer = |voter: &FileVoter, ask| voter.answer(&about(7, epoch(1, 3), ask), &Epoch::NONE);
        let voter = open();
        let looked = answer(&voter, Ask::Look);
        assert_eq!(
            answer(&voter, Ask::Promise(ballot(1))).answer,
            Answer::Abstains(None)
        );
        // What another newcomer was told does not count.
        answer(
            &voter,
            Ask::Begin {
                voter: Uuid::from_u128(1),
                from: 0,
            },
        );
        assert_eq!(
            answer(&voter, Ask::Promise(ballot(1))).answer,
            Answer::Abstains(None)
        );
        let begin = Ask::Begin {
            voter: looked.voter,
            from: 0,
        };
        answer(&voter, begin);
        let promised = answer(&voter, Ask::Promise(ballot(2)));
        assert_eq!(
            (promised.voter, promised.answer),
            (looked.voter, Answer::Promised(None))
        );
        assert_eq!(
            answer(&voter, Ask::Accept(ballot(2), child.clone())).answer,
            Answer::Accepted
        );
        let (a, b) = (SideId::from_index(0).unwrap(), SideId::from_index(1).unwrap());
        assert!(
            voter.leaves_out(b, &epoch(1, 3)),
            "who agreed to go on without it"
        );
        assert!(!voter.leaves_out(a, &epoch(1, 3)), "the one to go on with");
        assert!(!voter.leaves_out(b, &epoch(2, 1)), "that epoch is known by now");
        let voter = open();
        assert_eq!(
            answer(&voter, Ask::Promise(ballot(1))).answer,
            Answer::Outbid(ballot(2))
        );
        assert_eq!(
            answer(&voter, Ask::Promise(ballot(3))).answer,
            Answer::Promised(Some((ballot(2), child)))
        );
        // Another pool is another memory; a later parent makes an earlier one past.
        let other = about(8, epoch(1, 3), Ask::Promise(ballot(1)));
        assert_eq!(voter.answer(&other, &Epoch::NONE).answer, Answer::Abstains(None));
        let later = about(7, epoch(2, 1), Ask::Promise(ballot(1)));
        assert_eq!(voter.answer(&later, &Epoch::NONE).answer, Answer::Promised(None));
        assert_eq!(
            answer(&voter, Ask::Promise(ballot(9))).answer,
            Answer::Newer(epoch(2, 1))
        );
        std::fs::write(voter.path(Uuid::from_u128(7)), "{").unwrap();
        assert!(matches!(
            answer(&open(), Ask::Promise(ballot(9))).answer,
            Answer::Refused(_)
        ));
    }
}
