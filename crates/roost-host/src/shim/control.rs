//! The worker's side of a shim's connections.

use super::limits::{CONTROL_TIMEOUT, EVENT_BYTES_MAX, SHIM_LOG_BYTES_MAX};
use crate::cgroup::Cgroup;
use crate::driver::{DriverError, Origin};
use roost_proto::shim::{LaunchFault, ShimCommand, ShimEvent, ShimOrigin, lock_path, socket_path};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// What the shim of a machine says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// The machine runs.
    Running {
        /// The host's process id of its first process.
        pid: u32,
    },
    /// A snapshot of it is being written.
    Suspending,
}

/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct ShimConnection {
    reader: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl ShimConnection {
    fn new(stream: UnixStream) -> Self {
        Self {
            reader: BufReader::new(stream),
            line: Vec::new(),
        }
    }

    /// Connects to the shim of a machine that runs or is being suspended.
    pub(crate) async fn open(run_dir: &Path) -> io::Result<(Self, Greeting)> {
        // Its path may be longer than a socket address may be.
        let dir = rustix::fs::open(run_dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let greeted = async {
            let mut connection = Self::new(UnixStream::connect(socket_path(&short)).await?);
            match connection.receive().await? {
                Some(ShimEvent::Running { pid }) => Ok((connection, Greeting::Running { pid })),
                Some(ShimEvent::Suspending) => Ok((connection, Greeting::Suspending)),
                Some(_) => Err(io::Error::from(io::ErrorKind::InvalidData)),
                None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        };
        match tokio::time::timeout(CONTROL_TIMEOUT, greeted).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The next event; `None` when the shim has closed the connection. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<ShimEvent>> {
        // What has been read of a line stays in `self` when this is dropped.
        let room =
            EVENT_BYTES_MAX.saturating_sub(u64::try_from(self.line.len()).unwrap_or(u64::MAX));
        (&mut self.reader)
            .take(room)
            .read_until(b'\n', &mut self.line)
            .await?;
        if self.line.is_empty() {
            return Ok(None);
        }
        let event = serde_json::from_slice(&self.line)?;
        self.line.clear();
        Ok(Some(event))
    }

    /// Sends a message as a line.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).await
    }
}

/// A shim that is starting its machine. Dropping it makes the shim undo that.
#[derive(Debug)]
pub(crate) struct Handshake {
    connection: ShimConnection,
    run_dir: PathBuf,
    /// Time for each answer.
    limit: Duration,
}

impl Handshake {
    /// Starts a shim in a run directory that is there and empty.
    ///
    /// The shim gets the locked lock file as its standard output: from its
    /// first moment on, whoever finds the file unlocked knows that it is gone.
    /// It lives in the cgroup `home`: whoever ends that of `roostd`, as a
    /// service manager does, leaves it alone.
    pub(crate) fn begin(
        program: &Path,
        run_dir: &Path,
        home: &Cgroup,
        limit: Duration,
    ) -> io::Result<Self> {
        let private = |path: PathBuf| {
            File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)
        };
        let lock = private(lock_path(run_dir))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let log = private(log_path(run_dir))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = tokio::process::Command::new(program)
            .arg("run")
            .env_clear()
            .env("PATH", roost_model::program::PATH_DEFAULT)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(lock))
            .stderr(Stdio::from(log))
            .spawn()?;
        // It waits for a message and has no children yet.
        if let Some(Err(error)) = child.id().map(|pid| home.adopt(pid)) {
            tracing::warn!(%error, "a shim stays in the control group of roostd");
        }
        // It outlives this process; while this process lives, tokio reaps it.
        drop(child);
        let connection = ShimConnection::new(UnixStream::from_std(ours)?);
        Ok(Self {
            connection,
            run_dir: run_dir.to_owned(),
            limit,
        })
    }

    /// Has the machine created; returns its process id, upon which its network can be attached.
    pub(crate) async fn create(&mut self, launch: &impl Serialize) -> Result<u32, DriverError> {
        match self.ask("create the machine", launch).await? {
            ShimEvent::Created { pid } => Ok(pid),
            other => Err(unexpected("create the machine", &other)),
        }
    }

    /// Has its program started; returns what it runs on from.
    pub(crate) async fn start(mut self) -> Result<Origin, DriverError> {
        match self.ask("start the machine", &ShimCommand::Start).await? {
            ShimEvent::Started { origin } => Ok(match origin {
                ShimOrigin::Cold => Origin::Cold,
                ShimOrigin::Resumed => Origin::Resumed,
                ShimOrigin::ColdAfter(reason) => Origin::ColdAfter(reason),
            }),
            other => Err(unexpected("start the machine", &other)),
        }
    }

    async fn ask(
        &mut self,
        operation: &str,
        message: &impl Serialize,
    ) -> Result<ShimEvent, DriverError> {
        let fail = |reason: String| DriverError::Host {
            operation: operation.to_owned(),
            reason,
        };
        let answer = async {
            self.connection.send(message).await?;
            self.connection.receive().await
        };
        match tokio::time::timeout(self.limit, answer).await {
            Ok(Ok(Some(ShimEvent::Failed {
                fault: LaunchFault::Machine,
                message,
            }))) => Err(DriverError::Refused(message)),
            Ok(Ok(Some(ShimEvent::Failed {
                fault: LaunchFault::Host,
                message,
            }))) => Err(fail(message)),
            Ok(Ok(Some(event))) => Ok(event),
            Ok(Ok(None)) => Err(fail(format!("its shim ended: {}", log_tail(&self.run_dir)))),
            Ok(Err(error)) => Err(fail(format!(
                "its shim ended: {error}: {}",
                log_tail(&self.run_dir)
            ))),
            Err(_) => Err(fail(format!("no answer within {} s", self.limit.as_secs()))),
        }
    }
}

fn unexpected(operation: &str, event: &ShimEvent) -> DriverError {
    DriverError::Host {
        operation: operation.to_owned(),
        reason: format!("unexpected answer of its shim: {event:?}"),
    }
}

/// Where a shim writes what it has to say about itself.
pub(crate) fn log_path(run_dir: &Path) -> PathBuf {
    run_dir.join("shim.log")
}

fn log_tail(run_dir: &Path) -> String {
    let text = std::fs::read_to_string(log_path(run_dir)).unwrap_or_default();
    let skipped = text.chars().count().saturating_sub(SHIM_LOG_BYTES_MAX);
    text.chars()
        .skip(skipped)
        .collect::<String>()
        .trim()
        .to_owned()
}
