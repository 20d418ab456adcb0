//! The driver of one rung of the isolation ladder, in domain words.
//!
//! A driver starts, watches and ends the machines of one node. It keeps no
//! record of its own beyond what lies in the run directory of each machine:
//! the worker's database is the record, and [`MachineDriver::adopt`] finds out
//! what still runs after `roostd` was killed.

use async_trait::async_trait;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::{Guest, MachineExit, MachineFile, Rung};
use roost_model::name::{AppName, RegionCode};
use roost_model::size::ByteSize;
use roost_proto::worker::{ExecCommand, ExecOutcome, ListeningSocket, Process};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Everything that a driver needs to start a machine.
#[derive(Clone)]
pub struct LaunchConfig {
    /// The machine.
    pub machine_id: MachineId,
    /// The version of its spec.
    pub instance_id: InstanceId,
    /// Its app, for log records.
    pub app: AppName,
    /// Its region, for log records.
    pub region: RegionCode,
    /// What its root file system is made from, of the kind that the driver asks for.
    pub root_fs: RootFs,
    /// Whether to go on from the snapshot of its last suspend. A snapshot that
    /// does not fit is no error: it starts cold and [`Running::origin`] says why.
    pub resume: bool,
    /// What to run, already resolved from image and spec.
    pub process: LaunchProcess,
    /// More to run beside it, where the rung can: the end of one is the end of all.
    pub beside: Vec<LaunchProcess>,
    /// Its size.
    pub guest: Guest,
    /// What it may write to its root file system, where the host's can limit that.
    pub root_disk: ByteSize,
    /// Swap beside its memory; zero for none. On a host that gives a container
    /// none, it starts without and its log says so.
    pub swap: ByteSize,
    /// Its addresses.
    pub addresses: MachineAddresses,
    /// The range of host user and group ids that is its own.
    pub id_range: IdRange,
    /// Files written before start.
    pub files: Vec<MachineFile>,
    /// Its hostname: the machine id.
    pub hostname: String,
    /// Where its log segments are.
    pub log_dir: PathBuf,
}

/// What a rung's root file systems are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootFsKind {
    /// The unpacked layers of an image.
    Layers,
    /// One file that holds the file system of an image.
    Image,
}

/// What a root file system is made from: shared by machines and never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootFs {
    /// Unpacked layers, lowest first, owned by root.
    Layers(Vec<PathBuf>),
    /// One file that holds the file system.
    Image(PathBuf),
}

/// A program with its arguments and surroundings.
#[derive(Clone, PartialEq, Eq)]
pub struct LaunchProcess {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// The environment, complete; secrets are in it, so `Debug` hides it.
    pub env: Vec<(String, String)>,
    /// The working directory in the machine.
    pub workdir: String,
    /// `user[:group]`, names or numbers, resolved against the image's own files.
    pub user: String,
}

impl std::fmt::Debug for LaunchProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaunchProcess")
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LaunchConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaunchConfig")
            .field("machine_id", &self.machine_id)
            .field("args", &self.process.args)
            .finish_non_exhaustive()
    }
}

/// The private addresses of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MachineAddresses {
    /// Within the node's private IPv4 network.
    pub ipv4: Ipv4Addr,
    /// Within the node's private IPv6 network.
    pub ipv6: Ipv6Addr,
}

/// Host ids that belong to one machine: its id 0 is `base` on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The host id of the machine's id 0.
    pub base: u32,
    /// How many ids; 65,536.
    pub size: u32,
}

/// A machine that was launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Process id on the host of the machine's first process, or of its hypervisor.
    pub pid: u32,
    /// What it runs on from.
    pub origin: Origin,
    /// Release of the kernel it runs on, if that is its own.
    pub kernel: Option<String>,
}

/// What a launched machine runs on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Its image: no resume was asked for.
    Cold,
    /// The snapshot of its last suspend.
    Resumed,
    /// Its image, though a resume was asked for, for this reason.
    ColdAfter(String),
}

/// What was found of a machine that should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// It runs.
    Running {
        /// Process id on the host, as in [`Running::pid`].
        pid: u32,
    },
    /// It ended, and how is known.
    Exited(MachineExit),
    /// It does not run, and a whole snapshot of it is here.
    Suspended,
    /// Nothing is left of it (reboot), or its shim was killed and it was cleaned up.
    Gone,
}

/// What a machine uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MachineStats {
    /// Memory of the host that it takes, in bytes; of a microVM with its hypervisor.
    pub memory_bytes: u64,
    /// Processor time since its start, in microseconds.
    pub cpu_us: u64,
}

/// A driver could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The machine's own config or image is at fault, or the rung cannot do
    /// this: no such user, no such program, …
    #[error("{0}")]
    Refused(String),
    /// The host is at fault.
    #[error("{operation}: {reason}")]
    Host {
        /// What was attempted.
        operation: String,
        /// Why it failed.
        reason: String,
    },
    /// No such machine runs.
    #[error("machine {0} does not run")]
    NotRunning(MachineId),
}

/// Starts, watches and ends machines on one rung.
///
/// The caller keeps calls about one machine in order; calls about different
/// machines run side by side. No method blocks the runtime. All but `launch`,
/// `suspend` and `exec` are idempotent.
#[async_trait]
pub trait MachineDriver: Send + Sync + std::fmt::Debug + 'static {
    /// The rung.
    fn rung(&self) -> Rung;
    /// What it makes root file systems from.
    fn root_fs(&self) -> RootFsKind;
    /// Whether its machines can be suspended.
    fn can_suspend(&self) -> bool;
    /// Starts a machine; returns when its first process has been started.
    ///
    /// On error nothing of it is left but a snapshot that was to be resumed and
    /// was not used. A snapshot is used
    /// up before the machine runs on from it, so that it is never resumed twice;
    /// one that is left from before is discarded unless a resume is asked for.
    async fn launch(&self, config: LaunchConfig) -> Result<Running, DriverError>;
    /// Finds out about a machine started by an earlier `roostd`, or about one
    /// whose suspend failed.
    async fn adopt(&self, id: &MachineId) -> Result<Adoption, DriverError>;
    /// Resolves when the machine has ended. Cancel-safe; may be called again.
    async fn wait_exit(&self, id: &MachineId) -> Result<MachineExit, DriverError>;
    /// Writes a snapshot of it and ends it without its noticing.
    ///
    /// When it returns the snapshot is whole and on disk, and no process is
    /// left. On error the machine runs on or has ended, which `adopt` finds
    /// out, and no snapshot is left. Nobody waits for its exit meanwhile.
    async fn suspend(&self, id: &MachineId) -> Result<(), DriverError>;
    /// What it uses now.
    async fn stats(&self, id: &MachineId) -> Result<MachineStats, DriverError>;
    /// Sends a signal by number to its first process.
    async fn signal(&self, id: &MachineId, signal: i32) -> Result<(), DriverError>;
    /// Runs a command in it.
    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, DriverError>;
    /// The processes that run in it, by process id.
    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, DriverError>;
    /// The sockets it listens on.
    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, DriverError>;
    /// Opens a regular file of a machine that runs, to read it, by its absolute path there; no
    /// link is followed. None if there is no such file, or the host cannot look into the machine.
    async fn open_file(
        &self,
        _id: &MachineId,
        _path: &str,
    ) -> Result<Option<std::fs::File>, DriverError> {
        Ok(None)
    }
    /// Kills what runs and removes every trace but its logs, snapshots as well;
    /// nothing to remove is fine.
    async fn remove(&self, id: &MachineId) -> Result<(), DriverError>;
    /// Machines of which anything is left on the host, for leak control;
    /// suspended ones are among them.
    async fn list(&self) -> Result<Vec<MachineId>, DriverError>;
}
