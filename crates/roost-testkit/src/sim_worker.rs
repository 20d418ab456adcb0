//! A worker without machines: it keeps what it is told in memory.
//!
//! It behaves as the trait says (repeatable requests, refusals by state) and
//! can be told that the machines of certain images never become healthy or
//! end at once, and that what is destroyed takes its time.

mod api;
mod fate;
mod leases;
mod life;
mod operations;
mod room;

pub use fate::Fate;

use parking_lot::Mutex;
use room::SimNode;
use roost_model::id::{MachineId, NodeId, ReservationId};
use roost_model::machine::MachineState;
use roost_model::name::{AppName, RegionCode};
use roost_model::placement::Capacity;
use roost_model::time::Timestamp;
use roost_proto::worker::{
    CheckResult, Lease, LeaseNonce, MachineEvent, MachineStatus, Reservation, SecretEnv,
    WorkerError,
};
use std::collections::BTreeMap;

#[derive(Debug)]
struct SimMachine {
    status: MachineStatus,
    secrets: SecretEnv,
    events: Vec<MachineEvent>,
    lease: Option<(LeaseNonce, Lease)>,
}

#[derive(Debug, Default)]
struct Inner {
    node: SimNode,
    machines: BTreeMap<MachineId, SimMachine>,
    by_request: BTreeMap<String, MachineId>,
    fates: BTreeMap<String, Fate>,
    n_made: u64,
    clock_ms: u64,
    alive_min: BTreeMap<AppName, usize>,
    holds_destruction: bool,
    /// What the node has; as much as one likes when none is set.
    capacity: Option<Capacity>,
    reservations: BTreeMap<ReservationId, Reservation>,
}

/// A worker in memory.
#[derive(Debug, Default)]
pub struct SimWorker {
    inner: Mutex<Inner>,
}

impl SimWorker {
    /// No machines; all that come are healthy.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same on a node of this id, whose machines have ids of their own.
    pub fn on_node(id: NodeId, region: RegionCode) -> Self {
        let worker = Self::new();
        worker.inner.lock().node = SimNode { id, region };
        worker
    }

    /// Loses all machines, as a node whose disk is replaced.
    pub fn wipe(&self) {
        let mut inner = self.inner.lock();
        inner.machines.clear();
        inner.by_request.clear();
    }

    /// Looks at all machines and their events, oldest first.
    pub fn inspect(&self, mut look: impl FnMut(&MachineStatus, &[MachineEvent])) {
        for machine in self.inner.lock().machines.values() {
            look(&machine.status, &machine.events);
        }
    }

    /// Decides what becomes of machines of this name, or of this image repository, from now on.
    pub fn set_fate(&self, name_or_repository: &str, fate: Fate) {
        self.inner
            .lock()
            .fates
            .insert(name_or_repository.to_owned(), fate);
    }

    /// Lets machines that are destroyed stay `destroying` until this is taken back.
    pub fn hold_destruction(&self, hold: bool) {
        let mut inner = self.inner.lock();
        inner.holds_destruction = hold;
        if hold {
            return;
        }
        let state = MachineState::Destroying;
        inner
            .machines
            .retain(|_, machine| machine.status.state != state);
    }

    /// Limits what machines may take together.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.inner.lock().capacity = Some(capacity);
    }

    /// The secrets that a machine was given.
    pub fn secrets(&self, id: &MachineId) -> Option<SecretEnv> {
        self.inner
            .lock()
            .machines
            .get(id)
            .map(|machine| machine.secrets.clone())
    }

    /// How many machines were ever made.
    pub fn n_made(&self) -> u64 {
        self.inner.lock().n_made
    }

    /// The fewest serving machines that the app had since the last call, which begins to count anew.
    pub fn take_serving_min(&self, app: &AppName) -> usize {
        let mut inner = self.inner.lock();
        let now = inner.serving(app);
        inner.alive_min.insert(app.clone(), now).unwrap_or(now)
    }
}

impl Inner {
    fn serving(&self, app: &AppName) -> usize {
        self.machines
            .values()
            .map(|machine| &machine.status)
            .filter(|status| {
                status.spec.app == *app && status.state == MachineState::Started && !status.cordoned
            })
            .filter(|status| {
                status
                    .checks
                    .iter()
                    .all(|check| check.result == CheckResult::Passing)
            })
            .count()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_ms(1_700_000_000_000 + self.clock_ms)
    }

    fn tick(&mut self) -> Timestamp {
        self.clock_ms += 1;
        self.now()
    }

    fn find(&mut self, id: &MachineId) -> Result<&mut SimMachine, WorkerError> {
        self.machines
            .get_mut(id)
            .ok_or_else(|| WorkerError::NotFound(id.clone()))
    }

    /// Fails for a machine that is being destroyed, too.
    fn find_lasting(&mut self, id: &MachineId) -> Result<&mut SimMachine, WorkerError> {
        let machine = self.find(id)?;
        if machine.status.state == MachineState::Destroying {
            return Err(WorkerError::Conflict(format!(
                "machine {id} is being destroyed"
            )));
        }
        Ok(machine)
    }
}
