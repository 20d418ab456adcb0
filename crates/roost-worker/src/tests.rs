//! Tests of the worker as a whole, on a fake host.

mod adoption;
mod capacity;
mod clock;
mod disk_full;
mod health;
mod kill;
mod lifecycle;
mod minimum;
mod operations;
pub(crate) mod power;
mod rungs;
pub(crate) mod samples;
mod schedule;
mod sleep;
mod standby;
mod suspend;
mod traffic;

use crate::images::{ImageSource, ResolvedImage};
use crate::store::Store;
use crate::testing;
use crate::{Drivers, Standing, Worker, WorkerConfig, WorkerParts};
use async_trait::async_trait;
use parking_lot::Mutex;
use roost_host::driver::{RootFs, RootFsKind};
use roost_host::fake::{FakeDriver, FakeHost};
use roost_model::error::{ErrorCode, Retry};
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::machine::{MachineState, Rung};
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use roost_proto::traffic::{Endpoint, TrafficGauge};
use roost_proto::worker::{MachineStatus, WorkerApi as _, WorkerError};
use roost_runtime::clock::{Clock, SystemClock};
use roost_runtime::tasks::Tasks;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Images without layers. Those with the tag `quits` are stopped by SIGQUIT.
#[derive(Debug, Default)]
struct FakeImages {
    /// What images that are asked for are refused with.
    refusal: Mutex<Option<&'static str>>,
    asked: Mutex<Vec<ImageRef>>,
    released: Mutex<Vec<MachineId>>,
}

#[async_trait]
impl ImageSource for FakeImages {
    async fn resolve(
        &self,
        _: &MachineId,
        image: &ImageRef,
        kind: RootFsKind,
    ) -> Result<ResolvedImage, WorkerError> {
        self.asked.lock().push(image.clone());
        let root_fs = match kind {
            RootFsKind::Layers => RootFs::Layers(vec![]),
            RootFsKind::Image => RootFs::Image("/image".into()),
        };
        match *self.refusal.lock() {
            None => Ok(ResolvedImage {
                root_fs,
                stop_signal: (image.tag.as_deref() == Some("quits")).then(|| "SIGQUIT".into()),
                ..samples::image("/app", "")
            }),
            Some(message) => Err(WorkerError::Image {
                message: message.into(),
                code: ErrorCode("image-not-found"),
                retry: Retry::Never,
            }),
        }
    }

    async fn release(&self, machine: &MachineId) -> Result<(), WorkerError> {
        self.released.lock().push(machine.clone());
        Ok(())
    }
}

/// A gauge that a test sets: for all machines, what is more for some, and what other nodes have.
#[derive(Debug, Default)]
struct FakeGauge(
    AtomicUsize,
    Mutex<BTreeMap<MachineId, usize>>,
    Mutex<Vec<Endpoint>>,
);

impl TrafficGauge for FakeGauge {
    fn in_flight(&self, id: &MachineId) -> usize {
        self.0.load(Ordering::SeqCst) + self.1.lock().get(id).copied().unwrap_or(0)
    }

    fn n_begun(&self, _: &MachineId) -> u64 {
        0
    }

    fn elsewhere(&self, _: &AppName) -> Vec<Endpoint> {
        self.2.lock().clone()
    }
}

/// A clock that a test sets.
#[derive(Debug)]
struct SetClock(Mutex<Timestamp>);

impl SetClock {
    fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self(Mutex::new(now)))
    }

    fn set(&self, now: Timestamp) {
        *self.0.lock() = now;
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

/// What outlives a `roostd`: the disk and the host.
struct Node {
    dir: tempfile::TempDir,
    host: FakeHost,
    images: Arc<FakeImages>,
    gauge: Arc<FakeGauge>,
    clock: Arc<dyn Clock>,
    config: WorkerConfig,
}

/// One `roostd` on a node.
struct Run {
    worker: Arc<Worker>,
    tasks: Tasks,
    driver: Arc<FakeDriver>,
}

impl Node {
    fn new() -> Self {
        Self::on(Rung::Container)
    }

    /// A node whose machines are on this rung.
    fn on(rung: Rung) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = testing::config(dir.path(), samples::capacity(3));
        Self {
            dir,
            host: FakeHost::of_rung(rung),
            images: Arc::default(),
            gauge: Arc::default(),
            clock: Arc::new(SystemClock),
            config,
        }
    }

    /// Waits until nothing is left on the host: an end is recorded before it is cleared.
    async fn wait_clear(&self, at: &str) {
        for _ in 0..1_000 {
            if self.host.present().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{at}: {:?} is left on the host", self.host.present());
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("worker.db")).unwrap()
    }

    async fn start(&self) -> Run {
        self.start_with(self.host.driver(), self.store()).await
    }

    async fn start_with(&self, driver: Arc<FakeDriver>, store: Store) -> Run {
        let drivers = Drivers::new();
        drivers.set(driver.clone(), Standing::Proven);
        self.start_parts(driver, drivers, store).await
    }

    /// With drivers of several rungs.
    async fn start_on(&self, drivers: Drivers) -> Run {
        self.start_parts(self.host.driver(), drivers, self.store())
            .await
    }

    async fn start_parts(&self, driver: Arc<FakeDriver>, drivers: Drivers, store: Store) -> Run {
        let tasks = Tasks::new();
        let parts = WorkerParts {
            drivers,
            images: self.images.clone(),
            gauge: self.gauge.clone(),
            clock: Arc::clone(&self.clock),
        };
        let config = self.config.clone();
        let worker = Worker::start_with_store(config, parts, &tasks, store)
            .await
            .unwrap();
        Run {
            worker,
            tasks,
            driver,
        }
    }
}

impl Run {
    async fn wait(&self, id: &MachineId, state: MachineState) -> MachineStatus {
        testing::wait(&self.worker, id, state).await
    }

    /// A new machine that runs.
    async fn started(&self) -> MachineStatus {
        let created = self
            .worker
            .create_machine(samples::create("r1"), &samples::asker())
            .await
            .unwrap();
        self.wait(&created.id, MachineState::Started).await
    }

    /// Ends this `roostd` as a kill does: nothing that it began goes on.
    fn kill(self) {
        self.driver.cut();
        self.worker.inner.store.power.cut();
        // A write that had begun has ended when the next one looks at what there is.
        self.worker.inner.store.settle();
        self.tasks.stop();
    }

    async fn shut_down(self) {
        assert!(
            self.tasks.shutdown(Duration::from_secs(10)).await,
            "some task does not end"
        );
    }
}
