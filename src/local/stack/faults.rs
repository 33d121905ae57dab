//! Breaking and mending one child.

use super::Stack;
use crate::local::{Action, LocalError, Service, ServiceState, Target};

impl Stack {
    /// Does `action` to `target`; says how it is afterwards.
    ///
    /// # Errors
    /// There is no such target, the action makes no sense in its state, or it failed.
    pub async fn act(&self, action: Action, target: Target) -> Result<String, LocalError> {
        let missing = || LocalError::State(format!("there is no {target} here"));
        match target {
            Target::Side(side) => {
                let mut cluster = self.sides.get(side).ok_or_else(missing)?.lock().await;
                let done = match action {
                    Action::Start => cluster.start().await,
                    Action::Stop => cluster.stop().await,
                    Action::Wipe => cluster.wipe().await,
                    other => fault(cluster.service(), other).await,
                };
                self.note_side(&mut cluster, side)?;
                done?;
                Ok(match (action, cluster.service().state()) {
                    (Action::Wipe, _) => format!("side {side} is stopped and its data is deleted"),
                    (_, state) => format!("side {side} is {}", shown(state)),
                })
            }
            Target::Web(index) => {
                let wiring = self.wiring(index);
                let mut instance = self.instances.get(index).ok_or_else(missing)?.lock().await;
                let done = match action {
                    Action::Start => instance.start(&wiring).await,
                    Action::Stop => instance.stop().await,
                    other => fault(instance.service(), other).await,
                };
                self.note_instance(&mut instance, index)?;
                done?;
                Ok(format!("{target} is {}", shown(instance.service().state())))
            }
            Target::Haproxy => {
                let haproxy = self.haproxy.as_ref().ok_or_else(missing)?;
                if action == Action::Start {
                    self.start_haproxy().await?;
                }
                let mut haproxy = haproxy.lock().await;
                let done = match action {
                    Action::Start => Ok(()),
                    Action::Stop => haproxy.stop().await,
                    other => fault(haproxy.service(), other).await,
                };
                self.note_haproxy(&mut haproxy)?;
                done?;
                Ok(format!("HAProxy is {}", shown(haproxy.service().state())))
            }
        }
    }

    /// Children that ended by themselves since the last look, with how.
    pub fn newly_ended(&self) -> Vec<(Target, String)> {
        let mut ended = Vec::new();
        // One that is locked is being worked on; it is looked at the next time. A record that cannot be written must not
        // hide what happened.
        for (side, cluster) in self.sides.iter() {
            if let Ok(mut cluster) = cluster.try_lock()
                && let Some(how) = cluster.service().notice_end()
            {
                let _ = self.note_side(&mut cluster, side);
                ended.push((Target::Side(side), how));
            }
        }
        for (index, instance) in self.instances.iter().enumerate() {
            if let Ok(mut instance) = instance.try_lock()
                && let Some(how) = instance.service().notice_end()
            {
                let _ = self.note_instance(&mut instance, index);
                ended.push((Target::Web(index), how));
            }
        }
        if let Some(Ok(mut haproxy)) = self.haproxy.as_ref().map(tokio::sync::Mutex::try_lock)
            && let Some(how) = haproxy.service().notice_end()
        {
            let _ = self.note_haproxy(&mut haproxy);
            ended.push((Target::Haproxy, how));
        }
        ended
    }
}

/// The faults that every child knows.
async fn fault(service: &mut Service, action: Action) -> Result<(), LocalError> {
    match action {
        Action::Crash => service.crash().await,
        Action::Freeze => service.freeze().await,
        Action::Thaw => service.thaw(),
        Action::Start | Action::Stop | Action::Wipe => Err(LocalError::State(format!(
            "cannot {action} {}: only a database can be wiped",
            service.name()
        ))),
    }
}

fn shown(state: &ServiceState) -> String {
    match state {
        ServiceState::Running => "running".into(),
        ServiceState::Ended(how) if how == "crashed" => "crashed: every process of it was killed".into(),
        ServiceState::Frozen => "frozen: it keeps its connections and answers nothing".into(),
        other => other.to_string(),
    }
}
