//! Named places in a write and in a repair where a test may stop the program.
//!
//! `KAMBANA_FAILPOINTS` names a directory. When a point is reached and the directory holds a file of its name, one more
//! line is written to `NAME.reached` as proof, and then what the file says is done:
//!
//! | content | what happens at the point |
//! |---|---|
//! | `hold` | it waits until the file is gone |
//! | `kill` | the program ends at once: no destructor, no goodbye to a server |
//! | `panic` | it panics |
//! | `error` | the step fails as if its side had closed the connection |
//! | `sleep MS` | it waits so long |
//!
//! With ` once` behind it the file is deleted first: only who comes first is stopped. Without the variable a point costs
//! one comparison, and in a release build (no `debug_assertions`) nothing: it is not there.
//!
//! This room knows nothing of what happens around its points. It never decides anything for a program in use.

use std::fmt;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident $name:literal,)*) => {
        /// A place that can be stopped at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them, in the order in which a write and a repair meet them.
            pub const ALL: &[Point] = &[$(Point::$point,)*];

            /// Name of its file.
            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// A lane has taken a batch; it has asked no side yet.
    WriteBegin "write_begin",
    /// Before the first statement to the leader.
    LeadBefore "lead_before",
    /// The general door: fence, epoch and name are taken on the leader, the closure has not begun.
    LeadEntered "lead_entered",
    /// A follower holds the fence, shared.
    FollowFenced "follow_fenced",
    /// The leader has run the change; its journal rows are collected.
    LeadCollected "lead_collected",
    /// Before the images go to a follower.
    FollowBefore "follow_before",
    /// A follower has applied the images and answered the guard.
    FollowApplied "follow_applied",
    /// Every side is ready to commit.
    GuardPassed "guard_passed",
    /// Before COMMIT goes to a follower.
    CommitFollower "commit_follower",
    /// Before COMMIT goes to the leader.
    CommitLeader "commit_leader",
    /// A follower has answered its COMMIT.
    CommittedFollower "committed_follower",
    /// The leader has answered its COMMIT.
    CommittedLeader "committed_leader",
    /// Every side has answered; the caller has no answer yet.
    AnswerBefore "answer_before",
    /// The caller has its answer; nothing is settled yet.
    AnswerAfter "answer_after",
    /// An idle lane is about to say what every side has.
    SettleBefore "settle_before",
    /// A side has been told; another may not have been.
    SettleSide "settle_side",
    /// A name is about to be asked for on a side by the blocking probe.
    Probe "probe",
    /// Before voters are asked what follows an epoch.
    VoteBefore "vote_before",
    /// The votes have decided what follows an epoch; nothing is written yet.
    VoteDecided "vote_decided",
    /// An ejection holds the fence of a survivor.
    EjectFenced "eject_fenced",
    /// A survivor's new epoch is written and about to be committed.
    EjectBefore "eject_before",
    /// A survivor stores the new epoch.
    EjectAfter "eject_after",
    /// Before a new epoch goes to this instance's disk.
    AdoptBefore "adopt_before",
    /// Before a returned side gets the epoch in which it is out.
    FenceOffBefore "fence_off_before",
    /// A returned side stores the epoch in which it is out.
    FenceOffAfter "fence_off_after",
    /// A catch-up has taken its snapshot of the leader.
    PassBegin "pass_begin",
    /// A chunk is written on the returned side and about to be committed.
    ChunkBefore "chunk_before",
    /// A chunk is committed on the returned side.
    ChunkAfter "chunk_after",
    /// A pass is finished.
    PassEnd "pass_end",
    /// A merge holds both fences.
    MergeFenced "merge_fenced",
    /// A merge has written on both sides and committed on none.
    MergeBefore "merge_before",
    /// A merge has committed on one side only.
    MergeBetween "merge_between",
    /// A merge has committed on both sides; nothing is settled yet.
    MergeAfter "merge_after",
    /// Trimming has closed lanes; nothing is deleted yet.
    TrimClosed "trim_closed",
    /// Trimming has deleted settled rows.
    TrimDeleted "trim_deleted",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Says that the program is at `point`.
///
/// # Errors
/// What the point's file asked for.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[allow(clippy::unused_async)]
pub(super) async fn reach(_point: Point) -> Result<(), super::connection::Failure> {
    Ok(())
}

#[cfg(debug_assertions)]
pub(super) use acting::reach;

#[cfg(debug_assertions)]
mod acting {
    use std::io::{ErrorKind, Write};
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;
    use std::time::Duration;

    use super::Point;
    use crate::multipool::SideFault;
    use crate::multipool::connection::Failure;

    /// How often a held point looks whether its file is gone.
    const LOOK_EVERY: Duration = Duration::from_millis(5);

    fn directory() -> Option<&'static Path> {
        static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
        DIRECTORY
            .get_or_init(|| {
                std::env::var_os("KAMBANA_FAILPOINTS")
                    .filter(|dir| !dir.is_empty())
                    .map(PathBuf::from)
            })
            .as_deref()
    }

    /// Says that the program is at `point`, and does what its file asks for.
    pub(in crate::multipool) async fn reach(point: Point) -> Result<(), Failure> {
        match directory() {
            Some(dir) => act(dir, point).await,
            None => Ok(()),
        }
    }

    async fn act(dir: &Path, point: Point) -> Result<(), Failure> {
        let file = dir.join(point.name());
        // Asked at once and not in another thread: where nothing is to be stopped, the order of what is polled together
        // must not change. A file that is not there costs a microsecond.
        let Ok(order) = std::fs::read_to_string(&file) else {
            return Ok(());
        };
        let order = order.trim();
        let (order, once) = match order.strip_suffix(" once") {
            Some(order) => (order, true),
            None => (order, false),
        };
        // Who deletes it is the one; a held one waits for its proof to be deleted instead.
        if once && tokio::fs::remove_file(&file).await.is_err() {
            return Ok(());
        }
        let proof = dir.join(format!("{point}.reached"));
        note(&proof);
        match order.split_once(' ').unwrap_or((order, "")) {
            ("hold", _) => {
                let until_gone = if once { &proof } else { &file };
                while tokio::fs::try_exists(until_gone).await.unwrap_or(false) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Ok(())
            }
            ("kill", _) => std::process::abort(),
            ("panic", _) => panic!("failpoint {point}"),
            ("sleep", ms) => {
                tokio::time::sleep(Duration::from_millis(ms.parse().unwrap_or(0))).await;
                Ok(())
            }
            ("error", _) => Err(Failure::Side(SideFault::Down(format!("failpoint {point}")))),
            (other, _) => {
                tracing::error!(%point, order = other, "a failpoint's file says nothing that can be done");
                Ok(())
            }
        }
    }

    /// One line a time, so that a test can count. A few bytes: not worth another thread.
    fn note(proof: &Path) {
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(proof)
            .and_then(|mut file| file.write_all(b"reached\n"));
        if let Err(error) = written
            && error.kind() != ErrorKind::NotFound
        {
            tracing::error!(%error, "a failpoint cannot say that it was reached");
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn a_point_does_what_its_file_says() {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("probe");
            let proof = dir.path().join("probe.reached");
            let times = || {
                std::fs::read_to_string(&proof)
                    .unwrap_or_default()
                    .lines()
                    .count()
            };
            act(dir.path(), Point::Probe).await.unwrap();
            assert_eq!(times(), 0, "without a file nothing happens");
            std::fs::write(&file, "error\n").unwrap();
            assert!(act(dir.path(), Point::Probe).await.is_err());
            assert!(act(dir.path(), Point::Probe).await.is_err());
            std::fs::write(&file, "error once").unwrap();
            assert!(act(dir.path(), Point::Probe).await.is_err());
            act(dir.path(), Point::Probe).await.unwrap();
            assert_eq!(times(), 3);
            act(dir.path(), Point::WriteBegin).await.unwrap();

            for (order, until_gone) in [("hold", &file), ("hold once", &proof)] {
                std::fs::write(&file, order).unwrap();
                let path = dir.path().to_owned();
                let held = tokio::spawn(async move { act(&path, Point::Probe).await });
                while times() == 0 || (order == "hold" && times() < 4) {
                    tokio::task::yield_now().await;
                }
                assert!(!held.is_finished());
                std::fs::remove_file(until_gone).unwrap();
                held.await.unwrap().unwrap();
                let _ = std::fs::remove_file(&proof);
            }
        }

        #[test]
        fn every_point_has_a_name_of_its_own() {
            let names: std::collections::BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
            assert_eq!(names.len(), Point::ALL.len());
        }
    }
}
