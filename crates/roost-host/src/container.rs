//! The container rung: hardened containers, each run by a shim process.
//!
//! The first process of a machine is process 1 of its own process namespace:
//! the kernel drops signals for which it has no handler. A machine whose
//! program does not handle the stop signal ends by SIGKILL when the time is up.

use crate::cgroup::Cgroup;
use crate::driver::{
    Adoption, DriverError, LaunchConfig, MachineDriver, MachineStats, Origin, RootFsKind, Running,
};
use crate::quota;
use crate::shim::{ShimConfig, Shims, blocking, host};
use async_trait::async_trait;
use limits::LAUNCH_TIMEOUT;
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::{MachineExit, Rung};
use roost_proto::worker::{ExecCommand, ExecOutcome, ListeningSocket, Process};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

mod exec;
mod files;
mod launch;
mod limits;
mod processes;
mod sockets;

pub(crate) use launch::{host_nameservers, limits_of};

/// What runs a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerRuntime {
    /// The library that is built into the shim.
    Library,
    /// An outside OCI runtime, such as `/usr/sbin/runc`.
    External(PathBuf),
}

impl ContainerRuntime {
    /// Refuses a runtime that is known not to be able to run machines.
    fn check(&self) -> Result<(), DriverError> {
        let Self::External(path) = self else {
            return Ok(());
        };
        let target = path.canonicalize().unwrap_or_else(|_| path.clone());
        // It joins no user namespace that was made for it, which maps the owners
        // of layers; and what runs in its sandbox are no processes of the host,
        // so that commands and lists of sockets would not be of the machine.
        if target.file_name().is_some_and(|name| name == "runsc") {
            return Err(DriverError::Refused(format!(
                "gVisor ({}) cannot run machines yet: use the built-in runtime (`library`) or runc",
                path.display()
            )));
        }
        Ok(())
    }
}

/// How to run containers on this host.
#[derive(Debug, Clone)]
pub struct ContainerConfig {
    /// Where machines and shims are.
    pub shims: ShimConfig,
    /// The program `roost-shim`.
    pub program: PathBuf,
    /// What runs the bundles.
    pub runtime: ContainerRuntime,
}

/// Runs machines as containers.
#[derive(Debug)]
pub struct ContainerDriver {
    shims: Shims,
    program: PathBuf,
    runtime: ContainerRuntime,
    /// Whether the file system of the data directory can limit what a machine writes.
    limits_disks: bool,
}

impl ContainerDriver {
    /// A driver; makes its directories, closed to other users.
    pub fn new(config: ContainerConfig) -> Result<Self, DriverError> {
        if !config.program.is_file() {
            return Err(host(
                "find roost-shim",
                format!("{} is not a file", config.program.display()),
            ));
        }
        config.runtime.check()?;
        let shims = Shims::open(config.shims)?;
        let limits_disks = match quota::check(&shims.config.data_dir) {
            Ok(()) => true,
            Err(reason) => {
                tracing::info!(reason, "what machines write to disk is not limited");
                false
            }
        };
        Ok(Self {
            shims,
            program: config.program,
            runtime: config.runtime,
            limits_disks,
        })
    }

    /// Looks at the processes of a machine that runs: its first one and all of them.
    async fn look<T: Send + 'static>(
        &self,
        id: &MachineId,
        what: &'static str,
        look: fn(u32, &[u32]) -> std::io::Result<T>,
    ) -> Result<T, DriverError> {
        let pid = self.shims.running(id).await;
        let pid = pid.ok_or_else(|| DriverError::NotRunning(id.clone()))?;
        let cgroup = self.shims.cgroup_path(id);
        let seen = blocking(what, move || {
            let pids = Cgroup::at(&cgroup)?.pids();
            match look(pid, &pids) {
                // It ended under our eyes.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                result => result.map(Some),
            }
        });
        seen.await?
            .ok_or_else(|| DriverError::NotRunning(id.clone()))
    }

    /// Starts a shim, and the machine in it.
    async fn start(&self, config: &LaunchConfig) -> Result<Running, DriverError> {
        let id = &config.machine_id;
        self.shims.make_dirs(id)?;
        if self.limits_disks {
            let data_dir = self.shims.data_dir(id);
            let bytes = config.root_disk.bytes();
            blocking("limit what the machine writes", move || {
                quota::limit(&data_dir, bytes)
            })
            .await?;
        }
        let message = launch::message(self, config).await?;
        let started = self
            .shims
            .start(&self.program, config, &message, LAUNCH_TIMEOUT);
        let (pid, _) = started.await?;
        let origin = match config.resume {
            false => Origin::Cold,
            true => Origin::ColdAfter("machines on the rung container have no snapshots".into()),
        };
        Ok(Running {
            pid,
            origin,
            kernel: None,
        })
    }
}

#[async_trait]
impl MachineDriver for ContainerDriver {
    fn rung(&self) -> Rung {
        Rung::Container
    }

    fn root_fs(&self) -> RootFsKind {
        RootFsKind::Layers
    }

    fn can_suspend(&self) -> bool {
        false
    }

    async fn launch(&self, config: LaunchConfig) -> Result<Running, DriverError> {
        let id = &config.machine_id;
        if self.shims.run_dir(id).exists() {
            // What an earlier run has left. The first start has nothing to sweep.
            self.shims.sweep(id).await?;
        }
        match self.start(&config).await {
            Ok(running) => Ok(running),
            Err(error) => {
                if let Err(sweep_error) = self.shims.sweep(id).await {
                    tracing::warn!(machine_id = %id, error = chain(&sweep_error), "remains of a failed start");
                }
                Err(error)
            }
        }
    }

    async fn adopt(&self, id: &MachineId) -> Result<Adoption, DriverError> {
        if let Some(pid) = self.shims.running(id).await {
            return Ok(Adoption::Running { pid });
        }
        match self.shims.last_words(id).await? {
            Some(exit) => Ok(Adoption::Exited(exit)),
            None => {
                self.shims.sweep(id).await?;
                Ok(Adoption::Gone)
            }
        }
    }

    async fn wait_exit(&self, id: &MachineId) -> Result<MachineExit, DriverError> {
        self.shims.wait_exit(id).await
    }

    async fn suspend(&self, _: &MachineId) -> Result<(), DriverError> {
        Err(DriverError::Refused(
            "machines on the rung container cannot be suspended yet".into(),
        ))
    }

    async fn stats(&self, id: &MachineId) -> Result<MachineStats, DriverError> {
        self.shims.stats(id).await
    }

    async fn signal(&self, id: &MachineId, signal: i32) -> Result<(), DriverError> {
        self.shims.signal(id, signal).await
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, DriverError> {
        if self.shims.running(id).await.is_none() {
            return Err(DriverError::NotRunning(id.clone()));
        }
        exec::run(&self.program, &self.shims.run_dir(id), command).await
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, DriverError> {
        let sockets = self.look(id, "list the machine's sockets", sockets::list);
        Ok(sockets
            .await?
            .into_iter()
            .map(|(_, socket)| socket)
            .collect())
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, DriverError> {
        self.look(id, "list the machine's processes", processes::list)
            .await
    }

    async fn open_file(
        &self,
        id: &MachineId,
        path: &str,
    ) -> Result<Option<std::fs::File>, DriverError> {
        let pid = self.shims.running(id).await;
        let pid = pid.ok_or_else(|| DriverError::NotRunning(id.clone()))?;
        let (cgroup, path) = (self.shims.cgroup_path(id), path.to_owned());
        blocking("open a file of the machine", move || {
            let root = match files::root(pid) {
                Ok(root) => root,
                // It ended under our eyes.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            // Another process may have its number by now.
            if !Cgroup::at(&cgroup)?.pids().contains(&pid) {
                return Ok(None);
            }
            if !files::is_of_machine(root.as_fd())? {
                return Ok(None);
            }
            files::open_below(root.as_fd(), &path)
        })
        .await
    }

    async fn remove(&self, id: &MachineId) -> Result<(), DriverError> {
        self.shims.sweep(id).await
    }

    async fn list(&self) -> Result<Vec<MachineId>, DriverError> {
        self.shims.list().await
    }
}

#[cfg(test)]
mod tests {
    use super::ContainerRuntime;

    #[test]
    fn gvisor_is_refused_by_whatever_name_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let (program, link) = (dir.path().join("runsc"), dir.path().join("runtime"));
        std::fs::write(&program, "").unwrap();
        std::os::unix::fs::symlink(&program, &link).unwrap();
        for path in [program, link] {
            let error = ContainerRuntime::External(path).check().unwrap_err();
            assert!(error.to_string().contains("use the built-in"), "{error}");
        }
        let runc = ContainerRuntime::External("/usr/sbin/runc".into());
        runc.check().unwrap();
        ContainerRuntime::Library.check().unwrap();
    }
}
