//! A VM under QEMU.

use super::limits::{
    END_TIMEOUT, MAPS_BYTES_MAX, MIGRATE_POLL_MAX, MIGRATE_POLL_MIN, MIGRATE_TIMEOUT,
};
use super::qmp::Qmp;
use crate::vmm::jail::Jailed;
use crate::vmm::{AgentStream, Vm, VmEnd, VmStats, VmmError};
use async_trait::async_trait;
use roost_model::size::ByteSize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::net::UnixStream;

/// The file of a snapshot: QEMU's migration stream, guest memory included.
const STATE_FILE: &str = "qemu-state";
/// The name under which QEMU keeps the descriptor of that file.
const STATE_NAME: &str = "state";

/// `USER_HZ`, in which the kernel tells times to programs, whatever its own clock.
const TICKS_PER_SECOND: u64 = 100;

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
        tokio::time::timeout(MIGRATE_TIMEOUT, poll)
            .await
            .unwrap_or_else(|_| {
                Err(VmmError::TimedOut {
                    operation: "move the state of a VM".into(),
                    limit: MIGRATE_TIMEOUT,
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
        let (pid, memory) = (self.process.pid(), self.memory);
        let read = tokio::task::spawn_blocking(move || read_stats(pid, memory)).await;
        read.map_err(io::Error::other)
            .and_then(|result| result)
            .map_err(|source| VmmError::Io {
                operation: format!("read what process {pid} uses"),
                source,
            })
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

fn read_stats(pid: u32, memory: ByteSize) -> io::Result<VmStats> {
    let read = |name: &str| {
        let mut text = String::new();
        File::open(format!("/proc/{pid}/{name}"))?
            .take(MAPS_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    let (resident, guest_resident) = resident(&read("smaps")?, memory);
    let ticks = ticks(&read("stat")?).ok_or_else(|| io::Error::other("no processor times"))?;
    Ok(VmStats {
        resident: ByteSize(resident),
        guest_resident: ByteSize(guest_resident),
        cpu: Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND),
    })
}

/// Bytes in use of all mappings, and of the one that is as large as the guest's
/// memory (proc_pid_smaps(5)).
fn resident(smaps: &str, memory: ByteSize) -> (u64, u64) {
    let (mut all, mut guest) = (0, 0);
    let mut is_guest = false;
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let kib = size.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            all += kib * 1_024;
            guest += if is_guest { kib * 1_024 } else { 0 };
        } else if let Some(size) = mapping_size(line) {
            is_guest = size == memory.bytes();
        }
    }
    (all, guest)
}

/// The size of a mapping, if the line is the first one of one: `FROM-TO rw-p …`.
fn mapping_size(line: &str) -> Option<u64> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    number(to)?.checked_sub(number(from)?)
}

/// Time in user and kernel mode (proc_pid_stat(5), fields 14 and 15).
fn ticks(stat: &str) -> Option<u64> {
    // The second field is a name and may have anything in it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::{resident, ticks};
    use roost_model::size::ByteSize;

    #[test]
    fn guest_memory_is_told_from_the_process_s_own() {
        let smaps = "55d0c8a00000-55d0c8e00000 r--p 00000000 08:01 1 /usr/bin/qemu-system-x86_64\n\
            Size:               4096 kB\nRss:                 100 kB\n\
            7f0000000000-7f0010000000 rw-p 00000000 00:00 0 \n\
            Rss:                2048 kB\nAnonymous:          2048 kB\n\
            7ffd0-7ffe0 rw-p 00000000 00:00 0 [stack]\nRss:                  10 kB\n";
        let expected = (2_158 * 1_024, 2_048 * 1_024);
        assert_eq!(resident(smaps, ByteSize::mib(256)), expected);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_times() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 99";
        assert_eq!(ticks(stat), Some(300));
    }
}
