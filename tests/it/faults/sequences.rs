//! Random lists of operations and faults on a real stack; what must hold afterwards is asked by SQL.
//!
//! A list is made from a seed, or kept in `reproduction` when it once failed. One operation follows the other, so that
//! what may be in a row is a small set: the value that was acknowledged last, or one whose answer was lost since.
//!
//! **Not a failure:** a write that is refused (503) while something is away, as long as it is on no side; an answer that
//! is lost or "unknown" (202), as long as it becomes final, the same on every side and whenever asked; a foreign write
//! that clashed, as long as its image is in `kambana.conflict`; which side leads, and how many epochs there were.
//!
//! `KAMBANA_SEEDS` is how many lists are tried, `KAMBANA_SEED` the first; `KAMBANA_SHRINK=1` looks for a shorter list
//! when one fails.

mod model;
mod reproduction;
mod run;

use crate::load::Dice;
use crate::support::setting;
use run::attempt;

/// One step of a list. Rows and instances are numbers that are brought into range when the step is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new row through an instance.
    Insert { web: u64 },
    /// A new value for a row.
    Update { row: u64, web: u64 },
    /// No more row.
    Delete { row: u64, web: u64 },
    /// Arbitrary SQL that changes two rows, or neither.
    Transaction { one: u64, other: u64 },
    /// A new row, or a new value of the last such row, by somebody else directly on a side.
    Foreign { side: u64, update: bool },
    /// Every process of a side dies.
    Crash { side: u64 },
    /// Every process of a side stands still.
    Freeze { side: u64 },
    /// A side is started or goes on.
    Mend { side: u64 },
    /// An instance dies.
    Kill { web: u64 },
    /// An instance is started.
    Start { web: u64 },
    /// A moment, in milliseconds, for what runs in the background.
    Wait { ms: u64 },
}

/// A list of so many steps.
fn list(seed: u64, steps: u64) -> Vec<Op> {
    let mut dice = Dice::new(seed);
    (0..steps)
        .map(|_| {
            let (web, side, row) = (dice.below(2), dice.below(2), dice.below(64));
            match dice.below(24) {
                0..=3 => Op::Insert { web },
                4..=9 => Op::Update { row, web },
                10..=11 => Op::Delete { row, web },
                12..=13 => Op::Transaction {
                    one: row,
                    other: dice.below(64),
                },
                14..=15 => Op::Foreign {
                    side,
                    update: web == 0,
                },
                16 => Op::Crash { side },
                17 => Op::Freeze { side },
                18..=19 => Op::Mend { side },
                20 => Op::Kill { web },
                21..=22 => Op::Start { web },
                _ => Op::Wait { ms: dice.below(1500) },
            }
        })
        .collect()
}

/// A shorter list that fails too, found by leaving out parts; gives up after some tries.
async fn shrink(mut ops: Vec<Op>) -> Vec<Op> {
    let (mut tries, mut part) = (30, ops.len() / 2);
    while part > 0 && tries > 0 {
        let mut at = 0;
        while at < ops.len() && tries > 0 {
            let mut shorter = ops.clone();
            shorter.drain(at..(at + part).min(ops.len()));
            tries -= 1;
            match attempt(shorter.clone()).await {
                Err(_) => ops = shorter,
                Ok(()) => at += part,
            }
        }
        part /= 2;
    }
    ops
}

#[tokio::test(flavor = "multi_thread")]
async fn random_lists_of_operations_and_faults() {
    let first = setting("KAMBANA_SEED", 1);
    let steps = setting("KAMBANA_STEPS", 40);
    for seed in first..first + setting("KAMBANA_SEEDS", 2) {
        println!("KAMBANA_SEED={seed}");
        let ops = list(seed, steps);
        if let Err(why) = attempt(ops.clone()).await {
            let ops = match setting("KAMBANA_SHRINK", 0) {
                0 => ops,
                _ => shrink(ops).await,
            };
            panic!("seed {seed}: {why}\nfor `reproduction`:\n{ops:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_once_failed() {
    for (why, ops) in reproduction::lists() {
        if let Err(error) = attempt(ops.clone()).await {
            panic!("{why}: {error}\n{ops:?}");
        }
    }
}

#[test]
fn a_seed_always_makes_the_same_list() {
    assert_eq!(list(7, 30), list(7, 30));
    assert_ne!(list(7, 30), list(8, 30));
}
