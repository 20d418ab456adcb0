//! A real worker whose machines are fakes.

use async_trait::async_trait;
use roost_auth::seal::SealingKey;
use roost_host::driver::{MachineAddresses, RootFs, RootFsKind};
use roost_host::fake::FakeHost;
use roost_model::digest::Digest;
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::machine::Rung;
use roost_model::name::RegionCode;
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_proto::traffic::TrafficGauge;
use roost_proto::worker::WorkerError;
use roost_runtime::clock::SystemClock;
use roost_runtime::tasks::Tasks;
use roost_worker::{
    Drivers, ImageSource, NoHousekeeper, NodeProfile, ResolvedImage, Standing, Worker,
    WorkerConfig, WorkerParts,
};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// An image of one program, whatever is asked for.
struct Images;

#[async_trait]
impl ImageSource for Images {
    async fn resolve(
        &self,
        _: &MachineId,
        _: &ImageRef,
        _: RootFsKind,
    ) -> Result<ResolvedImage, WorkerError> {
        Ok(ResolvedImage {
            digest: Digest::from_sha256([9; 32]),
            entrypoint: vec!["/app".into()],
            cmd: vec![],
            env: vec![],
            user: String::new(),
            workdir: String::new(),
            stop_signal: None,
            root_fs: RootFs::Layers(vec![]),
        })
    }

    async fn release(&self, _: &MachineId) -> Result<(), WorkerError> {
        Ok(())
    }
}

/// Nobody sends requests.
struct NoTraffic;

impl TrafficGauge for NoTraffic {
    fn in_flight(&self, _: &MachineId) -> usize {
        0
    }
}

/// A worker; its tasks end with this.
pub(crate) struct Real {
    pub(crate) worker: Arc<Worker>,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// On a node with 1 GiB of memory that promises nothing twice.
pub(crate) async fn start() -> Real {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let addresses = |slot: u32| MachineAddresses {
        ipv4: Ipv4Addr::LOCALHOST,
        ipv6: Ipv6Addr::from(u128::from(slot)),
    };
    let config = WorkerConfig {
        data_dir: dir.path().to_owned(),
        log_root: dir.path().join("logs"),
        region: RegionCode::parse("local").unwrap(),
        addresses: Arc::new(addresses),
        sealer: Arc::new(SealingKey::from_bytes(&[7; 32]).unwrap()),
        platform_env: vec![],
        drain_timeout: Duration::from_secs(5),
        node: NodeProfile {
            id: crate::cluster::node(1),
            zone: None,
            labels: BTreeMap::new(),
            cordoned: false,
            capacity: Capacity {
                n_cores: 8,
                memory: ByteSize::gib(1),
                n_machines: 100,
                overcommit: Overcommit::NONE,
            },
        },
        housekeeper: Arc::new(NoHousekeeper),
    };
    let drivers = Drivers::new();
    let host = FakeHost::of_rung(Rung::Container);
    drivers.set(host.driver(), Standing::Proven);
    let parts = WorkerParts {
        drivers,
        images: Arc::new(Images),
        gauge: Arc::new(NoTraffic),
        clock: Arc::new(SystemClock),
    };
    let worker = Worker::start(config, parts, &tasks).await.unwrap();
    Real {
        worker,
        tasks,
        _dir: dir,
    }
}
