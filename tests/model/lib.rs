//! The protocol as a model that is checked exhaustively: every order of steps, with every fault at every moment.
//!
//! Two sides (`a` with two votes, `b` with one), two instances (one vote each), operations that read one row and append
//! themselves to it: a lost update, a lost operation or one that was applied twice shows in the row. The steps have the
//! names of the code; docs/protocol.md maps them.
//!
//! # Layout
//! - [`state`]: what the world looks like between two steps. [`scenario`]: who writes what, how much may break.
//! - [`steps`]: every step there is. `write`: one operation; `votes`, `membership`, `merge`: the epochs and what follows
//!   from them; `faults`: what breaks and comes back.
//! - [`properties`]: what must hold, and what must be reached. `symmetry`: instances are alike.
//! - [`check`]: runs the checker and prints what it found.
//!
//! # What is left out, and why nothing is hidden by it
//! - *Time.* Every wait may end at any moment, every server may be believed dead when it is not heard, so deadlines add
//!   nothing. A frozen side is a side whose links are cut.
//! - *Two steps in one* where nobody can come in between: guard and follow (row locks and fences are held on both sides),
//!   an executed COMMIT and its answer (a lost answer is a fault of its own), the two commits of a merge (the half-done
//!   merge is a fault of its own), an abandoned transaction and its rollback (until then it could only make others wait).
//! - *Politeness.* An instance here ejects whatever it does not hear, although the code asks others first: fewer orders
//!   are possible there, not more. Attempts at an ejection are bounded ([`Scenario::rounds`]).
//! - *The vote* is taken voter by voter in scenarios of its own; beside writes, each of its two phases is one step
//!   ([`Grain`]). That the single steps give at most one child to an epoch is what the first scenarios show.
//! - *Lanes and batches*: an operation stands for its batch, one row for all rows; rows of different keys never meet.
//! - *Lane and batch of an operation* are its epoch: two batches of one epoch cannot both commit it, each holds its name on
//!   every member first.

mod faults;
mod membership;
mod merge;
pub mod properties;
mod scenario;
mod state;
mod steps;
mod symmetry;
mod votes;
mod write;

use std::time::Instant;

use stateright::{Checker, CheckerBuilder, Expectation, HasDiscoveries, Model};

pub use scenario::{Grain, Rule, Scenario};
pub use steps::Action;
pub use symmetry::assert_symmetric;

/// Explores every state of a scenario and asserts all its properties. Prints how many states that were.
pub fn check(name: &str, scenario: Scenario) {
    let symmetric = scenario.is_symmetric();
    let started = Instant::now();
    let builder = builder(scenario);
    let checker = match symmetric {
        true => builder.symmetry_fn(symmetry::representative).spawn_dfs().join(),
        false => builder.spawn_dfs().join(),
    };
    println!(
        "{name}: {} states, {} steps, at most {} in a row, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    for (property, path) in checker.discoveries() {
        let broken = checker.model().property(property).expectation != Expectation::Sometimes;
        let steps = path.into_actions();
        if broken {
            tell(property, checker.model(), &steps);
        } else {
            println!("  reached: {property}");
        }
    }
    checker.assert_properties();
}

/// Asserts that the same checker finds a scenario with a broken rule to break this property, and prints the shortest way.
pub fn breaks(scenario: Scenario, property: &'static str) {
    let started = Instant::now();
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = builder(scenario).finish_when(wanted).spawn_bfs().join();
    println!(
        "{} states in {:.1?}",
        checker.unique_state_count(),
        started.elapsed()
    );
    let found = checker
        .discoveries()
        .into_iter()
        .find(|(name, _)| *name == property);
    let Some((_, path)) = found else {
        panic!("no way was found to break: {property}");
    };
    tell(property, checker.model(), &path.into_actions());
}

fn builder(scenario: Scenario) -> CheckerBuilder<Scenario> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    scenario
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
}

fn tell(property: &str, scenario: &Scenario, steps: &[Action]) {
    println!("broken: {property}");
    for (place, step) in steps.iter().enumerate() {
        println!("{:>4}. {}", place + 1, scenario.tell(*step));
    }
}
