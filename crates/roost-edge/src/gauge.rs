//! How many requests each machine is serving through this edge.
//!
//! The worker stops a machine once its count is zero *and* nothing can pick it
//! any more. So a reading first brings the routes up to date with the newest
//! table, and a pick counts first and then looks whether the routes are still
//! those it picked from: either the reader sees the count, or the pick sees
//! the new routes. Both sides have a full fence between their two steps.

use crate::table::Router;
use parking_lot::Mutex;
use roost_model::id::MachineId;
use roost_proto::traffic::TrafficGauge;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

/// Counts requests by machine. Made before the edge, since the worker needs it too.
#[derive(Debug, Default)]
pub struct TrafficCounter {
    machines: Mutex<HashMap<MachineId, Arc<AtomicUsize>>>,
    router: OnceLock<Weak<Router>>,
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

    /// The count of one machine, to be kept beside its route.
    pub(crate) fn counter(&self, machine_id: &MachineId) -> Arc<AtomicUsize> {
        self.machines
            .lock()
            .entry(machine_id.clone())
            .or_default()
            .clone()
    }

    /// Forgets machines that no route and no request holds.
    pub(crate) fn prune(&self) {
        self.machines
            .lock()
            .retain(|_, count| Arc::strong_count(count) > 1);
    }
}

impl TrafficGauge for TrafficCounter {
    fn in_flight(&self, machine_id: &MachineId) -> usize {
        if let Some(router) = self.router.get().and_then(Weak::upgrade) {
            router.refresh();
        }
        fence(Ordering::SeqCst);
        let machines = self.machines.lock();
        machines
            .get(machine_id)
            .map_or(0, |count| count.load(Ordering::SeqCst))
    }
}

/// One request that a machine is serving; counted until dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// Counts one more.
    pub(crate) fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
