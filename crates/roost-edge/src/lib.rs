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
//! ([`roost_proto::traffic`]); it keeps the last one when the worker is gone.

#![forbid(unsafe_code)]

mod accept;
pub mod access;
mod activity;
mod body;
mod certificates;
mod client_stream;
mod config;
mod connect;
mod exchange;
mod forward;
mod gauge;
mod headers;
mod late;
pub mod limits;
mod pages;
mod pick;
mod pool;
mod retry;
mod route;
mod settle;
mod streams;
mod table;
mod tls;
mod upgrade;

pub use access::{AccessLog, AccessRecord};
pub use certificates::{CertificateSource, LocalCertificates};
pub use config::{EdgeConfig, EdgeTimeouts};
pub use gauge::TrafficCounter;

use crate::exchange::Shared;
use crate::retry::RetryBudget;
use crate::table::Router;
use http::HeaderValue;
use roost_proto::traffic::{TrafficFeed, TrafficGauge};
use roost_runtime::tasks::Tasks;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    /// TLS could not be set up.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
}

/// A running edge. It ends with its tasks, or by [`Edge::drain`].
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    counter: Arc<TrafficCounter>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
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
        let http = listen_all(&config.http, "HTTP")?;
        let https = listen_all(&config.https, "HTTPS")?;
        let acceptor = tls::acceptor(certificates).map_err(BindError::Tls)?;
        let addresses = |listeners: &[TcpListener]| -> Vec<SocketAddr> {
            listeners
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .collect()
        };
        let (http_addrs, https_addrs) = (addresses(&http), addresses(&https));
        let shared = Arc::new(Shared {
            domains: config
                .domains
                .iter()
                .map(|domain| domain.trim_matches('.').to_ascii_lowercase())
                .collect(),
            region: HeaderValue::from_str(config.region.as_str())
                .unwrap_or(HeaderValue::from_static("unknown")),
            https_port: https_addrs.first().map(SocketAddr::port),
            router: Router::new(feed, counter.clone()),
            connections: Arc::new(Semaphore::new(config.connections_max)),
            waiters: Semaphore::new(limits::WAITERS_MAX),
            budget: RetryBudget::new(),
            clients: TaskTracker::new(),
            backends: TaskTracker::new(),
            graceful: tasks.stopping().child_token(),
            kill: CancellationToken::new(),
            config,
        });
        for listener in http {
            tasks.spawn(
                "edge-http",
                accept::accept_loop(shared.clone(), listener, None),
            );
        }
        for listener in https {
            tasks.spawn(
                "edge-https",
                accept::accept_loop(shared.clone(), listener, Some(acceptor.clone())),
            );
        }
        tasks.spawn("edge-routes", follow_table(shared.clone()));
        tasks.spawn("edge-reaper", reap(shared.clone()));
        tasks.spawn("edge-drain", drain_at_end(shared.clone()));
        Ok(Self {
            shared,
            counter,
            http: http_addrs,
            https: https_addrs,
        })
    }

    /// Where plain HTTP is served, with the actual ports.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where HTTPS is served, with the actual ports.
    pub fn https_addrs(&self) -> &[SocketAddr] {
        &self.https
    }

    /// What each machine is serving now.
    pub fn gauge(&self) -> Arc<dyn TrafficGauge> {
        self.counter.clone()
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
        self.clients.close();
        let in_time = tokio::time::timeout(limit, self.clients.wait())
            .await
            .is_ok();
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

fn listen_all(
    addresses: &[SocketAddr],
    protocol: &'static str,
) -> Result<Vec<TcpListener>, BindError> {
    let listen = |&address: &SocketAddr| {
        accept::listen(address).map_err(|source| match source.kind() {
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

/// Closes idle connections to machines, and refills the retry budget.
async fn reap(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(limits::REAP_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                shared.router.reap(shared.config.timeouts.pool_idle);
                shared.budget.second();
            }
            () = shared.graceful.cancelled() => return,
        }
    }
}

async fn drain_at_end(shared: Arc<Shared>) {
    shared.graceful.cancelled().await;
    shared.drain(shared.config.timeouts.drain).await;
}
