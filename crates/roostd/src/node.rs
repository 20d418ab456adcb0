//! One node: the start order, and the shutdown order.
//!
//! Start: lock → keys and databases → images → network → driver → worker
//! (adopts what runs) → edge → API (takes up unfinished deployments) → serve.
//! Ports are tried before machines are touched, so that one in use changes
//! nothing on the host.
//!
//! Shutdown: the API and the edge take nothing new and finish what they have,
//! then the worker's tasks end. Machines run on.

use crate::adapters;
use crate::cluster;
use crate::config::{NodeConfig, NodePaths};
use crate::daemon::{self, Facts, Lock};
use crate::databases;
use crate::rungs;
use crate::serve::{self, ClientLimits};
use anyhow::{Context as _, Result};
use roost_api::{ApiParts, ApiState, NodeFacts};
use roost_auth::authority::LocalAuthority;
use roost_auth::seal::SealingKey;
use roost_auth::token::TokenSecret;
use roost_edge::{Edge, EdgeConfig, LocalCertificates, TrafficCounter};
use roost_host::net::addresses::NodeNetwork;
use roost_host::net::linux::existing_routes;
use roost_image::Images;
use roost_model::machine::Isolation;
use roost_observe::store::LogStore;
use roost_proto::traffic::TrafficFeed;
use roost_runtime::clock::SystemClock;
use roost_runtime::fs::{ensure_dir, write_atomic};
use roost_runtime::tasks::Tasks;
use roost_store::Store;
use roost_worker::{Worker, WorkerConfig, WorkerParts};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for requests under way when the node ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for tasks after that.
const TASKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the node until SIGTERM or SIGINT.
pub(crate) async fn run(config: NodeConfig) -> Result<()> {
    let _lock = Lock::take(&config.paths)?;
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let tasks = Tasks::new();
    let node = Node::start(&config, &tasks).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), tag = %config.tag, "node is ready");
    // Cancel-safe: a signal that was not taken is seen by nobody else; the process ends either way.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("node is stopping; machines run on");
    node.stop(&config, &tasks).await
}

/// The running parts that shutdown has to reach.
struct Node {
    edge: Edge,
}

impl Node {
    async fn start(config: &NodeConfig, tasks: &Tasks) -> Result<Self> {
        let paths = &config.paths;
        make_dirs(paths)?;
        let listeners = serve::bind(&config.api)?;
        serve::check_free(&config.http, "HTTP", "--http-port")?;
        serve::check_free(&config.https, "HTTPS", "--https-port")?;
        databases::refuse_damaged(paths)?;
        let key = Arc::new(
            SealingKey::open_or_create(&paths.sealing_key()).context("open the sealing key")?,
        );
        let store = Store::open(&paths.control_db())
            .await
            .context("open the control database")?;
        let images = Images::open(adapters::images_config(config))
            .await
            .context("open the image store")?;
        let logs = LogStore::new(paths.logs());

        let counter = TrafficCounter::new();
        let network = open_network(config).await?;
        let drivers = rungs::open(config, network, tasks).await?;
        let parts = WorkerParts {
            drivers: drivers.clone(),
            images: Arc::new(images.clone()),
            gauge: counter.clone(),
            clock: Arc::new(SystemClock),
        };
        let worker_config = worker_config(config, key.clone(), network, &logs);
        let worker = Worker::start(worker_config, parts, tasks)
            .await
            .context("start the worker")?;
        if let Some(address) = config.worker {
            cluster::serve_worker(address, config, worker.clone(), &key, tasks).await?;
        }
        let edge = bind_edge(config, worker.traffic(), counter, tasks).await?;

        let token = admin_token(config)?;
        let isolation = drivers.choose(Isolation::Default)?.rung();
        let facts = facts(config, &edge, isolation.as_str());
        let api = ApiState::new(ApiParts {
            store,
            workers: vec![(config.node.id.clone(), worker)],
            images: Arc::new(images.clone()),
            logs: Arc::new(logs),
            builder: Arc::new(adapters::builder(config, &images, &token)?),
            node: node_facts(config, &facts),
            sealing_key: key,
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
        });
        api.register_admin_token("admin", &token)
            .await
            .context("register the admin token")?;
        api.resume()
            .await
            .context("take up unfinished deployments")?;
        adapters::keep_images(api.clone(), images.clone(), config.images_max, tasks);
        // Before the API answers: who has waited for that reads the files next.
        daemon::announce(paths, &facts)?;
        serve::start(
            listeners,
            roost_api::router(api.clone(), images.store().clone()),
            ClientLimits::default(),
            tasks,
        );
        Ok(Self { edge })
    }

    async fn stop(self, config: &NodeConfig, tasks: &Tasks) -> Result<()> {
        tasks.stop();
        self.edge.drain(DRAIN_TIMEOUT).await;
        tasks.shutdown(TASKS_TIMEOUT).await;
        daemon::withdraw(&config.paths)
    }
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

async fn bind_edge(
    config: &NodeConfig,
    feed: TrafficFeed,
    counter: Arc<TrafficCounter>,
    tasks: &Tasks,
) -> Result<Edge> {
    let authority =
        LocalAuthority::open(&config.paths.authority()).context("open the local authority")?;
    let certificates = LocalCertificates::new(Arc::new(authority), &config.domains);
    let edge_config = EdgeConfig {
        http: config.http.clone(),
        https: config.https.clone(),
        domains: config.domains.clone(),
        ..EdgeConfig::new(config.region.clone())
    };
    Ok(Edge::bind(edge_config, feed, counter, certificates, tasks).await?)
}

/// The node's private networks: chosen at the first start, then kept.
async fn open_network(config: &NodeConfig) -> Result<NodeNetwork> {
    let path = config.paths.network();
    if path.exists() {
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        return serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()));
    }
    let routes = existing_routes()
        .await
        .context("list the routes of this host")?;
    let network = NodeNetwork::choose(config.tag, &routes)
        .context("no private network is free: every block overlaps with a route of this host")?;
    write_atomic(&path, &serde_json::to_vec(&network)?, 0o600)?;
    Ok(network)
}

fn worker_config(
    config: &NodeConfig,
    sealer: Arc<SealingKey>,
    network: NodeNetwork,
    logs: &LogStore,
) -> WorkerConfig {
    WorkerConfig {
        data_dir: config.paths.data.clone(),
        log_root: config.paths.logs(),
        region: config.region.clone(),
        addresses: adapters::addresses(network),
        sealer,
        platform_env: Vec::new(),
        drain_timeout: WorkerConfig::DRAIN_TIMEOUT_DEFAULT,
        node: config.node.clone(),
        housekeeper: adapters::housekeeper(logs.clone()),
    }
}

fn facts(config: &NodeConfig, edge: &Edge, isolation: &str) -> Facts {
    let port = |addresses: &[std::net::SocketAddr]| {
        addresses.first().map_or(0, std::net::SocketAddr::port)
    };
    Facts {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        tag: config.tag.to_string(),
        api_port: port(&config.api),
        http_port: port(edge.http_addrs()),
        https_port: port(edge.https_addrs()),
        domains: config.domains.clone(),
        isolation: isolation.into(),
    }
}

fn node_facts(config: &NodeConfig, facts: &Facts) -> NodeFacts {
    NodeFacts {
        version: facts.version.clone(),
        region: config.region.clone(),
        domains: facts.domains.clone(),
        http_port: facts.http_port,
        https_port: facts.https_port,
        registry: format!("localhost:{}", facts.api_port),
    }
}

/// The first start makes a token for whoever may read the data directory.
fn admin_token(config: &NodeConfig) -> Result<TokenSecret> {
    let path = config.paths.admin_token();
    if path.exists() {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        return TokenSecret::parse(text.trim()).with_context(|| {
            format!(
                "{} holds no token; remove it and start again",
                path.display()
            )
        });
    }
    let secret = TokenSecret::generate().context("make the admin token")?;
    write_atomic(&path, secret.expose().as_bytes(), 0o600)?;
    Ok(secret)
}
