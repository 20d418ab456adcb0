//! What the worker tells the edge (where traffic may go) and the edge tells
//! the worker (how much is on the way).
//!
//! The worker publishes a whole immutable snapshot at every change; the edge
//! swaps it in. There are no deltas, so there is nothing to miss.

use crate::release_traffic::Reading;
use crate::rest::RequestRecord;
use roost_model::app_map::AppMap;
use roost_model::id::{MachineId, NodeId};
use roost_model::machine::{Protocol, Service, StaticFolder};
use roost_model::name::{AppName, RegionCode};
use roost_model::split::Split;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

/// Where traffic for one app may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppTraffic {
    /// Every machine of the app that takes traffic through the edge, by id.
    pub endpoints: Vec<Endpoint>,
}

/// A place traffic can go: one service of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The machine.
    pub machine_id: MachineId,
    /// Its region.
    pub region: RegionCode,
    /// The release that it is of, if a deployment made it.
    pub release: Option<u64>,
    /// What it gets of the app's requests, while its release is tried out.
    pub split: Option<Arc<Split>>,
    /// Its private address and the app's port.
    pub address: SocketAddr,
    /// Whether to send it new requests.
    pub health: EndpointHealth,
    /// The service: the external ports that lead here, and what is done there.
    pub service: Arc<Service>,
    /// The node that has the machine, when it is another one than the edge's own.
    pub node: Option<Arc<PeerNode>>,
    /// The folders of the machine whose files the edge serves by itself.
    pub statics: Arc<[StaticFolder]>,
}

/// Another node, whose edge takes what is for its machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerNode {
    /// The node; its edge has to prove that it is of it.
    pub id: NodeId,
    /// Where its edge listens for other edges.
    pub edge: SocketAddr,
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
    /// Does not run, or is about to stop, and is started when a request wants it;
    /// the text is its state.
    Asleep(String),
    /// Does not run; the text is its state.
    Down(String),
}

/// All that the edge needs to route, by app. Tables share what is the same in them.
pub type TrafficTable = AppMap<Arc<AppTraffic>>;

/// The edge's subscription: the newest table, and a wake-up at each change.
pub type TrafficFeed = tokio::sync::watch::Receiver<Arc<TrafficTable>>;

/// An external port that an app asks for: at its dedicated addresses each one, else those besides
/// 80 and 443, which all apps share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortStatus {
    /// The dedicated address; none for those that apps share.
    pub address: Option<IpAddr>,
    /// What carries its traffic.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
    /// Why the edge does not serve the app there, if it does not.
    pub problem: Option<String>,
}

/// What became of the ports that apps ask for.
pub type PortTable = BTreeMap<AppName, Vec<PortStatus>>;

/// The subscription to it: the newest table, and a wake-up at each change.
pub type PortFeed = tokio::sync::watch::Receiver<Arc<PortTable>>;

/// A flow of datagrams, and the machine that it is with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPlace {
    /// The client.
    pub client: SocketAddr,
    /// The address of the edge that it sends to.
    pub local: IpAddr,
    /// The external port that it sends to.
    pub port: u16,
    /// The machine.
    pub machine_id: MachineId,
}

/// How much traffic is on the way to a machine, and what other nodes have for it.
///
/// The edge implements it; the worker asks before it stops a machine, so that
/// requests under way can finish, and before it puts one to sleep.
pub trait TrafficGauge: Send + Sync + 'static {
    /// Requests and upgraded connections that this machine is serving now.
    fn in_flight(&self, machine_id: &MachineId) -> usize;

    /// A number that is another one whenever more has come to the machine since it was read.
    fn n_begun(&self, machine_id: &MachineId) -> u64;

    /// The endpoints of an app at other nodes, of those whose edges tell of their machines just now.
    fn elsewhere(&self, app: &AppName) -> Vec<Endpoint>;
}

/// Starts machines that are [asleep](EndpointHealth::Asleep).
///
/// The worker implements it; the edge asks when a request wants such a machine.
pub trait SleepControl: std::fmt::Debug + Send + Sync + 'static {
    /// Has the machine started. Ends once that is recorded, long before the machine
    /// runs; to ask again for the same machine changes nothing.
    fn wake(&self, machine_id: MachineId) -> Waking;
}

/// What is to come of a wish to wake a machine.
pub type Waking = Pin<Box<dyn Future<Output = Result<(), WakeError>> + Send>>;

/// Why a machine is not woken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    /// Nobody looks after machines in this process now.
    #[error("nobody looks after machines just now")]
    Away,
    /// The machine is not to be started, or cannot be; the text says why.
    #[error("{0}")]
    Refused(String),
}

/// Opens files of machines, so that the edge can serve them by itself.
///
/// The worker implements it; the edge asks for what is in a
/// [static folder](Endpoint::statics) only.
pub trait MachineFiles: std::fmt::Debug + Send + Sync + 'static {
    /// Opens a regular file of a machine that runs, to read it, by its absolute path there.
    /// No link is followed. None if there is no such file, or nobody can look.
    fn open(&self, machine_id: MachineId, path: String) -> Opening;
}

/// What is to come of a wish to open a file.
pub type Opening =
    Pin<Box<dyn Future<Output = Result<Option<std::fs::File>, OpenFileError>> + Send>>;

/// Why a file of a machine could not be opened, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpenFileError(pub String);

/// What the edge has seen of the requests that it served.
///
/// The edge implements it; the API asks when somebody wants to know.
pub trait TrafficRecords: Send + Sync + 'static {
    /// A request by its id. Only some of the last ones are kept.
    fn request(&self, id: &str) -> Option<Arc<RequestRecord>>;

    /// What was counted since the edge began, as text for Prometheus.
    fn metrics(&self) -> String;

    /// How the machines of an app have answered, by release, since one of them is tried out.
    fn tallies(&self, app: &AppName) -> Reading;
}

/// A gauge for nodes without an edge: nothing is ever on the way.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTraffic;

impl TrafficGauge for NoTraffic {
    fn in_flight(&self, _machine_id: &MachineId) -> usize {
        0
    }

    fn n_begun(&self, _machine_id: &MachineId) -> u64 {
        0
    }

    fn elsewhere(&self, _app: &AppName) -> Vec<Endpoint> {
        vec![]
    }
}
