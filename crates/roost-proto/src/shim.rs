//! Control messages between the worker and the shim of one machine.
//!
//! Both sides speak JSON, one object a line. Two connections exist:
//!
//! ```text
//! handshake (a socket pair that is the shim's standard input)
//!   worker ── ShimLaunch ──▶ shim
//!   worker ◀── Created ───── shim      the network can be attached now
//!   worker ── Start ───────▶ shim
//!   worker ◀── Started ───── shim      or Failed, at any point before
//!
//! control (the socket `shim.sock` in the machine's run directory, after the start)
//!   worker ◀── Running ───── shim      at once, on every connection
//!   worker ── Signal ──────▶ shim
//!   worker ◀── Signalled ─── shim
//!   worker ◀── Exited ────── shim      when it has ended and nothing is left of it
//! ```
//!
//! A handshake that is closed early makes the shim undo what it has done.

use base64::Engine as _;
use roost_model::error::chain;
use roost_model::machine::ExitCause;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Most bytes of one line in either direction; a launch carries the machine's files.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything that a shim needs to start its machine.
#[derive(Clone, Serialize, Deserialize)]
pub struct ShimLaunch {
    /// The machine's id; its hostname as well.
    pub machine_id: String,
    /// Its app, for log records.
    pub app: String,
    /// Its region, for log records.
    pub region: String,
    /// Its directory of sockets and records.
    pub run_dir: PathBuf,
    /// Its directory for what it writes to its root file system.
    pub data_dir: PathBuf,
    /// Where its log segments are.
    pub log_dir: PathBuf,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub workdir: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// The host id of the machine's id 0.
    pub id_base: u32,
    /// How many ids it has.
    pub id_size: u32,
    /// Its own addresses, for `/etc/hosts`.
    pub addresses: Vec<std::net::IpAddr>,
    /// Name servers for `/etc/resolv.conf`.
    pub nameservers: Vec<std::net::IpAddr>,
    /// Files written before the start.
    pub files: Vec<ShimFile>,
    /// What it may use.
    pub limits: ShimLimits,
    /// Its cgroup below each hierarchy's root, such as `/roost-1a2b/<machine id>`.
    pub cgroup: String,
    /// An outside OCI runtime; `None` means the built-in one.
    pub runtime: Option<PathBuf>,
}

impl std::fmt::Debug for ShimLaunch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment and the files hold secrets.
        f.debug_struct("ShimLaunch")
            .field("machine_id", &self.machine_id)
            .finish_non_exhaustive()
    }
}

/// What a machine may use of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimLimits {
    /// Memory in bytes, without swap.
    pub memory_bytes: u64,
    /// Swap in bytes, beside the memory.
    pub swap_bytes: u64,
    /// Weight against other machines while the processors are busy (1,024 is one core).
    pub cpu_shares: u64,
    /// Processor time per period.
    pub cpu_quota_us: u64,
    /// The period.
    pub cpu_period_us: u64,
    /// What it may take above the quota in one period, of what it left in those before.
    pub cpu_burst_us: u64,
    /// Most processes and threads.
    pub pids_max: u64,
    /// Most open files of one process.
    pub open_files_max: u64,
}

/// A file to write before the start.
#[derive(Clone, Serialize, Deserialize)]
pub struct ShimFile {
    /// Absolute path in the machine.
    pub guest_path: String,
    /// The content, base64 on the wire.
    #[serde(serialize_with = "write_base64", deserialize_with = "read_base64")]
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

impl std::fmt::Debug for ShimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShimFile")
            .field("guest_path", &self.guest_path)
            .finish_non_exhaustive()
    }
}

fn write_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn read_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(serde::de::Error::custom)
}

/// What the worker asks of a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum ShimCommand {
    /// Run the program: the network is there.
    Start,
    /// Send a signal to the machine's first process.
    Signal {
        /// Its number.
        number: i32,
    },
    /// Write a snapshot of the machine and end it (VMs only).
    Suspend,
}

/// What a shim tells the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ShimEvent {
    /// The machine exists, its program does not run yet.
    Created {
        /// The host process id of its first process.
        pid: u32,
    },
    /// Its program runs.
    Started {
        /// What it runs on from.
        #[serde(default)]
        origin: ShimOrigin,
    },
    /// It could not be started, and nothing is left of it.
    Failed {
        /// Whose fault it is.
        fault: LaunchFault,
        /// What went wrong.
        message: String,
    },
    /// The greeting on the control socket.
    Running {
        /// The host process id of its first process.
        pid: u32,
    },
    /// The greeting on the control socket while a snapshot is written.
    Suspending,
    /// The signal was sent.
    Signalled,
    /// The snapshot is on disk, and nothing of the machine runs any more.
    Suspended,
    /// It was not suspended and runs on.
    SuspendFailed {
        /// Why not.
        message: String,
    },
    /// It has ended and nothing but `exit.json` and its written files is left.
    Exited(ShimExit),
}

/// What a started machine runs on from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimOrigin {
    /// Its image.
    #[default]
    Cold,
    /// The snapshot of its last suspend.
    Resumed,
    /// Its image, though a resume was asked for, for this reason.
    ColdAfter(String),
}

/// Whose fault a failed start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchFault {
    /// The machine's config or image.
    Machine,
    /// The host.
    Host,
}

/// Why a machine could not be started, as [`ShimEvent::Failed`] says it.
///
/// Like `anyhow::Error` it is no `Error` itself, so that all others become one
/// by `?`: what nobody blames on the machine is the host's fault.
#[derive(Debug)]
pub struct LaunchError {
    /// Whose fault it is.
    pub fault: LaunchFault,
    /// What went wrong, with its causes.
    pub message: String,
}

impl LaunchError {
    /// The machine's config or image is at fault.
    pub fn machine(message: impl Into<String>) -> Self {
        Self {
            fault: LaunchFault::Machine,
            message: message.into(),
        }
    }

    /// The host is at fault.
    pub fn host(message: impl Into<String>) -> Self {
        Self {
            fault: LaunchFault::Host,
            message: message.into(),
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for LaunchError {
    fn from(error: E) -> Self {
        Self::host(chain(&*error.into()))
    }
}

/// How a machine ended; the content of `exit.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimExit {
    /// The exit code, or 128 + the signal.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel ended it for using too much memory.
    pub oom_killed: bool,
    /// What ended it; its program in records of an older shim.
    #[serde(default)]
    pub cause: ShimExitCause,
}

/// What ended a machine, as in [`ExitCause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShimExitCause {
    /// Its program.
    #[default]
    App,
    /// Its hypervisor.
    Hypervisor,
    /// Its kernel.
    GuestPanic,
    /// What speaks for it no longer answered.
    AgentLost,
    /// What watched it.
    Shim,
}

impl From<ShimExitCause> for ExitCause {
    fn from(cause: ShimExitCause) -> Self {
        match cause {
            ShimExitCause::App => Self::App,
            ShimExitCause::Hypervisor => Self::Hypervisor,
            ShimExitCause::GuestPanic => Self::GuestPanic,
            ShimExitCause::AgentLost => Self::AgentLost,
            ShimExitCause::Shim => Self::Shim,
        }
    }
}

/// What a started machine is, for commands run in it later: `machine.json`.
#[derive(Clone, Serialize, Deserialize)]
pub struct ShimMachine {
    /// The host process id of its first process.
    pub pid: u32,
    /// Its cgroup below each hierarchy's root.
    pub cgroup: String,
    /// The environment of its program.
    pub env: Vec<(String, String)>,
    /// The working directory of its program.
    pub workdir: String,
    /// The user id of its program, inside.
    pub uid: u32,
    /// The group id of its program, inside.
    pub gid: u32,
    /// Its supplementary groups, inside.
    pub additional_gids: Vec<u32>,
    /// Most open files of one process; none in records of an older shim.
    #[serde(default)]
    pub open_files_max: Option<u64>,
}

impl std::fmt::Debug for ShimMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShimMachine")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// What `roost-shim exec` writes when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ShimExecOutcome {
    /// The command ended.
    Ended {
        /// Its exit code, or 128 + the signal.
        exit_code: i32,
        /// Whether it was killed because its time was up.
        timed_out: bool,
    },
    /// The command could not be run.
    Failed {
        /// Whose fault it is.
        fault: LaunchFault,
        /// What went wrong.
        message: String,
    },
}

/// The control socket of a machine.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("shim.sock")
}

/// How the machine ended; there once it has.
pub fn exit_path(run_dir: &Path) -> PathBuf {
    run_dir.join("exit.json")
}

/// What the started machine is.
pub fn machine_path(run_dir: &Path) -> PathBuf {
    run_dir.join("machine.json")
}

/// The file that the shim keeps locked while it lives; its content is its process id.
pub fn lock_path(run_dir: &Path) -> PathBuf {
    run_dir.join("shim.lock")
}

#[cfg(test)]
mod tests {
    use super::{ShimEvent, ShimExit, ShimExitCause, ShimFile};

    #[test]
    fn the_record_of_an_older_shim_says_that_the_program_ended() {
        let text = r#"{"exit_code":3,"signal":null,"oom_killed":false}"#;
        let exit: ShimExit = serde_json::from_str(text).unwrap();
        assert_eq!(exit.cause, ShimExitCause::App);
    }

    #[test]
    fn messages_are_one_line_and_read_back() {
        let event = ShimEvent::Exited(ShimExit {
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            cause: ShimExitCause::App,
        });
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<ShimEvent>(&line).unwrap(), event);
        let file = ShimFile {
            guest_path: "/a".into(),
            content: vec![0, 255, b'\n'],
            mode: 0o600,
        };
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(
            serde_json::from_str::<ShimFile>(&text).unwrap().content,
            file.content
        );
    }
}
