//! The snapshot of this machine: where it is, what it depends on, how it is used up.
//!
//! ```text
//!   snapshot/       whole; a start that resumes verifies it and restores from it
//!   snapshot.used/  the guest has run on from it: never used again, removed
//! ```

use anyhow::{Context as _, Result};
use roost_host::vmm::kernel::GuestKernel;
use roost_host::vmm::snapshot::{self, SnapshotTags};
use roost_host::vmm::{Accelerator, HypervisorFacts};
use roost_proto::vm::{VmLaunch, scratch_path, snapshot_path};
use roost_runtime::fs::{ensure_no_dir, write_atomic};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// The name of the emulated processor.
const EMULATED_CPU: &str = "emulated";
/// The file of ours beside the hypervisor's.
const SESSION_FILE: &str = "session.json";

/// What the next session with the guest has to know.
#[derive(Debug, Serialize, Deserialize)]
struct SessionRecord {
    /// The number of the first output event that is not in the log.
    next_sequence: u64,
}

/// What a snapshot of this machine can only be resumed with.
pub(crate) fn tags(
    launch: &VmLaunch,
    hypervisor: HypervisorFacts,
    kernel: &GuestKernel,
) -> SnapshotTags {
    let cpu = match hypervisor.accelerator {
        Accelerator::Kvm => cpu_model(),
        Accelerator::Emulation => EMULATED_CPU.to_owned(),
    };
    SnapshotTags {
        hypervisor,
        kernel: kernel.id.clone(),
        cpu,
        config: config_digest(launch),
    }
}

/// The restorable snapshot.
pub(crate) async fn verify(launch: &VmLaunch, tags: &SnapshotTags) -> Result<PathBuf> {
    let path = snapshot_path(&launch.data_dir);
    let disk = scratch_path(&launch.data_dir);
    let (files, tags) = (path.clone(), tags.clone());
    tokio::task::spawn_blocking(move || snapshot::verify(&path, &disk, &tags)).await??;
    Ok(files)
}

/// The number of the first output event after the snapshot.
pub(crate) fn next_sequence(files: &Path) -> Result<u64> {
    let text = std::fs::read(files.join(SESSION_FILE)).context("read the snapshot")?;
    let record: SessionRecord = serde_json::from_slice(&text).context("read the snapshot")?;
    Ok(record.next_sequence)
}

/// An empty directory for the files of a new snapshot.
pub(crate) fn prepare(launch: &VmLaunch) -> Result<PathBuf> {
    snapshot::prepare(&snapshot_path(&launch.data_dir)).context("make room for a snapshot")
}

/// Makes what is in that directory the machine's snapshot.
pub(crate) async fn seal(
    launch: &VmLaunch,
    files: &Path,
    tags: &SnapshotTags,
    next_sequence: u64,
) -> Result<()> {
    let record = serde_json::to_vec(&SessionRecord { next_sequence })?;
    write_atomic(&files.join(SESSION_FILE), &record, 0o600)?;
    let path = snapshot_path(&launch.data_dir);
    let disk = scratch_path(&launch.data_dir);
    let tags = tags.clone();
    let sealed = tokio::task::spawn_blocking(move || snapshot::seal(&path, &disk, &tags));
    sealed.await?.context("write the snapshot")
}

/// Removes what there is of snapshots.
pub(crate) fn discard(launch: &VmLaunch) -> Result<()> {
    let path = snapshot_path(&launch.data_dir);
    for path in [path.with_extension("new"), path] {
        ensure_no_dir(&path)?;
    }
    remove_used(launch)
}

/// Takes the snapshot out of use; its files stay for a guest that reads them.
pub(crate) fn use_up(launch: &VmLaunch) -> Result<()> {
    let path = snapshot_path(&launch.data_dir);
    std::fs::rename(&path, used_path(launch)).context("use up the snapshot")?;
    // On disk before the guest writes to its own: no crash brings it back.
    let dir = std::fs::File::open(&launch.data_dir).context("use up the snapshot")?;
    dir.sync_all().context("use up the snapshot")
}

/// Removes the files of a snapshot that was used up.
pub(crate) fn remove_used(launch: &VmLaunch) -> Result<()> {
    Ok(ensure_no_dir(&used_path(launch))?)
}

fn used_path(launch: &VmLaunch) -> PathBuf {
    snapshot_path(&launch.data_dir).with_extension("used")
}

/// Digest of what the guest was started with. Secrets are part of it, so
/// that a changed one is seen, and it is a digest, so that none is told.
fn config_digest(launch: &VmLaunch) -> String {
    let mut parts = vec![serde_json::json!([
        launch.machine_id,
        launch.instance_id,
        launch.root_image,
        launch.scratch_bytes,
        launch.n_cpus,
        launch.limits.memory_bytes,
        launch.network.hardware_address,
        launch.network.ipv4,
        launch.network.ipv6,
        launch.network.gateway_ipv4,
        launch.args,
        launch.env,
        launch.workdir,
        launch.user,
        launch.files,
    ])];
    // What had one program when it was suspended has the digest that it had then.
    if !launch.beside.is_empty() {
        parts.push(serde_json::json!(launch.beside));
    }
    let text: String = parts.iter().map(ToString::to_string).collect();
    hex::encode(Sha256::digest(text))
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let fields = ["vendor_id", "model name", "stepping", "microcode"];
    let lines = text.lines().take_while(|line| !line.is_empty());
    let values = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        fields.contains(&name.trim()).then(|| value.trim())
    });
    values.collect::<Vec<_>>().join(", ")
}
