//! What the API is made of.

mod app_gates;

use crate::app::apps;
use crate::error::ApiError;
use crate::fleet::Fleet;
use crate::host_names::{self, HostNameParts, HostNames};
use crate::limits;
use crate::ports::{ImageBuilder, ImageSource, LogSource, PortError};
use crate::reconcile;
use crate::workflows;
use app_gates::AppGates;
use roost_auth::seal::SealingKey;
use roost_auth::token::TokenSecret;
use roost_fsm::Engine;
use roost_fsm::engine::RegisterError;
use roost_model::id::NodeId;
use roost_model::name::{AppName, RegionCode};
use roost_proto::release_traffic::Reading;
use roost_proto::traffic::{PortFeed, TrafficRecords};
use roost_proto::worker::WorkerApi;
use roost_runtime::clock::Clock;
use roost_runtime::tasks::Tasks;
use roost_store::records::TokenRecord;
use roost_store::{Store, StoreError};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Mutex, Semaphore, watch};

/// What the API says about the node it runs on.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Version of `roostd`.
    pub version: String,
    /// The node's region.
    pub region: RegionCode,
    /// The domains under which every app has a name, best first.
    pub domains: Vec<String>,
    /// The edge's HTTP port.
    pub http_port: u16,
    /// The edge's HTTPS port.
    pub https_port: u16,
    /// Host and port of the built-in registry.
    pub registry: String,
    /// Addresses of the host that apps may have for themselves.
    pub edge_addresses: Vec<IpAddr>,
    /// The prefix of the addresses at which its machines reach apps through the edge.
    pub private_addresses: Option<Ipv6Addr>,
}

/// The parts that an API is put together from.
pub struct ApiParts {
    /// The control database.
    pub store: Store,
    /// The owners of machines, one for each node.
    pub workers: Vec<(NodeId, Arc<dyn WorkerApi>)>,
    /// Images.
    pub images: Arc<dyn ImageSource>,
    /// Logs.
    pub logs: Arc<dyn LogSource>,
    /// Builds.
    pub builder: Arc<dyn ImageBuilder>,
    /// The node.
    pub node: NodeFacts,
    /// Custom host names and what else the edge is told of apps.
    pub host_names: HostNameParts,
    /// The key that seals secrets.
    pub sealing_key: Arc<SealingKey>,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where its tasks run.
    pub tasks: Tasks,
}

impl std::fmt::Debug for ApiParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiParts")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// The API. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub(crate) store: Store,
    /// The workers of all nodes, as if they were one.
    pub(crate) worker: Arc<Fleet>,
    pub(crate) images: Arc<dyn ImageSource>,
    pub(crate) logs: Arc<dyn LogSource>,
    pub(crate) builder: Arc<dyn ImageBuilder>,
    pub(crate) node: Arc<NodeFacts>,
    pub(crate) host_names: Arc<HostNames>,
    pub(crate) sealing_key: Arc<SealingKey>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    /// One for each request that may be worked on at once.
    pub(crate) work_permits: Arc<Semaphore>,
    /// Held shared while a machine of the app is created, and alone while the deletion of the
    /// app begins, so that no machine is made for an app that is gone.
    pub(crate) machine_gates: Arc<AppGates>,
    /// Held while a deletion removes something, so that no other one has ended meanwhile and
    /// left the name to a new app.
    pub(crate) deletion_gate: Arc<Mutex<()>>,
    /// Changes whenever a deployment makes a step, to wake event streams.
    pub(crate) deploy_steps: watch::Sender<u64>,
    /// Executes the control plane's workflows, once the API has been started.
    pub(crate) engine: Arc<OnceLock<Engine>>,
    /// What became of the ports that apps ask for, once there is an edge.
    pub(crate) edge_ports: Arc<OnceLock<PortFeed>>,
    /// What the edge has seen of its requests, once there is one.
    pub(crate) edge_records: Arc<OnceLock<Arc<dyn TrafficRecords>>>,
    #[cfg(test)]
    pub(crate) kill_switch: Arc<crate::workflows::KillSwitch>,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintTokenError {
    /// The system gave no random bytes.
    #[error("make a token")]
    Randomness(#[from] roost_auth::token::NoRandomness),
    /// It could not be recorded.
    #[error("record a token")]
    Store(#[from] StoreError),
}

/// What the last process left could not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The control database failed.
    #[error("read what is unfinished")]
    Store(#[from] StoreError),
    /// A workflow contradicts itself.
    #[error("start the engine of workflows")]
    Workflow(#[from] RegisterError),
}

impl ApiState {
    /// The API made of these parts.
    pub fn new(parts: ApiParts) -> Self {
        let fleet = Fleet::new(parts.store.clone(), Arc::clone(&parts.clock));
        for (node, worker) in parts.workers {
            fleet.join(node, worker);
        }
        Self {
            store: parts.store,
            worker: Arc::new(fleet),
            images: parts.images,
            logs: parts.logs,
            builder: parts.builder,
            node: Arc::new(parts.node),
            host_names: Arc::new(HostNames::new(parts.host_names)),
            sealing_key: parts.sealing_key,
            clock: parts.clock,
            tasks: parts.tasks,
            work_permits: Arc::new(Semaphore::new(limits::WORK_MAX)),
            machine_gates: Arc::default(),
            deletion_gate: Arc::default(),
            deploy_steps: watch::Sender::new(0),
            engine: Arc::default(),
            edge_ports: Arc::default(),
            edge_records: Arc::default(),
            #[cfg(test)]
            kill_switch: Arc::default(),
        }
    }

    /// Takes up the deletions and deployments that the last process left unfinished, and
    /// begins to look after the nodes. Called once, at start.
    pub async fn resume(&self) -> Result<(), ResumeError> {
        self.worker.load().await?;
        self.worker.watch(&self.tasks);
        host_names::publish(self).await?;
        apps::resume_deletions(self).await?;
        let engine = workflows::start(self)?;
        self.engine.get_or_init(|| engine);
        reconcile::spawn(self);
        Ok(())
    }

    /// Tells the edge of custom host names and dedicated addresses, before anything else of the API begins.
    pub async fn publish_host_names(&self) -> Result<(), StoreError> {
        host_names::publish(self).await
    }

    /// Adds a node, or another way to one.
    pub fn join(&self, node: NodeId, worker: Arc<dyn WorkerApi>) {
        self.worker.join(node, worker);
    }

    /// From now on the statuses of apps say what became of their ports. The first feed stays.
    pub fn show_ports(&self, feed: PortFeed) {
        self.edge_ports.get_or_init(|| feed);
    }

    /// From now on the API tells what this edge has seen. The first edge stays.
    pub fn show_records(&self, records: Arc<dyn TrafficRecords>) {
        self.edge_records.get_or_init(|| records);
    }

    /// How the machines of an app have answered, by release and as all edges have seen it, while
    /// one of its releases is tried out; nothing without an edge.
    pub fn tallies(&self, app: &AppName) -> Reading {
        let records = self.edge_records.get();
        records.map_or_else(Reading::default, |records| records.tallies(app))
    }

    /// What executes workflows.
    pub(crate) fn engine(&self) -> Result<&Engine, ApiError> {
        let engine = self.engine.get();
        engine.ok_or_else(|| ApiError::internal("the API has not been started"))
    }

    /// Makes a token that may do everything. The secret is shown here only.
    pub async fn mint_admin_token(&self, name: &str) -> Result<TokenSecret, MintTokenError> {
        let secret = TokenSecret::generate()?;
        self.register_admin_token(name, &secret).await?;
        Ok(secret)
    }

    /// Makes a known secret a token that may do everything; again is harmless.
    pub async fn register_admin_token(
        &self,
        name: &str,
        secret: &TokenSecret,
    ) -> Result<(), StoreError> {
        let hash = secret.hash().to_hex();
        if self.store.token_by_hash(&hash).await?.is_some() {
            return Ok(());
        }
        let record = TokenRecord {
            id: format!("tok_{}", ulid::Ulid::generate()),
            name: name.to_owned(),
            hash,
            scope: roost_auth::policy::Scope::Admin.to_string(),
            created_at: self.clock.now(),
        };
        self.store.add_token(&record).await
    }

    /// Where an app answers, best first.
    pub(crate) fn urls(&self, app: &str) -> Vec<String> {
        let url = |scheme: &str, domain: &str, port: u16, usual: u16| {
            if port == usual {
                format!("{scheme}://{app}.{domain}")
            } else {
                format!("{scheme}://{app}.{domain}:{port}")
            }
        };
        let node = &self.node;
        node.domains
            .iter()
            .flat_map(|domain| {
                [
                    url("http", domain, node.http_port, 80),
                    url("https", domain, node.https_port, 443),
                ]
            })
            .collect()
    }
}

impl From<PortError> for ApiError {
    fn from(error: PortError) -> Self {
        Self {
            hint: error.hint,
            ..Self::new(error.blame, error.code, error.message)
        }
    }
}
