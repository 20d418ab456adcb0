//! The daemon's marks in its data directory: lock, process id, facts.
//!
//! The lock is the truth about whether a daemon runs: the kernel takes it away
//! when the process ends, however it ends. The other files are for people and
//! programs that want to talk to it.

use crate::config::NodePaths;
use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a daemon that was asked to end may take before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

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

/// Held for as long as the daemon runs.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    /// Takes the data directory for this process.
    pub(crate) fn take(paths: &NodePaths) -> Result<Self> {
        let path = paths.lock();
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => bail!(
                "another roostd runs with the data directory {}; stop it with `roost down` or use another --data-dir",
                paths.data.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", path.display()))
            }
        }
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
    let path = paths.lock();
    if !path.exists() {
        return Ok(false);
    }
    match open_lock(&path)?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("look at {}", path.display()))
        }
    }
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

/// Ends the daemon of this data directory, politely first. `false` when none ran.
pub(crate) fn stop(paths: &NodePaths) -> Result<bool> {
    if !is_running(paths)? {
        return Ok(false);
    }
    let text = std::fs::read_to_string(paths.pid())
        .with_context(|| format!("read {}", paths.pid().display()))?;
    let pid: i32 = text
        .trim()
        .parse()
        .with_context(|| format!("read {}", paths.pid().display()))?;
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
            if !is_running(paths)? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    bail!("roostd (process {}) does not end", text.trim())
}
