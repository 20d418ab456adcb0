//! The VM rungs: microVMs, each held by a `roost-vm` process.
//!
//! One driver stands for one rung on one hypervisor. To the worker its
//! machines are as those of the container rung; what runs in them is reached
//! through the agent in the guest, which is not trusted: answers are bounded
//! in size and time.

use crate::driver::{
    Adoption, DriverError, LaunchConfig, MachineDriver, MachineStats, RootFsKind, Running,
};
use crate::net::addresses::NodeNetwork;
use crate::shim::{ShimConfig, Shims, host};
use crate::vmm::firecracker::{FilterPolicy, Firecracker, FirecrackerOptions};
use crate::vmm::kernel::{GuestKernel, GuestKernels};
use crate::vmm::qemu::Qemu;
use crate::vmm::snapshot::{self, state_timeout};
use crate::vmm::{Accelerator, Hypervisor};
use async_trait::async_trait;
use limits::SUSPEND_TIMEOUT;
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::{MachineExit, Rung};
use roost_proto::shim::{ShimCommand, ShimEvent};
use roost_proto::vm::{VmHypervisor, snapshot_path};
use roost_proto::worker::{ExecCommand, ExecOutcome, ListeningSocket, Process};
use std::path::PathBuf;
use std::time::Duration;

mod guest;
pub mod kernels;
mod launch;
mod limits;
pub mod proof;

/// How to run VMs on this host.
#[derive(Debug, Clone)]
pub struct VmDriverConfig {
    /// The rung that this is.
    pub rung: Rung,
    /// Where machines and shims are.
    pub shims: ShimConfig,
    /// The program `roost-vm`.
    pub program: PathBuf,
    /// What runs the VMs.
    pub hypervisor: VmHypervisor,
    /// The directory of the node's guest kernels.
    pub kernels: PathBuf,
    /// What new machines boot; without one, those that run are looked after.
    pub kernel: Option<GuestKernel>,
    /// The networks that machines' addresses are from.
    pub network: NodeNetwork,
    /// Time for a guest to boot and start its app.
    pub boot_timeout: Duration,
}

/// Runs machines as VMs.
#[derive(Debug)]
pub struct VmDriver {
    shims: Shims,
    config: VmDriverConfig,
}

impl VmDriver {
    /// A driver; makes its directories, closed to other users.
    pub fn new(config: VmDriverConfig) -> Result<Self, DriverError> {
        if !config.program.is_file() {
            return Err(host(
                "find roost-vm",
                format!("{} is not a file", config.program.display()),
            ));
        }
        Ok(Self {
            shims: Shims::open(config.shims.clone())?,
            config,
        })
    }

    /// Whether the machine was suspended and nothing has happened since.
    fn has_snapshot(&self, id: &MachineId) -> bool {
        snapshot::is_sealed(&snapshot_path(&self.shims.data_dir(id)))
    }

    /// What the machine boots: with a snapshot, the kernel that is in it.
    async fn kernel_for(&self, config: &LaunchConfig) -> Result<GuestKernel, DriverError> {
        let fail = |reason: String| host("choose a guest kernel", reason);
        let own = self.config.kernel.as_ref();
        let data_dir = self.shims.data_dir(&config.machine_id);
        let had = match config.resume {
            true => kernels::of_machine(&data_dir).map_err(|error| fail(chain(&error)))?,
            false => None,
        };
        if let Some(id) = had.filter(|id| own.is_none_or(|own| own.id != *id)) {
            let store = GuestKernels::open(&self.config.kernels);
            let store = store.map_err(|error| fail(chain(&error)))?;
            match store.get(&id).await {
                Ok(kernel) => return Ok(kernel),
                // The start finds that the snapshot is of another one, says so, and is cold.
                Err(error) => tracing::warn!(error = chain(&error), "kernel of a snapshot"),
            }
        }
        own.cloned()
            .ok_or_else(|| fail("this node has none".to_owned()))
    }

    /// Starts a `roost-vm`, and the machine in it.
    async fn start(&self, config: &LaunchConfig) -> Result<Running, DriverError> {
        let id = &config.machine_id;
        self.shims.make_dirs(id)?;
        let kernel = self.kernel_for(config).await?;
        kernels::note(&self.shims.data_dir(id), &kernel)
            .map_err(|error| host("note the machine's guest kernel", chain(&error)))?;
        let message = launch::message(self, config, &kernel).await?;
        // The guest boots, and starts its app.
        let mut limit = self.config.boot_timeout * 2;
        if config.resume {
            // Before that a snapshot is checked, and loaded in vain.
            limit += self.config.boot_timeout + state_timeout(config.guest.memory) * 2;
        }
        let shim = &self.config.program;
        let (pid, origin) = self.shims.start(shim, config, &message, limit).await?;
        Ok(Running {
            pid,
            origin,
            kernel: Some(kernel.release),
        })
    }
}

#[async_trait]
impl MachineDriver for VmDriver {
    fn rung(&self) -> Rung {
        self.config.rung
    }

    fn root_fs(&self) -> RootFsKind {
        RootFsKind::Image
    }

    fn can_suspend(&self) -> bool {
        true
    }

    async fn launch(&self, config: LaunchConfig) -> Result<Running, DriverError> {
        let id = &config.machine_id;
        if config.resume {
            self.shims.sweep_run(id).await?;
        } else if self.shims.run_dir(id).exists() || self.shims.data_dir(id).exists() {
            // What an earlier run has left. The first start has nothing to sweep.
            self.shims.sweep(id).await?;
        }
        match self.start(&config).await {
            Ok(running) => Ok(running),
            Err(error) => {
                // A snapshot that was not used is as good as before.
                let swept = if config.resume && self.has_snapshot(id) {
                    self.shims.sweep_run(id).await
                } else {
                    self.shims.sweep(id).await
                };
                if let Err(sweep_error) = swept {
                    tracing::warn!(machine_id = %id, error = chain(&sweep_error), "remains of a failed start");
                }
                Err(error)
            }
        }
    }

    async fn adopt(&self, id: &MachineId) -> Result<Adoption, DriverError> {
        let limit = self.config.boot_timeout * 2;
        if let Some(pid) = self.shims.settled(id, limit).await {
            return Ok(Adoption::Running { pid });
        }
        if let Some(exit) = self.shims.last_words(id).await? {
            return Ok(Adoption::Exited(exit));
        }
        if self.has_snapshot(id) {
            self.shims.sweep_run(id).await?;
            // One that was about to resume may have used it up.
            if self.has_snapshot(id) {
                return Ok(Adoption::Suspended);
            }
        }
        self.shims.sweep(id).await?;
        Ok(Adoption::Gone)
    }

    async fn wait_exit(&self, id: &MachineId) -> Result<MachineExit, DriverError> {
        self.shims.wait_exit(id).await
    }

    async fn suspend(&self, id: &MachineId) -> Result<(), DriverError> {
        let asked = self.shims.ask(id, ShimCommand::Suspend, SUSPEND_TIMEOUT);
        match asked.await? {
            ShimEvent::Suspended => self.shims.sweep_run(id).await,
            ShimEvent::SuspendFailed { message } => Err(host("suspend the machine", message)),
            ShimEvent::Exited(_) => Err(DriverError::NotRunning(id.clone())),
            other => Err(host(
                "suspend the machine",
                format!("unexpected answer {other:?}"),
            )),
        }
    }

    async fn stats(&self, id: &MachineId) -> Result<MachineStats, DriverError> {
        self.shims.stats(id).await
    }

    async fn signal(&self, id: &MachineId, signal: i32) -> Result<(), DriverError> {
        self.shims.signal(id, signal).await
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, DriverError> {
        let mut agent = guest::dial(&self.shims, id).await?;
        guest::exec(&mut agent, command).await
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, DriverError> {
        let mut agent = guest::dial(&self.shims, id).await?;
        guest::processes(&mut agent).await
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, DriverError> {
        let mut agent = guest::dial(&self.shims, id).await?;
        guest::listening_sockets(&mut agent).await
    }

    async fn remove(&self, id: &MachineId) -> Result<(), DriverError> {
        self.shims.sweep(id).await
    }

    async fn list(&self) -> Result<Vec<MachineId>, DriverError> {
        self.shims.list().await
    }
}

/// The hypervisor of this choice; nothing is looked for yet. The region is
/// what guests are told of where they are.
pub fn open_hypervisor(choice: &VmHypervisor, region: &str) -> Box<dyn Hypervisor> {
    match choice {
        VmHypervisor::Firecracker { program, jailer } => {
            Box::new(Firecracker::new(FirecrackerOptions {
                firecracker: Some(program.clone()),
                jailer: Some(jailer.clone()),
                filter: FilterPolicy::Required,
                region: region.to_owned(),
            }))
        }
        VmHypervisor::Qemu { program, emulated } => {
            let accelerator = if *emulated {
                Accelerator::Emulation
            } else {
                Accelerator::Kvm
            };
            Box::new(Qemu::new(Some(program.clone()), accelerator))
        }
    }
}
