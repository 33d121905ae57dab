//! How `kambana local` reaches a running `kambana up`: one line over a private Unix socket, one line back.
//!
//! ```text
//! crash b\n   ->   ok side b is crashed: every process of it was killed\n
//! thaw web9\n ->   error there is no web9 here\n
//! ```
//!
//! The commands are carried out by `kambana up` itself, so that its children stay its children.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::record::Record;
use super::{Action, LocalError, Stack, Target};

/// Longer than any start or stop may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// For the line of a command to arrive.
const LINE_DEADLINE: Duration = Duration::from_secs(5);
/// A command is two words.
const LONGEST_LINE: u64 = 200;

/// Listens on `socket`, for this user only.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(socket: &Path) -> Result<UnixListener, LocalError> {
    let what = || format!("cannot listen on {}", socket.display());
    // Left by a run that was killed; the lock on the directory is ours.
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(LocalError::io(what()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(LocalError::io(what()))?;
    Ok(listener)
}

/// Carries out commands until dropped; `tell` hears what was done, for the terminal of `kambana up`.
pub async fn serve(listener: UnixListener, stack: Arc<Stack>, tell: impl Fn(&str) + Clone + Send + 'static) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, stack.clone(), tell.clone()));
            }
            Err(e) => {
                tracing::warn!("control socket: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, stack: Arc<Stack>, tell: impl Fn(&str)) {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(LONGEST_LINE));
    let Ok(read) = tokio::time::timeout(LINE_DEADLINE, reader.read_line(&mut line)).await else {
        return;
    };
    let done = match (read, parse(&line)) {
        (Ok(_), Ok((action, target))) => match stack.act(action, target).await {
            Ok(done) => {
                tell(&format!(
                    "{target}: {action} (asked for by `kambana local`); {done}"
                ));
                format!("ok {done}\n")
            }
            Err(e) => format!("error {e}\n"),
        },
        (Ok(_), Err(e)) => format!("error {e}\n"),
        (Err(e), _) => format!("error {e}\n"),
    };
    let _ = stream.write_all(done.as_bytes()).await;
}

fn parse(line: &str) -> Result<(Action, Target), String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words.as_slice() {
        [action, target] => Ok((Action::from_str(action, false)?, target.parse()?)),
        _ => Err("a command is an action and a target, for example `crash b`".into()),
    }
}

/// Asks the `kambana up` that runs on `dir`.
///
/// # Errors
/// None runs there, or it refused; the text says why.
pub async fn request(dir: &Path, action: Action, target: Target) -> Result<String, LocalError> {
    let record = Record::read(dir)?;
    let not_up = |_| LocalError::NotUp(dir.to_path_buf());
    let mut stream = UnixStream::connect(&record.control).await.map_err(not_up)?;
    let exchange = async {
        stream
            .write_all(format!("{action} {target}\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer: std::io::Result<String> = tokio::time::timeout(DEADLINE, exchange)
        .await
        .map_err(|_| LocalError::State("`kambana up` did not answer in time".into()))?;
    let answer = answer.map_err(LocalError::io("`kambana up` hung up"))?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", done)) => Ok(done.to_owned()),
        Some(("error", why)) => Err(LocalError::State(why.to_owned())),
        _ => Err(LocalError::State("`kambana up` ended before it answered".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert_eq!(parse("freeze web2\n"), Ok((Action::Freeze, Target::Web(1))));
        for wrong in ["", "crash\n", "burn a\n", "crash a b\n", "crash x\n"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
