//! A worker without machines: it keeps what it is told in memory.
//!
//! It behaves as the trait says (repeatable requests, refusals by state) and
//! can be told that the machines of certain images never become healthy or
//! end at once, and that what is destroyed takes its time.

mod fate;
mod leases;
mod operations;

pub use fate::Fate;

use async_trait::async_trait;
use parking_lot::Mutex;
use roost_model::id::{InstanceId, MachineId, NodeId, ReservationId, RunId};
use roost_model::machine::{
    ExitCause, Guest, Isolation, MachineExit, MachineState, Rung, StopSignal,
};
use roost_model::name::{AppName, RegionCode};
use roost_model::placement::{Capacity, NodeView, Overcommit, Usage};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::worker::{
    Asker, Cause, CheckResult, CheckStatus, CreateMachine, ExecCommand, ExecOutcome, Launch, Lease,
    LeaseNonce, ListeningSocket, MachineEvent, MachineStatus, Operation, OperationFilter, Process,
    ReleaseLease, Reservation, Reserve, RungStatus, SecretEnv, TakeLease, UpdateMachine, WaitFor,
    WorkerApi, WorkerError,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Why the node starts no microVMs.
const NO_VM: &str = "there is no KVM";
/// The room of a node that nobody has limited.
const AMPLE: Capacity = Capacity {
    n_cores: 1_000,
    memory: ByteSize::gib(10_000),
    n_machines: 10_000,
    overcommit: Overcommit::DEFAULT,
};

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

/// Which node a worker is on.
#[derive(Debug)]
struct SimNode {
    id: NodeId,
    region: RegionCode,
}

impl Default for SimNode {
    fn default() -> Self {
        Self {
            id: NodeId::from_ulid(ulid::Ulid::nil()),
            region: RegionCode::parse("local").expect("a region code"),
        }
    }
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

    /// What the node is, has, and has promised.
    fn node(&self) -> NodeView {
        let mut machines: BTreeMap<AppName, BTreeMap<String, u32>> = BTreeMap::new();
        let mut used = Usage::default();
        for machine in self.machines.values() {
            let spec = &machine.status.spec;
            used = used.plus(Usage::of(spec.guest));
            let groups = machines.entry(spec.app.clone()).or_default();
            *groups.entry(spec.process_group().to_owned()).or_default() += 1;
        }
        let reserved = self.reservations.values();
        let reserved = reserved.map(|reservation| Usage::of(reservation.guest));
        NodeView {
            id: self.node.id.clone(),
            region: self.node.region.clone(),
            zone: None,
            labels: BTreeMap::new(),
            refused_rungs: BTreeMap::from([(Rung::Vm, NO_VM.to_owned())]),
            cordoned: false,
            capacity: self.capacity.unwrap_or(AMPLE),
            used,
            reserved: reserved.fold(Usage::default(), Usage::plus),
            disk_free: ByteSize::gib(100),
            images: BTreeSet::new(),
            machines,
        }
    }

    /// The id of the machine that was made last: its node's, and its number.
    fn machine_id(&self) -> MachineId {
        let mix = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let node = self.node.id.as_str().bytes().fold(0x811c_9dc5, mix);
        let (node, n) = (node.to_be_bytes(), self.n_made.to_be_bytes());
        MachineId::from_bytes([node[0], node[1], node[2], node[3], n[5], n[6], n[7]])
    }

    /// Whether a machine of this size has room.
    fn admit(&self, guest: Guest) -> Result<(), WorkerError> {
        let node = self.node();
        match node.capacity.shortage(node.taken(), guest) {
            Some(shortage) => Err(WorkerError::NoCapacity(shortage.to_string())),
            None => Ok(()),
        }
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

    /// Moves a machine to a state, with an event.
    fn set_state(
        &mut self,
        id: &MachineId,
        kind: &str,
        state: MachineState,
        cause: Option<&Cause>,
    ) -> Result<MachineStatus, WorkerError> {
        let at = self.tick();
        let machine = self.find(id)?;
        machine.status.state = state;
        machine.status.updated_at = at;
        let seq = u64::try_from(machine.events.len()).unwrap_or(0) + 1;
        let source = cause.map_or("worker", Cause::as_str).to_owned();
        let detail = match cause {
            Some(cause) => serde_json::json!({ "cause": cause }),
            None => serde_json::json!({}),
        };
        machine.events.push(MachineEvent {
            seq,
            at,
            kind: kind.to_owned(),
            state,
            source,
            detail,
        });
        let status = machine.status.clone();
        let serving = self.serving(&status.spec.app);
        if let Some(min) = self.alive_min.get_mut(&status.spec.app) {
            *min = serving.min(*min);
        }
        Ok(status)
    }

    fn start(&mut self, id: &MachineId, cause: &Cause) -> Result<MachineStatus, WorkerError> {
        let machine = self.find_lasting(id)?;
        if machine.status.state == MachineState::Started {
            return Ok(machine.status.clone());
        }
        let spec = machine.status.spec.clone();
        let fate = self.fate(&spec);
        if fate == Fate::Hangs {
            return self.set_state(id, "start", MachineState::Starting, Some(cause));
        }
        let at = self.tick();
        let machine = self.find(id)?;
        let result = if fate == Fate::Healthy {
            CheckResult::Passing
        } else {
            CheckResult::Critical
        };
        machine.status.pid = Some(4242);
        machine.status.checks = machine
            .status
            .spec
            .services
            .iter()
            .enumerate()
            .map(|(idx, service)| CheckStatus {
                name: format!("servicecheck-{idx}-tcp-{}", service.internal_port),
                result,
                output: if result == CheckResult::Passing {
                    "connected"
                } else {
                    "connection refused"
                }
                .into(),
                updated_at: at,
            })
            .collect();
        self.set_state(id, "start", MachineState::Started, Some(cause))?;
        if fate == Fate::Exits {
            let machine = self.find(id)?;
            machine.status.pid = None;
            machine.status.last_exit = Some(MachineExit {
                exit_code: 1,
                signal: None,
                oom_killed: false,
                cause: ExitCause::App,
            });
            return self.set_state(id, "exit", MachineState::Failed, None);
        }
        Ok(self.find(id)?.status.clone())
    }

    /// Room for a new machine: what was held for it, or what is free.
    fn take_room(&mut self, request: &CreateMachine) -> Result<(), WorkerError> {
        match &request.reservation {
            Some(id) => {
                let (now, guest) = (self.now(), request.spec.guest);
                self.reservations.retain(|_, held| held.expires_at > now);
                match self.reservations.get(id) {
                    Some(held) if held.guest.covers(guest) => drop(self.reservations.remove(id)),
                    Some(_) => {
                        let text = format!("reservation {id} is for another size");
                        return Err(WorkerError::Conflict(text));
                    }
                    None => {
                        let text = format!("reservation {id} has expired or was used");
                        return Err(WorkerError::Conflict(text));
                    }
                }
            }
            None => self.admit(request.spec.guest)?,
        }
        Ok(())
    }

    fn create(
        &mut self,
        request: CreateMachine,
        cause: &Cause,
    ) -> Result<MachineStatus, WorkerError> {
        if let Some(id) = self.by_request.get(&request.request_id).cloned() {
            return Ok(self.find(&id)?.status.clone());
        }
        let is_taken = |machine: &SimMachine| {
            machine.status.spec.app == request.spec.app
                && machine.status.spec.name == request.spec.name
        };
        if self.machines.values().any(is_taken) {
            return Err(WorkerError::Conflict(format!(
                "a machine named {} exists",
                request.spec.name
            )));
        }
        self.take_room(&request)?;
        self.n_made += 1;
        let id = self.machine_id();
        let at = self.tick();
        let image_digest = request.spec.image.digest.as_ref().map(ToString::to_string);
        let rung = match request.spec.isolation {
            Isolation::Default => Rung::Container,
            Isolation::Rung(rung) => rung,
        };
        let status = MachineStatus {
            id: id.clone(),
            instance_id: InstanceId::from_ulid(ulid::Ulid::generate()),
            spec: request.spec,
            state: MachineState::Created,
            state_reason: None,
            image_digest,
            private_ipv4: Ipv4Addr::new(10, 0, 0, 2),
            private_ipv6: Ipv6Addr::LOCALHOST,
            rung,
            pid: None,
            checks: vec![],
            cordoned: false,
            last_exit: None,
            due_at: None,
            created_at: at,
            updated_at: at,
        };
        let machine = SimMachine {
            status,
            secrets: request.secrets,
            events: vec![],
            lease: None,
        };
        self.machines.insert(id.clone(), machine);
        self.by_request.insert(request.request_id, id.clone());
        if let Some(lease) = request.lease {
            self.take_lease(&id, lease, &Asker::from(cause.clone()))?;
        }
        self.set_state(&id, "launch", MachineState::Created, Some(cause))?;
        if let (Some(why), Some(event)) = (request.placement, self.find(&id)?.events.last_mut()) {
            event.detail["placement"] = why.into();
        }
        match request.launch {
            Launch::Start => self.start(&id, cause),
            Launch::Skip => Ok(self.find(&id)?.status.clone()),
        }
    }
}

#[async_trait]
impl WorkerApi for SimWorker {
    async fn capacity(&self) -> Result<NodeView, WorkerError> {
        let mut inner = self.inner.lock();
        let now = inner.now();
        inner.reservations.retain(|_, held| held.expires_at > now);
        Ok(inner.node())
    }

    async fn reserve(&self, request: Reserve) -> Result<Reservation, WorkerError> {
        let mut inner = self.inner.lock();
        if let Some(earlier) = inner.reservations.get(&request.id) {
            return Ok(earlier.clone());
        }
        inner.admit(request.guest)?;
        let reservation = Reservation {
            id: request.id,
            guest: request.guest,
            expires_at: inner.now().after(request.hold),
        };
        let id = reservation.id.clone();
        inner.reservations.insert(id, reservation.clone());
        Ok(reservation)
    }

    async fn release(&self, id: &ReservationId) -> Result<(), WorkerError> {
        self.inner.lock().reservations.remove(id);
        Ok(())
    }

    async fn create_machine(
        &self,
        request: CreateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.inner.lock().create(request, &asker.cause)
    }

    async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let machine = inner.find_lasting(id)?;
        if request
            .current_version
            .is_some_and(|version| version != machine.status.instance_id)
        {
            return Err(WorkerError::Conflict(
                "the machine has another version".into(),
            ));
        }
        machine.status.spec = request.spec;
        machine.secrets = request.secrets;
        machine.status.instance_id = InstanceId::from_ulid(ulid::Ulid::generate());
        inner.set_state(id, "update", MachineState::Stopped, Some(&asker.cause))?;
        match request.launch {
            Launch::Start => inner.start(id, &asker.cause),
            Launch::Skip => Ok(inner.find(id)?.status.clone()),
        }
    }

    async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError> {
        Ok(self.inner.lock().find(id)?.status.clone())
    }

    async fn machines(&self, app: Option<&AppName>) -> Result<Vec<MachineStatus>, WorkerError> {
        let inner = self.inner.lock();
        let statuses = inner
            .machines
            .values()
            .map(|machine| machine.status.clone());
        Ok(statuses
            .filter(|status| app.is_none_or(|app| status.spec.app == *app))
            .collect())
    }

    async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        inner.start(id, &asker.cause)
    }

    async fn stop_machine(
        &self,
        id: &MachineId,
        _signal: Option<StopSignal>,
        _timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        inner.find_lasting(id)?.status.pid = None;
        inner.set_state(id, "stop", MachineState::Stopped, Some(&asker.cause))
    }

    async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let status = &mut inner.find_lasting(id)?.status;
        match (status.rung, status.state) {
            (rung @ Rung::Container, _) => Err(WorkerError::CannotSuspend {
                machine: id.clone(),
                rung,
            }),
            (_, MachineState::Suspended) => Ok(status.clone()),
            (_, MachineState::Started) => {
                status.pid = None;
                inner.set_state(id, "suspend", MachineState::Suspended, Some(&asker.cause))
            }
            (_, state) => Err(WorkerError::Conflict(format!(
                "machine {id} is {}: only a started machine can be suspended",
                state.as_str()
            ))),
        }
    }

    async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError> {
        let refusal = |rung| (rung == Rung::Vm).then(|| NO_VM.to_owned());
        let status = |rung| RungStatus {
            rung,
            refusal: refusal(rung),
        };
        Ok(Rung::ALL.map(status).to_vec())
    }

    async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        inner.find_lasting(id)?;
        inner.set_state(id, "restart", MachineState::Stopped, Some(&asker.cause))?;
        inner.start(id, &asker.cause)
    }

    async fn signal_machine(
        &self,
        id: &MachineId,
        _signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        match inner.find(id)?.status.state {
            MachineState::Started => Ok(()),
            other => Err(WorkerError::Conflict(format!(
                "machine {id} is {}",
                other.as_str()
            ))),
        }
    }

    async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        if inner.find(id)?.status.state == MachineState::Started && !force {
            return Err(WorkerError::Conflict(format!("machine {id} runs")));
        }
        inner.set_state(id, "destroy", MachineState::Destroying, Some(&asker.cause))?;
        if !inner.holds_destruction {
            inner.machines.remove(id);
        }
        Ok(())
    }

    async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let machine = inner.find(id)?;
        machine.status.cordoned = cordoned;
        let state = machine.status.state;
        let kind = if cordoned { "cordon" } else { "uncordon" };
        inner.set_state(id, kind, state, Some(&asker.cause))
    }

    async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let status = &mut inner.find_lasting(id)?.status;
        let metadata = &mut status.spec.metadata;
        let old = match &value {
            Some(value) => metadata.insert(key.to_owned(), value.clone()),
            None => metadata.remove(key),
        };
        let state = status.state;
        if old == value {
            return Ok(status.clone());
        }
        inner.set_state(id, "metadata", state, Some(&asker.cause))
    }

    async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        self.inner.lock().take_lease(id, request, asker)
    }

    async fn lease(&self, id: &MachineId, asker: &Asker) -> Result<Option<Lease>, WorkerError> {
        self.inner.lock().lease(id, asker)
    }

    async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let mut inner = self.inner.lock();
        match inner.lease(id, asker)? {
            None => return Err(WorkerError::NoLease(id.clone())),
            Some(lease) if how == ReleaseLease::Own && !lease.is_own => {
                return Err(inner.leased(id, lease));
            }
            Some(_) => {}
        }
        inner.find(id)?.lease = None;
        if how == ReleaseLease::Any {
            let state = inner.find(id)?.status.state;
            inner.set_state(id, "lease-clear", state, Some(&asker.cause))?;
        }
        Ok(())
    }

    async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        let deadline = tokio::time::Instant::now() + wait.timeout;
        loop {
            let (status, is_reached) = {
                let mut inner = self.inner.lock();
                let machine = inner.find(id)?;
                let reached = |state| wait.states.contains(state);
                let is_reached = match wait.after_event {
                    None => reached(&machine.status.state),
                    Some(seq) => {
                        let mut newer = machine.events.iter().filter(|event| event.seq > seq);
                        newer.any(|event| reached(&event.state))
                    }
                };
                (machine.status.clone(), is_reached)
            };
            if let Some(version) = &wait.instance_id
                && *version != status.instance_id
            {
                return Err(WorkerError::Conflict(format!("{version} was replaced")));
            }
            if is_reached {
                return Ok(status);
            }
            if tokio::time::Instant::now() >= deadline {
                let wanted: Vec<_> = wait.states.iter().map(|state| state.as_str()).collect();
                return Err(WorkerError::WaitTimeout {
                    machine: id.clone(),
                    state: status.state.as_str(),
                    wanted: wanted.join(" or "),
                    seconds: wait.timeout.as_secs(),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError> {
        let mut inner = self.inner.lock();
        Ok(inner
            .find(id)?
            .events
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect())
    }

    async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, WorkerError> {
        Ok(self.inner.lock().operations(&filter))
    }

    async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError> {
        Ok(self.inner.lock().operation(id))
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, WorkerError> {
        let mut inner = self.inner.lock();
        if inner.find(id)?.status.state != MachineState::Started {
            return Err(WorkerError::Conflict(format!("machine {id} does not run")));
        }
        let stdout = command.command.join(" ").into_bytes();
        Ok(ExecOutcome {
            exit_code: 0,
            stdout,
            stderr: command.stdin,
            truncated: false,
        })
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError> {
        let mut inner = self.inner.lock();
        let status = &inner.find(id)?.status;
        match (status.state, status.rung) {
            (MachineState::Started, Rung::Container) => Ok(vec![Process {
                pid: 1,
                command: "/app --serve".into(),
                directory: Some("/".into()),
                age: Duration::from_secs(90),
                cpu_time: Duration::from_millis(1_500),
                memory: 8 * 1024 * 1024,
                listening: vec![],
            }]),
            (MachineState::Started, rung) => Err(WorkerError::Invalid(format!(
                "processes of machines on the rung {rung} cannot be listed from outside"
            ))),
            _ => Err(WorkerError::Conflict(format!("machine {id} does not run"))),
        }
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, WorkerError> {
        let mut inner = self.inner.lock();
        inner.find(id)?;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 3000));
        Ok(vec![ListeningSocket {
            protocol: "tcp".into(),
            address,
            process: Some("app".into()),
        }])
    }
}
