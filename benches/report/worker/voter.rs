//! How instances ask each other for their vote: a Unix socket each, a length and the bytes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use kambana::multipool::{MAX_QUESTION, MultiPool, RemoteVoter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// For one question.
const DEADLINE: Duration = Duration::from_secs(1);

/// Answers the others, as soon as there is a pool.
pub fn listen(socket: &Path, pool: Arc<OnceLock<MultiPool>>) -> Result<()> {
    let _ = std::fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let pool = Arc::clone(&pool);
            tokio::spawn(tokio::time::timeout(DEADLINE, async move {
                let question = read(&mut stream).await?;
                let Some(pool) = pool.get() else {
                    return Err("not open yet".to_owned());
                };
                write(&mut stream, &pool.answer_vote(&question).await?).await
            }));
        }
    });
    Ok(())
}

/// Another instance.
pub struct Neighbour {
    socket: PathBuf,
    name: String,
}

impl Neighbour {
    pub fn new(socket: PathBuf) -> Neighbour {
        let name = socket.display().to_string();
        Neighbour { socket, name }
    }
}

impl RemoteVoter for Neighbour {
    fn address(&self) -> &str {
        &self.name
    }

    fn ask(&self, question: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let asked = async {
                let mut stream = UnixStream::connect(&self.socket)
                    .await
                    .map_err(|e| e.to_string())?;
                write(&mut stream, &question).await?;
                read(&mut stream).await
            };
            tokio::time::timeout(DEADLINE, asked)
                .await
                .unwrap_or_else(|_| Err("no answer in time".into()))
        })
    }
}

async fn read(stream: &mut UnixStream) -> Result<Vec<u8>, String> {
    let length = stream.read_u32().await.map_err(|e| e.to_string())? as usize;
    if length > MAX_QUESTION {
        return Err("too long".into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(|e| e.to_string())?;
    Ok(bytes)
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) -> Result<(), String> {
    let length = u32::try_from(bytes.len()).map_err(|e| e.to_string())?;
    stream.write_u32(length).await.map_err(|e| e.to_string())?;
    stream.write_all(bytes).await.map_err(|e| e.to_string())
}
