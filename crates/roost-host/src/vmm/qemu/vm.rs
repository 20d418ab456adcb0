//! A VM under QEMU.

use super::limits::{END_TIMEOUT, MIGRATE_POLL_MAX, MIGRATE_POLL_MIN};
use super::qmp::Qmp;
use crate::vmm::jail::Jailed;
use crate::vmm::snapshot::state_timeout;
use crate::vmm::{AgentStream, Vm, VmEnd, VmStats, VmmError, stats};
use async_trait::async_trait;
use roost_model::size::ByteSize;
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tokio::io::AsyncRead;
use tokio::net::UnixStream;

/// The file of a snapshot: QEMU's migration stream, guest memory included.
const STATE_FILE: &str = "qemu-state";
/// The name under which QEMU keeps the descriptor of that file.
const STATE_NAME: &str = "state";

/// The socket on which QEMU takes connections to the agent, one at a time.
#[derive(Debug)]
pub(super) struct AgentSocket {
    dir: PathBuf,
}

impl AgentSocket {
    const NAME: &str = "agent.sock";

    pub(super) fn in_dir(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(Self::NAME)
    }

    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        let (_dir, path) = self.short_path()?;
        UnixListener::bind(path)
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let (_dir, path) = self.short_path()?;
        UnixStream::connect(path).await
    }

    /// A path by way of a descriptor: an address has 108 bytes at most (unix(7)).
    fn short_path(&self) -> io::Result<(File, PathBuf)> {
        let dir = File::open(&self.dir)?;
        let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), Self::NAME);
        Ok((dir, path.into()))
    }
}

/// A QEMU process with its VM.
#[derive(Debug)]
pub(super) struct QemuVm {
    process: Jailed,
    qmp: Qmp,
    agent: AgentSocket,
    console: Option<UnixStream>,
    memory: ByteSize,
}

impl QemuVm {
    pub(super) fn new(
        process: Jailed,
        qmp: Qmp,
        agent: AgentSocket,
        console: UnixStream,
        memory: ByteSize,
    ) -> Self {
        Self {
            process,
            qmp,
            agent,
            console: Some(console),
            memory,
        }
    }

    async fn run(&mut self, command: &str, arguments: Value) -> Result<Value, VmmError> {
        match self.qmp.run_with(command, arguments).await {
            Err(error) => Err(explain(&mut self.process, error).await),
            answer => answer,
        }
    }

    /// Takes over the state in a snapshot's file.
    pub(super) async fn load(&mut self, files: &Path) -> Result<(), VmmError> {
        let path = files.join(STATE_FILE);
        let file = File::open(&path).map_err(|source| VmmError::Io {
            operation: format!("open {}", path.display()),
            source,
        })?;
        self.give(&file).await?;
        let uri = json!({ "uri": format!("fd:{STATE_NAME}") });
        self.run("migrate-incoming", uri).await?;
        self.await_migration().await
    }

    async fn save(&mut self, files: &Path) -> Result<(), VmmError> {
        let path = files.join(STATE_FILE);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| VmmError::Io {
                operation: format!("create {}", path.display()),
                source,
            })?;
        self.give(&file).await?;
        // The guest stands still: there is nothing to be gentle for.
        let unlimited = json!({ "max-bandwidth": i64::MAX });
        self.run("migrate-set-parameters", unlimited).await?;
        let uri = json!({ "uri": format!("fd:{STATE_NAME}") });
        self.run("migrate", uri).await?;
        let result = self.await_migration().await;
        if result.is_err() {
            // It may have ended, and if it is stuck, so is this command.
            let _ = self.qmp.run("migrate_cancel").await;
        }
        result
    }

    async fn give(&mut self, file: &File) -> Result<(), VmmError> {
        match self.qmp.give(STATE_NAME, file.as_fd()).await {
            Err(error) => Err(explain(&mut self.process, error).await),
            Ok(()) => Ok(()),
        }
    }

    /// Waits until the state is written or read.
    async fn await_migration(&mut self) -> Result<(), VmmError> {
        let limit = state_timeout(self.memory);
        let poll = async {
            let mut pause = MIGRATE_POLL_MIN;
            loop {
                let answer = self.run("query-migrate", Value::Null).await?;
                match answer["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let reason = answer["error-desc"].as_str().unwrap_or("no reason given");
                        return Err(VmmError::Refused {
                            operation: "move the state of a VM".into(),
                            reason: reason.to_owned(),
                        });
                    }
                    _ => tokio::time::sleep(pause).await,
                }
                pause = (pause * 2).min(MIGRATE_POLL_MAX);
            }
        };
        tokio::time::timeout(limit, poll).await.unwrap_or_else(|_| {
            Err(VmmError::TimedOut {
                operation: "move the state of a VM".into(),
                limit,
            })
        })
    }
}

#[async_trait]
impl Vm for QemuVm {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn open_agent(&mut self) -> Result<Box<dyn AgentStream>, VmmError> {
        if let Some(end) = self.process.end_now() {
            return Err(VmmError::Ended(end.to_string()));
        }
        let stream = self.agent.connect().await.map_err(|source| VmmError::Io {
            operation: "connect to the agent's port".into(),
            source,
        })?;
        Ok(Box::new(stream))
    }

    fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        let console = self.console.take()?;
        Some(Box::new(console))
    }

    async fn pause(&mut self) -> Result<(), VmmError> {
        self.run("stop", Value::Null).await.map(drop)
    }

    async fn resume(&mut self) -> Result<(), VmmError> {
        self.run("cont", Value::Null).await.map(drop)
    }

    async fn snapshot(&mut self, files: &Path) -> Result<(), VmmError> {
        self.save(files).await
    }

    async fn stats(&self) -> Result<VmStats, VmmError> {
        let memory = self.memory;
        stats::read(self.process.pid(), move |size| size == memory).await
    }

    async fn ended(&mut self) -> VmEnd {
        self.process.ended().await
    }

    async fn kill(&mut self) -> Result<(), VmmError> {
        self.process.kill().await
    }
}

/// Why the control channel failed: what the process said, if it has ended.
///
/// A process without a control channel is of no use and is killed.
pub(super) async fn explain(process: &mut Jailed, error: VmmError) -> VmmError {
    let is_closed = match &error {
        VmmError::Ended(_) => true,
        VmmError::Io { .. } => process.end_now().is_some(),
        VmmError::Unusable(_) | VmmError::Refused { .. } | VmmError::TimedOut { .. } => false,
    };
    if !is_closed {
        return error;
    }
    // The channel closes a moment before the process is gone.
    match tokio::time::timeout(END_TIMEOUT, process.ended()).await {
        Ok(end) => VmmError::Ended(end.to_string()),
        Err(_) => match process.kill().await {
            Ok(()) => VmmError::Ended("it closed its control channel".into()),
            Err(error) => error,
        },
    }
}
