//! The container rung: hardened containers, each run by a shim process.
//!
//! The driver holds no state. Every machine has a run directory, and in it a
//! lock file that is locked for as long as its shim lives, a control socket
//! while it runs, and `exit.json` once it has ended; whatever still runs of a
//! machine is in its cgroup. So a new driver in a new process knows as much as
//! the one before it, and whatever state a machine is found in, `sweep` ends
//! in nothing being left.
//!
//! The first process of a machine is process 1 of its own process namespace:
//! the kernel drops signals for which it has no handler. A machine whose
//! program does not handle the stop signal ends by SIGKILL when the time is up.

use crate::cgroup::Cgroup;
use crate::driver::{
    Adoption, DriverError, LaunchConfig, MachineDriver, MachineStats, Origin, RootFsKind, Running,
};
use crate::instance::InstanceTag;
use crate::net::{PacketPlumber, PlumbError};
use crate::quota;
use crate::tree::remove_tree;
use async_trait::async_trait;
use control::{Handshake, ShimConnection};
use limits::{CONTROL_TIMEOUT, KILL_TIMEOUT, SHIM_END_POLL, SHIM_END_TIMEOUT};
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::{ExitCause, MachineExit, Rung};
use roost_proto::shim::{ShimCommand, ShimEvent, ShimExit, exit_path, lock_path};
use roost_proto::worker::{ExecCommand, ExecOutcome, ListeningSocket};
use roost_runtime::fs::{ensure_no_dir, ensure_no_file};
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod control;
mod exec;
mod launch;
mod limits;
mod sockets;

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
    /// The instance; machines' cgroups are below `/roost-<tag>`.
    pub tag: InstanceTag,
    /// Parent of the machines' run directories. Need not survive a reboot.
    pub run_dir: PathBuf,
    /// Parent of what machines write to their root file systems. Must be on a
    /// file system that can be the upper side of an overlay.
    pub data_dir: PathBuf,
    /// The program `roost-shim`.
    pub shim: PathBuf,
    /// What runs the bundles.
    pub runtime: ContainerRuntime,
    /// Connects machines to the network.
    pub plumber: Arc<dyn PacketPlumber>,
}

/// Runs machines as containers.
#[derive(Debug)]
pub struct ContainerDriver {
    config: ContainerConfig,
    /// Whether the file system of the data directory can limit what a machine writes.
    limits_disks: bool,
}

impl ContainerDriver {
    /// A driver; makes its directories, closed to other users.
    pub fn new(config: ContainerConfig) -> Result<Self, DriverError> {
        if !config.shim.is_file() {
            return Err(host(
                "find roost-shim",
                format!("{} is not a file", config.shim.display()),
            ));
        }
        config.runtime.check()?;
        for dir in [&config.run_dir, &config.data_dir] {
            make_private_dir(dir)?;
        }
        let limits_disks = match quota::check(&config.data_dir) {
            Ok(()) => true,
            Err(reason) => {
                tracing::info!(reason, "what machines write to disk is not limited");
                false
            }
        };
        Ok(Self {
            config,
            limits_disks,
        })
    }

    fn run_dir(&self, id: &MachineId) -> PathBuf {
        self.config.run_dir.join(id.as_str())
    }

    fn data_dir(&self, id: &MachineId) -> PathBuf {
        self.config.data_dir.join(id.as_str())
    }

    fn cgroup_path(&self, id: &MachineId) -> String {
        format!("/{}/{id}", self.config.tag.cgroup_name())
    }

    /// Ends and removes whatever there is of a machine.
    async fn sweep(&self, id: &MachineId) -> Result<(), DriverError> {
        let (run_dir, data_dir) = (self.run_dir(id), self.data_dir(id));
        let (cgroup, parent) = (
            self.cgroup_path(id),
            format!("/{}", self.config.tag.cgroup_name()),
        );
        blocking("remove the machine", move || {
            sweep(&run_dir, &data_dir, &cgroup, &parent)
        })
        .await?;
        self.detach(id).await
    }

    async fn detach(&self, id: &MachineId) -> Result<(), DriverError> {
        self.config.plumber.detach(id).await.map_err(|error| {
            host(
                format!("detach machine {id} from the network"),
                chain(&error),
            )
        })
    }

    /// Starts a shim, and the machine in it.
    async fn start(&self, config: &LaunchConfig) -> Result<Running, DriverError> {
        let id = &config.machine_id;
        let run_dir = self.run_dir(id);
        make_private_dir(&run_dir)?;
        let data_dir = self.data_dir(id);
        make_private_dir(&data_dir)?;
        if self.limits_disks {
            let bytes = config.root_disk.bytes();
            blocking("limit what the machine writes", move || {
                quota::limit(&data_dir, bytes)
            })
            .await?;
        }
        let message = launch::message(self, config).await?;
        let mut handshake = Handshake::begin(&self.config.shim, &run_dir)
            .map_err(|error| host("start a shim", error.to_string()))?;
        let plumber = &self.config.plumber;
        let refused =
            |error: PlumbError| host(format!("attach machine {id} to the network"), chain(&error));
        // Both are waited for, whichever fails: nothing is changed behind a sweep.
        let (created, admitted) = tokio::join!(
            handshake.create(&message),
            plumber.admit(id, config.addresses)
        );
        let pid = created?;
        admitted.map_err(refused)?;
        plumber
            .attach(id, config.addresses, pid)
            .await
            .map_err(refused)?;
        handshake.start().await?;
        let origin = match config.resume {
            false => Origin::Cold,
            true => Origin::ColdAfter("machines on the rung container have no snapshots".into()),
        };
        Ok(Running { pid, origin })
    }

    /// What is known of a machine whose shim does not answer, once it surely is gone.
    async fn last_words(&self, id: &MachineId) -> Result<Option<MachineExit>, DriverError> {
        let run_dir = self.run_dir(id);
        if let Some(exit) = read_exit(&run_dir) {
            return Ok(Some(exit));
        }
        if !run_dir.exists() {
            return Ok(None);
        }
        // It may be about to write them.
        let cgroup = self.cgroup_path(id);
        let dir = run_dir.clone();
        blocking("wait for the machine's shim", move || {
            if !shim_ends(&dir, CONTROL_TIMEOUT) {
                // It is stuck; without its machine it has nothing to do.
                Cgroup::at(&cgroup)?.kill_all(KILL_TIMEOUT)?;
            }
            Ok(())
        })
        .await?;
        Ok(read_exit(&run_dir))
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
        if self.run_dir(id).exists() {
            // What an earlier run has left. The first start has nothing to sweep.
            self.sweep(id).await?;
        }
        match self.start(&config).await {
            Ok(running) => Ok(running),
            Err(error) => {
                if let Err(sweep_error) = self.sweep(id).await {
                    tracing::warn!(machine_id = %id, error = chain(&sweep_error), "remains of a failed start");
                }
                Err(error)
            }
        }
    }

    async fn adopt(&self, id: &MachineId) -> Result<Adoption, DriverError> {
        if let Ok((_, pid)) = ShimConnection::open(&self.run_dir(id)).await {
            return Ok(Adoption::Running { pid });
        }
        match self.last_words(id).await? {
            Some(exit) => Ok(Adoption::Exited(exit)),
            None => {
                self.sweep(id).await?;
                Ok(Adoption::Gone)
            }
        }
    }

    async fn wait_exit(&self, id: &MachineId) -> Result<MachineExit, DriverError> {
        if let Ok((mut connection, _)) = ShimConnection::open(&self.run_dir(id)).await {
            loop {
                match connection.receive().await {
                    Ok(Some(ShimEvent::Exited(exit))) => return Ok(machine_exit(exit)),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
        if !self.run_dir(id).exists() {
            return Err(DriverError::NotRunning(id.clone()));
        }
        if let Some(exit) = self.last_words(id).await? {
            return Ok(exit);
        }
        // The shim was killed, and with it what would have known how the machine ended.
        self.sweep(id).await?;
        Ok(MachineExit {
            exit_code: 128 + libc::SIGKILL,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
            cause: ExitCause::Shim,
        })
    }

    async fn suspend(&self, _: &MachineId) -> Result<(), DriverError> {
        Err(DriverError::Refused(
            "machines on the rung container cannot be suspended yet".into(),
        ))
    }

    async fn stats(&self, id: &MachineId) -> Result<MachineStats, DriverError> {
        let cgroup = self.cgroup_path(id);
        let used = blocking("read what the machine uses", move || {
            Ok(Cgroup::at(&cgroup)?.usage())
        });
        let usage = used
            .await?
            .ok_or_else(|| DriverError::NotRunning(id.clone()))?;
        Ok(MachineStats {
            memory_bytes: usage.memory_bytes,
            cpu_us: usage.cpu_us,
        })
    }

    async fn signal(&self, id: &MachineId, signal: i32) -> Result<(), DriverError> {
        if !(1..=libc::SIGRTMAX()).contains(&signal) {
            return Err(DriverError::Refused(format!(
                "{signal} is not the number of a signal"
            )));
        }
        let not_running = || DriverError::NotRunning(id.clone());
        let (mut connection, _) = ShimConnection::open(&self.run_dir(id))
            .await
            .map_err(|_| not_running())?;
        let answer = async {
            connection
                .send(&ShimCommand::Signal { number: signal })
                .await?;
            connection.receive().await
        };
        match tokio::time::timeout(CONTROL_TIMEOUT, answer).await {
            Ok(Ok(Some(ShimEvent::Signalled))) => Ok(()),
            Ok(Ok(Some(ShimEvent::Exited(_)) | None) | Err(_)) => Err(not_running()),
            Ok(Ok(Some(other))) => Err(host(
                "signal the machine",
                format!("unexpected answer {other:?}"),
            )),
            Err(_) => Err(host("signal the machine", "its shim does not answer")),
        }
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, DriverError> {
        let run_dir = self.run_dir(id);
        if ShimConnection::open(&run_dir).await.is_err() {
            return Err(DriverError::NotRunning(id.clone()));
        }
        exec::run(&self.config.shim, &run_dir, command).await
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, DriverError> {
        let Ok((_connection, pid)) = ShimConnection::open(&self.run_dir(id)).await else {
            return Err(DriverError::NotRunning(id.clone()));
        };
        let cgroup = self.cgroup_path(id);
        let listed = blocking("list the machine's sockets", move || {
            let pids = Cgroup::at(&cgroup)?.pids();
            match sockets::list(pid, &pids) {
                // It ended under our eyes.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                result => result.map(Some),
            }
        });
        listed
            .await?
            .ok_or_else(|| DriverError::NotRunning(id.clone()))
    }

    async fn remove(&self, id: &MachineId) -> Result<(), DriverError> {
        self.sweep(id).await
    }

    async fn list(&self) -> Result<Vec<MachineId>, DriverError> {
        let dirs = [self.config.run_dir.clone(), self.config.data_dir.clone()];
        let cgroup = format!("/{}", self.config.tag.cgroup_name());
        let mut names = blocking("list machines", move || {
            let mut names = Cgroup::at(&cgroup)?.children();
            for dir in dirs {
                for entry in std::fs::read_dir(dir)? {
                    names.extend(entry?.file_name().into_string());
                }
            }
            Ok(names)
        })
        .await?;
        let attached = self
            .config
            .plumber
            .attached()
            .await
            .map_err(|error| host("list the machines on the network", chain(&error)))?;
        names.extend(attached.iter().map(|id| id.as_str().to_owned()));
        let ids: BTreeSet<MachineId> = names
            .iter()
            .filter_map(|name| MachineId::parse(name).ok())
            .collect();
        Ok(ids.into_iter().collect())
    }
}

fn host(operation: impl Into<String>, reason: impl Into<String>) -> DriverError {
    DriverError::Host {
        operation: operation.into(),
        reason: reason.into(),
    }
}

/// Runs what waits for the kernel or a disk beside the runtime's threads.
async fn blocking<T, F>(operation: &'static str, work: F) -> Result<T, DriverError>
where
    T: Send + 'static,
    F: FnOnce() -> std::io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(host(operation, error.to_string())),
        Err(error) => Err(host(operation, error.to_string())),
    }
}

fn make_private_dir(path: &Path) -> Result<(), DriverError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| host(format!("create {}", path.display()), error.to_string()))
}

fn machine_exit(exit: ShimExit) -> MachineExit {
    MachineExit {
        exit_code: exit.exit_code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
        cause: exit.cause.into(),
    }
}

fn read_exit(run_dir: &Path) -> Option<MachineExit> {
    let text = std::fs::read(exit_path(run_dir)).ok()?;
    serde_json::from_slice(&text).ok().map(machine_exit)
}

/// Waits until no shim holds this run directory; `false` when one still does.
fn shim_ends(run_dir: &Path, limit: Duration) -> bool {
    let Ok(lock) = File::open(lock_path(run_dir)) else {
        return true;
    };
    let deadline = Instant::now() + limit;
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(SHIM_END_POLL);
    }
    true
}

/// Ends a machine and its shim, and removes all they have, in whatever state they are.
fn sweep(run_dir: &Path, data_dir: &Path, cgroup: &str, parent: &str) -> std::io::Result<()> {
    let cgroup = Cgroup::at(cgroup)?;
    // The shim sees its machine end, and ends. One that is creating the
    // machine may put another process there, so look again while waiting.
    let deadline = Instant::now() + SHIM_END_TIMEOUT;
    cgroup.kill_all(KILL_TIMEOUT)?;
    while !shim_ends(run_dir, SHIM_END_POLL) {
        if Instant::now() >= deadline {
            return Err(std::io::Error::other("its shim does not end"));
        }
        cgroup.kill_all(KILL_TIMEOUT)?;
    }
    cgroup.remove(KILL_TIMEOUT)?;
    quota::release(data_dir)?;
    remove_tree(data_dir)?;
    // Last of all, so that an interrupted sweep is found and done again; and
    // the lock last in it, since it is what says that no shim is there.
    let removed = ensure_no_file(&exit_path(run_dir)).and_then(|()| ensure_no_dir(run_dir));
    removed.map_err(std::io::Error::other)?;
    Cgroup::at(parent)?.remove_if_empty();
    Ok(())
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
