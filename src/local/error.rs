//! What can go wrong with children of this process, in words for the person at the terminal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;

use thiserror::Error;

/// Lines of a log shown with an error: enough for the reason, short enough to read.
const TAIL_LINES: usize = 12;

/// Why something could not be started, stopped or broken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalError {
    /// A program that is needed is not installed.
    #[error("{0}")]
    Missing(String),
    /// A port that was asked for is taken.
    #[error("port {port} ({what}) is already in use by another program; choose another with {flag}")]
    PortBusy {
        /// The port.
        port: u16,
        /// What it was for.
        what: String,
        /// The command line option that changes it.
        flag: String,
    },
    /// The child ended before it was ready.
    #[error("{name} ended while starting ({status}){log}")]
    Ended {
        /// Which child.
        name: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: LogTail,
    },
    /// The child was not ready in time.
    #[error("{name} was not ready after {seconds} s: {why}{log}")]
    NotReady {
        /// Which child.
        name: String,
        /// The deadline.
        seconds: u64,
        /// What was still missing.
        why: String,
        /// The end of its log.
        log: LogTail,
    },
    /// A helper program failed.
    #[error("{what} failed ({status}){output}")]
    Failed {
        /// Which program, and for what.
        what: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: LogTail,
    },
    /// Another `kambana up` holds the directory.
    #[error(
        "another `kambana up` is running on {0}; stop it first (Ctrl-C), or choose another directory with --data"
    )]
    DirectoryInUse(PathBuf),
    /// No `kambana up` answers for the directory.
    #[error("no `kambana up` is running on {0}; start one, or name its directory with --data")]
    NotUp(PathBuf),
    /// The action makes no sense in the present state.
    #[error("{0}")]
    State(String),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The reason given.
        source: io::Error,
    },
    /// A database refused, or could not be reached.
    #[error("{0}")]
    Database(String),
}

impl LocalError {
    /// For `map_err`: names what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LocalError {
        let what = what.into();
        move |source| LocalError::Io { what, source }
    }

    /// Judges a program that ran to its end: what it said is the error, unless it succeeded.
    pub(super) fn unless_success(output: Output, what: impl FnOnce() -> String) -> Result<(), LocalError> {
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(LocalError::Failed {
            what: what(),
            status: output.status.to_string(),
            output: LogTail::of(&String::from_utf8_lossy(&said)),
        })
    }

    /// Whether the child could not listen because somebody took its port after it was chosen.
    pub fn is_address_in_use(&self) -> bool {
        match self {
            LocalError::Ended { log, .. } | LocalError::NotReady { log, .. } => {
                let said = log.0.to_lowercase();
                said.contains("address already in use") || said.contains("address in use")
            }
            _ => false,
        }
    }
}

/// The last lines of a log, printed below an error.
#[derive(Debug)]
pub struct LogTail(String);

impl LogTail {
    /// The last lines of `text`.
    pub fn of(text: &str) -> LogTail {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let first = lines.len().saturating_sub(TAIL_LINES);
        LogTail(lines[first..].join("\n"))
    }

    /// The last lines of a file, from byte `from` on (what earlier starts wrote would mislead).
    pub fn of_file(path: &Path, from: u64) -> LogTail {
        let bytes = fs::read(path).unwrap_or_default();
        let new = bytes.get(from as usize..).unwrap_or(&bytes);
        LogTail::of(&String::from_utf8_lossy(new))
    }
}

impl std::fmt::Display for LogTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, line) in self.0.lines().enumerate() {
            let end = if n == 0 { "; its last words:\n" } else { "\n" };
            write!(f, "{end}    {line}")?;
        }
        Ok(())
    }
}
