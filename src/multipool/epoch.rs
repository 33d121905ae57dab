//! Numbered membership: which sides are active. Stored on every side and in one small file per instance.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::SideSet;
use super::connection::Failure;

/// One membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Epoch {
    pub n: i64,
    pub parent: i64,
    pub members: SideSet,
    pub generation: Uuid,
}

impl Epoch {
    /// Before any membership is known.
    pub const NONE: Epoch = Epoch {
        n: 0,
        parent: 0,
        members: SideSet::EMPTY,
        generation: Uuid::nil(),
    };

    /// The membership after this one.
    pub fn next(&self, members: SideSet) -> Epoch {
        Epoch {
            n: self.n + 1,
            parent: self.n,
            members,
            generation: Uuid::new_v4(),
        }
    }

    /// Whether both are the same membership; the generation may differ on a side that was just installed or repaired.
    pub fn same_as(&self, other: &Epoch) -> bool {
        (self.n, self.members) == (other.n, other.members)
    }

    /// From the columns n, parent, members, generation, starting at `first`.
    pub fn from_row(row: &Row, first: usize) -> Epoch {
        Epoch {
            n: row.get(first),
            parent: row.get(first + 1),
            members: SideSet::from_mask(row.get(first + 2)),
            generation: row.get(first + 3),
        }
    }
}

/// The epoch that one side stores.
pub(super) async fn read(client: &Client) -> Result<Epoch, Failure> {
    Ok(read_with_reason(client).await?.0)
}

/// The epoch that one side stores, and why it was made.
pub(super) async fn read_with_reason(client: &Client) -> Result<(Epoch, String), Failure> {
    let row = client
        .query_one(
            "-- epoch::read()\nSELECT n, parent, members, generation, reason FROM kambana.epoch",
            &[],
        )
        .await?;
    Ok((Epoch::from_row(&row, 0), row.get(4)))
}

/// Stores a membership on the side of `client`, whose transaction holds the fence.
pub(super) async fn write(client: &Client, epoch: &Epoch, reason: &str) -> Result<(), Failure> {
    client
        .execute(
            "-- epoch::write()\nUPDATE kambana.epoch SET n = $1, parent = $2, members = $3, generation = $4, \
             reason = $5, changed_at = now()",
            &[
                &epoch.n,
                &epoch.parent,
                &epoch.members.mask(),
                &epoch.generation,
                &reason,
            ],
        )
        .await?;
    Ok(())
}

/// Proof that a transaction on this client holds the fence exclusively: no write of the pool is in flight there.
pub(super) struct Fence<'a> {
    client: &'a Client,
}

#[cfg(not(mutant = "skip_fence"))]
const TAKE_FENCE: &str = "BEGIN; SET LOCAL lock_timeout = '100ms'; LOCK TABLE kambana.fence IN EXCLUSIVE MODE; \
    SET LOCAL lock_timeout = '2s'";
#[cfg(mutant = "skip_fence")]
const TAKE_FENCE: &str = "BEGIN; SET LOCAL lock_timeout = '2s'";

impl<'a> Fence<'a> {
    /// Begins a transaction and takes the fence, waiting at most 100 ms: an exclusive waiter makes every writer behind
    /// it wait too, so takers come back instead of queueing.
    ///
    /// # Errors
    /// `Repeat::Locked` while writes are in flight; the transaction is rolled back.
    pub async fn take(client: &'a Client) -> Result<Fence<'a>, Failure> {
        let taken = client.batch_execute(TAKE_FENCE).await;
        if let Err(error) = taken {
            client.batch_execute("ROLLBACK").await?;
            return Err(error.into());
        }
        Ok(Fence { client })
    }

    /// Takes the fence, coming back after each `pause` for as long as `patience` lasts.
    ///
    /// # Errors
    /// As [`Fence::take`], of the last try.
    pub async fn take_within(
        client: &'a Client,
        patience: Duration,
        pause: Duration,
    ) -> Result<Fence<'a>, Failure> {
        let until = Instant::now() + patience;
        loop {
            match Fence::take(client).await {
                Err(Failure::Repeat(_)) if Instant::now() < until => tokio::time::sleep(pause).await,
                taken => return taken,
            }
        }
    }

    /// The client whose transaction holds the fence.
    pub fn client(&self) -> &'a Client {
        self.client
    }

    /// Stores a membership on this side.
    pub async fn write(&self, epoch: &Epoch, reason: &str) -> Result<(), Failure> {
        write(self.client, epoch, reason).await
    }

    /// Commits what was done under the fence and gives it back.
    pub async fn commit(self) -> Result<(), Failure> {
        Ok(self.client.batch_execute("COMMIT").await?)
    }

    /// Gives the fence back with nothing done.
    pub async fn release(self) -> Result<(), Failure> {
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }
}

/// The latest epoch this instance has seen, on its own disk: without it an instance that restarts while the newest
/// side is away could believe a side that was out.
pub(super) struct StateFile {
    path: PathBuf,
    /// The number of the epoch that the file holds: it never goes back, whoever stores.
    stored: Mutex<i64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    lineage: Uuid,
    epoch: i64,
    parent: i64,
    members: i32,
    generation: Uuid,
}

impl StateFile {
    /// The file of one instance; its directory is made.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(dir: &Path, instance: &str) -> Result<StateFile, String> {
        std::fs::create_dir_all(dir).map_err(|e| format!("STATE_DIR {}: {e}", dir.display()))?;
        let safe: String = instance
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { '_' })
            .collect();
        Ok(StateFile {
            path: dir.join(format!("epoch-{safe}.json")),
            stored: Mutex::new(0),
        })
    }

    /// The pool that the file is about, if it can be read.
    pub fn lineage(&self) -> Option<Uuid> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let stored: Stored = serde_json::from_str(&text).ok()?;
        Some(stored.lineage)
    }

    /// What was stored for this pool; `None` if nothing was, or only for another pool.
    ///
    /// # Errors
    /// A file that is there but cannot be read: guessing would break the promise it is for.
    pub fn load(&self, lineage: Uuid) -> Result<Option<Epoch>, String> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("{}: {e}", self.path.display())),
        };
        let stored: Stored = serde_json::from_str(&text)
            .map_err(|e| format!("{}: {e}; it is not a state file", self.path.display()))?;
        Ok((stored.lineage == lineage).then_some(Epoch {
            n: stored.epoch,
            parent: stored.parent,
            members: SideSet::from_mask(stored.members),
            generation: stored.generation,
        }))
    }

    /// Replaces the file and waits for the disk; an epoch that is not newer than the file's changes nothing.
    ///
    /// # Errors
    /// The disk's error, with the path.
    pub fn store(&self, lineage: Uuid, epoch: &Epoch) -> Result<(), String> {
        let mut newest = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch.n <= *newest {
            return Ok(());
        }
        let stored = Stored {
            lineage,
            epoch: epoch.n,
            parent: epoch.parent,
            members: epoch.members.mask(),
            generation: epoch.generation,
        };
        let written = serde_json::to_vec(&stored)
            .map_err(std::io::Error::other)
            .and_then(|bytes| replace_file(&self.path, &bytes));
        written.map_err(|e| format!("{}: {e}", self.path.display()))?;
        *newest = epoch.n;
        Ok(())
    }
}

/// Replaces a file in one step and waits for the disk: after a crash it holds the old bytes or the new ones.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_file_keeps_an_epoch_of_its_own_pool_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::open(dir.path(), "web/1").unwrap();
        let (ours, other) = (Uuid::new_v4(), Uuid::new_v4());
        assert_eq!(file.load(ours).unwrap(), None);
        let epoch = Epoch {
            n: 3,
            parent: 2,
            members: SideSet::first(2),
            generation: Uuid::new_v4(),
        };
        file.store(ours, &epoch).unwrap();
        assert_eq!(file.load(ours).unwrap(), Some(epoch));
        assert_eq!(file.load(other).unwrap(), None);
        std::fs::write(dir.path().join("epoch-web_1.json"), "{").unwrap();
        assert!(file.load(ours).is_err());
    }
}
