//! The proof of a VM rung: a guest boots and its agent answers.
//!
//! Nothing less proves anything: under some hypervisors' own KVM modules every
//! call succeeds and a stock guest hangs before its first word. A proof is
//! kept for as long as what it was made with stays the same: the host's kernel
//! and processor, the hypervisor's program and version, the guest's kernel. A
//! refusal is not kept: what hindered it may have passed.

use super::open_hypervisor;
use crate::doctor::kvm::{self, Kvm};
use crate::vmm::console::Console;
use crate::vmm::kernel::GuestKernel;
use crate::vmm::{Hypervisor, HypervisorFacts, VmConfig, VmOwner, session};
use roost_model::error::chain;
use roost_model::size::ByteSize;
use roost_proto::vm::VmHypervisor;
use roost_runtime::fs::write_atomic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Memory of the guest.
const MEMORY: ByteSize = ByteSize::mib(128);
/// Who its hypervisor runs as: `nobody`.
const OWNER: u32 = 65_534;
/// Time for a guest on KVM; one that works takes half a second, nested ten.
const KVM_LIMIT: Duration = Duration::from_secs(30);
/// Time for an emulated guest; one that works takes four seconds of a core.
const EMULATION_LIMIT: Duration = Duration::from_secs(180);
/// Most proofs that are remembered.
const PROOFS_MAX: usize = 64;

/// What is proven, and where proofs are remembered.
#[derive(Debug, Clone)]
pub struct ProofConfig {
    /// What runs the guest.
    pub hypervisor: VmHypervisor,
    /// What the guest boots.
    pub kernel: GuestKernel,
    /// A directory for the attempt, made and removed.
    pub dir: PathBuf,
    /// The file that remembers proofs.
    pub record: PathBuf,
}

/// The remembered proofs.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Proofs {
    proven: BTreeSet<String>,
}

/// Boots a guest unless one is known to boot; says why it does not.
pub async fn prove(config: &ProofConfig) -> Result<HypervisorFacts, String> {
    let limit = match config.hypervisor {
        VmHypervisor::Qemu { emulated: true, .. } => EMULATION_LIMIT,
        VmHypervisor::Qemu { .. } | VmHypervisor::Firecracker { .. } => {
            // Before a program is even looked for: what cannot work says so itself.
            check_kvm().await?;
            KVM_LIMIT
        }
    };
    let hypervisor = open_hypervisor(&config.hypervisor, "");
    let facts = hypervisor.facts().await.map_err(|error| chain(&error))?;
    let key =
        key_of(&config.hypervisor, &facts, &config.kernel.id).map_err(|error| error.to_string())?;
    let mut proofs = read(&config.record);
    if proofs.proven.contains(&key) {
        return Ok(facts);
    }
    let attempt = Attempt::make(&config.dir).map_err(|error| error.to_string())?;
    boot(hypervisor.as_ref(), config, &attempt, limit).await?;
    drop(attempt);
    if proofs.proven.len() >= PROOFS_MAX {
        proofs.proven.clear();
    }
    proofs.proven.insert(key);
    let text = serde_json::to_vec(&proofs).map_err(|error| error.to_string())?;
    if let Err(error) = write_atomic(&config.record, &text, 0o600) {
        // The next start proves it again.
        tracing::warn!(error = chain(&error), "remember the proof of a rung");
    }
    Ok(facts)
}

/// A page of code tells most KVMs that do not work, in a millisecond.
async fn check_kvm() -> Result<(), String> {
    let found = tokio::task::spawn_blocking(kvm::find_out).await;
    match found.map_err(|error| error.to_string())? {
        Kvm::Absent => Err("there is no /dev/kvm".to_owned()),
        Kvm::Unusable(reason) => Err(reason),
        Kvm::Works => Ok(()),
    }
}

fn read(record: &Path) -> Proofs {
    let text = std::fs::read(record).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Whether this hypervisor is known to boot a guest with one of the kernels in
/// a node's store. Boots none.
pub fn is_proven(
    record: &Path,
    hypervisor: &VmHypervisor,
    facts: &HypervisorFacts,
    kernels: &Path,
) -> bool {
    let proven = read(record).proven;
    let kernels = std::fs::read_dir(kernels).into_iter().flatten().flatten();
    kernels
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter_map(|id| key_of(hypervisor, facts, &id).ok())
        .any(|key| proven.contains(&key))
}

/// All that a proof depends on.
fn key_of(
    hypervisor: &VmHypervisor,
    facts: &HypervisorFacts,
    kernel_id: &str,
) -> std::io::Result<String> {
    let program = match hypervisor {
        VmHypervisor::Firecracker { program, .. } | VmHypervisor::Qemu { program, .. } => program,
    };
    let file = std::fs::metadata(program)?;
    let host = rustix::system::uname();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let processor = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let processor = processor.and_then(|line| line.split(':').nth(1));
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    // Modules come and go with a boot: KVM's own may be another one.
    Ok(format!(
        "{} {} {} {} {} {} {} | {} | {} | {}",
        facts.kind.as_str(),
        facts.accelerator.as_str(),
        facts.version,
        program.display(),
        file.len(),
        file.mtime(),
        kernel_id,
        host.release().to_string_lossy(),
        processor.unwrap_or_default().trim(),
        boot_id.trim(),
    ))
}

/// The directory of an attempt; dropping it removes it.
struct Attempt(PathBuf);

impl Attempt {
    fn make(dir: &Path) -> std::io::Result<Self> {
        let attempt = Self(dir.to_owned());
        let _ = std::fs::remove_dir_all(dir);
        std::fs::DirBuilder::new()
            .mode(0o711)
            .recursive(true)
            .create(dir)?;
        Ok(attempt)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn boot(
    hypervisor: &dyn Hypervisor,
    config: &ProofConfig,
    attempt: &Attempt,
    limit: Duration,
) -> Result<(), String> {
    let vm_config = VmConfig {
        name: "proof".to_owned(),
        dir: attempt.0.clone(),
        owner: VmOwner {
            uid: OWNER,
            gid: OWNER,
        },
        cgroup: None,
        n_cpus: 1,
        memory: MEMORY,
        kernel: config.kernel.clone(),
        drives: Vec::new(),
        nic: None,
    };
    let launched = hypervisor.launch(&vm_config).await;
    let mut vm = launched.map_err(|error| chain(&error))?;
    let (console, reading) = Console::of(vm.as_mut());
    let opened = {
        let opening = session::open(vm.as_mut(), limit, limit);
        tokio::pin!(opening);
        tokio::select! {
            opened = &mut opening => opened,
            () = reading => opening.await,
        }
    };
    let ended = vm.kill().await;
    let session = opened.map_err(|error| error.explain(&console))?;
    ended.map_err(|error| chain(&error))?;
    let release = session.hello.kernel_release;
    if release != config.kernel.release {
        return Err(format!(
            "the guest says that it runs Linux {release}, and was given {}",
            config.kernel.release
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Proofs, is_proven, key_of};
    use crate::vmm::{Accelerator, HypervisorFacts, HypervisorKind};
    use roost_proto::vm::VmHypervisor;

    #[test]
    fn a_proof_is_of_one_version_and_one_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("qemu");
        std::fs::write(&program, "").unwrap();
        let hypervisor = VmHypervisor::Qemu {
            program,
            emulated: true,
        };
        let mut facts = HypervisorFacts {
            kind: HypervisorKind::Qemu,
            version: "7.2.0".into(),
            accelerator: Accelerator::Emulation,
        };
        let record = dir.path().join("proofs.json");
        let kernels = dir.path().join("kernels");
        let is_known = |facts: &_| is_proven(&record, &hypervisor, facts, &kernels);
        std::fs::create_dir_all(kernels.join("aaaa")).unwrap();
        assert!(!is_known(&facts), "nothing was recorded");
        let mut proofs = Proofs::default();
        let key = key_of(&hypervisor, &facts, "bbbb").unwrap();
        proofs.proven.insert(key);
        std::fs::write(&record, serde_json::to_vec(&proofs).unwrap()).unwrap();
        assert!(!is_known(&facts), "the proof is of another kernel");
        std::fs::create_dir_all(kernels.join("bbbb")).unwrap();
        assert!(is_known(&facts));
        facts.version = "7.2.1".into();
        assert!(!is_known(&facts), "the proof is of another version");
    }
}
