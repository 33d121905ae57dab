//! Ports: taken as asked, or free ones that parallel runs do not pick twice.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::str::FromStr;
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};
use uuid::Uuid;

use super::account::our_ids;
use super::{Account, LocalError};

/// Free ports come from below the range that Linux uses for outgoing connections, which could take one at any time.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Held until this process ends, so that no other process takes the port between our choice and the child's start.
static RESERVED: Mutex<Vec<Flock<fs::File>>> = Mutex::new(Vec::new());

/// Which port is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// This one or none.
    Exactly(u16),
    /// This one, or else the next free one.
    Preferably(u16),
    /// Any free one.
    Any,
}

impl FromStr for PortChoice {
    type Err = String;

    /// A number; `0` is any free port.
    fn from_str(s: &str) -> Result<PortChoice, String> {
        match s.trim().parse() {
            Ok(0) => Ok(PortChoice::Any),
            Ok(port) => Ok(PortChoice::Exactly(port)),
            Err(_) => Err(format!("`{s}` is not a port (0 to 65535; 0 takes any free one)")),
        }
    }
}

/// A port that was free a moment ago.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Whether another one would do as well, if this turns out to be taken.
    pub movable: bool,
    /// A sentence for the person at the terminal, if it is not the expected one.
    pub note: Option<String>,
}

impl PortChoice {
    /// Chooses a port. `what` is it for, `flag` changes it; `taken` are ports chosen before for other things.
    ///
    /// # Errors
    /// The exact port is busy, or no port is free.
    pub fn choose(self, what: &str, flag: &str, taken: &[u16]) -> Result<Port, LocalError> {
        let usable = |port: u16| !taken.contains(&port) && is_free(port);
        let port = |number, movable, note| Port {
            number,
            movable,
            note,
        };
        match self {
            PortChoice::Exactly(number) if usable(number) => Ok(port(number, false, None)),
            PortChoice::Exactly(number) => Err(LocalError::PortBusy {
                port: number,
                what: what.to_owned(),
                flag: flag.to_owned(),
            }),
            PortChoice::Preferably(number) if usable(number) => Ok(port(number, true, None)),
            PortChoice::Preferably(wanted) => {
                // A few above the usual number are easy to remember; then anything.
                let near = (wanted.saturating_add(1)..=wanted.saturating_add(20)).find(|n| usable(*n));
                let number = near.map_or_else(|| free_port(taken), Ok)?;
                let note = format!("port {wanted} is taken: {what} is on {number} instead");
                Ok(port(number, true, Some(note)))
            }
            PortChoice::Any => Ok(port(free_port(taken)?, true, None)),
        }
    }
}

/// Whether this process may bind `port` on loopback now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn free_port(taken: &[u16]) -> Result<u16, LocalError> {
    let dir = std::env::temp_dir().join(format!("kambana-ports-{}", our_ids().0));
    // Without the directory ports are only less well reserved.
    let reserving = Account::Ours.private_dir(&dir).is_ok();
    let span = u128::from(FREE_PORTS.end - FREE_PORTS.start);
    for _ in 0..500 {
        let port = FREE_PORTS.start + (Uuid::new_v4().as_u128() % span) as u16;
        if taken.contains(&port) || !is_free(port) {
            continue;
        }
        if reserving {
            let Ok(file) = fs::File::create(dir.join(port.to_string())) else {
                continue;
            };
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            if let Ok(mut reserved) = RESERVED.lock() {
                reserved.push(lock);
            }
        }
        return Ok(port);
    }
    Err(LocalError::State(format!(
        "no free port between {} and {}",
        FREE_PORTS.start, FREE_PORTS.end
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_named_with_its_flag() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let busy = PortChoice::Exactly(port).choose("instance web1", "--web", &[]);
        let text = busy.unwrap_err().to_string();
        assert!(
            text.contains(&port.to_string()) && text.contains("--web") && text.contains("web1"),
            "{text}"
        );
        let next = PortChoice::Preferably(port)
            .choose("side a", "--pg", &[])
            .unwrap();
        assert!(next.number != port && next.note.is_some_and(|note| note.contains(&port.to_string())));
    }

    #[test]
    fn free_ports_differ() {
        let a = PortChoice::Any.choose("x", "--x", &[]).unwrap().number;
        let b = PortChoice::Any.choose("x", "--x", &[a]).unwrap().number;
        assert!(a != b && FREE_PORTS.contains(&a) && is_free(a));
        assert_eq!("0".parse(), Ok(PortChoice::Any));
        assert_eq!("81".parse(), Ok(PortChoice::Exactly(81)));
        assert!("65536".parse::<PortChoice>().is_err() && "x".parse::<PortChoice>().is_err());
    }
}
