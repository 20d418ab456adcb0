//! Waiting for a state.

use super::store_failure;
use crate::limits;
use crate::worker::Inner;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::worker::{MachineStatus, WaitFor, WorkerError};

impl Inner {
    /// Whether an event after this one led to one of the states.
    async fn was_reached(
        &self,
        id: &MachineId,
        states: &[MachineState],
        seq: u64,
    ) -> Result<bool, WorkerError> {
        let events = self
            .store
            .events(id, limits::EVENTS_PER_MACHINE_MAX as usize);
        let events = events.await.map_err(|error| store_failure(&error))?;
        let mut newer = events.iter().take_while(|event| event.seq > seq);
        Ok(newer.any(|event| states.contains(&event.state)))
    }

    /// Waits for a state without a bound on time; the caller has one.
    pub(super) async fn reach(
        &self,
        id: &MachineId,
        wait: &WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        loop {
            // Subscribed before the row is read, so that no change is missed.
            let changes = self.changes(id);
            let row = self
                .store
                .get(id)
                .await
                .map_err(|error| store_failure(&error))?;
            let row = row.ok_or_else(|| WorkerError::NotFound(id.clone()))?;
            if let Some(instance_id) = &wait.instance_id
                && *instance_id != row.instance_id
            {
                return Err(WorkerError::Conflict(format!(
                    "machine {id} has version {} now; {instance_id} was replaced",
                    row.instance_id
                )));
            }
            let is_reached = match wait.after_event {
                None => wait.states.contains(&row.state),
                Some(seq) => self.was_reached(id, &wait.states, seq).await?,
            };
            if is_reached {
                return Ok(self.status(row));
            }
            let is_changed = match changes {
                Some(mut changes) => changes.changed().await.is_ok(),
                None => false,
            };
            if !is_changed {
                // No owner: nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    }
}
