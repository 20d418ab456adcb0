//! One node: the start order, and the shutdown order.
//!
//! Start: lock → sockets → keys and databases → images → network → driver →
//! worker (adopts what runs) → edge → API (takes up unfinished deployments) →
//! serve. Ports are opened before machines are touched, so that one in use
//! changes nothing on the host.
//!
//! Shutdown: the API and the edge take nothing new and finish what they have,
//! then the worker's tasks end. Machines run on.
//!
//! When another `roostd` takes over ([`crate::takeover`]), worker and API end
//! first, then the edge leaves its sockets to the other one.

use crate::adapters;
use crate::cluster;
use crate::config::{NodeConfig, NodePaths};
use crate::control::{Api, Machines};
use crate::daemon::{self, Facts, Lock};
use crate::databases;
use crate::serve::{self, ClientLimits};
use crate::takeover::{self, BothEdges, Door, Given, Successor};
use anyhow::{Context as _, Result};
use roost_auth::authority::LocalAuthority;
use roost_edge::{Edge, EdgeConfig, Listening, LocalCertificates, RelayConfig, TrafficCounter};
use roost_proto::names::{NameFeed, NameTable};
use roost_proto::traffic::TrafficFeed;
use roost_runtime::fs::ensure_dir;
use roost_runtime::points;
use roost_runtime::tasks::Tasks;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Longest wait for requests under way when the node ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for tasks after that.
const TASKS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before worker and API are begun again after they could not be; doubles each time.
const RESUME_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Runs the node until SIGTERM or SIGINT, or until another `roostd` has taken over.
pub(crate) async fn run(config: NodeConfig) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let before = if config.take_over {
        // What would end this process is found out before the other one gives anything up.
        databases::refuse_damaged(&config.paths)?;
        takeover::begin(&config.paths).await?
    } else {
        None
    };
    let (before, lock, given) = match before {
        Some((before, lock, given)) => (Some(before), lock, given),
        // One that is dying may still have it.
        None if config.take_over => (None, Lock::wait(&config.paths).await?, Given::default()),
        None => (None, Lock::take(&config.paths)?, Given::default()),
    };
    let (mut node, api) = Node::start(config, lock, given).await?;
    if let Some(before) = before {
        let flows = before.end(node.gauge.clone(), &node.edge_tasks).await;
        node.edge.take_flows(flows);
    }
    let door = Door::open(&node.config.paths)?;
    node.serve_api(api).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), tag = %node.config.tag, "node is ready");
    loop {
        // Cancel-safe: a signal that was not taken is seen by nobody else; the process ends either
        // way. Who asked at the door and was not heard sees the connection end.
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            successor = door.next() => match node.hand_over(&successor).await {
                Ok(leaving) => {
                    let signals = async {
                        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                    };
                    return node.leave(leaving, &successor, signals).await;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "nobody took over; this roostd goes on");
                }
            }
        }
    }
    tracing::info!("node is stopping; machines run on");
    node.stop().await
}

/// What runs in this process.
struct Node {
    config: NodeConfig,
    lock: Lock,
    /// Beside those that are accepted from, for whoever takes over.
    api_sockets: Vec<TcpListener>,
    counter: Arc<TrafficCounter>,
    /// The same with what comes by the edge of the `roostd` before.
    gauge: Arc<BothEdges>,
    /// The host names, from the API to the edge.
    names: watch::Sender<Arc<NameTable>>,
    edge: Edge,
    edge_tasks: Tasks,
    /// What writes the access log; it ends after the edge.
    log_tasks: Tasks,
    /// The worker and the API: what only one process may have.
    control: Tasks,
}

impl Node {
    /// Looks after machines and serves requests; the API is served by [`Node::serve_api`].
    async fn start(config: NodeConfig, lock: Lock, mut given: Given) -> Result<(Self, Api)> {
        make_dirs(&config.paths)?;
        let api_sockets = serve::bind_api(&config.api, &mut given)?;
        let http = serve::bind_edge(&config.http, "HTTP", "--http-port", &mut given)?;
        let https = serve::bind_edge(&config.https, "HTTPS", "--https-port", &mut given)?;
        let (what, flag) = ("edges of other nodes", "--edge-peers-listen");
        let peers = serve::bind_edge(config.edge_peers_listen.as_slice(), what, flag, &mut given)?;
        let [http_addresses, https_addresses, peer_addresses] =
            [addresses(&http)?, addresses(&https)?, addresses(&peers)?];
        let mut given = given.ports();
        given
            .streams
            .extend(http.into_iter().chain(https).chain(peers));
        let sockets = EdgeSockets {
            http: http_addresses,
            https: https_addresses,
            peers: peer_addresses,
            given,
        };
        let facts = facts(&config, &sockets);
        databases::refuse_damaged(&config.paths)?;
        let (counter, names) = (TrafficCounter::new(), watch::Sender::default());
        let gauge = BothEdges::new(counter.clone());
        let (edge_tasks, log_tasks, control) = (Tasks::new(), Tasks::new(), Tasks::new());
        let access_log = adapters::access_log(&config, &log_tasks)?;
        let machines = Machines::open(&config, gauge.clone(), &control).await?;
        let api = machines.api(&config, facts, &names, &control).await?;
        let feeds = (machines.worker.traffic(), names.subscribe());
        let identity = cluster::edge_identity(&config, &edge_tasks)?;
        let relay = identity.map(|identity| RelayConfig {
            listen: sockets.peers.clone(),
            identity,
            peers: config.edge_peers.clone(),
        });
        let edge_config = EdgeConfig {
            relay,
            sleep: Some(machines.worker.sleep_control()),
            files: Some(machines.worker.files()),
            access_log,
            tickets: cluster::ticket_keys(&config, &edge_tasks),
            private: adapters::private_network(machines.network),
            ..edge_config(&config, &sockets, feeds.1)
        };
        let edge = bind_edge(
            edge_config,
            &config,
            sockets,
            feeds.0,
            counter.clone(),
            &edge_tasks,
        );
        let edge = edge.await?;
        let node = Self {
            config,
            lock,
            api_sockets,
            counter,
            gauge,
            names,
            edge,
            edge_tasks,
            log_tasks,
            control,
        };
        Ok((node, api))
    }

    /// Takes up what is unfinished, and answers the API.
    async fn serve_api(&self, api: Api) -> Result<()> {
        let Api {
            facts,
            state,
            images,
        } = api;
        state.show_ports(self.edge.ports());
        state.show_records(self.edge.records());
        state
            .resume()
            .await
            .context("take up unfinished deployments")?;
        let images_max = self.config.images_max;
        adapters::keep_images(state.clone(), images.clone(), images_max, &self.control);
        // Before the API answers: who has waited for that reads the files next.
        daemon::announce(&self.config.paths, &facts)?;
        let sockets = self.api_sockets.iter().map(TcpListener::try_clone);
        let sockets: std::io::Result<Vec<_>> = sockets.collect();
        serve::start(
            sockets.context("share the API's sockets")?,
            roost_api::router(state, images.store().clone()),
            ClientLimits::default(),
            &self.control,
        );
        Ok(())
    }

    /// Gives all but the connections to another `roostd`, which then serves.
    /// When it does not come to that, this one has everything again.
    async fn hand_over(&mut self, successor: &Successor) -> Result<Lock> {
        tracing::info!(version = successor.version, "another roostd takes over");
        let leaving = match Lock::take_leaving(&self.config.paths) {
            Ok(leaving) => leaving,
            Err(error) => {
                successor.refuse(format!("{error:#}")).await?;
                return Err(error);
            }
        };
        self.end_control().await;
        points::pass("takeover-control-ended");
        let give = async {
            let edge = self.edge.listeners().context("share the edge's sockets")?;
            successor.give(&self.lock, &self.api_sockets, &edge).await
        };
        match give.await {
            Ok(()) => {
                successor.leave(self.edge.flows()).await.or_else(|error| {
                    // It serves, or has ended and whoever looks after it starts it anew.
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the new roostd does not listen"
                    );
                    anyhow::Ok(())
                })?;
                points::pass("takeover-left");
                Ok(leaving)
            }
            Err(error) => {
                self.resume_control().await;
                Err(error)
            }
        }
    }

    /// Ends the worker and the API; the edge serves on, by the last table.
    async fn end_control(&mut self) {
        self.control.shutdown(TASKS_TIMEOUT).await;
        self.control.kill().await;
    }

    /// Begins them again. Without them the edge serves on as it is.
    async fn resume_control(&mut self) {
        let mut pause = RESUME_PAUSE;
        while let Err(error) = self.start_control().await {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot look after machines again; the edge serves on"
            );
            self.end_control().await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESUME_PAUSE_MAX);
        }
    }

    async fn start_control(&mut self) -> Result<()> {
        self.control = Tasks::new();
        let config = &self.config;
        let machines = Machines::open(config, self.gauge.clone(), &self.control).await?;
        let sockets = EdgeSockets {
            http: self.edge.http_addrs().to_vec(),
            https: self.edge.https_addrs().to_vec(),
            peers: self.edge.peer_addrs().to_vec(),
            given: Listening::default(),
        };
        let facts = facts(config, &sockets);
        let api = machines
            .api(config, facts, &self.names, &self.control)
            .await?;
        let worker = &machines.worker;
        self.edge
            .follow(worker.traffic(), worker.sleep_control(), worker.files());
        self.serve_api(api).await
    }

    /// Finishes the connections that another `roostd` has nothing to do with.
    async fn leave(
        self,
        _leaving: Lock,
        successor: &Successor,
        signals: impl Future<Output = ()>,
    ) -> Result<()> {
        drop((self.lock, self.api_sockets));
        let limit = self.config.drain_timeout;
        tracing::info!(
            connections = self.edge.clients(),
            ?limit,
            "another roostd has taken over; this one ends when its connections have"
        );
        let told = async {
            successor.tell(&self.counter).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = self.edge.retire(limit) => {}
            () = told => {}
            () = signals => { self.edge.drain(DRAIN_TIMEOUT).await; }
        }
        self.edge_tasks.shutdown(TASKS_TIMEOUT).await;
        self.log_tasks.shutdown(TASKS_TIMEOUT).await;
        tracing::info!("the last connection has ended");
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.control.stop();
        self.edge_tasks.stop();
        self.edge.drain(DRAIN_TIMEOUT).await;
        self.control.shutdown(TASKS_TIMEOUT).await;
        self.edge_tasks.shutdown(TASKS_TIMEOUT).await;
        self.log_tasks.shutdown(TASKS_TIMEOUT).await;
        daemon::withdraw(&self.config.paths)
    }
}

/// The sockets of an edge, before there is one.
struct EdgeSockets {
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    /// For edges of other nodes.
    peers: Vec<SocketAddr>,
    /// Those, and the ports of apps that were given.
    given: Listening,
}

fn addresses(sockets: &[TcpListener]) -> Result<Vec<SocketAddr>> {
    let addresses = sockets.iter().map(TcpListener::local_addr);
    addresses
        .collect::<std::io::Result<_>>()
        .context("look at a socket")
}

fn make_dirs(paths: &NodePaths) -> Result<()> {
    let run = paths.run.clone();
    for dir in [
        paths.images(),
        paths.machines(),
        paths.logs(),
        paths.builds(),
        run,
    ] {
        ensure_dir(&dir)?;
    }
    Ok(())
}

fn edge_config(config: &NodeConfig, sockets: &EdgeSockets, names: NameFeed) -> EdgeConfig {
    EdgeConfig {
        http: sockets.http.clone(),
        https: sockets.https.clone(),
        port_ips: config.http.iter().map(SocketAddr::ip).collect(),
        proxies: config.proxies.clone(),
        rates: config.rates,
        // Unknown, it is no bound.
        memory_max: roost_host::room::memory_of_process()
            .ok()
            .map(|memory| memory.0),
        threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        domains: config.domains.clone(),
        names,
        node: config.node.id.to_string(),
        ..EdgeConfig::new(config.region.clone())
    }
}

async fn bind_edge(
    edge_config: EdgeConfig,
    config: &NodeConfig,
    sockets: EdgeSockets,
    feed: TrafficFeed,
    counter: Arc<TrafficCounter>,
    tasks: &Tasks,
) -> Result<Edge> {
    let authority =
        LocalAuthority::open(&config.paths.authority()).context("open the local authority")?;
    let certificates = LocalCertificates::new(Arc::new(authority), &config.domains);
    let given = sockets.given;
    Ok(Edge::take_over(edge_config, feed, counter, certificates, tasks, given).await?)
}

fn facts(config: &NodeConfig, sockets: &EdgeSockets) -> Facts {
    let port = |addresses: &[SocketAddr]| addresses.first().map_or(0, SocketAddr::port);
    Facts {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        tag: config.tag.to_string(),
        api_port: port(&config.api),
        http_port: port(&sockets.http),
        https_port: port(&sockets.https),
        domains: config.domains.clone(),
        isolation: String::new(),
    }
}
