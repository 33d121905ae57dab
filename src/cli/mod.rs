//! The command line: one file a command, each with its arguments, what it does, and its exit code.

mod compare;
mod conflicts;
mod databases;
mod drill;
mod init;
mod local;
mod migrate;
mod rebuild;
mod serve;
mod status;
mod up;
mod watch;
mod witness;

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Where `kambana up` keeps its data if nothing else is said.
const DEFAULT_DATA: &str = "var";

/// Two ordinary PostgreSQL databases kept identical, and a web console on top.
#[derive(Debug, Parser)]
#[command(name = "kambana", version, after_help = HELP, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Exit codes:
  0  fine, or identical
  1  different, or degraded (a database is out)
  2  error

To try it on this machine, with nothing set up:
  kambana up                    in one terminal: databases, two instances, HAProxy
  kambana local crash b         in another one: one database dies; go on editing
  kambana local start b         and comes back
  kambana drill                 everything is broken, one thing after another; nothing is lost

On your own databases: copy env.example to .env, edit it, apply schema.sql to both, then
  kambana init                  once
  kambana serve                 one per instance";

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::UpArgs),
    Local(local::LocalArgs),
    Drill(drill::DrillArgs),
    Serve(serve::ServeArgs),
    Init(init::InitArgs),
    Watch(watch::WatchArgs),
    Status(status::StatusArgs),
    Compare(compare::CompareArgs),
    Witness(witness::WitnessArgs),
    Conflicts(conflicts::ConflictsArgs),
    Migrate(migrate::MigrateArgs),
    Rebuild(rebuild::RebuildArgs),
}

/// What a command found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Everything is as it should be.
    Fine,
    /// It works, but something is different or out.
    Degraded,
}

/// Why a command failed: one text for the person at the terminal.
#[derive(Debug)]
struct Failure(String);

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Failure(format!("cannot start: {e}"))),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(args).await,
            Command::Local(args) => local::run(args).await,
            Command::Drill(args) => drill::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            Command::Init(args) => init::run(args).await,
            Command::Watch(args) => watch::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Compare(args) => compare::run(args).await,
            Command::Witness(args) => witness::run(args).await,
            Command::Conflicts(args) => conflicts::run(args).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::Rebuild(args) => rebuild::run(args).await,
        }
    });
    // A task that is still waiting for something must not keep the command from ending.
    runtime.shutdown_background();
    match done {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Degraded) => ExitCode::from(1),
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "kambana: {}", failure.0);
    ExitCode::from(2)
}

/// Log lines go to standard error; `RUST_LOG` chooses them. An instance tells what it does, the other commands only what
/// is wrong: they print their results themselves.
fn start_log(command: &Command) {
    let default = match command {
        Command::Serve(_) | Command::Witness(_) => "info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Prints a line; a closed standard output is no reason to stop.
fn say(line: impl Display) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The data directory that was asked for, or the default one.
fn data_dir(asked: Option<PathBuf>) -> PathBuf {
    asked.unwrap_or_else(|| Path::new(DEFAULT_DATA).to_path_buf())
}

/// Quoted where a shell would take it apart.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
            assert!(help.contains("Exit codes"), "{help}");
        }
    }
}
