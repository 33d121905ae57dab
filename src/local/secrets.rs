//! What a data directory keeps secret between two starts.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::LocalError;
use crate::config::Secret;

/// Secrets of one `kambana up`.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Password of the databases' owner.
    pub database_password: Secret,
    /// Signs session cookies; the same on every instance.
    pub session_secret: Secret,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    database_password: String,
    session_secret: String,
}

impl Secrets {
    /// Those of an earlier start, or new ones.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds something else.
    pub fn load_or_create(file: &Path) -> Result<Secrets, LocalError> {
        let stored = match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| {
                LocalError::State(format!(
                    "{} does not hold the secrets of an earlier start; delete it and new ones are made \
                     (everybody is logged out)",
                    file.display()
                ))
            })?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let new = Stored {
                    database_password: random_hex(1),
                    session_secret: random_hex(4),
                };
                let json = serde_json::to_vec_pretty(&new).unwrap_or_default();
                write_private(file, &json)?;
                new
            }
            Err(e) => return Err(LocalError::io(format!("cannot read {}", file.display()))(e)),
        };
        Ok(Secrets {
            database_password: Secret::new(stored.database_password),
            session_secret: Secret::new(stored.session_secret),
        })
    }
}

/// Some 122 random bits each, from the kernel.
fn random_hex(blocks: usize) -> String {
    (0..blocks).map(|_| Uuid::new_v4().simple().to_string()).collect()
}

/// Writes a file that only we can read, in one step: a reader sees the old content or the new one.
pub(super) fn write_private(file: &Path, content: &[u8]) -> Result<(), LocalError> {
    let what = || format!("cannot write {}", file.display());
    let new = file.with_extension(format!("new{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut out| out.write_all(content))
        .and_then(|()| fs::rename(&new, file));
    written.map_err(LocalError::io(what()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_kept_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets.json");
        let first = Secrets::load_or_create(&file).unwrap();
        let again = Secrets::load_or_create(&file).unwrap();
        assert_eq!(first.session_secret, again.session_secret);
        assert!(first.session_secret.expose().len() >= 64);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "{}").unwrap();
        assert!(Secrets::load_or_create(&file).is_err());
    }
}
