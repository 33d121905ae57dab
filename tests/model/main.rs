//! What the model must show: no scenario breaks a promise, and each rule is needed.
//!
//! Every test prints how many states it has looked at; one that is meant to find a broken promise prints the steps.

use kambana_model::properties::{LOST, NOT_APPLIED, ONE_HISTORY, TWICE};
use kambana_model::{Action, Grain, Rule, Scenario, assert_symmetric, breaks, check};

/// The heart: two operations on one row from two instances, two faults, two attempts at an ejection.
#[test]
fn two_writes_and_two_faults() {
    check("two writes, two faults", Scenario::two_writes(2, 2));
}

/// The client of a request asks again at the other instance, whenever it likes.
#[test]
fn a_retry_at_the_other_instance() {
    let scenario = Scenario {
        jobs: vec![(0, 0), (0, 1)],
        ..Scenario::two_writes(2, 2)
    };
    check("a retry", scenario);
}

/// As above, beside another writer.
#[test]
fn a_retry_beside_another_writer() {
    let scenario = Scenario {
        jobs: vec![(0, 0), (1, 1), (0, 1)],
        ..Scenario::two_writes(2, 1)
    };
    check("a retry beside another writer", scenario);
}

/// Both operations go to one instance; the other one only looks on, votes and repairs.
#[test]
fn two_writes_at_one_instance() {
    let scenario = Scenario {
        jobs: vec![(0, 0), (1, 0)],
        ..Scenario::two_writes(2, 2)
    };
    check("two writes at one instance", scenario);
}

/// The second operation does not want the first to be there: what it is answered must stay true.
#[test]
fn a_write_that_may_be_refused() {
    let scenario = Scenario {
        conditional: true,
        ..Scenario::two_writes(2, 2)
    };
    check("a write that may be refused", scenario);
}

/// P6: what a reader of the leader has seen survives any one failure.
#[test]
fn what_was_seen_stays() {
    let scenario = Scenario {
        readers: true,
        ..Scenario::two_writes(1, 2)
    };
    check("readers", scenario);
}

/// Each voter answers by itself, in any order; nobody writes.
#[test]
fn votes_one_by_one() {
    let scenario = Scenario {
        jobs: vec![],
        grain: Grain::Voter,
        ..Scenario::two_writes(2, 2)
    };
    check("votes one by one", scenario);
}

/// The same beside a write.
#[test]
fn votes_one_by_one_beside_a_write() {
    let scenario = Scenario {
        jobs: vec![(0, 0)],
        grain: Grain::Voter,
        ..Scenario::two_writes(2, 2)
    };
    check("votes one by one beside a write", scenario);
}

#[test]
fn instances_are_alike() {
    assert_symmetric(&Scenario::two_writes(2, 1), 9);
}

/// Each rule of the protocol, taken away: the checker must find what it protects from.
mod without {
    use super::*;

    #[test]
    fn the_guard() {
        breaks(Scenario::two_writes(2, 1).without(Rule::Guard), LOST);
    }

    /// A change that only the leader has is in the image of the next one, but its name is not on the follower.
    #[test]
    fn the_guard_of_the_leader() {
        breaks(Scenario::two_writes(2, 1).without(Rule::GuardOfTheLeader), TWICE);
    }

    #[test]
    fn votes() {
        breaks(Scenario::two_writes(2, 2).without(Rule::Votes), ONE_HISTORY);
    }

    #[test]
    fn proposing_again_what_was_accepted() {
        let scenario = Scenario {
            jobs: vec![],
            grain: Grain::Voter,
            ..Scenario::two_writes(2, 2)
        };
        breaks(scenario.without(Rule::AcceptedIsProposedAgain), ONE_HISTORY);
    }

    #[test]
    fn acknowledging_only_when_the_epoch_moved_once() {
        let crash_or_cut = |a: &Action| matches!(a, Action::SideCrashes(0) | Action::Cut(1));
        breaks(
            Scenario::two_writes(2, 2)
                .without(Rule::MovedOnce)
                .only(crash_or_cut),
            LOST,
        );
    }

    #[test]
    fn a_probe_that_waits() {
        breaks(
            Scenario::two_writes(2, 1).without(Rule::BlockingProbe),
            NOT_APPLIED,
        );
    }

    #[test]
    fn taking_an_error_at_commit_as_unknown() {
        breaks(
            Scenario::two_writes(2, 1).without(Rule::ErrorIsUnknown),
            NOT_APPLIED,
        );
    }

    #[test]
    fn the_data_rule() {
        let crash = |a: &Action| matches!(a, Action::SideCrashes(_));
        breaks(
            Scenario::two_writes(2, 2).without(Rule::DataRule).only(crash),
            LOST,
        );
    }

    #[test]
    fn settling_last() {
        breaks(Scenario::two_writes(2, 1).without(Rule::SettleLast), LOST);
    }

    /// A settled change is not open any more when the merge looks, but a pass has copied its row over another.
    #[test]
    fn remembering_what_a_pass_has_overwritten() {
        breaks(
            Scenario::two_writes(2, 1).without(Rule::OverwrittenGivesWay),
            LOST,
        );
    }

    #[test]
    fn writing_a_readmission_on_the_survivor_first() {
        breaks(Scenario::two_writes(2, 1).without(Rule::SurvivorFirst), LOST);
    }
}
