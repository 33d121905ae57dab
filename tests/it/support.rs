//! What every test needs: a directory, real servers in it, and SQL that asks them directly.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kambana::local::{LocalError, Patience, Stack, StackOptions};
use kambana::multipool::SideId;
use tokio_postgres::{Client, NoTls};

/// Template clusters, shared by every test of every run.
pub fn template_cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// The program under test.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kambana"))
}

/// A directory that is deleted when the test passes. When it fails, it is kept, and the test says how to look inside.
pub struct TestDir(Option<tempfile::TempDir>);

impl TestDir {
    pub fn new() -> TestDir {
        TestDir(Some(
            tempfile::Builder::new()
                .prefix("kambana-test-")
                .tempdir()
                .unwrap(),
        ))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().map(tempfile::TempDir::path).unwrap()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.0.take()
        {
            let dir = dir.keep();
            eprintln!(
                "kept for a look: {0}; logs below it; open it with `kambana up --data {0}`",
                dir.display()
            );
        }
    }
}

/// Running servers in a directory of their own.
pub struct Running {
    // Dropped first: nothing runs any more when the directory is deleted.
    pub stack: Stack,
    _dir: TestDir,
}

impl std::ops::Deref for Running {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

/// Two fresh databases with the application's tables.
pub async fn pair() -> Running {
    start(|options| options).await
}

/// Starts what `choose` makes of a pair.
pub async fn start(choose: impl FnOnce(StackOptions) -> StackOptions) -> Running {
    try_start(choose).await.unwrap_or_else(|e| panic!("{e}"))
}

/// As [`start`], for what is expected to fail.
pub async fn try_start(choose: impl FnOnce(StackOptions) -> StackOptions) -> Result<Running, LocalError> {
    let dir = TestDir::new();
    let options = choose(StackOptions::pair(dir.path(), &template_cache()));
    let stack = Stack::start(options).await?;
    Ok(Running { stack, _dir: dir })
}

pub fn side(name: &str) -> SideId {
    name.parse().unwrap()
}

/// A connection of the test's own.
pub async fn connect(dsn: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Waits until `check` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, mut check: impl FnMut() -> F) {
    let mut patience = Patience::new(limit);
    while !check().await {
        assert!(patience.pause().await, "not within {limit:?}: {what}");
    }
}
