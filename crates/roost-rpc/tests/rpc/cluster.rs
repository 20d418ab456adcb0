//! A cluster of two parties: a worker that is served, and who asks it.

use roost_auth::cluster::{ClusterAuthority, ClusterIdentity, Peer, Role};
use roost_auth::seal::SealingKey;
use roost_model::id::NodeId;
use roost_model::machine::MachineSpec;
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{Asker, Cause, CreateMachine, Launch, SecretEnv, WorkerApi};
use roost_rpc::RemoteWorker;
use roost_runtime::clock;
use roost_runtime::tasks::Tasks;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Any free port.
pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The trust between nodes.
pub(crate) struct Cluster {
    pub(crate) authority: Arc<ClusterAuthority>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sealer = SealingKey::from_bytes(&[3; 32]).unwrap();
        let authority = ClusterAuthority::open(dir.path(), &sealer).unwrap();
        Self {
            authority: Arc::new(authority),
            _dir: dir,
        }
    }

    pub(crate) fn identity(&self, n: u128, role: Role) -> Arc<ClusterIdentity> {
        self.identity_of(n, role, clock::now())
    }

    /// One that was issued at this time.
    pub(crate) fn identity_of(&self, n: u128, role: Role, at: Timestamp) -> Arc<ClusterIdentity> {
        let node = node(n);
        ClusterIdentity::new(&self.authority, Peer { node, role }, at).unwrap()
    }

    /// Node 1 serves this worker, and the API of node 2 asks.
    pub(crate) async fn remote(&self, worker: Arc<dyn WorkerApi>) -> Remote {
        let tasks = Tasks::new();
        let identity = self.identity(1, Role::Worker);
        let address = roost_rpc::serve(ANY, worker, &identity, &tasks)
            .await
            .unwrap();
        let worker = ask(1, address, &self.identity(2, Role::Api));
        Remote { worker, tasks }
    }
}

/// A worker, seen from another node.
pub(crate) struct Remote {
    pub(crate) worker: RemoteWorker,
    pub(crate) tasks: Tasks,
}

impl Remote {
    pub(crate) async fn shut_down(self) {
        assert!(
            self.tasks.shutdown(Duration::from_secs(30)).await,
            "some task does not end"
        );
    }
}

pub(crate) fn node(n: u128) -> NodeId {
    NodeId::from_ulid(ulid::Ulid::from_parts(1, n))
}

/// A client for the worker of node `n`.
pub(crate) fn ask(n: u128, address: SocketAddr, identity: &Arc<ClusterIdentity>) -> RemoteWorker {
    RemoteWorker::new(node(n), address, identity).unwrap()
}

pub(crate) fn asker() -> Asker {
    Cause::Deployment {
        id: "dep_test".into(),
    }
    .into()
}

/// A request for a machine that is started; its name is the request id.
pub(crate) fn create(request_id: &str) -> CreateMachine {
    CreateMachine {
        request_id: request_id.into(),
        spec: spec(request_id),
        secrets: SecretEnv(BTreeMap::from([("TOKEN".into(), "hunter2".into())])),
        launch: Launch::Start,
        cordoned: false,
        reservation: None,
        lease: None,
        placement: None,
    }
}

fn spec(name: &str) -> MachineSpec {
    let config = MachineConfig {
        image: "nginx:1.25".into(),
        ..MachineConfig::default()
    };
    let identity = MachineIdentity {
        app: AppName::parse("web").unwrap(),
        name: MachineName::parse(name).unwrap(),
        region: RegionCode::parse("local").unwrap(),
    };
    config.to_spec(identity).unwrap()
}
