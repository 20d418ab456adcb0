//! Virtual machine monitors behind one trait.
//!
//! A [`Hypervisor`] starts VMs, a [`Vm`] is one that runs. Both are used by the
//! process that holds the VM: `roost-vm` for a machine, `roostd` for the
//! probe of a rung. They know kernels, disks, links and a byte stream to the
//! guest; what a machine, an image or an app is they do not know.
//!
//! ```text
//!   launch ──▶ running ── pause ──▶ paused ── snapshot ──▶ paused
//!                 ▲ ◀──── resume ─────┘ ▲
//!                 │                     └── restore (from the files of a snapshot)
//!                 └── kill, or by itself ──▶ ended
//! ```
//!
//! The hypervisor process is a child of the caller and dies with it: a VM
//! that nobody watches would be one that nobody can end.

use async_trait::async_trait;
use roost_model::size::ByteSize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

pub mod console;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod firecracker;
mod jail;
pub mod kernel;
#[cfg(test)]
mod kvm;
mod limits;
pub mod qemu;
pub mod session;
pub mod snapshot;
pub(crate) mod stats;

/// The program that runs VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorKind {
    /// Firecracker, under its jailer.
    Firecracker,
    /// QEMU.
    Qemu,
}

impl HypervisorKind {
    /// The word in statuses and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// The hypervisor, instruction by instruction: about ten times slower.
    Emulation,
}

impl Accelerator {
    /// The word in statuses and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulation => "emulation",
        }
    }
}

/// A hypervisor as it is installed: part of what a snapshot depends on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HypervisorFacts {
    /// Which program.
    pub kind: HypervisorKind,
    /// Its own version, such as `7.2.22`.
    pub version: String,
    /// What executes guests.
    pub accelerator: Accelerator,
}

/// The host ids that a hypervisor process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmOwner {
    /// User id; never root.
    pub uid: u32,
    /// Group id; never root.
    pub gid: u32,
}

/// Everything that a hypervisor needs to start a VM.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// The machine's id, or `probe`.
    pub name: String,
    /// An empty directory of its own: sockets, jail. The caller removes it.
    pub dir: PathBuf,
    /// Who the hypervisor runs as. What it writes to has to belong to this user.
    pub owner: VmOwner,
    /// The cgroup that it is put into, below each hierarchy's root; it is there.
    pub cgroup: Option<String>,
    /// Number of processors.
    pub n_cpus: u32,
    /// Memory of the guest.
    pub memory: ByteSize,
    /// The kernel with its initial file system.
    pub kernel: kernel::GuestKernel,
    /// The guest's `vda`, `vdb`, …
    pub drives: Vec<Drive>,
    /// The guest's `eth0`.
    pub nic: Option<Nic>,
}

/// A disk of a VM: a file of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// The file, in raw format.
    pub path: PathBuf,
    /// Whether the guest may write to it.
    pub access: DriveAccess,
    /// How much the guest may move.
    pub limit: Option<DriveLimit>,
}

/// What a guest may do with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveAccess {
    /// Read. The file is shared by several VMs.
    ReadOnly,
    /// Read and write. The file is the VM's own.
    ReadWrite,
}

/// How much a guest may move to and from a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveLimit {
    /// Bytes a second, both ways together.
    pub bytes_per_second: u64,
    /// Operations a second, both ways together.
    pub operations_per_second: u64,
    /// After a pause, what this many seconds give may be moved at once; at
    /// least 1. A disk that has just been made has paused for long.
    pub burst_seconds: u32,
}

/// The network interface of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// A tap device in the network namespace of the calling process, owned by
    /// the VM's owner.
    pub tap: String,
    /// The address that the guest uses.
    pub hardware_address: [u8; 6],
}

/// The byte stream to the agent in the guest.
pub trait AgentStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> AgentStream for T {}

/// How a hypervisor process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEnd {
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The end of what it said.
    pub message: String,
}

impl std::fmt::Display for VmEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.exit_code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, Some(signal)) => write!(f, "signal {signal}")?,
            (None, None) => f.write_str("cause unknown")?,
        }
        match self.message.trim() {
            "" => Ok(()),
            message => write!(f, ": {message}"),
        }
    }
}

/// What a VM costs its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmStats {
    /// Memory of the hypervisor process that is in use, guest memory included.
    pub resident: ByteSize,
    /// Memory of the guest that is in use, as far as the host sees it.
    pub guest_resident: ByteSize,
    /// Processor time used so far.
    pub cpu: Duration,
}

/// A hypervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// The program is not there, is of a version that is not known to work, or
    /// lacks what its isolation rests on.
    #[error("{0}")]
    Unusable(String),
    /// It could not be started or talked to.
    #[error("{operation}")]
    Io {
        /// What was attempted.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// It refused a request.
    #[error("{operation}: {reason}")]
    Refused {
        /// What was attempted.
        operation: String,
        /// What it said.
        reason: String,
    },
    /// It did not answer in time.
    #[error("{operation}: no answer within {} s", .limit.as_secs())]
    TimedOut {
        /// What was attempted.
        operation: String,
        /// How long was waited.
        limit: Duration,
    },
    /// It has ended.
    #[error("the hypervisor ended: {0}")]
    Ended(String),
}

/// A hypervisor that is installed on this host.
#[async_trait]
pub trait Hypervisor: Send + Sync + std::fmt::Debug {
    /// Which one, in which version. Fails where it cannot be used.
    async fn facts(&self) -> Result<HypervisorFacts, VmmError>;
    /// Starts a VM; returns as soon as its first instruction is executed. On
    /// error no process is left.
    async fn launch(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmmError>;
    /// Starts a VM from the files that [`Vm::snapshot`] made, paused. The
    /// caller has verified that they are of this hypervisor, kernel and config.
    async fn restore(&self, config: &VmConfig, files: &Path) -> Result<Box<dyn Vm>, VmmError>;
}

/// A VM. Dropping it kills the hypervisor.
#[async_trait]
pub trait Vm: Send + std::fmt::Debug {
    /// Process id of the hypervisor on the host.
    fn pid(&self) -> u32;
    /// Opens the stream to the guest's agent; an earlier one is dropped before.
    /// The guest may not be listening yet; the caller repeats. Bytes of an
    /// earlier stream may still come in.
    async fn open_agent(&mut self) -> Result<Box<dyn AgentStream>, VmmError>;
    /// What the guest writes to its console; once. Has to be read all the time:
    /// a guest whose console is full stands still.
    fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>>;
    /// Stops the guest's processors.
    async fn pause(&mut self) -> Result<(), VmmError>;
    /// Lets them go on.
    async fn resume(&mut self) -> Result<(), VmmError>;
    /// Writes the state of the paused guest into files in an empty directory.
    async fn snapshot(&mut self, files: &Path) -> Result<(), VmmError>;
    /// What it costs.
    async fn stats(&self) -> Result<VmStats, VmmError>;
    /// Resolves when the hypervisor has ended. Cancel-safe.
    async fn ended(&mut self) -> VmEnd;
    /// Ends it at once; returns when its process is gone. Idempotent.
    async fn kill(&mut self) -> Result<(), VmmError>;
}
