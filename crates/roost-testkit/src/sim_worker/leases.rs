//! Who may change a machine: its leases and its version.

use super::Inner;
use roost_model::id::MachineId;
use roost_proto::worker::{Asker, Lease, TakeLease, WorkerError};

impl Inner {
    /// The lease that holds now, as the asker sees it.
    pub(super) fn lease(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<Option<Lease>, WorkerError> {
        let machine = self.machines.get(id);
        let machine = machine.ok_or_else(|| WorkerError::NotFound(id.clone()))?;
        let held = machine.lease.as_ref();
        let held = held.filter(|(_, lease)| lease.expires_at > self.now());
        Ok(held.map(|(nonce, lease)| Lease {
            is_own: asker.lease_nonce.as_ref() == Some(nonce),
            ..lease.clone()
        }))
    }

    pub(super) fn leased(&self, id: &MachineId, lease: Lease) -> WorkerError {
        WorkerError::Leased {
            machine: id.clone(),
            left: lease.expires_at.since(self.now()),
            owner: lease.owner,
            expires_at: lease.expires_at,
        }
    }

    /// Whether a lease or a newer version speaks against what is asked.
    pub(super) fn admit_asker(&self, id: &MachineId, asker: &Asker) -> Result<(), WorkerError> {
        if let Some(machine) = self.machines.get(id) {
            asker.check_version(id, &machine.status.instance_id)?;
        }
        match self.lease(id, asker)? {
            _ if !asker.cause.heeds_leases() => Ok(()),
            Some(lease) if !lease.is_own => Err(self.leased(id, lease)),
            None if asker.lease_nonce.is_some() => Err(WorkerError::NoLease(id.clone())),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn take_lease(
        &mut self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        if request.ttl.is_zero() || request.ttl > Lease::TTL_MAX {
            return Err(WorkerError::Invalid("a lease holds for 1 to 3600 s".into()));
        }
        let mut holder = asker.clone();
        holder.lease_nonce = Some(request.nonce.clone());
        match self.lease(id, &holder)? {
            Some(lease) if !lease.is_own => return Err(self.leased(id, lease)),
            None if asker.lease_nonce.is_some() => return Err(WorkerError::NoLease(id.clone())),
            Some(_) | None => {}
        }
        let (now, cause) = (self.now(), &asker.cause);
        let machine = self.find_lasting(id)?;
        let lease = Lease {
            owner: cause.subject().unwrap_or(cause.as_str()).to_owned(),
            description: request.description,
            version: machine.status.instance_id.clone(),
            expires_at: now.after(request.ttl),
            is_own: true,
        };
        machine.lease = Some((request.nonce, lease.clone()));
        Ok(lease)
    }
}
