//! No machine is there that must not be: when a node answers again, it removes first what was
//! replaced, or removed, while it was silent.

use super::{Pass, ReconcileError, Reconciler};
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
                let enforced = self.enforce(&fence).await;
                (fence, enforced)
            })
        };
        let enforced: Vec<_> = fences.map(enforce).collect();
        let mut enforced = stream::iter(enforced).buffer_unordered(limits::FAN_OUT);
        let mut pass = Pass::default();
        while let Some((fence, enforced)) = enforced.next().await {
            let Fence { node, name, .. } = &fence;
            match enforced {
                Ok(Enforced::Removed(machine)) => pass.done.push(format!(
                    "machine {machine} ({name}) is removed from node {node}: {}",
                    fence.why
                )),
                Ok(Enforced::Absent) => {}
                Ok(Enforced::NotYet) => continue,
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(%node, machine = %name, error, "a machine is not removed yet");
                    pass.is_more = true;
                    continue;
                }
            }
            fleet.lift(&fence).await?;
        }
        Ok(pass)
    }
}

/// What became of a fence.
enum Enforced {
    /// Its machine was there.
    Removed(MachineId),
    /// There is no such machine, and none will come.
    Absent,
    /// None is there; but the request for it may still be under way.
    NotYet,
}

impl Fences {
    async fn enforce(&self, fence: &Fence) -> Result<Enforced, WorkerError> {
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
            let now = self.0.clock.now();
            // Or the clock was set back by more than any call takes.
            let is_over = now.since(fence.since) >= limits::LATE_CALL_MAX
                || fence.since.since(now) >= limits::LATE_CALL_MAX;
            return Ok(if is_over {
                Enforced::Absent
            } else {
                Enforced::NotYet
            });
        };
        let asker = Asker::from(Cause::Reconciler);
        let worker = fleet.worker(&fence.node)?;
        let removal = worker.destroy_machine(&machine, true, &asker);
        // Not for long: the fences of all other nodes wait for the end of this look.
        match fleet.ask_soon(&fence.node, removal).await {
            Ok(()) => Ok(Enforced::Removed(machine)),
            Err(WorkerError::NotFound(_)) => Ok(Enforced::Absent),
            Err(error) => Err(error),
        }
    }
}
