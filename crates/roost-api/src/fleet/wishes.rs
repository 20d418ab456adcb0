//! What a machine is asked to be is recorded before its worker is asked, so that one that is made
//! anew is as it was wanted last, whatever becomes of the answer. On a full disk, only what the
//! look of a reconciler finds out by itself is asked for all the same.
//!
//! ```text
//!   what is wanted, of no version ──▶ worker ──▶ done, or refused: what it is, and its version
//!                                        └─────▶ no answer: the look of a reconciler tells
//! ```

use super::Fleet;
use super::calls::{Home, not_recorded};
use crate::placement::told;
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_proto::worker::{MachineStatus, WorkerError};
use roost_runtime::points;
use roost_store::StoreError;
use roost_store::placements::Change;
use std::future::Future;

impl Fleet {
    /// Records that a machine is to run and serve again, whatever comes of asking for that.
    pub(crate) async fn want_serving(&self, id: &MachineId) -> Result<(), StoreError> {
        let wanted = Change {
            rests: Some(false),
            is_cordoned: Some(false),
            ..Change::default()
        };
        self.store.change_placement(id, &wanted).await
    }

    /// Records what is wanted of a machine, asks its worker for that, and records what it is then.
    pub(super) async fn change(
        &self,
        home: &Home,
        id: &MachineId,
        wanted: Change,
        call: impl Future<Output = Result<MachineStatus, WorkerError>>,
    ) -> Result<MachineStatus, WorkerError> {
        let _under_way = self.begin(id);
        match self.store.change_placement(id, &wanted).await {
            Err(error @ StoreError::DiskFull { .. }) if is_seen_later(&wanted) => {
                let error = chain(&error);
                tracing::warn!(machine_id = %id, error, "what is wanted of it is recorded later");
            }
            recorded => recorded.map_err(|error| not_recorded(&error))?,
        }
        points::pass("control.db-machine-wanted");
        let answer = self.status_at(home, id, call).await;
        let now = match &answer {
            Ok(status) => Some(status.clone()),
            Err(WorkerError::Unreachable { .. } | WorkerError::NotFound(_)) => None,
            Err(_) => self.machine(id).await.ok(),
        };
        if let Some(now) = now
            && let Err(error) = self.store.change_placement(id, &told(&now)).await
        {
            let error = chain(&error);
            tracing::warn!(machine_id = %id, error, "what it is now is recorded later");
        }
        answer
    }
}

/// Whether the look of a reconciler would find it on the machine: whether it rests and whether it
/// is cordoned, but not metadata, which have no version.
fn is_seen_later(wanted: &Change) -> bool {
    wanted.blueprint.is_none() && (wanted.rests.is_some() || wanted.is_cordoned.is_some())
}
