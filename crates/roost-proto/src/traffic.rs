//! What the worker tells the edge (where traffic may go) and the edge tells
//! the worker (how much is on the way).
//!
//! The worker publishes a whole immutable snapshot at every change; the edge
//! swaps it in. There are no deltas, so there is nothing to miss.

use roost_model::id::MachineId;
use roost_model::name::{AppName, RegionCode};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where traffic for one app may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppTraffic {
    /// Every machine of the app that takes traffic through the edge, by id.
    pub endpoints: Vec<Endpoint>,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    pub force_https: bool,
}

/// A place traffic can go: one service of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The machine.
    pub machine_id: MachineId,
    /// Its region.
    pub region: RegionCode,
    /// Its private address and the app's port.
    pub address: SocketAddr,
    /// Whether to send it new requests.
    pub health: EndpointHealth,
    /// Whether to speak HTTP/2 with prior knowledge.
    pub h2_backend: bool,
}

/// Whether an endpoint takes new requests, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Takes new requests.
    Passing,
    /// Runs, but a check fails or has not passed yet; the text says which.
    Failing(String),
    /// Cordoned or about to stop: finishes what it has, takes nothing new.
    Draining,
    /// Does not run; the text is its state.
    Down(String),
}

/// All that the edge needs to route, by app.
pub type TrafficTable = BTreeMap<AppName, AppTraffic>;

/// The edge's subscription: the newest table, and a wake-up at each change.
pub type TrafficFeed = tokio::sync::watch::Receiver<Arc<TrafficTable>>;

/// How much traffic is on the way to a machine.
///
/// The edge implements it; the worker asks before it stops a machine, so that
/// requests under way can finish.
pub trait TrafficGauge: Send + Sync + 'static {
    /// Requests and upgraded connections that this machine is serving now.
    fn in_flight(&self, machine_id: &MachineId) -> usize;
}

/// A gauge for nodes without an edge: nothing is ever on the way.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTraffic;

impl TrafficGauge for NoTraffic {
    fn in_flight(&self, _machine_id: &MachineId) -> usize {
        0
    }
}
