//! What is broken, in which order, how long: decided by a seed alone, so that a run can be repeated.
//!
//! A new fault is one more row of [`KINDS`].

use std::fmt;
use std::time::Duration;

use crate::local::{Action, Target};
use crate::multipool::SideId;

/// A crashed or stopped side costs at most this much between two acknowledged writes.
const CRASH_BUDGET: Duration = Duration::from_secs(1);
/// A frozen one has to be found silent first.
const FREEZE_BUDGET: Duration = Duration::from_secs(3);

/// A small generator (SplitMix64): the same numbers from the same seed on every machine.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Any seed is a good one.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    /// One of `choices`, which are not empty.
    fn choose<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(self.below(choices.len() as u64) as usize)
    }
}

/// Who plays a part in a fault; the plan decides which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The side that is broken.
    Side,
    /// A side beside it.
    OtherSide,
    /// The instance that is broken.
    Web,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Does something to somebody.
    Do(Action, Role),
    /// Waits between so many and so many milliseconds.
    Hold(u64, u64),
}
use Role::{OtherSide, Side, Web};
use Step::{Do, Hold};

/// One kind of fault: a row of [`KINDS`].
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// As given to `--faults`.
    pub name: &'static str,
    /// For people; `{side}`, `{other}` and `{web}` are filled in.
    says: &'static str,
    steps: &'static [Step],
    /// The longest time without an acknowledged write that is promised; none where more than one thing breaks, or where
    /// clients wait for an instance that is gone.
    pub budget: Option<Duration>,
    /// Whether requests may fail at first (and must then succeed under their name): their instance dies, or no side is left.
    pub may_fail: bool,
    /// Whether it is part of a run that names no faults.
    usual: bool,
}

/// Every fault a drill knows.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "crash-side",
        says: "side {side} crashes, and is started again",
        steps: &[Do(Action::Crash, Side), Hold(1500, 6000), Do(Action::Start, Side)],
        budget: Some(CRASH_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "blink-side",
        says: "side {side} crashes, and is started again at once",
        steps: &[Do(Action::Crash, Side), Do(Action::Start, Side)],
        budget: Some(CRASH_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "stop-side",
        says: "side {side} is stopped in order, and started again",
        steps: &[Do(Action::Stop, Side), Hold(500, 4000), Do(Action::Start, Side)],
        budget: Some(CRASH_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "freeze-side",
        says: "side {side} freezes, and thaws",
        steps: &[Do(Action::Freeze, Side), Hold(3000, 8000), Do(Action::Thaw, Side)],
        budget: Some(FREEZE_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "stutter-side",
        says: "side {side} stands still for a moment",
        steps: &[Do(Action::Freeze, Side), Hold(50, 2500), Do(Action::Thaw, Side)],
        budget: Some(FREEZE_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "crash-side-in-repair",
        says: "side {side} crashes, returns, and crashes again while it is brought up to date",
        steps: &[
            Do(Action::Crash, Side),
            Hold(2000, 5000),
            Do(Action::Start, Side),
            Hold(0, 700),
            Do(Action::Crash, Side),
            Hold(300, 2000),
            Do(Action::Start, Side),
        ],
        budget: Some(CRASH_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "freeze-side-in-repair",
        says: "side {side} crashes, returns, and freezes while it is brought up to date",
        steps: &[
            Do(Action::Crash, Side),
            Hold(2000, 5000),
            Do(Action::Start, Side),
            Hold(0, 700),
            Do(Action::Freeze, Side),
            Hold(300, 5000),
            Do(Action::Thaw, Side),
        ],
        budget: Some(FREEZE_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "crash-web-in-repair",
        says: "side {side} crashes and returns; {web} crashes while it is brought up to date",
        steps: &[
            Do(Action::Crash, Side),
            Hold(2000, 5000),
            Do(Action::Start, Side),
            Hold(0, 700),
            Do(Action::Crash, Web),
            Hold(300, 2000),
            Do(Action::Start, Web),
        ],
        budget: None,
        may_fail: true,
        usual: true,
    },
    Kind {
        name: "crash-web",
        says: "{web} crashes, and is started again",
        steps: &[Do(Action::Crash, Web), Hold(500, 4000), Do(Action::Start, Web)],
        budget: None,
        may_fail: true,
        usual: true,
    },
    Kind {
        name: "freeze-web",
        says: "{web} freezes, and thaws",
        steps: &[Do(Action::Freeze, Web), Hold(1000, 8000), Do(Action::Thaw, Web)],
        budget: None,
        may_fail: true,
        usual: true,
    },
    Kind {
        name: "stop-web",
        says: "{web} is stopped in order, and started again",
        steps: &[Do(Action::Stop, Web), Hold(100, 2000), Do(Action::Start, Web)],
        budget: Some(CRASH_BUDGET),
        may_fail: false,
        usual: true,
    },
    Kind {
        name: "freeze-web-crash-side",
        says: "{web} freezes, side {side} crashes and returns, {web} thaws",
        steps: &[
            Do(Action::Freeze, Web),
            Hold(0, 300),
            Do(Action::Crash, Side),
            Hold(2000, 5000),
            Do(Action::Start, Side),
            Hold(0, 2000),
            Do(Action::Thaw, Web),
        ],
        budget: None,
        may_fail: true,
        usual: true,
    },
    Kind {
        name: "crash-side-and-web",
        says: "side {side} and {web} crash together, and return",
        steps: &[
            Do(Action::Crash, Side),
            Do(Action::Crash, Web),
            Hold(1500, 5000),
            Do(Action::Start, Web),
            Do(Action::Start, Side),
        ],
        budget: None,
        may_fail: true,
        usual: true,
    },
    Kind {
        name: "crash-both-sides",
        says: "side {side} crashes, then side {other}; {side} returns first",
        steps: &[
            Do(Action::Crash, Side),
            Hold(0, 3000),
            Do(Action::Crash, OtherSide),
            Hold(0, 2000),
            Do(Action::Start, Side),
            Hold(500, 3000),
            Do(Action::Start, OtherSide),
        ],
        budget: None,
        may_fail: true,
        usual: true,
    },
    Kind {
        name: "wipe-side",
        says: "side {side} loses everything, and is started empty",
        steps: &[Do(Action::Wipe, Side), Hold(500, 3000), Do(Action::Start, Side)],
        budget: Some(CRASH_BUDGET),
        may_fail: false,
        // The pool cannot rebuild a lost side yet: the run would end here.
        usual: false,
    },
];

/// The kinds with these names; the usual ones if there are none.
///
/// # Errors
/// A name nobody knows, with those that are known.
pub fn kinds(names: &[String]) -> Result<Vec<&'static Kind>, String> {
    if names.is_empty() {
        return Ok(KINDS.iter().filter(|kind| kind.usual).collect());
    }
    let find = |name: &String| {
        KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            format!("there is no fault `{name}`; there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To one part of the cluster.
    Do(Action, Target),
    /// Nothing, for so long.
    Wait(Duration),
}

/// One fault, with everything decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: &'static Kind,
    /// What is done, in order; afterwards everything runs again.
    pub moves: Vec<Move>,
    says: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.says)
    }
}

/// An endless list of faults.
#[derive(Clone, Debug)]
pub struct Plan {
    dice: Dice,
    kinds: Vec<&'static Kind>,
    /// Kinds of the present round that are still to come: every kind has its turn before one returns.
    round: Vec<&'static Kind>,
    sides: usize,
    webs: usize,
}

impl Plan {
    /// For a cluster of so many sides and instances.
    pub fn new(seed: u64, kinds: Vec<&'static Kind>, sides: usize, webs: usize) -> Plan {
        Plan {
            dice: Dice::new(seed),
            kinds,
            round: Vec::new(),
            sides,
            webs,
        }
    }

    fn decide(&mut self, kind: &'static Kind) -> Option<Fault> {
        let side = self.dice.below(self.sides as u64) as usize;
        let further = 1 + self.dice.below(self.sides as u64 - 1) as usize;
        let web = Target::Web(self.dice.below(self.webs as u64) as usize);
        let other = Target::Side(SideId::from_index((side + further) % self.sides)?);
        let side = Target::Side(SideId::from_index(side)?);
        let target = |role| match role {
            Side => side,
            OtherSide => other,
            Web => web,
        };
        let moves = kind.steps.iter().map(|step| match *step {
            Do(action, role) => Move::Do(action, target(role)),
            Hold(from, to) => Move::Wait(Duration::from_millis(from + self.dice.below(to - from + 1))),
        });
        Some(Fault {
            kind,
            moves: moves.collect(),
            says: kind
                .says
                .replace("{side}", &side.to_string())
                .replace("{other}", &other.to_string())
                .replace("{web}", &web.to_string()),
        })
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
        }
        let kind = *self.dice.choose(&self.round)?;
        self.round.retain(|other| *other != kind);
        self.decide(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Vec<Fault> {
        Plan::new(seed, kinds(&[]).unwrap(), 2, 2).take(60).collect()
    }

    #[test]
    fn a_seed_decides_everything() {
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_kind_has_its_turn_with_every_victim() {
        let usual = kinds(&[]).unwrap();
        let first: Vec<&str> = plan(3).iter().take(usual.len()).map(|f| f.kind.name).collect();
        for kind in &usual {
            assert!(first.contains(&kind.name), "{}", kind.name);
        }
        for target in ["a", "b", "web1", "web2"] {
            let target: Target = target.parse().unwrap();
            let hits = |fault: &Fault| {
                fault
                    .moves
                    .iter()
                    .any(|m| matches!(m, Move::Do(_, t) if *t == target))
            };
            assert!(plan(3).iter().any(hits), "{target}");
        }
    }

    /// The drill relies on it: what a fault breaks, it mends.
    #[test]
    fn after_a_fault_everything_runs() {
        for kind in KINDS {
            let fault = Plan::new(1, vec![kind], 2, 2).next().unwrap();
            assert!(!fault.to_string().contains('{'), "{fault}");
            let mut broken = Vec::new();
            for step in &fault.moves {
                match *step {
                    Move::Do(Action::Start | Action::Thaw, target) => broken.retain(|other| *other != target),
                    Move::Do(_, target) => broken.push(target),
                    Move::Wait(time) => assert!(time <= Duration::from_secs(10)),
                }
            }
            assert_eq!(broken, [], "{}", kind.name);
        }
    }

    #[test]
    fn names_of_faults() {
        for (n, kind) in KINDS.iter().enumerate() {
            assert!(
                KINDS[..n].iter().all(|other| other.name != kind.name),
                "{}",
                kind.name
            );
        }
        let chosen = kinds(&["wipe-side".into(), "crash-web".into()]).unwrap();
        assert_eq!(
            chosen.iter().map(|k| k.name).collect::<Vec<_>>(),
            ["wipe-side", "crash-web"]
        );
        assert!(kinds(&["burn".into()]).unwrap_err().contains("crash-side"));
    }

    #[test]
    fn other_side_is_another_one() {
        let kind = kinds(&["crash-both-sides".into()]).unwrap();
        for fault in Plan::new(5, kind, 2, 2).take(20) {
            let crashed: Vec<Target> = fault
                .moves
                .iter()
                .filter_map(|m| match m {
                    Move::Do(Action::Crash, target) => Some(*target),
                    _ => None,
                })
                .collect();
            assert_ne!(crashed[0], crashed[1]);
        }
    }
}
