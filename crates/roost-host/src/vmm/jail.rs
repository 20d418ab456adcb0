//! The jail of a hypervisor that brings none of its own.
//!
//! Whoever breaks out of a guest is in the hypervisor's process, so that
//! process has nothing but what its VM needs:
//!
//! - the user and group of the machine, no other groups, no capabilities, and no
//!   way to gain any;
//! - mount, process, IPC, host name and cgroup namespaces of its own; the
//!   network namespace is the caller's, which is for this VM alone;
//! - a read-only file system with the host's programs and libraries and the
//!   files of the VM; what it writes to are descriptors that it is given;
//! - no environment, no core dumps, a bound on files and descriptors, and the
//!   cgroup of the machine.
//!
//! # Its end
//!
//! A thread of its own starts the process, keeps the end of what it says, and
//! reaps it. The kernel kills the process when that thread ends
//! (`PR_SET_PDEATHSIG` is about the thread, not the process), so it must not be
//! started from a worker of a pool, which may go away while the VM runs. The
//! thread is also what has the process namespace: the hypervisor is the first
//! process in it, and nothing that it might start can outlive it.

use super::{VmEnd, VmOwner, VmmError};
use crate::cgroup::Cgroup;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

mod root;
#[expect(
    unsafe_code,
    reason = "what a process does between fork and exec has no safe wrapper; all of it is there"
)]
mod sys;

pub(super) use root::{JailDevice, JailFile};

/// Most bytes of what a hypervisor says that are kept: the last ones.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// Time for a killed process to be gone: it may have memory in the gigabytes to
/// give back, or wait for a disk.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most open files. A VM has some twenty; a thread pool and timers add to it.
const OPEN_FILES_MAX: u64 = 1_024;

/// A process to be started in a jail.
#[derive(Debug)]
pub(super) struct JailConfig<'a> {
    /// For the names of threads and messages.
    pub(super) name: &'a str,
    /// An empty directory in which the root of its file system is made.
    pub(super) dir: &'a Path,
    /// Who it runs as.
    pub(super) owner: VmOwner,
    /// The cgroup that it is put into.
    pub(super) cgroup: Option<&'a str>,
    /// Absolute path of the program.
    pub(super) program: &'a Path,
    /// Its arguments.
    pub(super) args: Vec<OsString>,
    /// What it may read by path, beside the host's programs and libraries.
    pub(super) files: Vec<JailFile>,
    /// Devices that it may open by path.
    pub(super) devices: Vec<JailDevice>,
    /// Descriptors that it inherits, under the numbers that they have here.
    pub(super) descriptors: Vec<OwnedFd>,
    /// The largest file that it may write, in bytes.
    pub(super) file_size_max: u64,
    /// Whether the kernel may give it memory in pieces of 2 MiB, which is
    /// faster, and more than it touches.
    pub(super) uses_huge_pages: bool,
}

/// A process in its jail. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Jailed {
    pid: u32,
    handle: OwnedFd,
    end: watch::Receiver<Option<VmEnd>>,
}

impl Jailed {
    /// Starts the process; returns when the program is being executed.
    pub(super) async fn start(config: JailConfig<'_>) -> Result<Self, VmmError> {
        let operation = format!("start {}", config.program.display());
        let failed = |source| VmmError::Io {
            operation: operation.clone(),
            source,
        };
        let thread_name = format!("vm {}", config.name);
        let prepared = Prepared::new(config).map_err(failed)?;
        let (started_tx, started_rx) = oneshot::channel();
        let (end_tx, end) = watch::channel(None);
        std::thread::Builder::new()
            .name(thread_name)
            .spawn(move || hold(prepared, started_tx, &end_tx))
            .map_err(failed)?;
        let (pid, handle) = started_rx
            .await
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
            .map_err(failed)?;
        Ok(Self { pid, handle, end })
    }

    /// Its process id on the host.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Resolves when it has ended and is reaped. Cancel-safe.
    pub(super) async fn ended(&mut self) -> VmEnd {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| VmEnd {
            exit_code: None,
            signal: None,
            message: "the thread that watched it ended".into(),
        })
    }

    /// How it ended, if it has.
    pub(super) fn end_now(&self) -> Option<VmEnd> {
        self.end.borrow().clone()
    }

    /// Kills it and waits until it is gone. It may have ended.
    pub(super) async fn kill(&mut self) -> Result<(), VmmError> {
        let operation = || format!("kill process {}", self.pid);
        self.send_kill().map_err(|source| VmmError::Io {
            operation: operation(),
            source,
        })?;
        let timed_out = VmmError::TimedOut {
            operation: operation(),
            limit: KILL_TIMEOUT,
        };
        match tokio::time::timeout(KILL_TIMEOUT, self.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(timed_out),
        }
    }

    fn send_kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        // Its thread reaps it. A kill of one's own child cannot fail but for its having ended.
        let _ = self.send_kill();
    }
}

/// All that can be done before the fork.
struct Prepared {
    command: Command,
    steps: sys::Steps,
    message: PipeReader,
}

impl Prepared {
    fn new(config: JailConfig<'_>) -> io::Result<Self> {
        if config.owner.uid == 0 || config.owner.gid == 0 {
            return Err(io::Error::other("a hypervisor does not run as root"));
        }
        let cgroup = match config.cgroup {
            Some(path) => Cgroup::at(path)?.entrances()?,
            None => Vec::new(),
        };
        let root = root::prepare(
            &config.dir.join("root"),
            config.program,
            &config.files,
            &config.devices,
        )?;
        let (message, said) = io::pipe()?;
        let mut command = Command::new(config.program);
        command
            .args(&config.args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        Ok(Self {
            command,
            steps: sys::Steps {
                parent: pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?,
                cgroup: cgroup.into_iter().map(OwnedFd::from).collect(),
                root,
                owner: config.owner,
                descriptors: config.descriptors,
                open_files_max: OPEN_FILES_MAX,
                file_size_max: config.file_size_max,
                uses_huge_pages: config.uses_huge_pages,
            },
            message,
        })
    }

    fn start(self) -> io::Result<(Child, OwnedFd, PipeReader)> {
        let Self {
            mut command,
            steps,
            mut message,
        } = self;
        sys::new_process_namespace()?;
        sys::before_exec(&mut command, steps);
        let spawned = command.spawn();
        // Its copies of the pipe and of the descriptors: what ends with the
        // process must end here too.
        drop(command);
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Err(named(error, &read_tail(&mut message))),
        };
        match handle_of(&child) {
            Ok(handle) => Ok((child, handle, message)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

/// The life of the thread of a hypervisor.
fn hold(
    prepared: Prepared,
    started: oneshot::Sender<io::Result<(u32, OwnedFd)>>,
    end: &watch::Sender<Option<VmEnd>>,
) {
    let (mut child, handle, mut message) = match prepared.start() {
        Ok(parts) => parts,
        Err(error) => {
            // Nobody waits for it any more: nothing runs, so nothing is lost.
            let _ = started.send(Err(error));
            return;
        }
    };
    if started.send(Ok((child.id(), handle))).is_err() {
        let _ = child.kill();
    }
    // Until the process is gone: nobody else has the other end.
    let message = read_tail(&mut message);
    let status = child.wait().ok();
    end.send_replace(Some(VmEnd {
        exit_code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        message,
    }));
}

fn handle_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// An error of the child names no step; the child wrote it to its standard error.
fn named(error: io::Error, step: &str) -> io::Error {
    if step.is_empty() {
        error
    } else {
        io::Error::new(error.kind(), format!("{step}: {error}"))
    }
}

/// Reads to the end and keeps the last bytes.
fn read_tail(pipe: &mut PipeReader) -> String {
    let mut kept = Vec::new();
    let mut part = [0; 1_024];
    loop {
        match pipe.read(&mut part) {
            Ok(0) => break,
            Ok(n) => kept.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        let excess = kept.len().saturating_sub(MESSAGE_BYTES_MAX);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Where programs are looked for, as in a shell of the administrator.
const PROGRAM_DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The path of an installed program.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    PROGRAM_DIRS
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// Opens a file on behalf of the process.
pub(super) fn open_for(path: &Path, access: super::DriveAccess) -> io::Result<File> {
    let write = match access {
        super::DriveAccess::ReadOnly => false,
        super::DriveAccess::ReadWrite => true,
    };
    let file = File::options().read(true).write(write).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
