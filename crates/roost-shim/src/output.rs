//! From a machine's output pipes to its log.

use crate::limits::{LOG_LINE_BYTES_MAX, OUTPUT_READ_BYTES};
use roost_observe::cutter::LineCutter;
use roost_observe::writer::LogWriter;
use roost_proto::logs::LogStream;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Whether a pipe may have more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PipeState {
    /// Perhaps, later.
    Open,
    /// Never: all who could write have ended.
    Ended,
}

/// One output pipe, cut into lines.
pub(crate) struct OutputPipe {
    /// The end to read from, not blocking.
    pub(crate) fd: OwnedFd,
    stream: LogStream,
    cutter: LineCutter,
}

impl OutputPipe {
    /// A pipe whose lines are of this stream.
    pub(crate) fn new(fd: OwnedFd, stream: LogStream) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            stream,
            cutter: LineCutter::new(LOG_LINE_BYTES_MAX),
        })
    }

    /// Moves what is there, at most one buffer full, to the log.
    pub(crate) fn pump(&mut self, log: &mut LogWriter) -> PipeState {
        let mut buffer = vec![0; OUTPUT_READ_BYTES];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(0) => {
                self.flush(log);
                PipeState::Ended
            }
            Ok(n) => {
                self.cutter
                    .take(&buffer[..n], |line| log.write_line(self.stream, line));
                PipeState::Open
            }
            Err(Errno::AGAIN | Errno::INTR) => PipeState::Open,
            Err(_) => PipeState::Ended,
        }
    }

    /// Writes a line that has no end yet.
    pub(crate) fn flush(&mut self, log: &mut LogWriter) {
        self.cutter.flush(|line| log.write_line(self.stream, line));
    }
}
