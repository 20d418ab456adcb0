//! What a worker costs beside its drivers: a driver that does nothing, and every
//! step durable on this disk.
//!
//! - CPU of a machine from its creation until it is started, and its rest of a
//!   life, one at a time;
//! - machines started per second when many are created at once;
//! - CPU of a worker's start with many machines that run, until it has adopted all.

use super::process;
use async_trait::async_trait;
use roost_auth::seal::SealingKey;
use roost_host::driver::{MachineAddresses, RootFs, RootFsKind};
use roost_host::fake::FakeHost;
use roost_model::digest::Digest;
use roost_model::id::{MachineId, NodeId};
use roost_model::image_ref::ImageRef;
use roost_model::machine::MachineState;
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::traffic::NoTraffic;
use roost_proto::worker::{
    Asker, Cause, CreateMachine, Launch, SecretEnv, WaitFor, WorkerApi, WorkerError,
};
use roost_runtime::clock::SystemClock;
use roost_runtime::tasks::Tasks;
use roost_worker::{
    Drivers, ImageSource, NoHousekeeper, NodeProfile, ResolvedImage, Standing, Worker,
    WorkerConfig, WorkerParts,
};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Machines that are created one after the other.
const N_SINGLE: usize = 100;
/// Machines that are created at once.
const N_BURST: usize = 200;
/// Machines that run when the worker starts again.
const N_ADOPTED: usize = 500;
/// The most CPU of one machine until it is started.
const CREATE_TARGET: Duration = Duration::from_millis(20);
/// The fewest machines a second.
const BURST_TARGET: f64 = 100.0;
/// The most CPU of a start.
const START_TARGET: Duration = Duration::from_secs(2);

pub(crate) fn worker() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let node = Node {
        dir: tempfile::tempdir().unwrap(),
        host: FakeHost::new(),
    };
    runtime.block_on(measure(&node));
}

async fn measure(node: &Node) {
    let verdict = |ok| if ok { "ok" } else { "MISSED" };
    let run = node.start().await;
    let before = own_cpu();
    for n in 0..N_SINGLE {
        start_one(run.worker.clone(), format!("single-{n}")).await;
    }
    let each = (own_cpu() - before) / u32::try_from(N_SINGLE).unwrap();
    println!(
        "a machine from create to started, null driver: {:.2} ms of CPU (target ≤ {}) {}",
        each.as_secs_f64() * 1e3,
        CREATE_TARGET.as_millis(),
        verdict(each <= CREATE_TARGET)
    );

    let (start, before) = (Instant::now(), own_cpu());
    start_many(&run, "burst", N_BURST).await;
    let (took, used) = (start.elapsed(), own_cpu() - before);
    let per_second = N_BURST as f64 / took.as_secs_f64();
    println!(
        "{N_BURST} machines created at once, null driver: {per_second:.0} started a second \
         (target ≥ {BURST_TARGET}), {:.2} ms of CPU each {}",
        used.as_secs_f64() * 1e3 / N_BURST as f64,
        verdict(per_second >= BURST_TARGET)
    );

    start_many(&run, "adopted", N_ADOPTED - N_SINGLE - N_BURST).await;
    run.end().await;
    let (start, before) = (Instant::now(), own_cpu());
    let run = node.start().await;
    let adopted = run.worker.machines(None).await.unwrap();
    let (took, used) = (start.elapsed(), own_cpu() - before);
    let n_running = adopted
        .iter()
        .filter(|machine| machine.pid.is_some())
        .count();
    assert_eq!(n_running, N_ADOPTED, "all are adopted");
    println!(
        "start of a worker with {N_ADOPTED} machines that run, null driver: {:.2} s of CPU \
         (target < {}), {:.2} s {}",
        used.as_secs_f64(),
        START_TARGET.as_secs(),
        took.as_secs_f64(),
        verdict(used < START_TARGET)
    );
    run.end().await;
}

/// CPU of this process.
fn own_cpu() -> Duration {
    process::cpu(i32::try_from(std::process::id()).unwrap())
}

async fn start_many(run: &Run, prefix: &str, n_machines: usize) {
    let mut starts = JoinSet::new();
    for n in 0..n_machines {
        starts.spawn(start_one(run.worker.clone(), format!("{prefix}-{n}")));
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap();
    }
}

async fn start_one(worker: Arc<dyn WorkerApi>, name: String) {
    let asker = Asker::from(Cause::User {
        token: "tok_1".into(),
        name: "bench".into(),
    });
    let created = worker
        .create_machine(creation(&name), &asker)
        .await
        .unwrap();
    let wait = WaitFor {
        states: vec![MachineState::Started],
        instance_id: None,
        after_event: None,
        timeout: Duration::from_secs(60),
    };
    worker.wait_machine(&created.id, wait).await.unwrap();
}

fn creation(name: &str) -> CreateMachine {
    let config: MachineConfig =
        serde_json::from_value(serde_json::json!({"image": "bench:1"})).unwrap();
    let identity = MachineIdentity {
        app: AppName::parse("bench").unwrap(),
        name: MachineName::parse(name).unwrap(),
        region: RegionCode::parse("local").unwrap(),
    };
    CreateMachine {
        request_id: name.into(),
        spec: config.to_spec(identity).unwrap(),
        secrets: SecretEnv(BTreeMap::new()),
        launch: Launch::Start,
        reservation: None,
        lease: None,
        placement: None,
    }
}

/// What outlives a worker.
struct Node {
    dir: tempfile::TempDir,
    host: FakeHost,
}

/// One worker on it.
struct Run {
    worker: Arc<dyn WorkerApi>,
    tasks: Tasks,
}

impl Node {
    async fn start(&self) -> Run {
        let capacity = Capacity {
            n_cores: 1_024,
            memory: ByteSize::gib(4_096),
            n_machines: 1_000,
            overcommit: Overcommit::DEFAULT,
        };
        let config = WorkerConfig {
            data_dir: self.dir.path().to_owned(),
            log_root: self.dir.path().join("logs"),
            region: RegionCode::parse("local").unwrap(),
            addresses: Arc::new(address),
            sealer: Arc::new(SealingKey::from_bytes(&[7; 32]).unwrap()),
            platform_env: vec![],
            drain_timeout: Duration::from_secs(5),
            node: NodeProfile {
                id: NodeId::from_ulid(ulid::Ulid::from_parts(1, 1)),
                zone: None,
                labels: BTreeMap::new(),
                cordoned: false,
                capacity,
            },
            housekeeper: Arc::new(NoHousekeeper),
        };
        let drivers = Drivers::new();
        drivers.set(self.host.driver(), Standing::Proven);
        let parts = WorkerParts {
            drivers,
            images: Arc::new(NoLayers),
            gauge: Arc::new(NoTraffic),
            clock: Arc::new(SystemClock),
        };
        let tasks = Tasks::new();
        let worker = Worker::start(config, parts, &tasks).await.unwrap();
        Run { worker, tasks }
    }
}

impl Run {
    async fn end(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(30)).await);
    }
}

/// Machines have no services, so nobody connects.
fn address(slot: u32) -> MachineAddresses {
    let slot = u16::try_from(slot).unwrap();
    MachineAddresses {
        ipv4: Ipv4Addr::LOCALHOST,
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, slot),
    }
}

/// An image without layers that is always here.
struct NoLayers;

#[async_trait]
impl ImageSource for NoLayers {
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
