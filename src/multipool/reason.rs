//! Why an epoch was made. Every database keeps it beside the epoch as a sentence, which a person may read there; other
//! instances read it as a value again.

use std::fmt;

use super::{Loss, MAX_SIDES, SideFault, SideId};

/// Between the reasons of one epoch.
const AND: &str = "; ";

/// Why the active sides were changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The first one.
    Installed,
    /// A side is in trouble.
    Fault(SideId, SideFault),
    /// The return of a side had been begun and was given up.
    Unfinished(SideId),
    /// A side has caught up.
    Readmitted(SideId),
    /// A readmission that had been left half done was finished.
    Finished,
    /// A side is catching up: only its repairer writes there.
    CatchingUp,
    /// A side is being copied anew.
    Rebuilding,
    /// A voter had lost what it had voted.
    VoterForgot,
    /// Something that this version does not know.
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Installed => f.write_str("installed"),
            Reason::Fault(side, fault) => write!(f, "side {side} {fault}"),
            Reason::Unfinished(side) => write!(f, "the return of side {side} was not finished"),
            Reason::Readmitted(side) => write!(f, "side {side} readmitted"),
            Reason::Finished => f.write_str("readmission finished"),
            Reason::CatchingUp => f.write_str("being caught up"),
            Reason::Rebuilding => f.write_str("being rebuilt"),
            Reason::VoterForgot => f.write_str("a voter had lost its memory"),
            Reason::Other(text) => f.write_str(text),
        }
    }
}

impl Reason {
    /// What is stored.
    pub(super) fn sentence(reasons: &[Reason]) -> String {
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        reasons.join(AND)
    }

    /// What was stored.
    pub(super) fn read(stored: &str) -> Vec<Reason> {
        let mut reasons: Vec<Reason> = Vec::new();
        let parts = stored.split(AND).filter(|_| !stored.is_empty());
        for part in parts {
            let last = reasons.last_mut().and_then(Reason::detail);
            match (Reason::known(part), last) {
                (Some(known), _) => reasons.push(known),
                // A server's message may have semicolons too.
                (None, Some(detail)) => *detail = format!("{detail}{AND}{part}"),
                (None, None) => reasons.push(Reason::Other(part.to_owned())),
            }
        }
        reasons
    }

    /// The words of a server in it.
    fn detail(&mut self) -> Option<&mut String> {
        match self {
            Reason::Fault(_, SideFault::Down(why) | SideFault::Refused(why) | SideFault::Unfit(why)) => {
                Some(why)
            }
            _ => None,
        }
    }

    fn known(part: &str) -> Option<Reason> {
        let plain = [
            Reason::Installed,
            Reason::Finished,
            Reason::CatchingUp,
            Reason::Rebuilding,
            Reason::VoterForgot,
        ];
        let sides = (0..MAX_SIDES).filter_map(SideId::from_index);
        let of_sides = sides.flat_map(|side| [Reason::Readmitted(side), Reason::Unfinished(side)]);
        let mut known = plain.into_iter().chain(of_sides);
        known.find(|known| known.to_string() == part).or_else(|| {
            let (side, said) = part.strip_prefix("side ")?.split_once(' ')?;
            Some(Reason::Fault(side.parse().ok()?, SideFault::read(said)?))
        })
    }
}

impl SideFault {
    /// The fault that says this.
    fn read(said: &str) -> Option<SideFault> {
        let plain = [SideFault::Silent, SideFault::Behind];
        let lost = Loss::ALL.map(SideFault::Lost);
        if let Some(known) = plain
            .into_iter()
            .chain(lost)
            .find(|known| known.to_string() == said)
        {
            return Some(known);
        }
        let detailed: [fn(String) -> SideFault; 3] = [SideFault::Down, SideFault::Refused, SideFault::Unfit];
        detailed.into_iter().find_map(|fault| {
            let detail = said.strip_prefix(&fault(String::new()).to_string())?;
            Some(fault(detail.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_read_as_it_was() {
        let side = |index| SideId::from_index(index).unwrap();
        let fault = |index, fault| Reason::Fault(side(index), fault);
        let mut cases = vec![
            vec![],
            vec![Reason::Installed],
            vec![Reason::Readmitted(side(1))],
            vec![Reason::Finished],
            vec![Reason::CatchingUp],
            vec![Reason::Rebuilding],
            vec![Reason::VoterForgot],
            vec![fault(1, SideFault::Silent), Reason::Unfinished(side(1))],
            vec![
                fault(0, SideFault::Behind),
                fault(2, SideFault::Down("; no; route".into())),
            ],
            vec![
                fault(1, SideFault::Unfit("disk full; ; no room; ".into())),
                fault(2, SideFault::Silent),
            ],
            vec![fault(1, SideFault::Refused(String::new()))],
            vec![Reason::Other("what a later version says".into())],
            vec![Reason::Other("side b does what is new".into()), Reason::Finished],
        ];
        cases.extend(Loss::ALL.map(|loss| vec![fault(1, SideFault::Lost(loss))]));
        // What is new here belongs above, and into `known` or `SideFault::read`.
        for reason in cases.iter().flatten() {
            match reason {
                Reason::Fault(_, SideFault::Silent | SideFault::Behind | SideFault::Lost(_)) => {}
                Reason::Fault(_, SideFault::Down(_) | SideFault::Refused(_) | SideFault::Unfit(_)) => {}
                Reason::Installed | Reason::Unfinished(_) | Reason::Readmitted(_) | Reason::Finished => {}
                Reason::CatchingUp | Reason::Rebuilding | Reason::VoterForgot | Reason::Other(_) => {}
            }
        }
        for reasons in cases {
            assert_eq!(Reason::read(&Reason::sentence(&reasons)), reasons);
        }
    }
}
