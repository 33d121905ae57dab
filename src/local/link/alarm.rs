//! Waking at a moment, to some ten microseconds: the runtime's timer knows only milliseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

/// One thread for all links; it sleeps while nothing is due.
static THREAD: OnceLock<Sender<Alarm>> = OnceLock::new();

struct Alarm {
    at: Instant,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Alarm) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Alarm) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Alarm) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// Is answered (or dropped, which means the same) when `at` has come.
pub(super) fn at(at: Instant) -> oneshot::Receiver<()> {
    let (wake, woken) = oneshot::channel();
    let alarms = THREAD.get_or_init(|| {
        let (sender, receiver) = channel();
        // Without the thread every alarm is dropped, and so rings at once: a delay that is not there.
        let _ = thread::Builder::new()
            .name("link alarms".into())
            .spawn(move || run(&receiver));
        sender
    });
    let _ = alarms.send(Alarm { at, wake });
    woken
}

fn run(incoming: &Receiver<Alarm>) {
    let mut waiting: BinaryHeap<Reverse<Alarm>> = BinaryHeap::new();
    loop {
        let next = match waiting.peek() {
            None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse(first)) => incoming.recv_timeout(first.at.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(alarm) => waiting.push(Reverse(alarm)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting
            .peek()
            .is_some_and(|Reverse(first)| first.at <= Instant::now())
        {
            if let Some(Reverse(alarm)) = waiting.pop() {
                // Nobody waits any more when the connection is gone.
                let _ = alarm.wake.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn alarms_ring_in_order_and_never_early() {
        let now = Instant::now();
        let (late, early) = (
            at(now + Duration::from_millis(20)),
            at(now + Duration::from_micros(500)),
        );
        early.await.unwrap();
        assert!(now.elapsed() >= Duration::from_micros(500));
        late.await.unwrap();
        assert!(now.elapsed() >= Duration::from_millis(20));
    }
}
