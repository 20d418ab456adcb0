//! How many requests each machine is serving through this edge.
//!
//! The worker stops a machine once its count is zero *and* nothing can pick it
//! any more. So a reading first brings the routes up to date with the newest
//! table, and a pick counts first and then looks whether the routes are still
//! those it picked from: either the reader sees the count, or the pick sees
//! the new routes. All four steps are sequentially consistent: both sides see
//! them in one order.

use crate::limits;
use crate::load::Serving;
use crate::relay::peers::{Peers, Place};
use crate::table::{Router, Target};
use parking_lot::Mutex;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_proto::traffic::{Endpoint, TrafficGauge};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What one machine is serving, by whatever service.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    now: AtomicUsize,
    /// All that it was ever given.
    begun: AtomicU64,
}

impl Busy {
    /// Whether it serves nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.now.load(Ordering::Relaxed) == 0
    }

    /// A number that is another one whenever it has been given more.
    pub(crate) fn n_begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Counts requests by machine. Made before the edge, since the worker needs it too.
#[derive(Debug, Default)]
pub struct TrafficCounter {
    machines: Mutex<HashMap<MachineId, Arc<Busy>>>,
    /// With so many machines it is time to look which are gone.
    prune_at: AtomicUsize,
    router: OnceLock<Weak<Router>>,
    peers: OnceLock<Weak<Peers>>,
}

impl TrafficCounter {
    /// A counter of nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on a reading first applies the newest table. The first router stays.
    pub(crate) fn attach(&self, router: &Arc<Router>) {
        let _ = self.router.set(Arc::downgrade(router));
    }

    /// From now on it is known which nodes tell of their machines. The first edge stays.
    pub(crate) fn attach_peers(&self, peers: &Arc<Peers>) {
        let _ = self.peers.set(Arc::downgrade(peers));
    }

    /// The count of one machine, to be kept beside its route.
    pub(crate) fn counter(&self, machine_id: &MachineId) -> Arc<Busy> {
        self.machines
            .lock()
            .entry(machine_id.clone())
            .or_default()
            .clone()
    }

    /// Each machine that is serving something, with how much.
    pub fn all_in_flight(&self) -> BTreeMap<MachineId, usize> {
        let machines = self.machines.lock();
        let counts = machines
            .iter()
            .map(|(machine, busy)| (machine.clone(), busy.now.load(Ordering::SeqCst)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Forgets machines that no route and no request holds, once they may be half of all.
    pub(crate) fn prune(&self) {
        let mut machines = self.machines.lock();
        let most = self
            .prune_at
            .load(Ordering::Relaxed)
            .max(limits::PRUNE_MACHINES_MIN);
        if machines.len() >= most {
            machines.retain(|_, count| Arc::strong_count(count) > 1);
            self.prune_at.store(machines.len() * 2, Ordering::Relaxed);
        }
    }
}

impl TrafficGauge for TrafficCounter {
    fn in_flight(&self, machine_id: &MachineId) -> usize {
        if let Some(router) = self.router.get().and_then(Weak::upgrade) {
            router.refresh();
        }
        let machines = self.machines.lock();
        machines
            .get(machine_id)
            .map_or(0, |busy| busy.now.load(Ordering::SeqCst))
    }

    fn n_begun(&self, machine_id: &MachineId) -> u64 {
        let machines = self.machines.lock();
        let busy = machines.get(machine_id);
        busy.map_or(0, |busy| busy.n_begun())
    }

    fn elsewhere(&self, app: &AppName) -> Vec<Endpoint> {
        let router = self.router.get().and_then(Weak::upgrade);
        let peers = self.peers.get().and_then(Weak::upgrade);
        let (Some(router), Some(peers)) = (router, peers) else {
            return vec![];
        };
        let routes = router.routes();
        let endpoints = routes.endpoints(app.as_str()).iter();
        // A node whose table has stopped coming may be gone.
        let is_told = |endpoint: &&Endpoint| {
            let node = endpoint.node.as_ref();
            node.is_some_and(|node| peers.is_telling(&node.id))
        };
        endpoints.filter(is_told).cloned().collect()
    }
}

/// One request that a machine is serving, by one of its services; counted until dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    machine: Arc<Busy>,
    _service: Serving,
    /// The place on a connection to another edge.
    _stream: Option<Arc<Place>>,
}

impl InFlight {
    /// Counts one more, unless the service is at its hard limit.
    pub(crate) fn begin(target: &Target) -> Option<Self> {
        let service = target.load.take(target.hard_limit())?;
        // Of machines of this node nobody tells.
        if target.endpoint.node.is_some() {
            target.load.note_most();
        }
        target.in_flight.begun.fetch_add(1, Ordering::Relaxed);
        target.in_flight.now.fetch_add(1, Ordering::SeqCst);
        Some(Self {
            machine: target.in_flight.clone(),
            _service: service,
            _stream: None,
        })
    }

    /// Gives a place on a connection to another edge back when this ends.
    pub(crate) fn takes(&mut self, place: Arc<Place>) {
        self._stream = Some(place);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.machine.now.fetch_sub(1, Ordering::SeqCst);
    }
}
