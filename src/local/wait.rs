//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

/// The pauses between two looks at a condition: short at first, then longer, until the deadline.
///
/// ```no_run
/// # use std::time::Duration;
/// # use kambana::local::Patience;
/// # async fn example(condition: impl Fn() -> bool) -> Result<(), String> {
/// let mut patience = Patience::new(Duration::from_secs(5));
/// while !condition() {
///     if !patience.pause().await {
///         return Err("not within 5 s".into());
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Patience {
    deadline: Instant,
    next: Duration,
}

impl Patience {
    /// Until `limit` from now.
    pub fn new(limit: Duration) -> Patience {
        Patience {
            deadline: Instant::now() + limit,
            next: Duration::from_millis(2),
        }
    }

    /// Pauses; `false` when the deadline has passed.
    #[must_use]
    pub async fn pause(&mut self) -> bool {
        match self.step() {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }

    /// As [`Patience::pause`], for code that cannot wait asynchronously (`Drop`).
    #[must_use]
    pub fn pause_blocking(&mut self) -> bool {
        match self.step() {
            Some(pause) => {
                std::thread::sleep(pause);
                true
            }
            None => false,
        }
    }

    /// What is left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn step(&mut self) -> Option<Duration> {
        let left = self.left();
        if left.is_zero() {
            return None;
        }
        let pause = self.next.min(left);
        self.next = (self.next * 2).min(Duration::from_millis(50));
        Some(pause)
    }
}
