//! Where the programs are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::LocalError;

/// The oldest PostgreSQL that is supported.
const OLDEST_MAJOR: u32 = 13;

/// How to get what is missing.
const HINT: &str = "run scripts/up, which installs what is missing on Debian and Ubuntu, \
                    or install the packages `postgresql` and `haproxy` of your system";

/// One installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresPrograms {
    /// For example 15.
    pub major: u32,
    /// The directory of `postgres` and `initdb`.
    pub bin: PathBuf,
}

/// Everything that is run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Every installed PostgreSQL that is new enough, the newest first; never empty.
    pub postgres: Vec<PostgresPrograms>,
    /// `haproxy`, if installed.
    pub haproxy: Option<PathBuf>,
}

impl Programs {
    /// Looks where distributions put them, and in `PATH`.
    ///
    /// # Errors
    /// No PostgreSQL server that is new enough.
    pub fn find() -> Result<Programs, LocalError> {
        let mut bins: Vec<PathBuf> = ["/usr/lib/postgresql", "/usr/local/lib/postgresql"]
            .iter()
            .flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten().flatten())
            .map(|entry| entry.path().join("bin"))
            .collect();
        bins.extend((OLDEST_MAJOR..40).map(|major| PathBuf::from(format!("/usr/pgsql-{major}/bin"))));
        bins.extend(find_in_path("postgres").and_then(|found| found.parent().map(Path::to_path_buf)));
        let mut postgres: Vec<PostgresPrograms> = bins.into_iter().filter_map(postgres_in).collect();
        postgres.sort_by_key(|found| std::cmp::Reverse(found.major));
        postgres.dedup_by_key(|found| found.major);
        if postgres.is_empty() {
            return Err(LocalError::Missing(format!(
                "no PostgreSQL server {OLDEST_MAJOR} or newer is installed: {HINT}"
            )));
        }
        Ok(Programs {
            postgres,
            haproxy: find_in_path("haproxy"),
        })
    }

    /// The proxy.
    ///
    /// # Errors
    /// It is not installed.
    pub fn haproxy(&self) -> Result<PathBuf, LocalError> {
        self.haproxy
            .clone()
            .ok_or_else(|| LocalError::Missing(format!("haproxy is not installed: {HINT}")))
    }
}

fn postgres_in(bin: PathBuf) -> Option<PostgresPrograms> {
    if !bin.join("initdb").is_file() {
        return None;
    }
    let said = Command::new(bin.join("postgres"))
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let major = major_of(&String::from_utf8_lossy(&said.stdout))?;
    (major >= OLDEST_MAJOR).then_some(PostgresPrograms { major, bin })
}

/// From `postgres (PostgreSQL) 15.8 (Debian …)` or `… 17beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A program in `PATH`, or where administrators' programs are (not in an ordinary user's `PATH` on Debian).
pub(super) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    dirs.into_iter()
        .chain(system)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(
            major_of("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major_of("postgres (PostgreSQL) 17beta1\n"), Some(17));
        assert_eq!(major_of("nonsense"), None);
    }
}
