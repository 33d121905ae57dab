//! A wire between two instances: bytes both ways, until it is cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub struct Wire {
    port: u16,
    target: Arc<AtomicU16>,
    whole: watch::Sender<bool>,
    refused: Arc<AtomicU64>,
    listening: AbortHandle,
}

impl Wire {
    pub async fn open() -> Wire {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(0));
        let whole = watch::Sender::new(true);
        let refused = Arc::new(AtomicU64::new(0));
        let task = accept(listener, Arc::clone(&target), whole.clone(), Arc::clone(&refused));
        Wire {
            port,
            target,
            whole,
            refused,
            listening: tokio::spawn(task).abort_handle(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn aim(&self, url: &str) {
        let port = url.rsplit(':').next().unwrap().parse().unwrap();
        self.target.store(port, Ordering::Relaxed);
    }

    /// Ends every connection, and every new one.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn heal(&self) {
        self.whole.send_replace(true);
    }

    /// How many connections the cut has cost: the proof that somebody met it.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.whole.send_replace(false);
        self.listening.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<AtomicU16>,
    whole: watch::Sender<bool>,
    refused: Arc<AtomicU64>,
) {
    loop {
        let Ok((mut near, _)) = listener.accept().await else {
            continue;
        };
        let mut whole = whole.subscribe();
        if !*whole.borrow() {
            refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, target.load(Ordering::Relaxed)).into();
        let refused = Arc::clone(&refused);
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(address).await else {
                return;
            };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = whole.wait_for(|whole| !whole) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
}
