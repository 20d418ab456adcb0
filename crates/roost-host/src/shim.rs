//! The worker's side of shims: one small process per machine that outlives `roostd`.
//!
//! `roost-shim` holds a container, `roost-vm` a VM; to the worker both look
//! alike. Every machine has a run directory, and in it a lock file that is
//! locked for as long as its shim lives, a control socket while it runs, and
//! `exit.json` once it has ended; whatever still runs of a machine is in its
//! cgroup. So nothing is kept here: a new `roostd` knows as much as the one
//! before it, and whatever state a machine is found in, a sweep ends in nothing
//! being left.

use crate::cgroup::Cgroup;
use crate::driver::{DriverError, MachineStats};
use crate::instance::InstanceTag;
use crate::net::PacketPlumber;
use crate::quota;
use crate::tree::remove_tree;
use limits::{KILL_TIMEOUT, SETTLE_POLL, SHIM_END_POLL, SHIM_END_TIMEOUT, SHIM_LEAVE_TIMEOUT};
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::{ExitCause, MachineExit};
use roost_proto::shim::{ShimCommand, ShimEvent, ShimExit, exit_path, lock_path};
use roost_runtime::fs::{ensure_no_dir, ensure_no_file};
use roost_runtime::points;
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod control;
mod limits;
mod start;

use control::{Greeting, ShimConnection};
pub(crate) use limits::CONTROL_TIMEOUT;

/// Where a node's machines and their shims are. Shared by the drivers of all
/// rungs: of a machine that is only to be removed, the rung does not matter.
#[derive(Debug, Clone)]
pub struct ShimConfig {
    /// The instance; machines' cgroups are below `/roost-<tag>`.
    pub tag: InstanceTag,
    /// Parent of the machines' run directories. Need not survive a reboot.
    pub run_dir: PathBuf,
    /// Parent of what machines keep on disk. Must be on a file system that can
    /// be the upper side of an overlay.
    pub data_dir: PathBuf,
    /// Connects machines to the network.
    pub plumber: Arc<dyn PacketPlumber>,
}

/// The shims of a node's machines.
#[derive(Debug)]
pub(crate) struct Shims {
    pub(crate) config: ShimConfig,
}

/// What a sweep leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    /// Disks and snapshots.
    Data,
}

impl Shims {
    /// Makes the directories, closed to other users.
    pub(crate) fn open(config: ShimConfig) -> Result<Self, DriverError> {
        for dir in [&config.run_dir, &config.data_dir] {
            make_private_dir(dir)?;
        }
        Ok(Self { config })
    }

    /// The run directory of a machine.
    pub(crate) fn run_dir(&self, id: &MachineId) -> PathBuf {
        self.config.run_dir.join(id.as_str())
    }

    /// The directory of what a machine keeps on disk.
    pub(crate) fn data_dir(&self, id: &MachineId) -> PathBuf {
        self.config.data_dir.join(id.as_str())
    }

    /// The cgroup of a machine below each hierarchy's root.
    pub(crate) fn cgroup_path(&self, id: &MachineId) -> String {
        format!("/{}/{id}", self.config.tag.cgroup_name())
    }

    /// Makes the directories of a machine that is about to start.
    pub(crate) fn make_dirs(&self, id: &MachineId) -> Result<(), DriverError> {
        make_private_dir(&self.run_dir(id))?;
        points::pass("run-directory-made");
        make_private_dir(&self.data_dir(id))?;
        points::pass("data-directory-made");
        Ok(())
    }

    /// Ends and removes whatever there is of a machine.
    pub(crate) async fn sweep(&self, id: &MachineId) -> Result<(), DriverError> {
        self.sweep_but(id, Keep::Nothing).await
    }

    /// Ends and removes whatever there is of a machine but its disks and snapshot.
    pub(crate) async fn sweep_run(&self, id: &MachineId) -> Result<(), DriverError> {
        self.sweep_but(id, Keep::Data).await
    }

    async fn sweep_but(&self, id: &MachineId, keep: Keep) -> Result<(), DriverError> {
        let (run_dir, data_dir) = (self.run_dir(id), self.data_dir(id));
        let (cgroup, tag) = (self.cgroup_path(id), self.config.tag);
        blocking("remove the machine", move || {
            sweep(&run_dir, &data_dir, keep, &cgroup)?;
            remove_empty_cgroups(tag)
        })
        .await?;
        self.config.plumber.detach(id).await.map_err(|error| {
            host(
                format!("detach machine {id} from the network"),
                chain(&error),
            )
        })
    }

    /// The process id of a machine that runs, by its shim.
    pub(crate) async fn running(&self, id: &MachineId) -> Option<u32> {
        match ShimConnection::open(&self.run_dir(id)).await {
            Ok((_, Greeting::Running { pid })) => Some(pid),
            Ok((_, Greeting::Suspending)) | Err(_) => None,
        }
    }

    /// Waits while a shim lives and its machine neither runs nor has ended: it
    /// starts, or is being suspended. Returns the process id if it runs then.
    ///
    /// A suspend ends by itself, since the shim bounds it; one that says
    /// nothing for as long as `limit` is given up.
    pub(crate) async fn settled(&self, id: &MachineId, limit: Duration) -> Option<u32> {
        let run_dir = self.run_dir(id);
        let mut deadline = tokio::time::Instant::now() + limit;
        loop {
            let now = tokio::time::Instant::now();
            match ShimConnection::open(&run_dir).await {
                Ok((_, Greeting::Running { pid })) => return Some(pid),
                Ok((_, Greeting::Suspending)) => deadline = now + limit,
                Err(_) if now >= deadline || shim_ends(&run_dir, Duration::ZERO) => return None,
                Err(_) => {}
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    /// What is known of a machine whose shim does not answer, once it surely is gone.
    pub(crate) async fn last_words(
        &self,
        id: &MachineId,
    ) -> Result<Option<MachineExit>, DriverError> {
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

    /// Resolves when the machine has ended. Cancel-safe.
    pub(crate) async fn wait_exit(&self, id: &MachineId) -> Result<MachineExit, DriverError> {
        if let Ok((mut connection, _)) = ShimConnection::open(&self.run_dir(id)).await {
            loop {
                match connection.receive().await {
                    Ok(Some(ShimEvent::Exited(exit))) => {
                        points::pass("exit-seen");
                        return Ok(machine_exit(exit));
                    }
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

    /// Sends a signal to a machine's first process.
    pub(crate) async fn signal(&self, id: &MachineId, signal: i32) -> Result<(), DriverError> {
        if !(1..=libc::SIGRTMAX()).contains(&signal) {
            return Err(DriverError::Refused(format!(
                "{signal} is not the number of a signal"
            )));
        }
        let command = ShimCommand::Signal { number: signal };
        points::pass("before-signal");
        match self.ask(id, command, CONTROL_TIMEOUT).await? {
            ShimEvent::Signalled => {
                points::pass("signal-sent");
                Ok(())
            }
            ShimEvent::Exited(_) => Err(DriverError::NotRunning(id.clone())),
            other => Err(host(
                "signal the machine",
                format!("unexpected answer {other:?}"),
            )),
        }
    }

    /// Has the shim of a machine that runs do something.
    pub(crate) async fn ask(
        &self,
        id: &MachineId,
        command: ShimCommand,
        limit: Duration,
    ) -> Result<ShimEvent, DriverError> {
        let not_running = || DriverError::NotRunning(id.clone());
        let (mut connection, _) = ShimConnection::open(&self.run_dir(id))
            .await
            .map_err(|_| not_running())?;
        let answer = async {
            connection.send(&command).await?;
            connection.receive().await
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(Some(event))) => Ok(event),
            Ok(Ok(None) | Err(_)) => Err(not_running()),
            Err(_) => Err(host("talk to the machine's shim", "it does not answer")),
        }
    }

    /// What the machine's processes use on the host.
    pub(crate) async fn stats(&self, id: &MachineId) -> Result<MachineStats, DriverError> {
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

    /// Machines of which anything is left on the host.
    pub(crate) async fn list(&self) -> Result<Vec<MachineId>, DriverError> {
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

/// The host is at fault.
pub(crate) fn host(operation: impl Into<String>, reason: impl Into<String>) -> DriverError {
    DriverError::Host {
        operation: operation.into(),
        reason: reason.into(),
    }
}

/// Runs what waits for the kernel or a disk beside the runtime's threads.
pub(crate) async fn blocking<T, F>(operation: &'static str, work: F) -> Result<T, DriverError>
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

/// Ends a machine and its shim, and removes what they have, in whatever state they are.
fn sweep(run_dir: &Path, data_dir: &Path, keep: Keep, cgroup: &str) -> std::io::Result<()> {
    points::pass("sweep-begins");
    let cgroup = Cgroup::at(cgroup)?;
    // The shim sees its machine end, and ends. One that is creating the
    // machine may put another process there, so look again while waiting.
    let deadline = Instant::now() + SHIM_END_TIMEOUT;
    cgroup.kill_all(KILL_TIMEOUT)?;
    points::pass("sweep-killed");
    while !shim_ends(run_dir, SHIM_END_POLL) {
        if Instant::now() >= deadline {
            return Err(std::io::Error::other("its shim does not end"));
        }
        cgroup.kill_all(KILL_TIMEOUT)?;
    }
    points::pass("sweep-shim-ended");
    cgroup.remove(KILL_TIMEOUT)?;
    points::pass("sweep-cgroup-removed");
    if keep == Keep::Nothing {
        quota::release(data_dir)?;
        remove_tree(data_dir)?;
    }
    points::pass("sweep-disks-removed");
    // Last of all, so that an interrupted sweep is found and done again; and
    // the lock last in it, since it is what says that no shim is there.
    let removed = ensure_no_file(&exit_path(run_dir)).and_then(|()| ensure_no_dir(run_dir));
    removed.map_err(std::io::Error::other)?;
    points::pass("sweep-run-directory-removed");
    Ok(())
}

/// Removes the cgroups of the instance when its last machine is gone.
fn remove_empty_cgroups(tag: InstanceTag) -> std::io::Result<()> {
    let of_machines = Cgroup::at(&tag.cgroup_name())?;
    let of_shims = Cgroup::at(&tag.shim_cgroup_name())?;
    of_machines.remove_if_empty();
    let deadline = Instant::now() + SHIM_LEAVE_TIMEOUT;
    loop {
        of_shims.remove_if_empty();
        if of_machines.exists() || !of_shims.exists() || Instant::now() >= deadline {
            return Ok(());
        }
        std::thread::sleep(SHIM_END_POLL);
    }
}

#[cfg(test)]
mod tests;
