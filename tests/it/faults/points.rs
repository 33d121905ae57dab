//! Failpoints of a running instance, driven by files.

use std::path::PathBuf;
use std::time::Duration;

use kambana::local::{Stack, StackOptions, Target};
use kambana::multipool::failpoint::Point;

use crate::support::eventually;

/// How long a test waits until a point that must be reached is reached.
const PATIENCE: Duration = Duration::from_secs(20);

/// The directory each instance looks in, below its own.
const DIRECTORY: &str = "failpoints";

/// Instances that look for failpoints. Not the programs that only prepare databases: those have another directory.
pub fn with_failpoints(options: StackOptions) -> StackOptions {
    options.with_setting("KAMBANA_FAILPOINTS", DIRECTORY)
}

/// The failpoints of one instance.
pub struct Points(PathBuf);

impl Points {
    /// Of an instance, counted from 0.
    pub fn of(stack: &Stack, index: usize) -> Points {
        let name = Target::Web(index).to_string();
        let dir = stack.place().dir.join(name).join(DIRECTORY);
        std::fs::create_dir_all(&dir).unwrap();
        Points(dir)
    }

    /// From now on `order` is done at this point; what it was reached for before is forgotten.
    pub fn arm(&self, point: Point, order: &str) {
        let _ = std::fs::remove_file(self.proof(point));
        // Written beside it and moved, so that nobody reads half of it.
        let fresh = self.0.join("fresh");
        std::fs::write(&fresh, order).unwrap();
        std::fs::rename(&fresh, self.0.join(point.name())).unwrap();
    }

    /// Lets go whoever is held by `hold`, and stops nobody any more. The proof stays.
    pub fn disarm(&self, point: Point) {
        let _ = std::fs::remove_file(self.0.join(point.name()));
    }

    /// As [`Points::disarm`], also for who is held by `hold once`: the proof is gone.
    pub fn release(&self, point: Point) {
        self.disarm(point);
        let _ = std::fs::remove_file(self.proof(point));
    }

    /// How often somebody was stopped there since it was armed.
    pub fn reached(&self, point: Point) -> usize {
        std::fs::read_to_string(self.proof(point))
            .unwrap_or_default()
            .lines()
            .count()
    }

    /// Waits until somebody was stopped there.
    pub async fn wait(&self, point: Point) {
        eventually(&format!("failpoint {point} is reached"), PATIENCE, || async {
            self.reached(point) > 0
        })
        .await;
    }

    fn proof(&self, point: Point) -> PathBuf {
        self.0.join(format!("{point}.reached"))
    }
}
