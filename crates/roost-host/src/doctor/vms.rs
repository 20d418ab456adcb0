//! What VMs need of this host, and which of the VM rungs it has proven.
//!
//! No guest is booted here: that takes seconds, and `roostd` does it when it
//! starts. What it found is remembered until the host boots again.

use super::kvm::Kvm;
use super::{ATTEMPT_TIMEOUT, CheckResult, sys};
use crate::instance::InstanceTag;
use crate::net::addresses::NodeNetwork;
use crate::net::tap::{RateLimits, Tap, connect};
use crate::vm::{open_hypervisor, proof};
use crate::vmm::HypervisorFacts;
use crate::vmm::kernel::KernelSource;
use roost_model::error::chain;
use roost_model::machine::Rung;
use roost_proto::vm::VmHypervisor;
use rustix::thread::UnshareFlags;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// What VMs would be run with.
#[derive(Debug, Clone)]
pub struct VmSetup {
    /// The folder of what guests boot.
    pub guest: PathBuf,
    /// QEMU.
    pub qemu: PathBuf,
    /// Firecracker and its jailer, where both are installed.
    pub firecracker: Option<(PathBuf, PathBuf)>,
    /// The node's store of guest kernels; there is none before its first start.
    pub kernels: PathBuf,
    /// The file that remembers proofs.
    pub proofs: PathBuf,
}

/// Who owns the tap devices of the trial: some id that a machine may have.
const TAP_OWNER: u32 = 1_000_000;
/// A rate for the trial, in bytes per second.
const RATE: NonZeroU64 = NonZeroU64::new(1_000_000).expect("not zero");
const TUN_FIX: &str = "load it with: modprobe tun; or run as root a kernel that has it: apt install linux-image-amd64";
const TRAFFIC_FIX: &str = "load what is missing with: modprobe -a sch_ingress cls_u32 act_mirred sch_tbf; or run a kernel that has them: apt install linux-image-amd64";

/// Looks at programs, kernel and network, then at what is known of the rungs.
pub(super) async fn check(setup: &VmSetup, kvm: &Kvm) -> Vec<CheckResult> {
    let emulation = VmHypervisor::Qemu {
        program: setup.qemu.clone(),
        emulated: true,
    };
    let on_kvm = VmHypervisor::Qemu {
        program: setup.qemu.clone(),
        emulated: false,
    };
    let firecracker = setup.firecracker.as_ref();
    let firecracker = firecracker.map(|(program, jailer)| VmHypervisor::Firecracker {
        program: program.clone(),
        jailer: jailer.clone(),
    });
    let (network, emulation, on_kvm) =
        tokio::join!(check_network(), look_at(emulation), look_at(on_kvm));
    let firecracker = match firecracker {
        Some(choice) => Some(look_at(choice).await),
        None => None,
    };
    let mut results = vec![check_guest(&setup.guest), qemu_result(&emulation)];
    results.extend(firecracker_result(firecracker.as_ref(), kvm));
    results.push(network);
    let known = Known {
        setup,
        missing: results
            .iter()
            .filter(|result| result.fix.is_some())
            .map(|result| result.name)
            .collect(),
    };
    results.push(known.rung("rung vm-emulated", &[&emulation], None));
    let choices: Vec<&Found> = firecracker.iter().chain([&on_kvm]).collect();
    let refusal = match kvm {
        Kvm::Absent => Some("there is no /dev/kvm"),
        Kvm::Unusable(reason) => Some(reason.as_str()),
        Kvm::Works => None,
    };
    let vm = known.rung("rung vm", &choices, refusal);
    let default = match vm.fix {
        None => Rung::Vm,
        Some(_) => Rung::Container,
    };
    let default = format!("machines that ask for nothing else get `{default}`");
    results.extend([vm, CheckResult::pass("isolation", default)]);
    results
}

/// A hypervisor, and what it says of itself.
struct Found {
    choice: VmHypervisor,
    facts: Result<HypervisorFacts, String>,
}

async fn look_at(choice: VmHypervisor) -> Found {
    let facts = open_hypervisor(&choice, "").facts().await;
    Found {
        facts: facts.map_err(|error| chain(&error)),
        choice,
    }
}

fn check_guest(folder: &Path) -> CheckResult {
    const NAME: &str = "guest kernel";
    let init = folder.join("roost-init");
    let source = match KernelSource::in_folder(folder, init.clone()) {
        Ok(source) if source.kernel.exists() => source,
        Ok(_) | Err(_) => {
            let detail = format!("no kernel for guests in {}", folder.display());
            let fix = "run scripts/guest-kernel, or name its folder with --guest";
            return CheckResult::warn(NAME, detail, fix);
        }
    };
    if !init.exists() {
        let detail = format!("there is no {}", init.display());
        return CheckResult::warn(NAME, detail, "run make guest");
    }
    let release = std::fs::read_to_string(source.kernel.with_file_name("RELEASE"));
    let release = release.unwrap_or_default();
    let detail = format!("{} {}", release.trim(), source.kernel.display());
    CheckResult::pass(NAME, detail.trim())
}

fn qemu_result(found: &Found) -> CheckResult {
    match &found.facts {
        Ok(facts) => CheckResult::pass("qemu", facts.version.clone()),
        Err(reason) => CheckResult::warn("qemu", reason, "apt install qemu-system-x86"),
    }
}

/// Of interest where there is KVM only.
fn firecracker_result(found: Option<&Found>, kvm: &Kvm) -> Option<CheckResult> {
    let fix = "install firecracker and jailer of one release to /usr/local/bin: docs/isolation.md";
    match found {
        Some(Found {
            facts: Ok(facts), ..
        }) => Some(CheckResult::pass("firecracker", facts.version.clone())),
        Some(Found {
            facts: Err(reason), ..
        }) => Some(CheckResult::warn("firecracker", reason, fix)),
        None if *kvm == Kvm::Works => {
            let detail = "not installed (optional: VMs on KVM run under QEMU without it)";
            Some(CheckResult::warn("firecracker", detail, fix))
        }
        None => None,
    }
}

/// What is known before the rungs are looked at.
struct Known<'a> {
    setup: &'a VmSetup,
    /// Checks of things that VMs need and that did not pass.
    missing: Vec<&'static str>,
}

impl Known<'_> {
    /// Whether one of these hypervisors has been seen to boot a guest.
    fn rung(&self, name: &'static str, choices: &[&Found], refusal: Option<&str>) -> CheckResult {
        if let Some(reason) = refusal {
            let fix = "use a host whose KVM runs stock guests; `vm-emulated` needs no KVM";
            return CheckResult::warn(name, format!("refused: {reason}"), fix);
        }
        for found in choices {
            let Ok(facts) = &found.facts else { continue };
            let VmSetup {
                kernels, proofs, ..
            } = self.setup;
            if proof::is_proven(proofs, &found.choice, facts, kernels) {
                let detail = format!("proven: a guest booted under {}", facts.kind.as_str());
                return CheckResult::pass(name, format!("{detail} {}", facts.version));
            }
        }
        let missing: Vec<&str> = self
            .missing
            .iter()
            .copied()
            .filter(|name| *name != "firecracker")
            .collect();
        if missing.is_empty() {
            let detail = "not proven since this host booted";
            let fix = "start a platform: `roost up` boots a guest to find out";
            return CheckResult::warn(name, detail, fix);
        }
        let detail = format!("lacks {}", missing.join(", "));
        CheckResult::warn(name, detail, "mend what is named, then `roost up`")
    }
}

/// Joins two tap devices as those of machines are joined to their links, in a
/// network namespace that goes with the trial.
async fn check_network() -> CheckResult {
    const NAME: &str = "vm network";
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // The namespace is that of a thread, so the thread is for this alone.
    let thread = std::thread::Builder::new().name("doctor".to_owned());
    let thread = thread.spawn(move || drop(sender.send(try_network())));
    let result = match thread {
        Ok(_) => tokio::time::timeout(ATTEMPT_TIMEOUT, receiver).await,
        Err(error) => return CheckResult::warn(NAME, error.to_string(), "end some processes"),
    };
    match result {
        Ok(Ok(Ok(()))) => {
            let detail = "two tap devices were joined, in a network namespace of their own";
            CheckResult::pass(NAME, detail)
        }
        Ok(Ok(Err((reason, fix)))) => CheckResult::warn(NAME, reason, fix),
        Ok(Err(_)) => CheckResult::warn(NAME, "the trial was broken off", "report this as a bug"),
        Err(_) => CheckResult::warn(
            NAME,
            format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()),
            "see what the kernel waits for with: dmesg | tail",
        ),
    }
}

fn try_network() -> Result<(), (String, &'static str)> {
    sys::unshare(UnshareFlags::NEWNET)
        .map_err(|error| (format!("make a network namespace: {error}"), "run as root"))?;
    let [tap, link] = ["roost-check0", "roost-check1"];
    let tap = Tap::create(tap, TAP_OWNER).map_err(|error| (chain(&error), TUN_FIX))?;
    let link = Tap::create(link, TAP_OWNER).map_err(|error| (chain(&error), TUN_FIX))?;
    let tag = InstanceTag::of_data_dir(Path::new("/"));
    let bug = || ("no addresses to try".to_owned(), "report this as a bug");
    let network = NodeNetwork::choose(tag, &[]).ok_or_else(bug)?;
    let guest = network.guest(network.address(0).ok_or_else(bug)?);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| (error.to_string(), "end some processes"))?;
    let limits = RateLimits {
        from_guest: Some(RATE),
        to_guest: Some(RATE),
    };
    runtime
        .block_on(connect(&tap, link.name(), guest, limits))
        .map_err(|error| (chain(&error), TRAFFIC_FIX))
}

#[cfg(test)]
mod tests {
    use super::{VmSetup, check};
    use crate::doctor::kvm::Kvm;
    use crate::doctor::{CheckResult, CheckStatus};
    use std::path::Path;

    fn setup(dir: &Path) -> VmSetup {
        VmSetup {
            guest: dir.join("guest"),
            qemu: dir.join("qemu"),
            firecracker: None,
            kernels: dir.join("kernels"),
            proofs: dir.join("proofs.json"),
        }
    }

    fn of<'a>(results: &'a [CheckResult], name: &str) -> &'a CheckResult {
        results.iter().find(|result| result.name == name).unwrap()
    }

    #[tokio::test]
    async fn what_vms_lack_is_named_by_their_rungs_and_each_lack_has_a_fix() {
        let dir = tempfile::tempdir().unwrap();
        let results = check(&setup(dir.path()), &Kvm::Unusable("it hangs".into())).await;
        for result in &results {
            assert_eq!(result.fix.is_none(), result.status == CheckStatus::Pass);
        }
        let emulated = of(&results, "rung vm-emulated");
        assert!(
            emulated.detail.contains("guest kernel, qemu"),
            "{emulated:?}"
        );
        assert_eq!(of(&results, "rung vm").detail, "refused: it hangs");
        assert!(of(&results, "isolation").detail.contains("`container`"));
        // Without KVM nobody misses it.
        assert!(results.iter().all(|result| result.name != "firecracker"));
        let results = check(&setup(dir.path()), &Kvm::Works).await;
        assert!(of(&results, "firecracker").detail.contains("optional"));
    }

    #[tokio::test]
    async fn a_kernel_without_its_init_is_not_enough() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(dir.path());
        std::fs::create_dir(&setup.guest).unwrap();
        std::fs::write(setup.guest.join("vmlinuz"), "").unwrap();
        let results = check(&setup, &Kvm::Absent).await;
        assert!(of(&results, "guest kernel").detail.contains("roost-init"));
        std::fs::write(setup.guest.join("roost-init"), "").unwrap();
        std::fs::write(setup.guest.join("RELEASE"), "6.12.1\n").unwrap();
        let results = check(&setup, &Kvm::Absent).await;
        assert!(of(&results, "guest kernel").detail.starts_with("6.12.1 /"));
    }

    #[tokio::test]
    async fn the_network_of_vms_is_tried_and_leaves_nothing_here() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let result = super::check_network().await;
        assert_eq!(result.status, CheckStatus::Pass, "{result:?}");
        assert!(!Path::new("/sys/class/net/roost-check0").exists());
    }
}
