//! An empty cluster made once by `initdb` and copied ever after: a copy takes a tenth of the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use super::place::remove_dir;
use super::{Account, LocalError, PostgresPrograms};

/// Part of the template's name; to be raised when the options of `initdb` change.
const TEMPLATE_VERSION: u32 = 1;

/// Makes `data` an empty cluster. `cache` keeps the template, `scratch` is a directory that `account` may enter.
/// With `durable` every file is on stable storage before this returns.
///
/// Crash rule: `data` appears in one step; half a copy is deleted by the next start.
pub(super) fn create(
    data: &Path,
    cache: &Path,
    scratch: &Path,
    postgres: &PostgresPrograms,
    account: &Account,
    durable: bool,
) -> Result<(), LocalError> {
    let template = template(cache, scratch, postgres, account)?;
    let partial = data.with_extension("partial");
    remove_dir(&partial)?;
    copy(&template, &partial, account, durable)
        .and_then(|()| fs::rename(&partial, data))
        .and_then(|()| match (durable, data.parent()) {
            (true, Some(parent)) => fs::File::open(parent)?.sync_all(),
            _ => Ok(()),
        })
        .map_err(LocalError::io(format!(
            "cannot make a cluster in {}",
            data.display()
        )))
}

fn template(
    cache: &Path,
    scratch: &Path,
    postgres: &PostgresPrograms,
    account: &Account,
) -> Result<PathBuf, LocalError> {
    let name = format!("template-{}-{TEMPLATE_VERSION}", postgres.major);
    let template = cache.join(&name);
    let io = |what: &str| LocalError::io(format!("cannot {what} {}", template.display()));
    fs::create_dir_all(cache).map_err(io("make"))?;
    // Held while the template is made: clusters that start at the same time, in this or another process, wait for it.
    let lock = fs::File::create(cache.join(format!("{name}.lock"))).map_err(io("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| io("lock")(e.into()))?;
    if template.join("PG_VERSION").is_file() {
        return Ok(template);
    }
    remove_dir(&template)?;
    let made = scratch.join("initdb.partial");
    remove_dir(&made)?;
    initdb(&made, scratch, postgres, account)?;
    if fs::rename(&made, &template).is_err() {
        // Another file system.
        let partial = template.with_extension("partial");
        remove_dir(&partial)?;
        copy(&made, &partial, &Account::Ours, false).map_err(io("copy"))?;
        fs::rename(&partial, &template).map_err(io("make"))?;
        remove_dir(&made)?;
    }
    Ok(template)
}

fn initdb(
    data: &Path,
    scratch: &Path,
    postgres: &PostgresPrograms,
    account: &Account,
) -> Result<(), LocalError> {
    account.private_dir(data)?;
    let mut command = Command::new(postgres.bin.join("initdb"));
    command
        .args(["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"])
        // How to log in is decided at each start; until then: not at all, from elsewhere.
        .args(["--auth-local=peer", "--auth-host=reject", "--data-checksums"])
        // Copies are made durable where that is wanted.
        .arg("--no-sync")
        .arg("--pgdata")
        .arg(data)
        .current_dir(scratch)
        .stdin(Stdio::null());
    account.apply(&mut command);
    let what = || format!("initdb of PostgreSQL {}", postgres.major);
    let output = command.output().map_err(LocalError::io(what()))?;
    LocalError::unless_success(output, what)
}

fn copy(from: &Path, to: &Path, account: &Account, durable: bool) -> std::io::Result<()> {
    let refused = |e: LocalError| std::io::Error::other(e.to_string());
    account.private_dir(to).map_err(refused)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target, account, durable)?;
            continue;
        }
        fs::copy(entry.path(), &target)?;
        account.own(&target).map_err(refused)?;
        if durable {
            fs::File::open(&target)?.sync_all()?;
        }
    }
    match durable {
        true => fs::File::open(to)?.sync_all(),
        false => Ok(()),
    }
}
