//! Which account a child runs as: PostgreSQL refuses to run as root.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use super::LocalError;

/// The account of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The account of this process.
    Ours,
    /// Another one; possible only as root.
    Other {
        /// Login name.
        name: String,
        /// Numeric user.
        uid: u32,
        /// Numeric primary group.
        gid: u32,
    },
}

impl Account {
    /// The account for PostgreSQL: `postgres` if we are root, our own otherwise.
    ///
    /// # Errors
    /// We are root and there is no user `postgres`.
    pub fn for_postgres() -> Result<Account, LocalError> {
        if !Uid::effective().is_root() {
            return Ok(Account::Ours);
        }
        match User::from_name("postgres") {
            Ok(Some(user)) => Ok(Account::Other {
                name: user.name,
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            }),
            _ => Err(LocalError::Missing(
                "PostgreSQL never runs as root and there is no user `postgres` to run it as: \
                 install PostgreSQL's server package, or run kambana as an ordinary user"
                    .into(),
            )),
        }
    }

    /// Makes `command` run as this account.
    pub fn apply(&self, command: &mut Command) {
        if let Account::Other { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
    }

    /// Gives a file or directory to this account.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn own(&self, path: &Path) -> Result<(), LocalError> {
        match self {
            Account::Ours => Ok(()),
            Account::Other { uid, gid, .. } => std::os::unix::fs::lchown(path, Some(*uid), Some(*gid))
                .map_err(LocalError::io(format!(
                    "cannot give {} to another user",
                    path.display()
                ))),
        }
    }

    /// A directory that only this account may enter, made if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or somebody else's directory is in the way.
    pub fn private_dir(&self, path: &Path) -> Result<(), LocalError> {
        let what = || format!("cannot make the directory {}", path.display());
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => return self.own(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(LocalError::io(what())(e)),
        }
        let found = fs::symlink_metadata(path).map_err(LocalError::io(what()))?;
        if !found.is_dir() || ![self.uid(), Uid::effective().as_raw()].contains(&found.uid()) {
            return Err(LocalError::State(format!(
                "{} is in the way: it is not a directory of ours",
                path.display()
            )));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(LocalError::io(what()))?;
        self.own(path)
    }

    /// Whether this account may enter `dir`, every directory above it included. Asked of the kernel: permissions,
    /// access lists and mount options are its business.
    pub fn may_enter(&self, dir: &Path) -> bool {
        let mut probe = Command::new("true");
        self.apply(&mut probe);
        probe
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }

    /// Numeric user.
    pub fn uid(&self) -> u32 {
        match self {
            Account::Ours => Uid::effective().as_raw(),
            Account::Other { uid, .. } => *uid,
        }
    }

    /// Login names that may act as PostgreSQL's superuser over the private socket: this account and our own.
    pub fn login_names(&self) -> Vec<String> {
        let mut names: Vec<String> = User::from_uid(Uid::effective())
            .ok()
            .flatten()
            .map(|user| user.name)
            .into_iter()
            .collect();
        if let Account::Other { name, .. } = self {
            names.push(name.clone());
        }
        names
    }
}

/// Numeric user and group of this process, for names of shared temporary directories.
pub(super) fn our_ids() -> (u32, u32) {
    (Uid::effective().as_raw(), Gid::effective().as_raw())
}
