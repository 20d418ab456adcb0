//! What a VM needs on its host before it can run: directories, disk, cgroup, tap.

use crate::limits::{
    CGROUP_EMPTY_TIMEOUT, HYPERVISOR_THREADS_MAX, OVERHEAD_BYTES, ROOT_IMAGE_BURST_SECONDS,
    SCRATCH_BURST_SECONDS,
};
use anyhow::{Context as _, Result, bail};
use roost_host::cgroup::{Cgroup, Limits};
use roost_host::driver::MachineAddresses;
use roost_host::net::addresses::GuestNetwork;
use roost_host::net::tap::RateLimits;
use roost_host::vmm::kernel::{GuestKernel, GuestKernels};
use roost_host::vmm::{Drive, DriveAccess, DriveLimit, Nic, VmConfig, VmOwner};
use roost_model::size::ByteSize;
use roost_proto::vm::{VmLaunch, scratch_path};
use rustix::fs::{Gid, Uid};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The tap device of a VM, in its own network namespace.
pub(crate) const TAP: &str = "tap0";
/// The program that makes file systems (Debian package `e2fsprogs`).
const MKE2FS: &str = "mke2fs";

/// The hypervisor's directory: with the machine's data, since the run directory
/// is on a file system in memory where programs and devices may not be used.
pub(crate) fn vm_dir(launch: &VmLaunch) -> PathBuf {
    launch.data_dir.join("vm")
}

/// The kernel that the machine boots.
pub(crate) async fn kernel(launch: &VmLaunch) -> Result<GuestKernel> {
    let store = GuestKernels::open(&launch.kernel.store).context("open the guest kernels")?;
    let kernel = store.get(&launch.kernel.id).await;
    kernel.context("open the machine's guest kernel")
}

/// Makes the directory and the cgroup of the hypervisor.
pub(crate) fn make_places(launch: &VmLaunch) -> Result<()> {
    let dir = vm_dir(launch);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::DirBuilder::new()
        .mode(0o711)
        .create(&dir)
        .with_context(|| format!("create {}", dir.display()))?;
    let limits = Limits {
        memory_bytes: launch.limits.memory_bytes.saturating_add(OVERHEAD_BYTES),
        cpu_shares: launch.limits.cpu_shares,
        cpu_quota_us: launch.limits.cpu_quota_us,
        cpu_period_us: launch.limits.cpu_period_us,
        cpu_burst_us: launch.limits.cpu_burst_us,
        pids_max: HYPERVISOR_THREADS_MAX,
    };
    Cgroup::create_with_limits(&launch.cgroup, &limits).context("make the machine's cgroup")?;
    Ok(())
}

/// The guest's link, as the tap device is told of it.
pub(crate) fn network(launch: &VmLaunch) -> GuestNetwork {
    let network = &launch.network;
    GuestNetwork {
        hardware_address: network.hardware_address,
        addresses: MachineAddresses {
            ipv4: network.ipv4,
            ipv6: network.ipv6,
        },
        gateway_ipv4: network.gateway_ipv4,
        gateway_ipv6: network.gateway_ipv6,
        mtu: network.mtu,
    }
}

/// What the guest's link carries.
pub(crate) fn link_rates(launch: &VmLaunch) -> RateLimits {
    let rate = Some(launch.network.bytes_per_second);
    RateLimits {
        from_guest: rate,
        to_guest: rate,
    }
}

/// Removes them, and ends what is left in the cgroup.
pub(crate) fn remove_places(launch: &VmLaunch) -> Result<()> {
    Cgroup::at(&launch.cgroup)?.remove(CGROUP_EMPTY_TIMEOUT)?;
    let _ = std::fs::remove_dir_all(vm_dir(launch));
    Ok(())
}

/// Makes the empty disk for what the machine writes: a sparse file.
pub(crate) async fn make_scratch(launch: &VmLaunch) -> Result<()> {
    let path = scratch_path(&launch.data_dir);
    roost_runtime::fs::ensure_no_file(&path)?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("create {}", path.display()))?;
    file.set_len(launch.scratch_bytes)
        .with_context(|| format!("size {}", path.display()))?;
    drop(file);
    // No journal: the disk does not outlive a crash of its guest. No reserved
    // blocks, and tables that the guest's kernel fills as it needs them.
    let output = tokio::process::Command::new(MKE2FS)
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        .args(["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"])
        .arg(&path)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .context("run mke2fs; install the Debian package `e2fsprogs`")?;
    if !output.status.success() {
        bail!(
            "mke2fs failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    hand_over(&path, launch)
}

/// Makes the disk reachable for the hypervisor: a parent directory may be
/// passed by it, the file is its own.
pub(crate) fn hand_over(path: &Path, launch: &VmLaunch) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(launch.owner), Gid::from_raw(launch.owner));
    rustix::fs::chown(path, Some(uid), Some(gid))
        .with_context(|| format!("hand over {}", path.display()))
}

/// What the hypervisor is started with.
pub(crate) fn config(launch: &VmLaunch, kernel: GuestKernel) -> VmConfig {
    let limit = |burst_seconds| DriveLimit {
        bytes_per_second: launch.disk_rate.bytes,
        operations_per_second: launch.disk_rate.operations,
        burst_seconds,
    };
    VmConfig {
        name: launch.machine_id.clone(),
        dir: vm_dir(launch),
        owner: VmOwner {
            uid: launch.owner,
            gid: launch.owner,
        },
        cgroup: Some(launch.cgroup.clone()),
        n_cpus: launch.n_cpus,
        memory: ByteSize(launch.limits.memory_bytes),
        kernel,
        drives: vec![
            Drive {
                path: launch.root_image.clone(),
                access: DriveAccess::ReadOnly,
                limit: Some(limit(ROOT_IMAGE_BURST_SECONDS)),
            },
            Drive {
                path: scratch_path(&launch.data_dir),
                access: DriveAccess::ReadWrite,
                limit: Some(limit(SCRATCH_BURST_SECONDS)),
            },
        ],
        nic: Some(Nic {
            tap: TAP.to_owned(),
            hardware_address: launch.network.hardware_address,
        }),
    }
}
