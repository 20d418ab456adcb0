//! What a simulated node is, has and has promised.

use super::Inner;
use roost_model::id::NodeId;
use roost_model::machine::{Guest, Rung};
use roost_model::name::{AppName, RegionCode};
use roost_model::placement::{Capacity, NodeView, Overcommit, Usage};
use roost_model::size::ByteSize;
use roost_proto::worker::{CreateMachine, Reservation, Reserve, WorkerError};
use std::collections::{BTreeMap, BTreeSet};

/// Why the node starts no microVMs.
pub(super) const NO_VM: &str = "there is no KVM";
/// The room of a node that nobody has limited.
const AMPLE: Capacity = Capacity {
    n_cores: 1_000,
    memory: ByteSize::gib(10_000),
    n_machines: 10_000,
    overcommit: Overcommit::DEFAULT,
};

/// Which node a worker is on.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) region: RegionCode,
}

impl Default for SimNode {
    fn default() -> Self {
        Self {
            id: NodeId::from_ulid(ulid::Ulid::nil()),
            region: RegionCode::parse("local").expect("a region code"),
        }
    }
}

impl Inner {
    /// What the node is, has, and has promised.
    pub(super) fn node(&self) -> NodeView {
        let mut machines: BTreeMap<AppName, BTreeMap<String, u32>> = BTreeMap::new();
        let mut used = Usage::default();
        for machine in self.machines.values() {
            let spec = &machine.status.spec;
            used = used.plus(Usage::of(spec.guest));
            let groups = machines.entry(spec.app.clone()).or_default();
            *groups.entry(spec.process_group().to_owned()).or_default() += 1;
        }
        let reserved = self.reservations.values();
        let reserved = reserved.map(|reservation| Usage::of(reservation.guest));
        NodeView {
            id: self.node.id.clone(),
            region: self.node.region.clone(),
            zone: None,
            labels: BTreeMap::new(),
            refused_rungs: BTreeMap::from([(Rung::Vm, NO_VM.to_owned())]),
            cordoned: false,
            capacity: self.capacity.unwrap_or(AMPLE),
            used,
            reserved: reserved.fold(Usage::default(), Usage::plus),
            disk_free: ByteSize::gib(100),
            images: BTreeSet::new(),
            machines,
        }
    }

    /// Whether a machine of this size has room.
    fn admit(&self, guest: Guest) -> Result<(), WorkerError> {
        let node = self.node();
        match node.capacity.shortage(node.taken(), guest) {
            Some(shortage) => Err(WorkerError::NoCapacity(shortage.to_string())),
            None => Ok(()),
        }
    }

    /// Holds room; the same request gets the same reservation.
    pub(super) fn reserve(&mut self, request: Reserve) -> Result<Reservation, WorkerError> {
        if let Some(earlier) = self.reservations.get(&request.id) {
            return Ok(earlier.clone());
        }
        self.admit(request.guest)?;
        let reservation = Reservation {
            id: request.id,
            guest: request.guest,
            expires_at: self.now().after(request.hold),
        };
        let id = reservation.id.clone();
        self.reservations.insert(id, reservation.clone());
        Ok(reservation)
    }

    /// Room for a new machine: what was held for it, or what is free.
    pub(super) fn take_room(&mut self, request: &CreateMachine) -> Result<(), WorkerError> {
        match &request.reservation {
            Some(id) => {
                let (now, guest) = (self.now(), request.spec.guest);
                self.reservations.retain(|_, held| held.expires_at > now);
                match self.reservations.get(id) {
                    Some(held) if held.guest.covers(guest) => drop(self.reservations.remove(id)),
                    Some(_) => {
                        let text = format!("reservation {id} is for another size");
                        return Err(WorkerError::Conflict(text));
                    }
                    None => {
                        let text = format!("reservation {id} has expired or was used");
                        return Err(WorkerError::Conflict(text));
                    }
                }
            }
            None => self.admit(request.spec.guest)?,
        }
        Ok(())
    }
}
