//! The worker and the API: what only one process of a node may have, and what
//! they need.

use crate::adapters;
use crate::cluster;
use crate::config::NodeConfig;
use crate::daemon::Facts;
use crate::rungs;
use crate::takeover::BothEdges;
use anyhow::{Context as _, Result};
use roost_api::{ApiParts, ApiState, HostNameParts, NodeFacts};
use roost_auth::seal::SealingKey;
use roost_auth::token::TokenSecret;
use roost_host::net::addresses::NodeNetwork;
use roost_host::net::linux::existing_routes;
use roost_image::Images;
use roost_model::machine::Isolation;
use roost_observe::store::LogStore;
use roost_proto::names::NameTable;
use roost_runtime::clock::SystemClock;
use roost_runtime::fs::write_atomic;
use roost_runtime::tasks::Tasks;
use roost_store::Store;
use roost_worker::{Drivers, Worker, WorkerConfig, WorkerParts};
use std::sync::Arc;
use tokio::sync::watch;

/// An API that is not served yet.
pub(crate) struct Api {
    pub(crate) facts: Facts,
    pub(crate) state: ApiState,
    pub(crate) images: Images,
}

/// The worker with what it and the API look after.
pub(crate) struct Machines {
    key: Arc<SealingKey>,
    store: Store,
    images: Images,
    logs: LogStore,
    drivers: Drivers,
    pub(crate) network: NodeNetwork,
    pub(crate) worker: Arc<Worker>,
}

impl Machines {
    /// Opens the databases and adopts what runs.
    pub(crate) async fn open(
        config: &NodeConfig,
        gauge: Arc<BothEdges>,
        tasks: &Tasks,
    ) -> Result<Self> {
        let paths = &config.paths;
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
        let network = open_network(config).await?;
        let drivers = rungs::open(config, network, tasks).await?;
        let parts = WorkerParts {
            drivers: drivers.clone(),
            images: Arc::new(images.clone()),
            gauge,
            clock: Arc::new(SystemClock),
        };
        let worker_config = worker_config(config, key.clone(), network, &logs);
        let worker = Worker::start(worker_config, parts, tasks)
            .await
            .context("start the worker")?;
        if let Some(address) = config.worker {
            cluster::serve_worker(address, config, worker.clone(), &key, tasks).await?;
        }
        Ok(Self {
            key,
            store,
            images,
            logs,
            drivers,
            network,
            worker,
        })
    }

    /// The API, which has told the edge of host names and does nothing else yet.
    pub(crate) async fn api(
        &self,
        config: &NodeConfig,
        facts: Facts,
        names: &watch::Sender<Arc<NameTable>>,
        tasks: &Tasks,
    ) -> Result<Api> {
        let token = admin_token(config)?;
        let isolation = self.drivers.choose(Isolation::Default)?.rung();
        let facts = Facts {
            isolation: isolation.as_str().into(),
            ..facts
        };
        let state = ApiState::new(ApiParts {
            store: self.store.clone(),
            workers: vec![(config.node.id.clone(), self.worker.clone())],
            images: Arc::new(self.images.clone()),
            logs: Arc::new(self.logs.clone()),
            builder: Arc::new(adapters::builder(config, &self.images, &token)?),
            node: NodeFacts {
                private_addresses: Some(self.network.apps_ipv6()),
                ..node_facts(config, &facts)
            },
            host_names: HostNameParts {
                table: names.clone(),
                acme: config.acme.clone(),
                public_ips: config.public_ips.clone(),
            },
            sealing_key: self.key.clone(),
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
        });
        state
            .register_admin_token("admin", &token)
            .await
            .context("register the admin token")?;
        state
            .publish_host_names()
            .await
            .context("read the host names")?;
        Ok(Api {
            facts,
            state,
            images: self.images.clone(),
        })
    }
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
        autostop_after: config.autostop_after,
        node: config.node.clone(),
        housekeeper: adapters::housekeeper(logs.clone()),
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
        edge_addresses: config.edge_addresses.clone(),
        private_addresses: None,
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
