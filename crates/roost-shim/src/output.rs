//! From a machine's output pipes to its log.

use crate::limits::{LOG_LINE_BYTES_MAX, OUTPUT_READ_BYTES};
use roost_observe::cutter::LineCutter;
use roost_observe::writer::LogWriter;
use roost_proto::logs::LogStream;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Writes the log of a machine; a log that cannot be written does not stop it.
pub(crate) struct MachineLog {
    writer: LogWriter,
}

impl MachineLog {
    /// A log on top of this writer.
    pub(crate) fn new(writer: LogWriter) -> Self {
        Self { writer }
    }

    /// Writes a line of the machine.
    pub(crate) fn line(&mut self, stream: LogStream, line: &[u8]) {
        // The writer counts what it could not write and says so in the log later.
        let _ = self.writer.write_line(stream, line);
    }

    /// Whether the machine writes more than is kept.
    pub(crate) fn is_flooded(&self) -> bool {
        self.writer.is_flooded()
    }

    /// Whether lines were dropped that the log does not mention yet.
    pub(crate) fn has_dropped(&self) -> bool {
        self.writer.n_dropped() > 0
    }

    /// Mentions the dropped lines in the log.
    pub(crate) fn report_dropped(&mut self) {
        // What cannot be mentioned now stays counted.
        let _ = self.writer.report_dropped();
    }

    /// Writes a line about the machine.
    pub(crate) fn system(&mut self, text: &str) {
        self.line(LogStream::System, text.as_bytes());
    }
}

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
    pub(crate) fn pump(&mut self, log: &mut MachineLog) -> PipeState {
        let mut buffer = vec![0; OUTPUT_READ_BYTES];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(0) => {
                self.flush(log);
                PipeState::Ended
            }
            Ok(n) => {
                self.cutter
                    .take(&buffer[..n], |line| log.line(self.stream, line));
                PipeState::Open
            }
            Err(Errno::AGAIN | Errno::INTR) => PipeState::Open,
            Err(_) => PipeState::Ended,
        }
    }

    /// Writes a line that has no end yet.
    pub(crate) fn flush(&mut self, log: &mut MachineLog) {
        self.cutter.flush(|line| log.line(self.stream, line));
    }
}
