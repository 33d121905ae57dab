//! What can be broken, and how: the words of `kambana local`.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

use crate::multipool::SideId;

/// One child of `kambana up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The database cluster of a side.
    Side(SideId),
    /// A web instance, counted from 0 (`web1` is 0).
    Web(usize),
    /// The proxy.
    Haproxy,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Side(side) => write!(f, "{side}"),
            Target::Web(index) => write!(f, "web{}", index + 1),
            Target::Haproxy => f.write_str("haproxy"),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(s: &str) -> Result<Target, String> {
        if s == "haproxy" {
            return Ok(Target::Haproxy);
        }
        if let Some(number) = s.strip_prefix("web") {
            if let Ok(number @ 1..=99) = number.parse::<usize>() {
                return Ok(Target::Web(number - 1));
            }
        } else if let Ok(side) = s.parse() {
            return Ok(Target::Side(side));
        }
        Err(format!(
            "`{s}` is none of a, b, c (databases), web1, web2 (instances), haproxy"
        ))
    }
}

/// What to do to a [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// End it at once, every process of it, as a power cut would (SIGKILL)
    Crash,
    /// Make it stand still: it keeps its connections and answers nothing (SIGSTOP)
    Freeze,
    /// Let a frozen one go on (SIGCONT)
    Thaw,
    /// Start it again and wait until it is ready
    Start,
    /// Stop it in order and wait until it has ended
    Stop,
    /// Databases only: stop it and delete its data; the next start makes an empty one
    Wipe,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Crash => "crash",
            Action::Freeze => "freeze",
            Action::Thaw => "thaw",
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Wipe => "wipe",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "b", "web1", "web2", "haproxy"] {
            assert_eq!(name.parse::<Target>().unwrap().to_string(), name);
        }
        for wrong in ["", "A", "web", "web0", "web-1", "ab", "postgres"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
