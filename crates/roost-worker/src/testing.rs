//! The real worker over a fake host, for tests and measurements here and elsewhere.

use crate::capacity::NodeProfile;
use crate::{
    Drivers, ImageSource, NoHousekeeper, ResolvedImage, Standing, Worker, WorkerConfig, WorkerParts,
};
use async_trait::async_trait;
use roost_auth::seal::SealingKey;
use roost_host::driver::{MachineAddresses, RootFs, RootFsKind};
use roost_host::fake::FakeHost;
use roost_model::digest::Digest;
use roost_model::id::{MachineId, NodeId};
use roost_model::image_ref::ImageRef;
use roost_model::machine::MachineState;
use roost_model::name::RegionCode;
use roost_model::placement::Capacity;
use roost_proto::traffic::NoTraffic;
use roost_proto::worker::{MachineStatus, WaitFor, WorkerApi as _, WorkerError};
use roost_runtime::clock::{Clock, SystemClock};
use roost_runtime::tasks::Tasks;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for anything; only a broken test gets there.
const PATIENCE: Duration = Duration::from_secs(60);

/// What outlives a worker: the disk and the host.
#[expect(missing_debug_implementations, reason = "a clock has none")]
pub struct Node {
    /// Where machines run.
    pub host: FakeHost,
    /// What each worker is started with.
    pub config: WorkerConfig,
    /// The clock of each worker.
    pub clock: Arc<dyn Clock>,
    dir: tempfile::TempDir,
}

impl Node {
    /// An empty node with this capacity.
    pub fn new(capacity: Capacity) -> Self {
        let dir = tempfile::tempdir().expect("a directory for temporary files");
        Self {
            host: FakeHost::new(),
            config: config(dir.path(), capacity),
            clock: Arc::new(SystemClock),
            dir,
        }
    }

    /// Where the worker's database is.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("worker.db")
    }

    /// Starts a worker; whatever image it needs is there, without layers.
    pub async fn start(&self) -> Run {
        let drivers = Drivers::new();
        drivers.set(self.host.driver(), Standing::Proven);
        let parts = WorkerParts {
            drivers,
            images: Arc::new(NoLayers),
            gauge: Arc::new(NoTraffic),
            clock: Arc::clone(&self.clock),
        };
        let tasks = Tasks::new();
        let worker = Worker::start(self.config.clone(), parts, &tasks).await;
        Run {
            worker: worker.expect("the database can be used"),
            tasks,
        }
    }
}

/// One worker on a node; stops when this is dropped.
#[derive(Debug)]
pub struct Run {
    /// The worker.
    pub worker: Arc<Worker>,
    tasks: Tasks,
}

impl Run {
    /// Waits until a machine is in this state.
    pub async fn wait(&self, id: &MachineId, state: MachineState) -> MachineStatus {
        wait(&self.worker, id, state).await
    }

    /// Stops the worker and waits until it has.
    pub async fn shut_down(self) {
        assert!(
            self.tasks.shutdown(PATIENCE).await,
            "some task does not end"
        );
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Waits until a machine is in this state.
pub async fn wait(worker: &Worker, id: &MachineId, state: MachineState) -> MachineStatus {
    let wait = WaitFor {
        states: vec![state],
        instance_id: None,
        after_event: None,
        timeout: PATIENCE,
    };
    match worker.wait_machine(id, wait).await {
        Ok(status) => status,
        Err(error) => {
            let events = worker.machine_events(id, 20).await;
            panic!("{error}; events: {events:#?}");
        }
    }
}

/// What a worker with its data in this directory is started with.
pub(crate) fn config(dir: &Path, capacity: Capacity) -> WorkerConfig {
    let sealer = SealingKey::from_bytes(&[7; 32]).expect("32 bytes are a key");
    WorkerConfig {
        data_dir: dir.to_owned(),
        log_root: dir.join("logs"),
        region: region(),
        addresses: Arc::new(addresses),
        sealer: Arc::new(sealer),
        platform_env: vec![],
        drain_timeout: Duration::from_secs(5),
        autostop_after: WorkerConfig::AUTOSTOP_AFTER_DEFAULT,
        node: NodeProfile {
            id: NodeId::from_ulid(ulid::Ulid::from_parts(1, 1)),
            zone: None,
            labels: BTreeMap::new(),
            cordoned: false,
            capacity,
        },
        housekeeper: Arc::new(NoHousekeeper),
    }
}

/// The region of the node.
pub fn region() -> RegionCode {
    RegionCode::parse("local").expect("a region's code")
}

/// Machines are on loopback; the IPv6 address tells the slot.
pub fn addresses(slot: u32) -> MachineAddresses {
    let slot = u16::try_from(slot).expect("a node has no more machines");
    MachineAddresses {
        ipv4: Ipv4Addr::LOCALHOST,
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, slot),
    }
}

/// An image of the program `/app`, without layers.
pub(crate) fn image() -> ResolvedImage {
    ResolvedImage {
        digest: Digest::from_sha256([9; 32]),
        entrypoint: vec!["/app".into()],
        cmd: vec![],
        env: vec![],
        user: String::new(),
        workdir: String::new(),
        stop_signal: None,
        root_fs: RootFs::Layers(vec![]),
    }
}

/// The same image, whatever is asked for.
struct NoLayers;

#[async_trait]
impl ImageSource for NoLayers {
    async fn resolve(
        &self,
        _: &MachineId,
        _: &ImageRef,
        _: RootFsKind,
    ) -> Result<ResolvedImage, WorkerError> {
        Ok(image())
    }

    async fn release(&self, _: &MachineId) -> Result<(), WorkerError> {
        Ok(())
    }
}
