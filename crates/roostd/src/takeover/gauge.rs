//! What the old edge is still serving, for the worker of the new `roostd`: a
//! machine is not stopped under a request that came by the old one.

use super::channel::Channel;
use super::{IN_FLIGHT_INTERVAL, Message};
use parking_lot::Mutex;
use roost_edge::TrafficCounter;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_proto::traffic::{Endpoint, TrafficGauge};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is on the way through the edge of this process and the one before.
#[derive(Debug)]
pub(crate) struct BothEdges {
    own: Arc<TrafficCounter>,
    /// As it was last told; empty once the old process has ended.
    old: Mutex<BTreeMap<MachineId, usize>>,
}

impl BothEdges {
    /// This process alone.
    pub(crate) fn new(own: Arc<TrafficCounter>) -> Arc<Self> {
        Arc::new(Self {
            own,
            old: Mutex::default(),
        })
    }

    /// Keeps up with what the old process tells, until it ends.
    pub(super) async fn follow(&self, channel: &Channel) {
        while let Ok(Some((Message::InFlight(counts), _))) = channel.receive().await {
            *self.old.lock() = counts;
        }
        self.old.lock().clear();
    }
}

impl TrafficGauge for BothEdges {
    fn in_flight(&self, machine_id: &MachineId) -> usize {
        let of_old = self.old.lock().get(machine_id).copied().unwrap_or(0);
        of_old + self.own.in_flight(machine_id)
    }

    fn n_begun(&self, machine_id: &MachineId) -> u64 {
        // The old one gets nothing new but on connections that it has, and tells of that in time.
        self.own.n_begun(machine_id)
    }

    fn elsewhere(&self, app: &AppName) -> Vec<Endpoint> {
        self.own.elsewhere(app)
    }
}

/// Tells what is on the way through the edge of this process, until nobody listens.
pub(super) async fn tell(channel: &Channel, counter: &TrafficCounter) {
    let mut told = None;
    loop {
        let counts = counter.all_in_flight();
        if told.as_ref() != Some(&counts) {
            if channel
                .send(&Message::InFlight(counts.clone()), &[])
                .await
                .is_err()
            {
                return;
            }
            told = Some(counts);
        }
        tokio::time::sleep(IN_FLIGHT_INTERVAL).await;
    }
}
