//! A machine that stands by for others runs while the node of one of them is lost.
//!
//! It is started once for each loss: what somebody stopped since then is left alone. It is not
//! stopped when the node is back: that is for whoever asked for it.

use super::{Pass, ReconcileError, Reconciler};
use crate::fleet::Standing;
use crate::limits;
use crate::state::ApiState;
use async_trait::async_trait;
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_model::time::Timestamp;
use roost_proto::worker::{Asker, Cause, MachineStatus};
use std::time::Duration;

/// See the module.
pub(super) struct Standbys(pub(super) ApiState);

#[async_trait]
impl Reconciler for Standbys {
    fn name(&self) -> &'static str {
        "standbys"
    }

    async fn pass(&self) -> Result<Pass, ReconcileError> {
        let fleet = &self.0.worker;
        let mut pass = Pass::default();
        let is_lost = |(_, standing): &(_, Standing)| *standing == Standing::Lost;
        if !fleet.standings().iter().any(is_lost) || !fleet.is_majority() {
            return Ok(pass);
        }
        let asker = Asker::from(Cause::Reconciler);
        for standby in fleet.known(|status| status.spec.is_standby()) {
            let Some((watched, silent_for)) = self.lost_one(&standby) else {
                continue;
            };
            let times = (standby.updated_at, self.0.clock.now());
            if !rested_before(standby.state, times, silent_for) {
                continue;
            }
            if pass.done.len() >= limits::RECONCILE_ACTIONS_MAX {
                pass.is_more = true;
                break;
            }
            let id = &standby.id;
            match fleet.start_machine(id, &asker).await {
                Ok(_) => pass.done.push(format!(
                    "machine {id} is started: the node of {watched}, for which it stands by, is lost"
                )),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(machine_id = %id, error, "a standby is not started yet");
                }
            }
        }
        Ok(pass)
    }
}

impl Standbys {
    /// One that it stands by for whose node is lost, and for how long that has been silent.
    fn lost_one(&self, standby: &MachineStatus) -> Option<(MachineId, Duration)> {
        let fleet = &self.0.worker;
        let mut watched = standby.spec.standbys.iter();
        watched.find_map(|machine| {
            let node = fleet.node_of(machine)?;
            let is_lost = fleet.standing(&node) == Standing::Lost;
            is_lost.then(|| (machine.clone(), fleet.silence(&node)))
        })
    }
}

/// Whether a machine in this state since `since` has rested for longer than the node was silent.
fn rested_before(
    state: MachineState,
    (since, now): (Timestamp, Timestamp),
    silent_for: Duration,
) -> bool {
    let rests = match state {
        MachineState::Created
        | MachineState::Stopped
        | MachineState::Suspended
        | MachineState::Failed => true,
        MachineState::Starting
        | MachineState::Started
        | MachineState::Stopping
        | MachineState::Suspending
        | MachineState::Destroying
        | MachineState::Destroyed => false,
    };
    rests && now.since(since) >= silent_for
}

#[cfg(test)]
mod tests {
    use super::rested_before;
    use roost_model::machine::MachineState;
    use roost_model::time::Timestamp;
    use std::time::Duration;

    #[test]
    fn what_came_to_rest_since_the_loss_is_left_alone() {
        let (silent_for, now) = (Duration::from_secs(60), Timestamp::from_ms(1_000_000));
        let since = |ms| (Timestamp::from_ms(ms), now);
        assert!(rested_before(MachineState::Created, since(1), silent_for));
        assert!(!rested_before(MachineState::Started, since(1), silent_for));
        let late = since(990_000);
        assert!(!rested_before(MachineState::Stopped, late, silent_for));
    }
}
