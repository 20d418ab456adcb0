//! Leases: what is checked before they are given.

use super::store_failure;
use crate::worker::Worker;
use roost_model::id::MachineId;
use roost_proto::worker::{Asker, Lease, ReleaseLease, TakeLease, WorkerError};

/// Refuses what no lease may be.
pub(super) fn check(request: &TakeLease) -> Result<(), WorkerError> {
    if request.ttl.is_zero() || request.ttl > Lease::TTL_MAX {
        return Err(WorkerError::Invalid(format!(
            "a lease holds for 1 to {} s, not {} s",
            Lease::TTL_MAX.as_secs(),
            request.ttl.as_secs()
        )));
    }
    if request.description.len() > Lease::DESCRIPTION_BYTES_MAX {
        return Err(WorkerError::Invalid(format!(
            "the description of a lease has more than {} bytes",
            Lease::DESCRIPTION_BYTES_MAX
        )));
    }
    Ok(())
}

impl Worker {
    pub(super) async fn give_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        check(&request)?;
        let (id, asker) = (id.clone(), asker.clone());
        self.shielded(|inner| async move {
            let now = inner.clock.now();
            let taken = inner.store.take_lease(&id, request, asker, now).await;
            Ok(taken.map_err(|error| store_failure(&error))??)
        })
        .await
    }

    pub(super) async fn lease_of(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<Option<Lease>, WorkerError> {
        self.row(id).await?;
        let (store, now) = (&self.inner.store, self.inner.clock.now());
        let lease = store.lease(id, asker.lease_nonce.clone(), now).await;
        lease.map_err(|error| store_failure(&error))
    }

    pub(super) async fn take_lease_back(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.shielded(|inner| async move {
            let now = inner.clock.now();
            let released = inner.store.release_lease(&id, how, asker, now).await;
            Ok(released.map_err(|error| store_failure(&error))??)
        })
        .await
    }
}
