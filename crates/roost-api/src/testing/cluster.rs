//! A control plane over simulated nodes whose calls fail when a test says so. Nothing goes on
//! by itself: a test calls what it is about.

use super::parts;
use crate::fleet::Standing;
use crate::limits;
use crate::placement;
use crate::state::{ApiParts, ApiState};
use parking_lot::Mutex;
use roost_model::id::NodeId;
use roost_model::machine::RestartWhen;
use roost_model::name::{AppName, RegionCode};
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{
    Asker, Cause, CreateMachine, Launch, MachineStatus, SecretEnv, WorkerApi as _,
};
use roost_runtime::clock::Clock;
use roost_store::placements::Placement;
use roost_testkit::faults::{Faults, Faulty};
use roost_testkit::sim_worker::SimWorker;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Every call is done, and nobody hears of it.
pub(crate) const LOST: Faults = Faults {
    lost_permille: 1_000,
    ..NONE
};
/// No call arrives.
pub(crate) const SILENT: Faults = Faults {
    refused_permille: 1_000,
    ..NONE
};
/// All goes well.
pub(crate) const NONE: Faults = Faults {
    seed: 0,
    delay_max: Duration::ZERO,
    refused_permille: 0,
    lost_permille: 0,
    death_permille: 0,
    dead_calls: 0,
};

/// The time that a test says it is.
#[derive(Debug)]
struct SetClock(Mutex<Timestamp>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

/// One node: its worker, and the way to it.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) worker: Arc<SimWorker>,
    link: Arc<Faulty<SimWorker>>,
}

impl Node {
    /// What becomes of calls from now on.
    pub(crate) fn calls(&self, faults: Faults) {
        self.link.set_faults(faults);
    }

    /// Gives it room for so many machines from now on; what is known of it stays as it was.
    pub(crate) fn set_room(&self, n_machines: u32) {
        self.worker.set_capacity(Capacity {
            n_cores: 100,
            memory: ByteSize::gib(100),
            n_machines,
            overcommit: Overcommit::NONE,
        });
    }

    /// The machines that it has.
    pub(crate) async fn machines(&self) -> Vec<MachineStatus> {
        self.worker.machines(None).await.unwrap()
    }
}

/// Nodes, a control plane over them, and the app `web` with the release 1 that serves.
pub(crate) struct Cluster {
    pub(crate) state: ApiState,
    pub(crate) nodes: Vec<Node>,
    clock: Arc<SetClock>,
    database: PathBuf,
}

pub(crate) fn user() -> Asker {
    Asker::from(Cause::User {
        token: "tok_1".into(),
        name: "ann".into(),
    })
}

impl Cluster {
    pub(crate) async fn start(dir: &Path, n_nodes: u128) -> Self {
        let node = |n: u128| {
            let (id, region) = (NodeId::from_ulid(n.into()), RegionCode::parse("local"));
            let worker = Arc::new(SimWorker::on_node(id.clone(), region.unwrap()));
            let link = Arc::new(Faulty::new(Arc::clone(&worker), id.clone(), NONE));
            Node { id, worker, link }
        };
        let nodes: Vec<Node> = (1..=n_nodes).map(node).collect();
        let workers = nodes.iter();
        let workers = workers.map(|node| (node.id.clone(), Arc::clone(&node.link) as _));
        let clock = Arc::new(SetClock(Mutex::new(Timestamp::from_ms(1_000_000))));
        let state = ApiState::new(ApiParts {
            clock: Arc::clone(&clock) as _,
            ..parts(dir, workers.collect()).await
        });
        let name = AppName::parse("web").unwrap();
        let now = state.clock.now();
        state
            .store
            .create_app("app_1", &name, now, None)
            .await
            .unwrap();
        let cluster = Self {
            state,
            nodes,
            clock,
            database: dir.join("control.db"),
        };
        cluster.state.worker.refresh_older(Instant::now()).await;
        cluster
    }

    /// Lets so much time pass on the wall clock.
    pub(crate) fn pass(&self, time: Duration) {
        let mut now = self.clock.0.lock();
        *now = now.after(time);
    }

    /// From now on no change of a placement finds room, however small it is.
    pub(crate) async fn fill_disk(&self) {
        let database = rusqlite::Connection::open(&self.database).unwrap();
        let needs_room = "CREATE TABLE filler (bytes BLOB);
            CREATE TRIGGER needs_room BEFORE UPDATE ON placements
            BEGIN INSERT INTO filler VALUES (zeroblob(100000)); END;";
        database.execute_batch(needs_room).unwrap();
        self.state.store.limit_pages(1).await.unwrap();
    }

    /// Ends what [`Self::fill_disk`] began.
    pub(crate) async fn make_room(&self) {
        self.state.store.limit_pages(1_000_000).await.unwrap();
    }

    /// Has a node silent until it is lost, in a runtime whose clock is paused.
    pub(crate) async fn lose(&self, idx: usize) {
        self.nodes[idx].calls(SILENT);
        for time in [Duration::ZERO, limits::LOST_AFTER] {
            tokio::time::advance(time).await;
            self.state.worker.refresh_older(Instant::now()).await;
        }
        let standing = self.state.worker.standing(&self.nodes[idx].id);
        assert_eq!(standing, Standing::Lost);
    }

    /// A request for a machine of a deployment, which is kept, or for one by hand, which is not.
    pub(crate) fn request(&self, name: &str, is_kept: bool) -> CreateMachine {
        let config: MachineConfig = serde_json::from_value(json!({"image": "hello"})).unwrap();
        let identity = MachineIdentity {
            app: AppName::parse("web").unwrap(),
            name: name.to_owned().try_into().unwrap(),
            region: RegionCode::parse("local").unwrap(),
        };
        let mut spec = config.to_spec(identity).unwrap();
        if is_kept {
            spec.restart.when = RestartWhen::Always;
            spec.metadata = BTreeMap::from([("roost_deployment_id".into(), "dep_1".into())]);
        }
        assert_eq!(placement::is_kept(&spec), is_kept);
        CreateMachine {
            request_id: format!("request-{name}"),
            spec,
            secrets: SecretEnv::default(),
            launch: Launch::Start,
            cordoned: false,
            reservation: None,
            lease: None,
            placement: None,
        }
    }

    /// A machine of this name on whatever node takes it.
    pub(crate) async fn create(&self, name: &str, is_kept: bool) -> MachineStatus {
        let request = self.request(name, is_kept);
        let made = placement::create(&self.state, request, &user()).await;
        made.unwrap()
    }

    /// The node that is recorded for a machine of this name, and the others.
    pub(crate) async fn node_of(&self, name: &str) -> usize {
        let placed = self.placement(name).await.unwrap();
        let mut nodes = self.nodes.iter();
        nodes.position(|node| node.id == placed.node).unwrap()
    }

    /// What is recorded of the machine of this name.
    pub(crate) async fn placement(&self, name: &str) -> Option<Placement> {
        let id = format!("request-{name}");
        self.state.store.placement(&id).await.unwrap()
    }

    /// How many machines all nodes have together.
    pub(crate) async fn n_machines(&self) -> usize {
        let mut n = 0;
        for node in &self.nodes {
            n += node.machines().await.len();
        }
        n
    }
}
