//! The process of a VM: started by the jailer, watched, reaped.
//!
//! ```text
//!   thread "vm <name>" ── first process of a process namespace ── jailer ⇒ firecracker
//!        waits for            dies with the thread, and all             (one process)
//!                             others of the namespace with it
//! ```
//!
//! The kernel forgets that a process wants to die with its parent when the
//! process changes its user, as the jailer does. So there is one in between that
//! does not. Its thread must not be of a pool, which may go away while the VM
//! runs: the wish is about the thread.

use super::limits::KILL_TIMEOUT;
use super::sys;
use crate::vmm::{VmEnd, VmmError};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::chroot::Bind;

/// What to start.
#[derive(Debug)]
pub(super) struct ProcessConfig {
    /// For the name of the thread.
    pub(super) name: String,
    pub(super) jailer: PathBuf,
    pub(super) args: Vec<OsString>,
    /// The `cgroup.procs` files that it is written to.
    pub(super) cgroup: Vec<OwnedFd>,
    pub(super) binds: Vec<Bind>,
}

/// What a process says.
#[derive(Debug)]
pub(super) struct Output {
    /// The guest's console.
    pub(super) stdout: pipe::Receiver,
    /// Complaints of the jailer.
    pub(super) stderr: pipe::Receiver,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this status.
    Status(ExitStatus),
    /// It was killed, with all of its namespace.
    Killed,
}

impl Exit {
    /// The same, with what it said.
    pub(super) fn end(self, message: String) -> VmEnd {
        let status = match self {
            Self::Status(status) => status,
            Self::Killed => ExitStatus::from_raw(libc::SIGKILL),
        };
        VmEnd {
            exit_code: status.code(),
            signal: status.signal(),
            message,
        }
    }
}

/// A process that runs, or ran. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Process {
    handle: OwnedFd,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Starts the jailer; returns when it is being executed.
    pub(super) async fn start(config: ProcessConfig) -> Result<(Self, Output), VmmError> {
        let operation = format!("start {}", config.jailer.display());
        let failed = |source| VmmError::Io {
            operation: operation.clone(),
            source,
        };
        let (command_parts, output) = prepare(config).map_err(failed)?;
        let (started_tx, started_rx) = oneshot::channel();
        let (exit_tx, exit) = watch::channel(None);
        std::thread::Builder::new()
            .name(command_parts.name.clone())
            .spawn(move || hold(command_parts, started_tx, &exit_tx))
            .map_err(failed)?;
        let handle = started_rx
            .await
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
            .map_err(failed)?;
        Ok((Self { handle, exit }, output))
    }

    /// Resolves when it has ended and is reaped. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Killed),
            // The thread is gone, and with it the process.
            Err(_) => Exit::Killed,
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Fires when it has ended.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// Kills it and waits until it is gone. Idempotent.
    pub(super) async fn kill(&mut self) -> Result<(), VmmError> {
        let operation = || "kill firecracker".to_owned();
        self.send_kill().map_err(|source| VmmError::Io {
            operation: operation(),
            source,
        })?;
        let gone = tokio::time::timeout(KILL_TIMEOUT, self.ended()).await;
        gone.map(drop).map_err(|_| VmmError::TimedOut {
            operation: operation(),
            limit: KILL_TIMEOUT,
        })
    }

    fn send_kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its thread reaps it. A kill of one's own child cannot fail but for its having ended.
        let _ = self.send_kill();
    }
}

/// All that the thread needs.
struct Prepared {
    name: String,
    command: Command,
    steps: sys::Steps,
    report: PipeReader,
}

fn prepare(config: ProcessConfig) -> io::Result<(Prepared, Output)> {
    let (stdout_tx, stdout) = pipe::pipe()?;
    let (stderr_tx, stderr) = pipe::pipe()?;
    let (report, report_tx) = io::pipe()?;
    let mut command = Command::new(config.jailer);
    command
        .args(config.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        // What does not fit is dropped: a guest must not stand still, and its
        // hypervisor with it, because nobody reads its console.
        .stdout(stdout_tx.into_nonblocking_fd()?)
        .stderr(stderr_tx.into_blocking_fd()?);
    let steps = sys::Steps {
        parent: pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?,
        cgroup: config.cgroup,
        binds: config.binds,
        report: report_tx.into(),
    };
    let prepared = Prepared {
        name: format!("vm {}", config.name),
        command,
        steps,
        report,
    };
    Ok((prepared, Output { stdout, stderr }))
}

/// The life of the thread.
fn hold(
    prepared: Prepared,
    started: oneshot::Sender<io::Result<OwnedFd>>,
    exit: &watch::Sender<Option<Exit>>,
) {
    let mut report = match prepared.report.try_clone() {
        Ok(report) => report,
        Err(error) => {
            // Nobody waits for it any more: nothing runs, so nothing is lost.
            let _ = started.send(Err(error));
            return;
        }
    };
    let (mut child, handle) = match start(prepared) {
        Ok(parts) => parts,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    if started.send(Ok(handle)).is_err() {
        let _ = child.kill();
    }
    // Ends with the first process, which has the only other end.
    let mut status = [0; size_of::<i32>()];
    let reported = report.read_exact(&mut status);
    let _ = child.wait();
    exit.send_replace(Some(match reported {
        Ok(()) => Exit::Status(ExitStatus::from_raw(i32::from_ne_bytes(status))),
        Err(_) => Exit::Killed,
    }));
}

fn start(prepared: Prepared) -> io::Result<(Child, OwnedFd)> {
    let Prepared {
        mut command, steps, ..
    } = prepared;
    sys::new_process_namespace()?;
    sys::before_exec(&mut command, steps);
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let opened = pid
        .ok_or_else(|| io::Error::other("no process id"))
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
    match opened {
        Ok(handle) => Ok((child, handle)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}
