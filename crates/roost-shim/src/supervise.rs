//! The life of a shim whose machine runs: one thread, one wait for everything.
//!
//! Readable output becomes log lines, connections on the control socket are
//! greeted and may send signals, and the end of the machine's first process
//! ends the loop. Signals go through here because only the parent knows for
//! certain that a process id is still that process: it has not been reaped.

use crate::failure::{Attempt as _, LaunchError};
use crate::limits::{
    CONTROL_CONNECTIONS_MAX, CONTROL_LINE_BYTES_MAX, DROPPED_REPORT_DELAY, FLOOD_PAUSE,
    OUTPUT_DRAIN_TIMEOUT,
};
use crate::output::{OutputPipe, PipeState};
use roost_observe::writer::LogWriter;
use roost_proto::shim::{ShimCommand, ShimEvent};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// A machine that runs.
pub(crate) struct Supervised {
    pid: Pid,
    process: OwnedFd,
    pipes: Vec<OutputPipe>,
    listener: UnixListener,
    connections: Vec<Connection>,
}

struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
}

/// What is ready, by position.
#[derive(Default)]
struct Ready {
    is_timed_out: bool,
    process: bool,
    listener: bool,
    pipes: Vec<bool>,
    connections: Vec<bool>,
}

impl Supervised {
    /// Takes charge of a machine whose first process is a child of this one.
    pub(crate) fn new(
        pid: u32,
        pipes: Vec<OutputPipe>,
        listener: UnixListener,
    ) -> Result<Self, LaunchError> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| LaunchError::host("the machine's process id is not one"))?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .attempt("open the machine's process")?;
        listener
            .set_nonblocking(true)
            .attempt("set up the control socket")?;
        Ok(Self {
            pid,
            process,
            pipes,
            listener,
            connections: Vec::new(),
        })
    }

    /// Serves the machine until its first process has ended; returns how.
    pub(crate) fn run(&mut self, log: &mut LogWriter) -> io::Result<WaitStatus> {
        loop {
            let limit = (log.n_dropped() > 0).then_some(DROPPED_REPORT_DELAY);
            let ready = self.wait_ready(limit)?;
            if ready.is_timed_out {
                log.report_dropped();
            }
            self.pump(&ready.pipes, log);
            if log.is_flooded() && ready.pipes.contains(&true) {
                std::thread::sleep(FLOOD_PAUSE);
            }
            if ready.listener {
                self.accept();
            }
            self.serve(&ready.connections);
            if ready.process {
                let status = self.reap()?;
                self.drain(log)?;
                return Ok(status);
            }
        }
    }

    /// Tells all connections that the machine has ended.
    pub(crate) fn announce(&mut self, event: &ShimEvent) {
        // One that connected meanwhile is told as well.
        self.accept();
        for connection in &mut self.connections {
            let _ = send(&mut connection.stream, event);
        }
    }

    fn wait_ready(&self, limit: Option<Duration>) -> io::Result<Ready> {
        let mut fds = vec![
            PollFd::new(&self.process, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        fds.extend(
            self.pipes
                .iter()
                .map(|pipe| PollFd::new(&pipe.fd, PollFlags::IN)),
        );
        fds.extend(
            self.connections
                .iter()
                .map(|c| PollFd::new(&c.stream, PollFlags::IN)),
        );
        let limit = limit.map(rustix::event::Timespec::try_from).transpose();
        let n_ready = match poll(&mut fds, limit.map_err(io::Error::other)?.as_ref()) {
            Ok(n_ready) => n_ready,
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        };
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            is_timed_out: n_ready == 0,
            process: ready.next().unwrap_or_default(),
            listener: ready.next().unwrap_or_default(),
            pipes: ready.by_ref().take(self.pipes.len()).collect(),
            connections: ready.collect(),
        })
    }

    fn pump(&mut self, ready: &[bool], log: &mut LogWriter) {
        let mut idx = 0;
        self.pipes.retain_mut(|pipe| {
            let is_ready = ready.get(idx).copied().unwrap_or_default();
            idx += 1;
            !is_ready || pipe.pump(log) == PipeState::Open
        });
    }

    /// Reads what the machine wrote before it ended.
    fn drain(&mut self, log: &mut LogWriter) -> io::Result<()> {
        let deadline = Instant::now() + OUTPUT_DRAIN_TIMEOUT;
        while !self.pipes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // The process stays ready, so this must not wait for it.
            let mut fds: Vec<_> = self
                .pipes
                .iter()
                .map(|pipe| PollFd::new(&pipe.fd, PollFlags::IN))
                .collect();
            let limit = rustix::event::Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut fds, Some(&limit)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            self.pump(&ready, log);
        }
        for pipe in &mut self.pipes {
            pipe.flush(log);
        }
        Ok(())
    }

    fn reap(&self) -> io::Result<WaitStatus> {
        loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => return Ok(status),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            if self.connections.len() >= CONTROL_CONNECTIONS_MAX {
                continue;
            }
            let pid = u32::try_from(self.pid.as_raw_nonzero().get()).unwrap_or_default();
            if stream.set_nonblocking(true).is_ok()
                && send(&mut stream, &ShimEvent::Running { pid }).is_ok()
            {
                self.connections.push(Connection {
                    stream,
                    received: Vec::new(),
                });
            }
        }
    }

    fn serve(&mut self, ready: &[bool]) {
        let process = &self.process;
        let mut idx = 0;
        // Those that `accept` has just added are beyond the list.
        self.connections.retain_mut(|connection| {
            let is_ready = ready.get(idx).copied().unwrap_or_default();
            idx += 1;
            !is_ready || connection.serve(process).is_ok()
        });
    }
}

impl Connection {
    /// Obeys what has been received; an error ends the connection.
    fn serve(&mut self, process: &OwnedFd) -> io::Result<()> {
        let mut buffer = [0; CONTROL_LINE_BYTES_MAX];
        let n = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        self.received.extend_from_slice(&buffer[..n]);
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                ShimCommand::Signal { number } => {
                    crate::sys::send_signal(process, number)?;
                    send(&mut self.stream, &ShimEvent::Signalled)?;
                }
                ShimCommand::Start | ShimCommand::Suspend => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
        }
        if self.received.len() > CONTROL_LINE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

/// Sends an event as a line.
pub(crate) fn send(stream: &mut UnixStream, event: &ShimEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    stream.write_all(&line)
}
