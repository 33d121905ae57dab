//! The data directory: what lies where, and who may use it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::account::our_ids;
use super::{Account, LocalError};

/// Linux limits the path of a Unix socket to 107 bytes; this much of it is left for the directory, because the longest
/// name in it is HAProxy's `haproxy.sock.1234567.tmp`.
const LONGEST_SOCKET_DIR: usize = 80;

/// For root, when PostgreSQL's user may not enter the data directory.
const SYSTEM_STATE: &str = "/var/lib/kambana";

/// A data directory, locked for this process while the value lives.
#[derive(Debug)]
pub struct Place {
    /// As given, made absolute.
    pub dir: PathBuf,
    /// Where the database clusters are; `dir` itself unless PostgreSQL's user may not enter it.
    pub clusters: PathBuf,
    /// PostgreSQL's sockets.
    pub postgres_sockets: PathBuf,
    /// Our own sockets.
    pub sockets: PathBuf,
    /// A sentence for the person at the terminal, if something is not where it is expected.
    pub note: Option<String>,
    _lock: Flock<fs::File>,
}

impl Place {
    /// Opens `dir`, made if it is not there. PostgreSQL will run as `account`.
    ///
    /// # Errors
    /// Another `kambana up` holds it, or it cannot be made or used.
    pub fn open(dir: &Path, account: &Account) -> Result<Place, LocalError> {
        let what = || format!("cannot use the directory {}", dir.display());
        fs::create_dir_all(dir).map_err(LocalError::io(what()))?;
        let dir = dir.canonicalize().map_err(LocalError::io(what()))?;
        let lock_file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("up.lock"))
            .map_err(LocalError::io(what()))?;
        let lock = Flock::lock(lock_file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| LocalError::DirectoryInUse(dir.clone()))?;

        let (clusters, note) = clusters_dir(&dir, account)?;
        let sockets = socket_dir(&dir, "run", &Account::Ours)?;
        let postgres_sockets = socket_dir(&clusters, "pg", account)?;
        Ok(Place {
            dir,
            clusters,
            postgres_sockets,
            sockets,
            note,
            _lock: lock,
        })
    }

    /// What runs where.
    pub fn record(&self) -> PathBuf {
        record_file(&self.dir)
    }

    /// The proxy's administration socket.
    pub fn haproxy_socket(&self) -> PathBuf {
        self.sockets.join("haproxy.sock")
    }

    /// The socket for `kambana local`.
    pub fn control_socket(&self) -> PathBuf {
        self.sockets.join("control.sock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for socket in [self.control_socket(), self.haproxy_socket()] {
            let _ = fs::remove_file(socket);
        }
        // Outside of the data directory nobody would find them; one that is not empty is still in use.
        for dir in [&self.sockets, &self.postgres_sockets] {
            if !dir.starts_with(&self.dir) && !dir.starts_with(&self.clusters) {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}

/// `DIR/up.json`.
pub(super) fn record_file(dir: &Path) -> PathBuf {
    dir.join("up.json")
}

fn clusters_dir(dir: &Path, account: &Account) -> Result<(PathBuf, Option<String>), LocalError> {
    let set_mode = |dir: &Path, mode| {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(LocalError::io(format!(
            "cannot set permissions of {}",
            dir.display()
        )))
    };
    if *account == Account::Ours {
        return Ok((dir.to_path_buf(), None));
    }
    // Ours to open up: passing through shows nothing, and every file with a secret has mode 600.
    let found = fs::metadata(dir).map_err(LocalError::io(format!("cannot read {}", dir.display())))?;
    if found.uid() == our_ids().0 && found.permissions().mode() & 0o001 == 0 {
        set_mode(dir, found.permissions().mode() & 0o7777 | 0o011)?;
    }
    if account.may_enter(dir) {
        return Ok((dir.to_path_buf(), None));
    }
    let elsewhere = Path::new(SYSTEM_STATE).join(short_hash(dir));
    fs::create_dir_all(&elsewhere).map_err(LocalError::io(format!(
        "PostgreSQL's user may not enter {}, and {} cannot be made instead",
        dir.display(),
        elsewhere.display()
    )))?;
    set_mode(Path::new(SYSTEM_STATE), 0o711)?;
    set_mode(&elsewhere, 0o711)?;
    let note = format!(
        "PostgreSQL's user may not enter {}: the databases are in {}",
        dir.display(),
        elsewhere.display()
    );
    Ok((elsewhere, Some(note)))
}

/// `parent/name`, or a short private directory if that would be too long for a socket.
fn socket_dir(parent: &Path, name: &str, account: &Account) -> Result<PathBuf, LocalError> {
    let wanted = parent.join(name);
    let dir = match wanted.as_os_str().len() <= LONGEST_SOCKET_DIR {
        true => wanted,
        false => std::env::temp_dir().join(format!("kambana-{}-{name}-{}", our_ids().0, short_hash(parent))),
    };
    account.private_dir(&dir)?;
    Ok(dir)
}

/// Tells directories apart in a few characters.
fn short_hash(dir: &Path) -> String {
    let hash = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    hex::encode(&hash[..6])
}

/// Deletes a directory and everything in it; fine if it is not there.
pub(super) fn remove_dir(dir: &Path) -> Result<(), LocalError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(LocalError::io(format!("cannot delete {}", dir.display()))(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_short_socket_paths() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(100));
        let place = Place::open(&deep, &Account::Ours).unwrap();
        let again = Place::open(&deep, &Account::Ours).unwrap_err().to_string();
        assert!(again.contains("another `kambana up`"), "{again}");
        for dir in [&place.sockets, &place.postgres_sockets] {
            assert!(
                dir.as_os_str().len() <= LONGEST_SOCKET_DIR && dir.is_dir(),
                "{dir:?}"
            );
        }
        let sockets = place.sockets.clone();
        drop(place);
        assert!(!sockets.exists());
        Place::open(&deep, &Account::Ours).unwrap();
    }
}
