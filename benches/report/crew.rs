//! A worker process, seen from outside.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kambana::local::ProcessId;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::worker::{Answer, Door, Order};

/// Beyond the time that is measured: connections are opened, late operations end.
const GRACE: Duration = Duration::from_secs(150);
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// One instance of an application. Dropping it kills it.
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    id: ProcessId,
}

impl Worker {
    /// Starts one; it is not ready yet.
    pub async fn spawn(door: &Door) -> Result<Worker> {
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().context("the worker ended at once")?;
        let mut worker = Worker {
            orders: child.stdin.take().context("no input")?,
            answers: BufReader::new(child.stdout.take().context("no output")?).lines(),
            id: ProcessId::of(i32::try_from(pid)?).context("the worker ended at once")?,
            child,
        };
        worker.write(serde_json::to_string(door)?).await?;
        Ok(worker)
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) -> Result<()> {
        self.answer(Duration::ZERO)
            .await
            .context("a worker does not start")?;
        Ok(())
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Gives an order.
    pub async fn order(&mut self, order: &Order) -> Result<()> {
        self.write(serde_json::to_string(order)?).await
    }

    /// Waits for what became of it.
    pub async fn answer(&mut self, measured: Duration) -> Result<Answer> {
        let line = timeout(measured + GRACE, self.answers.next_line())
            .await
            .context("no answer in time")??;
        match line {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => bail!("the worker ended; what it said stands above"),
        }
    }

    /// Ends it in order: its connections are closed.
    pub async fn stop(self) -> Result<()> {
        let Worker {
            mut child, orders, ..
        } = self;
        drop(orders);
        timeout(STOP_DEADLINE, child.wait())
            .await
            .context("a worker does not end")??;
        Ok(())
    }

    async fn write(&mut self, mut line: String) -> Result<()> {
        line.push('\n');
        self.orders.write_all(line.as_bytes()).await?;
        Ok(self.orders.flush().await?)
    }
}
