//! What the node has to give, what is promised of it, and who gets the rest.
//!
//! The worker has the last word: a creation, a larger size and a reservation
//! are counted and recorded in one transaction, so that two of them never get
//! the same room. A machine that exists holds its room, also while it is
//! stopped, so that it can always start; a reservation holds room for some
//! minutes, until a creation names it, it is released, or it expires.

pub(crate) mod rows;

use crate::api::store_failure;
use crate::drivers::{Drivers, Standing};
use crate::limits;
use crate::worker::{Inner, Worker};
use roost_model::id::{NodeId, ReservationId};
use roost_model::machine::Guest;
use roost_model::machine::Rung;
use roost_model::name::ZoneName;
use roost_model::placement::{Capacity, NodeView, Usage};
use roost_proto::worker::{Reservation, Reserve, WorkerError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a node is and has, as its operator says and its host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProfile {
    /// Its id, which it keeps.
    pub id: NodeId,
    /// What it fails together with, within its region.
    pub zone: Option<ZoneName>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes no new machines.
    pub cordoned: bool,
    /// What it has.
    pub capacity: Capacity,
}

/// Why there is no room, or the reservation is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The node takes no new machines.
    Cordoned,
    /// This is missing.
    Shortage(roost_model::placement::Shortage),
    /// The reservation that was named has expired, was used or never was.
    ReservationGone(ReservationId),
    /// It is for another size.
    ReservationDiffers(ReservationId, Guest),
}

impl From<NoRoom> for WorkerError {
    fn from(reason: NoRoom) -> Self {
        match reason {
            NoRoom::Cordoned => Self::NoCapacity("it is cordoned: it takes no new machines".into()),
            NoRoom::Shortage(shortage) => Self::NoCapacity(shortage.to_string()),
            NoRoom::ReservationGone(id) => Self::Conflict(format!(
                "reservation {id} has expired or was used; reserve again"
            )),
            NoRoom::ReservationDiffers(id, guest) => Self::Conflict(format!(
                "reservation {id} is for {} {} CPUs and {} of memory; reserve what is needed",
                guest.n_cpus,
                guest.cpu_kind.as_str(),
                guest.memory
            )),
        }
    }
}

/// What a creation is measured by.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    /// What the node has.
    pub(crate) capacity: Capacity,
    /// Whether it takes no new machines.
    pub(crate) cordoned: bool,
    /// The reservation whose room is taken.
    pub(crate) reservation: Option<ReservationId>,
}

/// What is promised now.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    pub(crate) used: Usage,
    reserved: Usage,
    images: BTreeSet<String>,
    /// App, process group, number of machines.
    groups: Vec<(String, String, u32)>,
}

impl Inner {
    /// What a new machine is measured by.
    pub(crate) fn admission(&self, reservation: Option<ReservationId>) -> Admission {
        let node = &self.config.node;
        Admission {
            capacity: self.config.capacity(),
            cordoned: node.cordoned,
            reservation,
        }
    }

    async fn reserve(self: Arc<Self>, request: Reserve) -> Result<Reservation, WorkerError> {
        if request.hold.is_zero() || request.hold > limits::RESERVATION_MAX {
            return Err(WorkerError::Invalid(format!(
                "a reservation is held for 1 to {} s, not {} s",
                limits::RESERVATION_MAX.as_secs(),
                request.hold.as_secs()
            )));
        }
        let guest = request.guest;
        guest
            .check()
            .map_err(|error| WorkerError::Invalid(error.to_string()))?;
        let now = self.clock.now();
        let reserved = self.store.reserve(request, self.admission(None), now).await;
        Ok(reserved.map_err(|error| store_failure(&error))??)
    }
}

/// Rungs that start no machines. One that is being tried is none of them: a
/// machine waits until that is over.
fn refused_rungs(drivers: &Drivers) -> BTreeMap<Rung, String> {
    let standings = drivers.standings().into_iter();
    standings
        .filter_map(|(rung, standing)| match standing {
            Standing::Proven | Standing::Proving => None,
            Standing::Refused(reason) => Some((rung, reason)),
        })
        .collect()
}

impl Worker {
    pub(crate) async fn node_view(&self) -> Result<NodeView, WorkerError> {
        let inner = &self.inner;
        let node = &inner.config.node;
        let promised = inner.store.promised(inner.clock.now()).await;
        let promised = promised.map_err(|error| store_failure(&error))?;
        let mut machines: BTreeMap<_, BTreeMap<String, u32>> = BTreeMap::new();
        for (app, group, n) in promised.groups {
            // A name that cannot be read belongs to a row that no other part can read either.
            if let Ok(app) = roost_model::name::AppName::parse(&app) {
                machines.entry(app).or_default().insert(group, n);
            }
        }
        let disk_free = roost_host::room::disk_free(&inner.config.data_dir);
        let disk_free = disk_free.map_err(|error| {
            WorkerError::Internal(format!("look at the disk of machines: {error}"))
        })?;
        Ok(NodeView {
            id: node.id.clone(),
            region: inner.config.region.clone(),
            zone: node.zone.clone(),
            labels: node.labels.clone(),
            refused_rungs: refused_rungs(&inner.drivers),
            cordoned: node.cordoned,
            capacity: inner.config.capacity(),
            used: promised.used,
            reserved: promised.reserved,
            disk_free,
            images: promised.images,
            machines,
        })
    }

    pub(crate) async fn reserve_room(&self, request: Reserve) -> Result<Reservation, WorkerError> {
        self.shielded(|inner| inner.reserve(request)).await
    }

    pub(crate) async fn release_room(&self, id: &ReservationId) -> Result<(), WorkerError> {
        let id = id.clone();
        self.shielded(|inner| async move {
            let released = inner.store.release(id).await;
            released.map_err(|error| store_failure(&error))
        })
        .await
    }
}
