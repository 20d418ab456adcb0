//! The worker's interface: what the API may ask of the owner of machines.
//!
//! Today it is called in-process; its shape is that of an RPC: whole values
//! in, whole values out, a request id for repetition, no shared state. The
//! worker has the last word: it may refuse anything with a reason.

mod asker;
mod lease;
mod operation;

pub use asker::{Asker, Cause};
pub use lease::{Lease, LeaseNonce, ReleaseLease, TakeLease};
pub use operation::{Operation, OperationFilter, OperationStep};

use async_trait::async_trait;
use roost_model::error::{Blame, CallerFault, Classify, ErrorCode, Retry};
use roost_model::id::{InstanceId, MachineId, NodeId, ReservationId, RunId};
use roost_model::machine::{Guest, MachineExit, MachineSpec, MachineState, Rung, StopSignal};
use roost_model::name::AppName;
use roost_model::placement::NodeView;
use roost_model::time::Timestamp;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Environment variables from secrets. `Debug` hides the values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretEnv(pub BTreeMap<String, String>);

impl std::fmt::Debug for SecretEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A request for a new machine.
#[derive(Debug, Clone)]
pub struct CreateMachine {
    /// Repeating a request with the same id returns the machine of the first; chosen by the caller.
    pub request_id: String,
    /// What it should be.
    pub spec: MachineSpec,
    /// Secrets of the app, put above the spec's environment.
    pub secrets: SecretEnv,
    /// Whether to start it at once.
    pub launch: Launch,
    /// Whether new traffic is kept from it until it is uncordoned.
    pub cordoned: bool,
    /// The reservation whose room it takes; that is used up then.
    pub reservation: Option<ReservationId>,
    /// A lease to take with it.
    pub lease: Option<TakeLease>,
    /// Why this node, for the machine's history.
    pub placement: Option<String>,
}

/// A request to hold room for a machine to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// Chosen by the caller; a repeated request changes nothing.
    pub id: ReservationId,
    /// The size of the machine.
    pub guest: Guest,
    /// For how long; at most some minutes.
    pub hold: Duration,
}

/// Room that is held for a machine to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// The size of the machine.
    pub guest: Guest,
    /// From then on the room is free again.
    pub expires_at: Timestamp,
}

/// Whether a new machine is started at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// Record and start.
    Start,
    /// Record only.
    Skip,
}

/// A request to replace a machine's spec.
#[derive(Debug, Clone)]
pub struct UpdateMachine {
    /// The version that the caller has seen; another one is a conflict.
    pub current_version: Option<InstanceId>,
    /// The new spec; app, name and region must be those of the old one.
    pub spec: MachineSpec,
    /// Secrets of the app.
    pub secrets: SecretEnv,
    /// Whether to (re)start it with the new spec.
    pub launch: Launch,
}

/// A machine as the worker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineStatus {
    /// Its id.
    pub id: MachineId,
    /// The id of this version of its spec.
    pub instance_id: InstanceId,
    /// What it should be.
    pub spec: MachineSpec,
    /// Where it is in its life.
    pub state: MachineState,
    /// Why it is in that state, for people, when there is something to say.
    pub state_reason: Option<String>,
    /// Digest of the image manifest it runs, once resolved.
    pub image_digest: Option<String>,
    /// Its private IPv4 address.
    pub private_ipv4: Ipv4Addr,
    /// Its private IPv6 address.
    pub private_ipv6: Ipv6Addr,
    /// The rung of the isolation ladder that it was launched on last, or else
    /// the one that it would start on now.
    pub rung: Rung,
    /// The process id of its first process on the host, while it runs.
    pub pid: Option<u32>,
    /// Its health checks and their last results.
    pub checks: Vec<CheckStatus>,
    /// Whether new traffic is kept from it.
    pub cordoned: bool,
    /// The last end of its process.
    pub last_exit: Option<MachineExit>,
    /// When its schedule is due next.
    pub due_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its state or spec last changed.
    pub updated_at: Timestamp,
}

/// The last result of one health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStatus {
    /// Its name; service checks are named `servicecheck-<idx>-<kind>-<port>`,
    /// with kind `port` for the probe of a service that has no checks.
    pub name: String,
    /// The result.
    pub result: CheckResult,
    /// What the check saw, for people.
    pub output: String,
    /// When it last ran or changed.
    pub updated_at: Timestamp,
}

/// The result of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// It has not passed or failed yet (grace period).
    Waiting,
    /// The last run passed.
    Passing,
    /// The last run failed.
    Critical,
}

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineEvent {
    /// Position in the machine's history, growing.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What: `launch`, `start`, `stop`, `suspend`, `suspended`, `exit`, `restart`, `update`,
    /// `destroy`, `cordon`, `adopt`, …
    pub kind: String,
    /// The state after it.
    pub state: MachineState,
    /// Who asked: the word of a [`Cause`], or `worker` for what it saw by itself.
    pub source: String,
    /// Details for people and programs; in `cause` who asked.
    pub detail: serde_json::Value,
}

/// What to wait for.
#[derive(Debug, Clone)]
pub struct WaitFor {
    /// Any of these states.
    pub states: Vec<MachineState>,
    /// Of this version only.
    pub instance_id: Option<InstanceId>,
    /// Reached by an event after this one of its history. A state that it was
    /// in only for a moment since then counts as well.
    pub after_event: Option<u64>,
    /// For how long; at most 60 s.
    pub timeout: Duration,
}

/// A command to run in a machine.
#[derive(Debug, Clone)]
pub struct ExecCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Bytes for its standard input.
    pub stdin: Vec<u8>,
    /// For how long it may run.
    pub timeout: Duration,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its exit code, or 128 + the signal.
    pub exit_code: i32,
    /// Its standard output, cut at `EXEC_OUTPUT_BYTES_MAX`.
    pub stdout: Vec<u8>,
    /// Its standard error, cut at `EXEC_OUTPUT_BYTES_MAX`.
    pub stderr: Vec<u8>,
    /// Whether output was cut.
    pub truncated: bool,
}

/// Most listening sockets of a machine that are listed; so many may be the first of more.
pub const LISTENING_SOCKETS_MAX: usize = 256;

/// A socket that a machine listens on: for "wrong port" diagnoses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningSocket {
    /// `tcp` or `tcp6`.
    pub protocol: String,
    /// Address and port, such as `127.0.0.1:3000` or `[::]:80`.
    pub address: std::net::SocketAddr,
    /// The name of the process, when known.
    pub process: Option<String>,
}

/// A process that runs in a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id as its own machine sees it.
    pub pid: u32,
    /// Its name and arguments; the name alone in brackets when it shows none.
    pub command: String,
    /// Its working directory as its own machine sees it, when it can be told.
    pub directory: Option<String>,
    /// For how long it has run.
    pub age: Duration,
    /// The processor time that it has used.
    pub cpu_time: Duration,
    /// Its resident memory in bytes.
    pub memory: u64,
    /// What it listens on.
    pub listening: Vec<ListeningSocket>,
}

/// A rung of a node's isolation ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RungStatus {
    /// The rung.
    pub rung: Rung,
    /// Why no machines are started on it; none when they are.
    pub refusal: Option<String>,
}

/// Why the worker did not do what it was asked.
///
/// Whoever carries it between nodes has to know every kind: what is added here
/// is added to `roost-rpc`, and the compiler says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// No such machine.
    #[error("machine {0} does not exist")]
    NotFound(MachineId),
    /// The machine's state or version forbids it.
    #[error("{0}")]
    Conflict(String),
    /// Somebody else holds a lease on it.
    #[error("machine {machine} is leased by {owner} for another {} s", left.as_secs())]
    Leased {
        /// The machine.
        machine: MachineId,
        /// Who holds it, for people.
        owner: String,
        /// From then on it holds no more.
        expires_at: Timestamp,
        /// How long that is from now.
        left: Duration,
    },
    /// Nobody holds a lease on it, or the asker's has expired.
    #[error("machine {0} has no lease; one may have expired")]
    NoLease(MachineId),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Its rung has no snapshots.
    #[error("machine {machine} runs on the rung {rung}, and such machines cannot be suspended yet")]
    CannotSuspend {
        /// The machine.
        machine: MachineId,
        /// Its rung.
        rung: Rung,
    },
    /// The image could not be had or cannot run here.
    #[error("{message}")]
    Image {
        /// What is wrong with which image.
        message: String,
        /// The error's own code.
        code: ErrorCode,
        /// Whether trying again may help.
        retry: Retry,
    },
    /// The machine could not be started.
    #[error("start machine {machine}: {reason}")]
    Start {
        /// The machine.
        machine: MachineId,
        /// Why.
        reason: String,
    },
    /// The wait ended before the state was reached.
    #[error("machine {machine} is {state}, not {wanted}, after {seconds} s")]
    WaitTimeout {
        /// The machine.
        machine: MachineId,
        /// Its state now.
        state: &'static str,
        /// What was waited for.
        wanted: String,
        /// How long.
        seconds: u64,
    },
    /// No room for another machine.
    #[error("this node has no room: {0}")]
    NoCapacity(String),
    /// The disk of the worker's database has no room.
    #[error("the disk that holds the records of machines is full: {0}")]
    DiskFull(String),
    /// The worker of another node could not be asked, or its answer was lost:
    /// what was asked may have been done.
    #[error("the worker of node {node} cannot be asked: {reason}")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// The worker itself failed.
    #[error("{0}")]
    Internal(String),
}

impl Classify for WorkerError {
    fn blame(&self) -> Blame {
        match self {
            Self::NotFound(_) | Self::NoLease(_) => Blame::Caller(CallerFault::NotFound),
            Self::Conflict(_) | Self::Leased { .. } | Self::WaitTimeout { .. } => {
                Blame::Caller(CallerFault::Conflict)
            }
            Self::Invalid(_) => Blame::Caller(CallerFault::Invalid),
            Self::Image { .. } | Self::CannotSuspend { .. } => Blame::Caller(CallerFault::Invalid),
            Self::Start { .. }
            | Self::NoCapacity(_)
            | Self::DiskFull(_)
            | Self::Unreachable { .. } => Blame::Environment,
            Self::Internal(_) => Blame::Internal,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Leased { .. }
            | Self::NoLease(_)
            | Self::Invalid(_)
            | Self::CannotSuspend { .. } => Retry::Never,
            Self::Image { retry, .. } => *retry,
            Self::NoCapacity(_) => Retry::ElsewhereNow,
            Self::Start { .. }
            | Self::WaitTimeout { .. }
            | Self::DiskFull(_)
            | Self::Unreachable { .. }
            | Self::Internal(_) => Retry::Backoff,
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode("machine-not-found"),
            Self::Conflict(_) => ErrorCode("machine-conflict"),
            Self::Leased { .. } => ErrorCode("machine-leased"),
            Self::NoLease(_) => ErrorCode("lease-not-found"),
            Self::Invalid(_) => ErrorCode("machine-invalid"),
            Self::CannotSuspend { .. } => ErrorCode("cannot-suspend"),
            Self::Image { code, .. } => *code,
            Self::Start { .. } => ErrorCode("machine-start-failed"),
            Self::WaitTimeout { .. } => ErrorCode("wait-timeout"),
            Self::NoCapacity(_) => ErrorCode("no-capacity"),
            Self::DiskFull(_) => ErrorCode("disk-full"),
            Self::Unreachable { .. } => ErrorCode("worker-unreachable"),
            Self::Internal(_) => ErrorCode("internal"),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::DiskFull(_) => Some(
                "free space on the disk of roost's data folder, then try again; nothing was changed"
                    .into(),
            ),
            Self::CannotSuspend { .. } => {
                Some("stop it instead, or run it with isolation `vm` or `vm-emulated`".into())
            }
            Self::NoCapacity(_) => Some(
                "destroy machines that are not needed, choose a smaller size, or use another node"
                    .into(),
            ),
            Self::Unreachable { .. } => {
                Some("look whether that node runs, and try again; what was asked may be done".into())
            }
            Self::Leased { .. } => Some(
                "wait for its end; `roost machines leases clear` ends one that nobody uses any more"
                    .into(),
            ),
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::NoLease(_)
            | Self::Invalid(_)
            | Self::Image { .. }
            | Self::Start { .. }
            | Self::WaitTimeout { .. }
            | Self::Internal(_) => None,
        }
    }
}

/// The owner of the machines of one node.
///
/// Every method may be called again after a lost answer. Dropping a future
/// changes nothing: the worker carries a begun action to its end by itself.
/// Who asks for a change is kept in the machine's history.
#[async_trait]
pub trait WorkerApi: Send + Sync + 'static {
    /// What the node is, has, and has promised: what a placement looks at.
    async fn capacity(&self) -> Result<NodeView, WorkerError>;
    /// Holds room for a machine; a creation that names the reservation takes it.
    ///
    /// Refused as a creation is when there is no room. A repeated request is
    /// answered as the first was, until that has expired or was used.
    async fn reserve(&self, request: Reserve) -> Result<Reservation, WorkerError>;
    /// Gives held room back. One that expired, was used or never was is nothing.
    async fn release(&self, id: &ReservationId) -> Result<(), WorkerError>;
    /// Records a machine and, if asked, begins to start it.
    ///
    /// A machine that exists holds its room, also while it is stopped. One that
    /// does not fit is refused with `NoCapacity`.
    /// Returns once the machine is recorded; `wait` tells when it runs.
    async fn create_machine(
        &self,
        request: CreateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// Replaces the spec; a running machine is restarted with it.
    async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// One machine.
    async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError>;
    /// All machines, or those of one app; destroyed ones are left out.
    async fn machines(&self, app: Option<&AppName>) -> Result<Vec<MachineStatus>, WorkerError>;
    /// The machines of an app that are destroyed and still on record, as a real
    /// worker has them for a while.
    async fn destroyed_machines(&self, _: &AppName) -> Result<Vec<MachineStatus>, WorkerError> {
        Ok(vec![])
    }
    /// Begins to start it; starting a started machine is nothing.
    async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// Begins to stop it: withdraw, drain, signal, time-out, kill.
    async fn stop_machine(
        &self,
        id: &MachineId,
        signal: Option<StopSignal>,
        timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// Begins to suspend it: withdraw, drain, snapshot. A start then resumes it.
    /// Suspending a suspended machine is nothing.
    async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// Every rung, weakest first, and whether machines are started on it now.
    async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError>;
    /// Stops and starts it.
    async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// Sends a signal to its first process.
    async fn signal_machine(
        &self,
        id: &MachineId,
        signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError>;
    /// Removes it. A machine that runs is refused unless `force`, which kills it at once.
    async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError>;
    /// Takes it out of routing, or puts it back.
    async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// Takes a lease, or gives more time to the one that the asker holds.
    ///
    /// While it holds, changes that others ask for are refused. An asker that
    /// gives a nonce whose lease has expired is refused with `NoLease`: the
    /// machine may have been another's meanwhile.
    async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError>;
    /// The lease that holds now, if one does.
    async fn lease(&self, id: &MachineId, asker: &Asker) -> Result<Option<Lease>, WorkerError>;
    /// Gives a lease back.
    async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError>;
    /// Sets one entry of its metadata, or removes it. This makes no new version.
    async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError>;
    /// Waits for a state.
    async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError>;
    /// Its history, newest first, at most `limit`.
    async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError>;
    /// What was and is done to machines, newest first, without the steps.
    async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, WorkerError>;
    /// One operation with its steps.
    async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError>;
    /// Runs a command in it.
    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, WorkerError>;
    /// The processes that run in it, by process id.
    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError>;
    /// The sockets it listens on.
    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, WorkerError>;
}
