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
use roost_proto::worker::{ExecCommand, ExecOutcome, ListeningSocket};
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
    /// Unpacked layers, lowest first: shared, read-only, owned by root.
    pub layers: Vec<PathBuf>,
    /// What to run, already resolved from image and spec.
    pub process: LaunchProcess,
    /// Its size.
    pub guest: Guest,
    /// What it may write to its root file system, where the host's can limit that.
    pub root_disk: ByteSize,
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

/// A machine that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Process id on the host of the machine's first process.
    pub pid: u32,
}

/// What was found of a machine that should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// It runs.
    Running(Running),
    /// It ended, and how is known.
    Exited(MachineExit),
    /// Nothing is left of it (reboot), or its shim was killed and it was cleaned up.
    Gone,
}

/// A driver could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The machine's own config or image is at fault: no such user, no such program, …
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
/// machines run side by side. No method blocks the runtime. All but `launch`
/// and `exec` are idempotent.
#[async_trait]
pub trait MachineDriver: Send + Sync + std::fmt::Debug + 'static {
    /// The rung.
    fn rung(&self) -> Rung;
    /// Starts a machine; returns when its first process has been started.
    /// On error nothing of it is left.
    async fn launch(&self, config: LaunchConfig) -> Result<Running, DriverError>;
    /// Finds out about a machine started by an earlier `roostd`.
    async fn adopt(&self, id: &MachineId) -> Result<Adoption, DriverError>;
    /// Resolves when the machine has ended. Cancel-safe; may be called again.
    async fn wait_exit(&self, id: &MachineId) -> Result<MachineExit, DriverError>;
    /// Sends a signal by number to its first process.
    async fn signal(&self, id: &MachineId, signal: i32) -> Result<(), DriverError>;
    /// Runs a command in it.
    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, DriverError>;
    /// The sockets it listens on.
    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, DriverError>;
    /// Kills what runs and removes every trace but its logs; nothing to remove is fine.
    async fn remove(&self, id: &MachineId) -> Result<(), DriverError>;
    /// Machines of which anything is left on the host, for leak control.
    async fn list(&self) -> Result<Vec<MachineId>, DriverError>;
}
