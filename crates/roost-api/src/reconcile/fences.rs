//! No machine is there that must not be: when a node answers again, it removes first what was
//! replaced, or removed, while it was silent.

use super::{Pass, ReconcileError, Reconciler, has_passed};
use crate::fleet::Standing;
use crate::limits;
use crate::state::ApiState;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_proto::worker::{Asker, Cause, WorkerError};
use roost_store::placements::Fence;

/// See the module.
pub(super) struct Fences(pub(super) ApiState);

#[async_trait]
impl Reconciler for Fences {
    fn name(&self) -> &'static str {
        "fences"
    }

    /// A removal costs its node little: as many are done as there are.
    async fn pass(&self) -> Result<Pass, ReconcileError> {
        let fleet = &self.0.worker;
        let fences = fleet.fences().into_iter();
        let fences = fences.filter(|fence| fleet.standing(&fence.node) == Standing::Answers);
        let enforce = |fence: Fence| -> BoxFuture<'_, _> {
            Box::pin(async move {
                // Before the look: what comes after it would not be seen.
                let is_over = self.is_over(&fence);
                let enforced = self.enforce(&fence).await;
                (fence, enforced, is_over)
            })
        };
        let enforced: Vec<_> = fences.map(enforce).collect();
        let mut enforced = stream::iter(enforced).buffer_unordered(limits::FAN_OUT);
        let mut pass = Pass::default();
        while let Some((fence, enforced, is_over)) = enforced.next().await {
            let Fence { node, name, .. } = &fence;
            match enforced {
                Ok(removed) => pass.done.extend(removed.map(|machine| {
                    let why = &fence.why;
                    format!("machine {machine} ({name}) is removed from node {node}: {why}")
                })),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(%node, machine = %name, error, "a machine is not removed yet");
                    pass.is_more = true;
                    continue;
                }
            }
            if is_over {
                fleet.lift(&fence).await?;
            }
        }
        Ok(pass)
    }
}

impl Fences {
    /// Removes what must not be. The machine, if it was there.
    async fn enforce(&self, fence: &Fence) -> Result<Option<MachineId>, WorkerError> {
        let fleet = &self.0.worker;
        let machine = match &fence.machine {
            Some(machine) => Some(machine.clone()),
            None => {
                let list = fleet.list(&fence.node, Some(&fence.app)).await?;
                let of_name = list
                    .into_iter()
                    .find(|status| status.spec.name == fence.name);
                of_name.map(|status| status.id)
            }
        };
        let Some(machine) = machine else {
            return Ok(None);
        };
        let asker = Asker::from(Cause::Reconciler);
        let worker = fleet.worker(&fence.node)?;
        let removal = worker.destroy_machine(&machine, true, &asker);
        // Not for long: the fences of all other nodes wait for the end of this look.
        match fleet.ask_soon(&fence.node, removal).await {
            Ok(()) => Ok(Some(machine)),
            Err(WorkerError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether what must not be there cannot come any more, either. A request whose answer was
    /// lost may still be under way, also when one before it has made a machine.
    fn is_over(&self, fence: &Fence) -> bool {
        let now = self.0.clock.now();
        fence.machine.is_some() || has_passed(fence.since, limits::LATE_CALL_MAX, now)
    }
}

#[cfg(test)]
mod tests;
