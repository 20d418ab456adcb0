//! The worker: starts owners, hands out the traffic feed, and holds what all share.

use crate::board::{Board, Entry};
use crate::config::{StartWorkerError, WorkerConfig};
use crate::drivers::Drivers;
use crate::health::Asker;
use crate::housekeeping;
use crate::images::ImageSource;
use crate::limits;
use crate::owner::Owner;
use crate::schedule;
use crate::sleep;
use crate::store::Store;
use crate::store::row::Row;
use parking_lot::Mutex;
use roost_host::driver::{DriverError, MachineDriver};
use roost_model::id::MachineId;
use roost_model::machine::{MachineState, Rung};
use roost_proto::traffic::{TrafficFeed, TrafficGauge};
use roost_proto::worker::{MachineStatus, SecretEnv};
use roost_runtime::clock::Clock;
use roost_runtime::tasks::Tasks;
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use tokio::sync::{Notify, oneshot, watch};

/// The owner of the machines of one node.
pub struct Worker {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

/// How others reach the owner of a machine, and learn of its changes.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Wakes the owner, which then reads what is wanted.
    pub(crate) kick: Notify,
    /// Fires at each change of the machine's record or health.
    pub(crate) changed: watch::Sender<()>,
}

impl Handle {
    fn new() -> Self {
        Self {
            kick: Notify::new(),
            changed: watch::Sender::new(()),
        }
    }
}

/// What the API, the owners, the checks and the housekeeper share.
pub(crate) struct Inner {
    pub(crate) config: WorkerConfig,
    pub(crate) store: Store,
    pub(crate) drivers: Drivers,
    pub(crate) images: Arc<dyn ImageSource>,
    pub(crate) gauge: Arc<dyn TrafficGauge>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) board: Board,
    pub(crate) asker: Asker,
    handles: Mutex<HashMap<MachineId, Arc<Handle>>>,
}

/// What a worker needs of others.
#[derive(Clone)]
pub struct WorkerParts {
    /// Run machines, by rung.
    pub drivers: Drivers,
    /// Has images.
    pub images: Arc<dyn ImageSource>,
    /// Knows requests under way.
    pub gauge: Arc<dyn TrafficGauge>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for WorkerParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerParts")
            .field("drivers", &self.drivers)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Opens the database, adopts the machines that still run, resumes what was
    /// half done, and removes from the host what is nobody's.
    ///
    /// Returns when every machine has been adopted, or after ten seconds; late
    /// ones go on by themselves. The worker ends with `tasks`; machines do not.
    pub async fn start(
        config: WorkerConfig,
        parts: WorkerParts,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, StartWorkerError> {
        let path = config.data_dir.join("worker.db");
        let refuse = |path, source| StartWorkerError::OpenDatabase { path, source };
        let store = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || Store::open(&path)).await
        };
        let store = store
            .unwrap_or(Err(crate::store::StoreError::CutOff))
            .map_err(|source| refuse(path, source))?;
        Self::start_with_store(config, parts, tasks, store).await
    }

    pub(crate) async fn start_with_store(
        config: WorkerConfig,
        parts: WorkerParts,
        tasks: &Tasks,
        store: Store,
    ) -> Result<Arc<Self>, StartWorkerError> {
        let path = config.data_dir.join("worker.db");
        let rows = store
            .all()
            .await
            .map_err(|source| StartWorkerError::OpenDatabase { path, source })?;
        let WorkerParts {
            drivers,
            images,
            gauge,
            clock,
        } = parts;
        let inner = Arc::new(Inner {
            config,
            store,
            drivers,
            images,
            gauge,
            clock,
            tasks: tasks.clone(),
            board: Board::new(),
            asker: Asker::new(),
            handles: Mutex::default(),
        });
        housekeeping::remove_leftovers(&inner).await;
        let now = inner.clock.now();
        if let Err(error) = inner.store.end_operations_of_the_gone(now).await {
            tracing::error!(%error, "cannot end operations of destroyed machines");
        }
        inner.adopt_all(&rows).await;
        tasks.spawn("worker housekeeping", housekeeping::run(Arc::clone(&inner)));
        tasks.spawn("worker sleep", sleep::run(Arc::clone(&inner)));
        tasks.spawn("worker schedules", schedule::run(Arc::clone(&inner)));
        Ok(Arc::new(Self { inner }))
    }

    /// Where traffic may go, now and at each change.
    pub fn traffic(&self) -> TrafficFeed {
        self.inner.board.feed()
    }
}

impl Inner {
    async fn adopt_all(self: &Arc<Self>, rows: &[Row]) {
        let living: Vec<&Row> = rows
            .iter()
            .filter(|row| row.state != MachineState::Destroyed)
            .collect();
        self.board.put(
            living
                .iter()
                .map(|row| (row.id.clone(), entry_of(self, row))),
        );
        let mut adoptions = Vec::new();
        for row in living {
            let (adopted, adoption) = oneshot::channel();
            self.own(row, Some(adopted));
            adoptions.push(adoption);
        }
        let all = futures_util::future::join_all(adoptions);
        if tokio::time::timeout(limits::ADOPT_TIMEOUT, all)
            .await
            .is_err()
        {
            tracing::warn!("some machines are not adopted yet; going on without waiting for them");
        }
    }

    /// Starts the owner of a machine, once.
    pub(crate) fn own(self: &Arc<Self>, row: &Row, adopted: Option<oneshot::Sender<()>>) {
        let mut handles = self.handles.lock();
        if handles.contains_key(&row.id) {
            return;
        }
        let handle = Arc::new(Handle::new());
        handles.insert(row.id.clone(), Arc::clone(&handle));
        let owner = Owner::new(Arc::clone(self), row, handle, adopted);
        self.tasks.spawn("machine owner", owner.run());
    }

    /// The driver that looks after a machine that was launched last on `rung`.
    pub(crate) fn driver_of(
        &self,
        id: &MachineId,
        rung: Option<Rung>,
    ) -> Result<Arc<dyn MachineDriver>, DriverError> {
        match rung {
            Some(rung) => self.drivers.of(rung),
            None => Err(DriverError::NotRunning(id.clone())),
        }
    }

    /// Wakes the owner of a machine.
    pub(crate) fn kick(&self, id: &MachineId) {
        if let Some(handle) = self.handles.lock().get(id) {
            handle.kick.notify_one();
        }
    }

    /// Wakes every owner.
    pub(crate) fn kick_all(&self) {
        for handle in self.handles.lock().values() {
            handle.kick.notify_one();
        }
    }

    /// Tells those who wait that a machine has changed.
    pub(crate) fn notify(&self, id: &MachineId) {
        if let Some(handle) = self.handles.lock().get(id) {
            handle.changed.send_replace(());
        }
    }

    /// A subscription to the changes of a machine.
    pub(crate) fn changes(&self, id: &MachineId) -> Option<watch::Receiver<()>> {
        self.handles
            .lock()
            .get(id)
            .map(|handle| handle.changed.subscribe())
    }

    /// Drops the handles of machines that the database has forgotten.
    pub(crate) fn forget(&self, ids: &[MachineId]) {
        let mut handles = self.handles.lock();
        for id in ids {
            handles.remove(id);
        }
    }

    /// Seals an app's secrets for a machine's row.
    pub(crate) fn seal_secrets(
        &self,
        id: &MachineId,
        secrets: &SecretEnv,
    ) -> Result<Vec<u8>, String> {
        let plain = serde_json::to_vec(&secrets.0).map_err(|error| error.to_string())?;
        self.config
            .sealer
            .seal(&plain, &secrets_context(id))
            .map_err(|error| format!("seal secrets: {error}"))
    }

    /// Opens the secrets of a machine's row.
    pub(crate) fn open_secrets(&self, row: &Row) -> Result<SecretEnv, String> {
        let plain = self
            .config
            .sealer
            .open(&row.secrets, &secrets_context(&row.id))
            .map_err(|error| format!("open secrets of machine {}: {error}", row.id))?;
        // The parser's error could quote a value.
        let secrets: BTreeMap<String, String> = serde_json::from_slice(&plain)
            .map_err(|_| format!("secrets of machine {} are damaged", row.id))?;
        Ok(SecretEnv(secrets))
    }

    /// A machine as callers see it.
    pub(crate) fn status(&self, row: Row) -> MachineStatus {
        let entry = self.board.get(&row.id);
        let addresses = row.slot.map(|slot| (self.config.addresses)(slot));
        MachineStatus {
            state: row.state,
            state_reason: row.state_reason,
            image_digest: row.image_digest,
            private_ipv4: addresses.map_or(Ipv4Addr::UNSPECIFIED, |addresses| addresses.ipv4),
            private_ipv6: addresses.map_or(Ipv6Addr::UNSPECIFIED, |addresses| addresses.ipv6),
            rung: row
                .rung
                .unwrap_or_else(|| self.drivers.rung_for(row.spec.isolation)),
            pid: entry.as_ref().and_then(|entry| entry.pid),
            checks: entry
                .map(|entry| entry.check_statuses(row.updated_at))
                .unwrap_or_default(),
            cordoned: row.cordoned,
            last_exit: row.last_exit,
            due_at: row.due_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            id: row.id,
            instance_id: row.instance_id,
            spec: row.spec,
        }
    }
}

fn secrets_context(id: &MachineId) -> Vec<u8> {
    format!("roost-worker machine secrets {id}").into_bytes()
}

/// Says to an app which of its regions is the first.
const PRIMARY_REGION: &str = "PRIMARY_REGION";

/// The board entry of a machine without a known process.
pub(crate) fn entry_of(inner: &Inner, row: &Row) -> Entry {
    let addresses = row.slot.map(|slot| (inner.config.addresses)(slot));
    // Until it is adopted nobody knows that it runs.
    let state = match row.state {
        MachineState::Started => MachineState::Starting,
        state => state,
    };
    Entry {
        app: row.spec.app.clone(),
        region: row.spec.region.clone(),
        release: row.spec.release(),
        split: row.spec.split().map(Arc::new),
        ipv4: addresses.map_or(Ipv4Addr::UNSPECIFIED, |addresses| addresses.ipv4),
        services: Entry::services_of(&row.spec),
        statics: row.spec.statics.as_slice().into(),
        rung: row.rung,
        state,
        cordoned: row.cordoned,
        is_standby: row.spec.is_standby(),
        is_primary: row
            .spec
            .process
            .env
            .get(PRIMARY_REGION)
            .is_none_or(|primary| primary == row.spec.region.as_str()),
        pid: None,
        ports: vec![],
        checks: BTreeMap::new(),
    }
}
