//! Processes that this one has started, and orphans that became its own.
//!
//! All forks and all waits happen on the one thread of the event loop, without
//! a pause between a fork and its registration: so no end of a process is
//! missed, and a signal never reaches a process id that is used anew.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, or 128 + the signal.
    pub(crate) code: i32,
    /// The signal that ended it; zero for none.
    pub(crate) signal: i32,
}

impl From<WaitStatus> for Exit {
    fn from(status: WaitStatus) -> Self {
        let signal = status.terminating_signal().unwrap_or_default();
        let code = match signal {
            0 => status.exit_status().unwrap_or(-1),
            signal => 128 + signal,
        };
        Self { code, signal }
    }
}

/// A process that runs, or whose end was not looked at.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its process id.
    pub(crate) pid: Pid,
    /// Its end; an error only when the guest goes down.
    pub(crate) exit: oneshot::Receiver<Exit>,
}

/// The children of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children {
    running: Arc<Mutex<HashMap<i32, oneshot::Sender<Exit>>>>,
}

impl Children {
    /// Starts a process; blocks until it has become its program or failed to.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let id = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
        let pid = Pid::from_raw(id).ok_or_else(|| io::Error::other("no process id"))?;
        let (sender, exit) = oneshot::channel();
        self.running.lock().insert(id, sender);
        Ok(Child { pid, exit })
    }

    /// Sends a signal to a child, if it has not been reaped.
    pub(crate) fn signal(&self, pid: Pid, signal: Signal) {
        if self.is_running(pid) {
            // One that has ended and waits to be reaped is no failure.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Sends a signal to the process group that a child leads.
    ///
    /// The group lives on after its leader as long as it has members, and so
    /// does its number: the call is made only while the leader is not reaped.
    pub(crate) fn signal_group(&self, leader: Pid, signal: Signal) {
        if self.is_running(leader) {
            let _ = rustix::process::kill_process_group(leader, signal);
        }
    }

    fn is_running(&self, pid: Pid) -> bool {
        self.running
            .lock()
            .contains_key(&pid.as_raw_nonzero().get())
    }

    /// Reaps for ever, once it is run.
    pub(crate) fn reaper(&self) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let mut ended = signal(SignalKind::child())?;
        let children = self.clone();
        Ok(async move {
            loop {
                children.reap_ended();
                // Several ends may come as one signal.
                ended.recv().await;
            }
        })
    }

    fn reap_ended(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let sender = self.running.lock().remove(&pid.as_raw_nonzero().get());
            if let Some(sender) = sender {
                // Whoever does not wait for it does not want to know.
                let _ = sender.send(Exit::from(status));
            }
        }
    }
}
