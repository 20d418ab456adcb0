//! What the worker tells `roost-vm` so that it can start a machine as a VM.
//!
//! The connections are those of a shim ([`crate::shim`]), with [`VmLaunch`] in
//! the place of `ShimLaunch` and one command more, `Suspend`. The process id in
//! `Created` is that of `roost-vm`, whose network namespace the machine's link
//! is put into. Besides the control socket there is the socket `agent.sock` in
//! the run directory, which leads to the agent in the guest (HTTP/2, gRPC).

use crate::shim::{ShimFile, ShimLimits};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// Everything that `roost-vm` needs to start its machine.
#[derive(Clone, Serialize, Deserialize)]
pub struct VmLaunch {
    /// The machine's id; its hostname as well.
    pub machine_id: String,
    /// The version of its spec: a snapshot is of one version.
    pub instance_id: String,
    /// Its app, for log records.
    pub app: String,
    /// Its region, for log records.
    pub region: String,
    /// Its directory of sockets and records.
    pub run_dir: PathBuf,
    /// Its directory of disks and snapshots.
    pub data_dir: PathBuf,
    /// Where its log segments are.
    pub log_dir: PathBuf,
    /// What runs it.
    pub hypervisor: VmHypervisor,
    /// What it boots.
    pub kernel: VmKernel,
    /// The read-only file system of its image: an EROFS file shared by machines.
    pub root_image: PathBuf,
    /// Size of the disk for what it writes, in bytes.
    pub scratch_bytes: u64,
    /// Number of processors.
    pub n_cpus: u32,
    /// What it may use; the memory is that of the guest.
    pub limits: ShimLimits,
    /// The host user and group id of its hypervisor.
    pub owner: u32,
    /// Its cgroup below each hierarchy's root.
    pub cgroup: String,
    /// What it may move to and from each of its disks.
    pub disk_rate: VmDiskRate,
    /// Its link to the network.
    pub network: VmNetwork,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub workdir: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// More to run beside it: the end of one is the end of all.
    #[serde(default)]
    pub beside: Vec<VmProgram>,
    /// Files written before the start.
    pub files: Vec<ShimFile>,
    /// Whether to go on from its snapshot, if there is one that fits.
    pub resume: bool,
    /// Time for the guest to boot and start the app, in milliseconds.
    pub boot_timeout_ms: u64,
}

impl std::fmt::Debug for VmLaunch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment and the files hold secrets.
        f.debug_struct("VmLaunch")
            .field("machine_id", &self.machine_id)
            .finish_non_exhaustive()
    }
}

/// A program to run beside the first.
#[derive(Clone, Serialize, Deserialize)]
pub struct VmProgram {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The environment; secrets are in it.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub workdir: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
}

impl std::fmt::Debug for VmProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmProgram")
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

/// What runs a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VmHypervisor {
    /// Firecracker on KVM.
    Firecracker {
        /// The program.
        program: PathBuf,
        /// Its jailer.
        jailer: PathBuf,
    },
    /// QEMU.
    Qemu {
        /// The program.
        program: PathBuf,
        /// Whether it emulates the processor instead of using KVM.
        emulated: bool,
    },
}

/// A guest kernel of the node's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmKernel {
    /// The store's directory.
    pub store: PathBuf,
    /// The id of the kernel in it.
    pub id: String,
}

/// What a VM may move to and from a disk in a second, both ways together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDiskRate {
    /// Bytes.
    pub bytes: u64,
    /// Reads and writes.
    pub operations: u64,
}

/// A VM's link to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmNetwork {
    /// The address that the guest's link has.
    pub hardware_address: [u8; 6],
    /// Its IPv4 address; its network has no other.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address; its network has no other.
    pub ipv6: Ipv6Addr,
    /// Next hop of its IPv4 default route, on the link.
    pub gateway_ipv4: Ipv4Addr,
    /// Next hop of its IPv6 default route, on the link.
    pub gateway_ipv6: Ipv6Addr,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Bytes that it carries in a second, each way.
    pub bytes_per_second: NonZeroU64,
    /// Name servers for `/etc/resolv.conf`.
    pub nameservers: Vec<IpAddr>,
}

/// The way to the agent in the guest of a machine that runs.
pub fn agent_path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// The snapshot of a suspended machine.
pub fn snapshot_path(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshot")
}

/// The disk for what a machine writes.
pub fn scratch_path(data_dir: &Path) -> PathBuf {
    data_dir.join("scratch.img")
}
