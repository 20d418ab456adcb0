//! The edge: takes HTTP from the world and carries it to the machines of apps.
//!
//! One request goes through named phases, one file each, with one `Exchange`
//! as its state (`exchange.rs`):
//!
//! ```text
//! accept ─▶ tls ─▶ route ─▶ pick ─▶ connect ─▶ forward ─▶ settle
//!                            ▲                    │
//!                            └──── safe retry ────┘
//! ```
//!
//! The edge knows only the table that the worker publishes
//! ([`roost_proto::traffic`]) and the one of host names that the control plane
//! publishes ([`roost_proto::names`]); it keeps the last ones when those are gone.

#![forbid(unsafe_code)]

mod accept;
pub mod access;
mod activity;
mod affinity;
mod areas;
mod arrival;
mod aside;
mod body;
mod certificates;
mod choose;
mod client_body;
mod client_stream;
mod coarse;
mod compress;
mod config;
mod connect;
pub mod datagram_frames;
mod eject;
mod exchange;
mod forward;
pub mod fuzzing;
mod gauge;
mod header_watch;
mod headers;
mod http1;
mod kept;
mod lanes;
mod late;
pub mod limits;
mod load;
mod looked;
mod meter;
mod metrics;
mod names;
mod overload;
mod pages;
mod pg_tls;
mod pick;
mod pool;
mod ports;
pub mod proxy_protocol;
mod rates;
mod recent;
mod relay;
pub mod replay;
mod replay_cache;
mod retry;
mod rounds;
mod route;
mod settle;
mod shared;
mod sockets;
mod split;
mod statics;
mod streams;
mod table;
mod tally;
mod tcp;
mod tickets;
mod timings;
mod tls;
mod trail;
mod tunnel;
mod udp;
mod upgrade;
mod wake;
mod wants;

pub use access::AccessLog;
pub use certificates::{CertificateSource, LocalCertificates};
pub use config::{EdgeConfig, EdgeTimeouts, Network};
pub use gauge::TrafficCounter;
pub use rates::EdgeRates;
pub use relay::RelayConfig;
pub use sockets::{Listening, listen};

use crate::lanes::Lanes;
use crate::metrics::Records;
use crate::ports::{Door, Way};
use crate::shared::Shared;
use crate::sockets::Sockets;
use crate::table::Router;
use roost_auth::cluster::IdentityError;
use roost_model::machine::Service;
use roost_proto::traffic::{
    FlowPlace, MachineFiles, PortFeed, SleepControl, TrafficFeed, TrafficGauge, TrafficRecords,
};
use roost_runtime::tasks::Tasks;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The edge could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program listens there.
    #[error(
        "the address {address} for {protocol} is in use by another program; stop it (`ss -ltnp` shows it) or choose another port"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// HTTP or HTTPS.
        protocol: &'static str,
    },
    /// The port needs a privilege that this process does not have.
    #[error(
        "this process may not listen on {address} for {protocol}; choose a port of 1024 or above, or run it as root"
    )]
    Forbidden {
        /// The address.
        address: SocketAddr,
        /// HTTP or HTTPS.
        protocol: &'static str,
    },
    /// Anything else.
    #[error("listen on {address} for {protocol}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// HTTP or HTTPS.
        protocol: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A thread that serves clients could not be started.
    #[error("start a thread of the edge")]
    Thread(#[source] io::Error),
    /// TLS could not be set up.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The identity for other edges cannot be used.
    #[error("set up TLS with other edges")]
    Relay(#[from] IdentityError),
}

/// A running edge. It ends with its tasks, or by [`Edge::drain`].
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    counter: Arc<TrafficCounter>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    tasks: Tasks,
}

impl Edge {
    /// Listens, and begins to serve.
    ///
    /// `counter` is what the worker asks before it stops a machine.
    pub async fn bind(
        config: EdgeConfig,
        feed: TrafficFeed,
        counter: Arc<TrafficCounter>,
        certificates: Arc<dyn CertificateSource>,
        tasks: &Tasks,
    ) -> Result<Self, BindError> {
        Self::take_over(
            config,
            feed,
            counter,
            certificates,
            tasks,
            Listening::default(),
        )
        .await
    }

    /// Begins to serve with the sockets of an edge before this one
    /// ([`Edge::listeners`]), which goes on accepting until [`Edge::retire`].
    /// What is missing is opened, what nobody asks for is closed. If there are
    /// sockets of datagrams, none is taken until [`Edge::take_flows`].
    pub async fn take_over(
        config: EdgeConfig,
        feed: TrafficFeed,
        counter: Arc<TrafficCounter>,
        certificates: Arc<dyn CertificateSource>,
        tasks: &Tasks,
        given: Listening,
    ) -> Result<Self, BindError> {
        let is_beside = !given.datagrams.is_empty();
        let sockets = Sockets::new(given, config.private);
        let lanes = Lanes::start(config.threads).map_err(BindError::Thread)?;
        let (http, https) = {
            let _at = lanes.first().enter();
            let http = listen_all(&sockets, &config.http, "HTTP")?;
            (http, listen_all(&sockets, &config.https, "HTTPS")?)
        };
        let relay_door = relay::Door::open(config.relay.as_ref(), &sockets)?;
        let (http_addrs, https_addrs) = (addresses(&http), addresses(&https));
        let peer_addrs = relay_door.addresses();
        let https_port = https_addrs.first().map(SocketAddr::port);
        let router = Router::new(config.region.clone(), feed, counter.clone());
        let shared = Shared::new(
            config,
            router,
            certificates,
            sockets,
            https_port,
            lanes,
            tasks,
        )?;
        if !is_beside {
            shared.datagrams.begin(vec![], Duration::ZERO);
        }
        // Before clients are: until then their connections wait in the sockets' queues.
        relay_door.serve(&shared, tasks).await;
        let listen = |name, listeners: Vec<Arc<TcpListener>>, door: Door| {
            let _at = shared.lanes.first().enter();
            for listener in listeners {
                tasks.spawn(
                    name,
                    accept::accept_loop(shared.clone(), listener, door.clone()),
                );
            }
        };
        listen("edge-http", http, Door::new(Service::HTTP_PORT, Way::Http));
        listen(
            "edge-https",
            https,
            Door::new(Service::HTTPS_PORT, Way::Tls),
        );
        tasks.spawn("edge-ports", ports::follow(shared.clone(), tasks.clone()));
        shared.sockets.close_unused();
        tasks.spawn("edge-routes", follow_table(shared.clone()));
        tasks.spawn("edge-names", names::follow(shared.clone()));
        tasks.spawn("edge-reaper", reap(shared.clone()));
        overload::watch(&shared, tasks);
        tasks.spawn("edge-drain", drain_at_end(shared.clone()));
        Ok(Self {
            shared,
            counter,
            http: http_addrs,
            https: https_addrs,
            peers: peer_addrs,
            tasks: tasks.clone(),
        })
    }

    /// Takes the tables of another worker from here on; the one before it has ended.
    pub fn follow(
        &self,
        feed: TrafficFeed,
        sleep: Arc<dyn SleepControl>,
        files: Arc<dyn MachineFiles>,
    ) {
        *self.shared.sleep.lock() = Some(sleep);
        *self.shared.files.lock() = Some(files);
        self.shared.router.follow(feed);
        let follow = follow_table(self.shared.clone());
        self.tasks.spawn("edge-routes", follow);
    }

    /// The listening sockets, for the edge of another process.
    pub fn listeners(&self) -> io::Result<Listening> {
        self.shared.sockets.shared()
    }

    /// Which machine each flow of datagrams is with, for the edge of another process.
    pub fn flows(&self) -> Vec<FlowPlace> {
        self.shared.datagrams.places()
    }

    /// Begins to take datagrams at the sockets that were given, since the edge before this one no
    /// longer does. These flows of it go on with their machines, while those take traffic.
    pub fn take_flows(&self, flows: Vec<FlowPlace>) {
        let idle = self.shared.config.timeouts.flow_idle;
        self.shared.datagrams.begin(flows, idle);
    }

    /// Leaves the sockets to the edge that has them as well. What is connected
    /// is served on: HTTP/1 until its next response, HTTP/2 until the requests
    /// under way have ended, tunnels until they end; what is left after `limit`
    /// is cut; flows of datagrams end at once, and go on in the other edge.
    /// `false` when something was cut.
    pub async fn retire(&self, limit: Duration) -> bool {
        self.shared.retired.cancel();
        self.shared.finish(limit).await
    }

    /// How many connections of clients, streams and tunnels there are.
    pub fn clients(&self) -> usize {
        self.shared.clients.len()
    }

    /// Where plain HTTP is served, with the actual ports.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where HTTPS is served, with the actual ports.
    pub fn https_addrs(&self) -> &[SocketAddr] {
        &self.https
    }

    /// Where other edges are served, with the actual ports.
    pub fn peer_addrs(&self) -> &[SocketAddr] {
        &self.peers
    }

    /// What became of the ports that apps ask for besides 80 and 443.
    pub fn ports(&self) -> PortFeed {
        self.shared.ports.subscribe()
    }

    /// What was seen of the requests of late.
    pub fn records(&self) -> Arc<dyn TrafficRecords> {
        Arc::new(Records(Arc::downgrade(&self.shared)))
    }

    /// What each machine is serving now.
    pub fn gauge(&self) -> Arc<dyn TrafficGauge> {
        self.counter.clone()
    }

    /// How many requests wait for a machine now.
    pub fn queued(&self) -> usize {
        limits::WAITERS_MAX - self.shared.waiters.available_permits()
    }

    /// Takes nothing new, lets what is under way end within `limit`, then cuts
    /// the rest. `false` when something was cut.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.shared.drain(limit).await
    }
}

impl Shared {
    async fn drain(&self, limit: Duration) -> bool {
        self.graceful.cancel();
        self.finish(limit).await
    }

    /// Waits until all that was accepted has ended, and cuts what has not after `limit`.
    async fn finish(&self, limit: Duration) -> bool {
        self.accepting.close();
        self.clients.close();
        let all = async {
            self.accepting.wait().await;
            self.clients.wait().await;
        };
        let in_time = tokio::time::timeout(limit, all).await.is_ok();
        if !in_time {
            tracing::warn!(
                connections = self.clients.len(),
                "client connections did not end in time and are cut"
            );
            self.kill.cancel();
        }
        in_time
    }
}

/// Where these listen.
fn addresses(listeners: &[Arc<TcpListener>]) -> Vec<SocketAddr> {
    let address = |listener: &Arc<TcpListener>| listener.local_addr().ok();
    listeners.iter().filter_map(address).collect()
}

fn listen_all(
    sockets: &Sockets,
    addresses: &[SocketAddr],
    protocol: &'static str,
) -> Result<Vec<Arc<TcpListener>>, BindError> {
    let listen = |&address: &SocketAddr| {
        sockets
            .listen(address)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { address, protocol },
                io::ErrorKind::PermissionDenied => BindError::Forbidden { address, protocol },
                _ => BindError::Listen {
                    address,
                    protocol,
                    source,
                },
            })
    };
    addresses.iter().map(listen).collect()
}

/// Applies each new table. When the worker is gone, the last table stays.
async fn follow_table(shared: Arc<Shared>) {
    let mut feed = shared.router.feed();
    loop {
        // Also after this task's own clone was made: nothing published in between is missed.
        shared.router.refresh();
        tokio::select! {
            changed = feed.changed() => if changed.is_err() { return },
            () = shared.graceful.cancelled() => return,
        }
    }
}

/// Closes idle connections to machines.
async fn reap(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(limits::REAP_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                shared.router.reap(shared.config.timeouts.pool_idle);
                shared.peers.reap();
            }
            () = shared.graceful.cancelled() => return,
        }
    }
}

async fn drain_at_end(shared: Arc<Shared>) {
    shared.graceful.cancelled().await;
    shared.drain(shared.config.timeouts.drain).await;
}
