//! The rungs of this node: a driver for each, and the proof that it works.
//!
//! Containers are always offered. The rung `vm` is proven before the node is
//! ready, since it decides what machines get by default; where KVM cannot work
//! that is known at once. The rung `vm-emulated` is chosen by name only and its
//! proof takes seconds, so it is proven while the node already serves.

use crate::args::VmArgs;
use crate::config::{NodeConfig, RuntimeChoice, guest_dir};
use anyhow::{Context as _, Result};
use roost_host::container::{ContainerConfig, ContainerDriver, ContainerRuntime};
use roost_host::doctor::VmSetup;
use roost_host::net::PacketPlumber;
use roost_host::net::addresses::NodeNetwork;
use roost_host::net::linux::{LinuxPlumber, NetConfig};
use roost_host::net::sysctl::DEFAULT_RECORD;
use roost_host::shim::ShimConfig;
use roost_host::vm::proof::{ProofConfig, prove};
use roost_host::vm::{VmDriver, VmDriverConfig, kernels};
use roost_host::vmm::kernel::{GuestKernel, GuestKernels, KernelSource};
use roost_model::error::chain;
use roost_model::machine::Rung;
use roost_proto::vm::VmHypervisor;
use roost_runtime::fs::ensure_dir;
use roost_runtime::tasks::Tasks;
use roost_worker::{Drivers, Standing};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What is remembered of proofs, by all nodes of this host until it boots again.
const PROOFS: &str = "/run/roost-proofs.json";
/// Time for a guest to boot on KVM and start its app; one takes a second.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for an emulated guest; one takes five seconds on an idle host.
const BOOT_TIMEOUT_EMULATED: Duration = Duration::from_secs(180);
/// Pause before a rung that was refused is tried again; doubles each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(60);
/// The longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Where programs of Debian are.
const PROGRAM_DIRS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];

/// Sets up the drivers of all rungs; those that take long are proven later.
pub(crate) async fn open(
    config: &NodeConfig,
    network: NodeNetwork,
    tasks: &Tasks,
) -> Result<Drivers> {
    let plumber: Arc<dyn PacketPlumber> = Arc::new(LinuxPlumber::new(NetConfig {
        tag: config.tag,
        network,
        sysctl_record: DEFAULT_RECORD.into(),
    }));
    plumber
        .ensure_node()
        .await
        .context("set up the node's network")?;
    let shims = ShimConfig {
        tag: config.tag,
        run_dir: config.paths.run.join("machines"),
        data_dir: config.paths.machines(),
        plumber,
    };
    let drivers = Drivers::new();
    let container = ContainerDriver::new(ContainerConfig {
        shims: shims.clone(),
        program: config.shim.clone(),
        runtime: match &config.runtime {
            RuntimeChoice::Library => ContainerRuntime::Library,
            RuntimeChoice::External(path) => ContainerRuntime::External(path.clone()),
        },
    });
    let container = container.context("set up the container driver")?;
    drivers.set(Arc::new(container), Standing::Proven);
    let kernel = import_kernel(config).await;
    if let Err(error) = collect_kernels(config, kernel.as_ref().ok()).await {
        // They only take room.
        tracing::warn!(%error, "remove guest kernels that no machine needs");
    }
    let vms = Vms {
        config,
        shims,
        network,
        kernel,
        drivers: drivers.clone(),
    };
    vms.add_vm().await?;
    vms.add_emulated(tasks)?;
    Ok(drivers)
}

/// What the VM rungs share.
struct Vms<'a> {
    config: &'a NodeConfig,
    shims: ShimConfig,
    network: NodeNetwork,
    /// What guests boot, or why there is nothing.
    kernel: Result<GuestKernel, String>,
    drivers: Drivers,
}

impl Vms<'_> {
    /// The rung on KVM: Firecracker where it is installed and works, else QEMU.
    async fn add_vm(&self) -> Result<()> {
        let mut choices = Vec::new();
        let firecracker = find(self.config.firecracker.as_deref(), "firecracker");
        let jailer = find(self.config.jailer.as_deref(), "jailer");
        if let (Some(program), Some(jailer)) = (firecracker, jailer) {
            choices.push(VmHypervisor::Firecracker { program, jailer });
        }
        choices.push(self.qemu(false));
        let mut reasons = Vec::new();
        for hypervisor in choices {
            let driver = self.driver(Rung::Vm, hypervisor.clone(), BOOT_TIMEOUT)?;
            match self.prove(hypervisor).await {
                Ok(()) => {
                    if !reasons.is_empty() {
                        tracing::warn!(?reasons, "the rung vm is offered without Firecracker");
                    }
                    self.drivers.set(Arc::new(driver), Standing::Proven);
                    return Ok(());
                }
                Err(reason) => {
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                    let standing = Standing::Refused(reasons.join("; "));
                    self.drivers.set(Arc::new(driver), standing);
                }
            }
        }
        Ok(())
    }

    /// The emulated rung, which is proven beside what follows.
    fn add_emulated(&self, tasks: &Tasks) -> Result<()> {
        let hypervisor = self.qemu(true);
        let driver = self.driver(Rung::VmEmulated, hypervisor.clone(), BOOT_TIMEOUT_EMULATED)?;
        self.drivers.set(Arc::new(driver), Standing::Proving);
        let proof = match &self.kernel {
            Ok(kernel) => self.proof(hypervisor, kernel.clone()),
            Err(reason) => {
                let standing = Standing::Refused(reason.clone());
                self.drivers.set_standing(Rung::VmEmulated, standing);
                return Ok(());
            }
        };
        let drivers = self.drivers.clone();
        let stop = tasks.stopping();
        let trial = async move {
            let mut pause = RETRY_PAUSE_MIN;
            loop {
                let proven = prove(&proof).await;
                let is_proven = proven.is_ok();
                let standing = match proven {
                    Ok(_) => Standing::Proven,
                    Err(reason) => Standing::Refused(reason),
                };
                tracing::info!(rung = %Rung::VmEmulated, ?standing, "rung was tried");
                drivers.set_standing(Rung::VmEmulated, standing);
                if is_proven {
                    return;
                }
                // What hindered it may pass: a busy host, a missing package.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        };
        tasks.spawn("proof of the rung vm-emulated", async move {
            tokio::select! {
                () = trial => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(())
    }

    async fn prove(&self, hypervisor: VmHypervisor) -> Result<(), String> {
        let kernel = self.kernel.clone()?;
        prove(&self.proof(hypervisor, kernel)).await.map(|_| ())
    }

    fn proof(&self, hypervisor: VmHypervisor, kernel: GuestKernel) -> ProofConfig {
        let name = match &hypervisor {
            VmHypervisor::Firecracker { .. } => "proof-firecracker",
            VmHypervisor::Qemu { emulated: true, .. } => "proof-emulated",
            VmHypervisor::Qemu { .. } => "proof-qemu",
        };
        ProofConfig {
            hypervisor,
            kernel,
            // On a disk: a run directory is no place for programs and devices.
            dir: self.config.paths.data.join(name),
            record: PathBuf::from(PROOFS),
        }
    }

    fn driver(
        &self,
        rung: Rung,
        hypervisor: VmHypervisor,
        boot_timeout: Duration,
    ) -> Result<VmDriver> {
        let driver = VmDriver::new(VmDriverConfig {
            rung,
            shims: self.shims.clone(),
            program: self.config.vm.clone(),
            hypervisor,
            kernels: self.config.paths.kernels(),
            kernel: self.kernel.clone().ok(),
            network: self.network,
            boot_timeout,
        });
        driver.with_context(|| format!("set up the driver of the rung {rung}"))
    }

    fn qemu(&self, emulated: bool) -> VmHypervisor {
        VmHypervisor::Qemu {
            program: qemu(self.config.qemu.as_deref()),
            emulated,
        }
    }
}

/// What a node with these options runs VMs with, for a check of the host.
pub(crate) fn setup(args: &VmArgs, kernels: PathBuf) -> Result<VmSetup> {
    let firecracker = find(args.firecracker.as_deref(), "firecracker");
    let jailer = find(args.jailer.as_deref(), "jailer");
    Ok(VmSetup {
        guest: guest_dir(args)?,
        qemu: qemu(args.qemu.as_deref()),
        firecracker: firecracker.zip(jailer),
        kernels,
        proofs: PathBuf::from(PROOFS),
    })
}

/// Takes the kernel that lies beside the programs into the node's store.
async fn import_kernel(config: &NodeConfig) -> Result<GuestKernel, String> {
    let dir = &config.guest;
    let init = dir.join("roost-init");
    if !init.exists() {
        return Err(format!(
            "there is no guest kernel in {}: run scripts/guest-kernel, or name a directory with --guest",
            dir.display()
        ));
    }
    let imported = async {
        ensure_dir(&config.paths.kernels())?;
        let store = GuestKernels::open(&config.paths.kernels())?;
        let source = KernelSource::in_folder(dir, init)?;
        anyhow::Ok(store.import(source).await?)
    };
    imported.await.map_err(|error: anyhow::Error| {
        let error: &(dyn std::error::Error + 'static) = error.as_ref();
        format!("take in the guest kernel: {}", chain(error))
    })
}

/// Removes guest kernels but the one of new machines and those that machines
/// run or are to resume with.
async fn collect_kernels(config: &NodeConfig, own: Option<&GuestKernel>) -> Result<()> {
    let machines = config.paths.machines();
    let found = tokio::task::spawn_blocking(move || kernels::in_use(&machines));
    let mut keep = found.await??;
    keep.extend(own.map(|kernel| kernel.id.clone()));
    let store = GuestKernels::open(&config.paths.kernels())?;
    let removed = store.collect(&keep).await?;
    if !removed.is_empty() {
        tracing::info!(?removed, "guest kernels that no machine needs were removed");
    }
    Ok(())
}

/// QEMU; a missing one is named by whoever tries to run it.
fn qemu(given: Option<&Path>) -> PathBuf {
    let name = "qemu-system-x86_64";
    find(given, name).unwrap_or_else(|| Path::new("/usr/bin").join(name))
}

/// A program given by flag, or the one of this name in a usual place.
fn find(given: Option<&Path>, name: &str) -> Option<PathBuf> {
    if let Some(path) = given {
        return Some(path.to_owned());
    }
    let places = PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(name));
    places.into_iter().find(|path| path.exists())
}
