//! The removal of a machine, which is a wish: it outlives this process, and the silence of a node.
//!
//! ```text
//!   leaving_since = now ──▶ worker ──▶ gone: forgotten
//!                             │   └──▶ refused: leaving_since = none
//!                             ├──────▶ no answer: the look of a reconciler tells; or,
//!                             └──────▶ if nobody may object: forgotten, and a fence in its place
//! ```

use super::calls::{Home, not_recorded};
use super::{Fleet, Standing};
use roost_model::id::MachineId;
use roost_model::name::{AppName, MachineName};
use roost_proto::worker::{Asker, WorkerError};
use roost_runtime::points;
use roost_store::placements::Fence;

impl Fleet {
    /// Removes a machine. One that nobody may object to (`force`, and an asker that heeds no
    /// leases, or a node that is lost) counts as removed also when its node does not answer:
    /// the node is told as soon as it does.
    pub(crate) async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let home = self.home(id).await?;
        let _under_way = self.begin(id);
        let since = self.clock.now();
        let before = self.store.set_leaving(id, since).await;
        let before = before.map_err(|error| not_recorded(&error))?;
        points::pass("control.db-machine-leaving");
        let call = home.worker.destroy_machine(id, force, asker);
        let answer = self.ask(&home.node, call).await;
        match answer {
            Ok(()) | Err(WorkerError::NotFound(_)) => {
                self.nodes.lock().unlist(&home.node, id);
                let forgotten = self.store.forget_placement(id).await;
                forgotten.map_err(|error| not_recorded(&error))?;
                points::pass("control.db-machine-forgotten");
            }
            Err(WorkerError::Unreachable { .. }) if force && self.needs_no_leave(&home, asker) => {
                if let Some((app, name)) = self.name_of(id).await? {
                    return self.fence_out(&home, id, (app, name)).await;
                }
            }
            // It may be gone, or not: a repetition tells, or the look of a reconciler.
            Err(WorkerError::Unreachable { .. }) => {}
            Err(_) => {
                let recorded = self.store.set_staying(id, since, before).await;
                recorded.map_err(|error| not_recorded(&error))?;
            }
        }
        answer
    }

    fn needs_no_leave(&self, home: &Home, asker: &Asker) -> bool {
        !asker.cause.heeds_leases() || self.standing(&home.node) == Standing::Lost
    }

    async fn name_of(&self, id: &MachineId) -> Result<Option<(AppName, MachineName)>, WorkerError> {
        let known = {
            let nodes = self.nodes.lock();
            let status = nodes.last_known(id);
            status.map(|status| (status.spec.app.clone(), status.spec.name.clone()))
        };
        if known.is_some() {
            return Ok(known);
        }
        let placements = self.store.placements().await;
        let placements = placements.map_err(|error| not_recorded(&error))?;
        let mut placements = placements.into_iter();
        let recorded = placements.find(|placement| placement.machine.as_ref() == Some(id));
        Ok(recorded.map(|placement| (placement.app, placement.name)))
    }

    async fn fence_out(
        &self,
        home: &Home,
        id: &MachineId,
        (app, name): (AppName, MachineName),
    ) -> Result<(), WorkerError> {
        let fence = Fence {
            node: home.node.clone(),
            app,
            name,
            machine: Some(id.clone()),
            why: "it was removed while its node did not answer".into(),
            since: self.clock.now(),
        };
        let recorded = self.store.fence_out(id, &fence).await;
        recorded.map_err(|error| not_recorded(&error))?;
        tracing::info!(machine_id = %id, node = %home.node, "removed when its node answers again");
        self.fence(fence);
        Ok(())
    }
}
