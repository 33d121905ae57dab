//! Breaking and mending: the cluster under drill, a running `kambana up` or one of the drill's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::DrillError;
use crate::local::record::Record;
use crate::local::{Action, LocalError, ServiceState, Stack, StackOptions, Target, control};

/// The cluster that is broken.
#[derive(Debug)]
pub enum Stage {
    /// A `kambana up` that somebody else runs.
    Attached(PathBuf),
    /// Ours: nobody else knows of it, and it ends with us.
    Own(Box<Stack>),
}

impl Stage {
    /// The `kambana up` that runs on `dir`.
    ///
    /// # Errors
    /// None runs there, or a part of it is broken already.
    pub fn attach(dir: &Path) -> Result<Stage, DrillError> {
        let stage = Stage::Attached(dir.to_path_buf());
        let record = stage.record()?;
        // Left by one that was killed: nobody would carry out what we ask.
        if !record.up.is_some_and(|up| up.is_alive()) {
            return Err(LocalError::NotUp(dir.to_path_buf()).into());
        }
        if record.haproxy.is_none() || record.instances.is_empty() || record.sides.len() < 2 {
            let why = "a drill needs two databases, an instance and HAProxy".to_owned();
            return Err(DrillError::Cluster(why));
        }
        match broken(&record).first() {
            None => Ok(stage),
            Some((target, state)) => Err(DrillError::Cluster(format!(
                "{target} is {state}; a drill begins when everything runs: `kambana local start {target}` or `thaw {target}`"
            ))),
        }
    }

    /// A new one in `dir`, on free ports.
    ///
    /// # Errors
    /// Something did not start; nothing is running then.
    pub async fn own(dir: &Path, program: &Path) -> Result<Stage, DrillError> {
        let templates = dir.join("template");
        let options = StackOptions::pair(dir, &templates)
            .with_instances(program)
            .with_haproxy();
        Ok(Stage::Own(Box::new(Stack::start(options).await?)))
    }

    /// What runs where, now.
    ///
    /// # Errors
    /// The `kambana up` has ended.
    pub fn record(&self) -> Result<Record, DrillError> {
        match self {
            Stage::Attached(dir) => Ok(Record::read(dir)?),
            Stage::Own(stack) => {
                // What died by itself must not be shown as running.
                stack.newly_ended();
                Ok(stack.record())
            }
        }
    }

    /// Breaks or mends one part.
    ///
    /// # Errors
    /// It did not work, or makes no sense now.
    pub async fn act(&self, action: Action, target: Target) -> Result<(), DrillError> {
        match self {
            Stage::Attached(dir) => control::request(dir, action, target).await?,
            Stage::Own(stack) => stack.act(action, target).await?,
        };
        Ok(())
    }

    /// Lets everything that is frozen go on and starts everything that has ended. Every part is tried, whatever becomes of
    /// the others.
    ///
    /// # Errors
    /// The first that could not be mended.
    pub async fn mend(&self) -> Result<(), DrillError> {
        let mut result = Ok(());
        for (target, state) in broken(&self.record()?) {
            let action = match state {
                ServiceState::Frozen => Action::Thaw,
                _ => Action::Start,
            };
            let mended = self.act(action, target).await;
            result = result.and(mended.map_err(|e| DrillError::Mend(target.to_string(), e.to_string())));
        }
        result
    }

    /// Stops what is ours.
    ///
    /// # Errors
    /// Something is stuck.
    pub async fn close(&self) -> Result<(), DrillError> {
        match self {
            Stage::Attached(_) => Ok(()),
            Stage::Own(stack) => Ok(stack.stop().await?),
        }
    }
}

/// Parts that do not run, databases first: instances need them.
fn broken(record: &Record) -> Vec<(Target, ServiceState)> {
    let sides = record
        .sides
        .iter()
        .map(|(name, side)| (name.parse(), &side.state));
    let instances = record
        .instances
        .iter()
        .map(|(name, instance)| (name.parse(), &instance.state));
    let haproxy = record
        .haproxy
        .iter()
        .map(|haproxy| (Ok(Target::Haproxy), &haproxy.state));
    let all = sides.chain(instances).chain(haproxy);
    all.filter(|(_, state)| **state != ServiceState::Running)
        .filter_map(|(target, state)| Some((target.ok()?, state.clone())))
        .collect()
}

/// The limit for the cluster to become whole again after a fault; a side that was wiped is copied anew.
pub const HEAL_LIMIT: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::record::InstanceRecord;

    #[test]
    fn what_does_not_run_is_broken() {
        let instance = |state| InstanceRecord {
            process: None,
            state,
            url: String::new(),
            port: 1,
            log: PathBuf::new(),
        };
        let mut record = Record::default();
        for (name, state) in [
            ("web1", ServiceState::Running),
            ("web2", ServiceState::Frozen),
            ("web3", ServiceState::Ended("crashed".into())),
            ("web4", ServiceState::Stopped),
        ] {
            record.instances.insert(name.into(), instance(state));
        }
        let broken: Vec<String> = broken(&record)
            .iter()
            .map(|(target, _)| target.to_string())
            .collect();
        assert_eq!(broken, ["web2", "web3", "web4"]);
    }
}
