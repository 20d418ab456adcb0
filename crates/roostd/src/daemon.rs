//! The daemon's marks in its data directory: lock, process id, facts.
//!
//! The lock is the truth about whether a daemon runs: the kernel takes it away
//! when the process ends, however it ends. The other files are for people and
//! programs that want to talk to it. A daemon that another one took over from
//! holds the second lock until its connections have ended.

use crate::config::NodePaths;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a daemon that was asked to end may take before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a process that does not answer any more may have the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// What others may want to know of a running daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// The four hex digits that mark everything made on the host.
    pub(crate) tag: String,
    pub(crate) api_port: u16,
    pub(crate) http_port: u16,
    pub(crate) https_port: u16,
    pub(crate) domains: Vec<String>,
    pub(crate) isolation: String,
}

/// Held for as long as the daemon runs, by whichever process has it open.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes the data directory for this process.
    pub(crate) fn take(paths: &NodePaths) -> Result<Self> {
        let Some(lock) = Self::try_take(&paths.lock())? else {
            bail!(
                "another roostd runs with the data directory {}; take over from it with `roost up --restart`, stop it with `roost down`, or use another --data-dir",
                paths.data.display()
            );
        };
        Ok(lock)
    }

    /// The same, once a process that is about to end has given it up.
    pub(crate) async fn wait(paths: &NodePaths) -> Result<Self> {
        let start = Instant::now();
        while start.elapsed() < LOCK_TIMEOUT {
            if let Some(lock) = Self::try_take(&paths.lock())? {
                return Ok(lock);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self::take(paths)
    }

    /// The lock as the roostd before this one gave it.
    pub(crate) fn given(file: File, paths: &NodePaths) -> Result<Self> {
        let (given, own) = (file.metadata()?, open_lock(&paths.lock())?.metadata()?);
        ensure!(
            (given.dev(), given.ino()) == (own.dev(), own.ino()),
            "the lock is not of this data directory"
        );
        Ok(Self(file))
    }

    /// Marks this process as one that another one took over from. There is one at most.
    pub(crate) fn take_leaving(paths: &NodePaths) -> Result<Self> {
        let path = paths.leaving();
        let Some(mut lock) = Self::try_take(&path)? else {
            bail!(
                "connections of the roostd before it (process {}) have not ended; try again later, or end that process",
                std::fs::read_to_string(&path).unwrap_or_default().trim()
            );
        };
        let written = lock.0.set_len(0).and_then(|()| {
            let pid = std::process::id();
            lock.0.write_all(pid.to_string().as_bytes())
        });
        written.with_context(|| format!("write {}", path.display()))?;
        Ok(lock)
    }

    fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", path.display()))
            }
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Whether a daemon holds the data directory.
pub(crate) fn is_running(paths: &NodePaths) -> Result<bool> {
    is_locked(&paths.lock())
}

fn is_locked(path: &Path) -> Result<bool> {
    Ok(path.exists() && Lock::try_take(path)?.is_none())
}

/// Writes the process id and the facts; they are replaced whole.
pub(crate) fn announce(paths: &NodePaths, facts: &Facts) -> Result<()> {
    let json = serde_json::to_vec_pretty(facts).context("facts are plain values")?;
    roost_runtime::fs::write_atomic(&paths.facts(), &json, 0o644)?;
    roost_runtime::fs::write_atomic(&paths.pid(), facts.pid.to_string().as_bytes(), 0o644)?;
    Ok(())
}

/// Removes what `announce` wrote.
pub(crate) fn withdraw(paths: &NodePaths) -> Result<()> {
    roost_runtime::fs::ensure_no_file(&paths.pid())?;
    roost_runtime::fs::ensure_no_file(&paths.facts())?;
    Ok(())
}

/// Ends the daemon of this data directory, politely first, and the one that it
/// took over from. `false` when none ran.
pub(crate) fn stop(paths: &NodePaths) -> Result<bool> {
    let daemon = stop_holder(&paths.lock(), &paths.pid())?;
    let leaving = stop_holder(&paths.leaving(), &paths.leaving())?;
    Ok(daemon || leaving)
}

/// Ends the process that holds a lock, whose id is in a file.
fn stop_holder(lock: &Path, pid_file: &Path) -> Result<bool> {
    if !is_locked(lock)? {
        return Ok(false);
    }
    let text = std::fs::read_to_string(pid_file)
        .with_context(|| format!("read {}", pid_file.display()))?;
    let pid: i32 = text
        .trim()
        .parse()
        .with_context(|| format!("read {}", pid_file.display()))?;
    let pid = rustix::process::Pid::from_raw(pid).context("process ids are positive")?;
    for (signal, wait) in [
        (Signal::TERM, STOP_TIMEOUT),
        (Signal::KILL, Duration::from_secs(5)),
    ] {
        // The lock is held, so the process that wrote its id still runs.
        rustix::process::kill_process(pid, signal)
            .with_context(|| format!("signal process {pid:?}"))?;
        let start = Instant::now();
        while start.elapsed() < wait {
            if !is_locked(lock)? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    bail!("roostd (process {}) does not end", text.trim())
}
