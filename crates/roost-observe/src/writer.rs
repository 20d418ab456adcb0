//! The writer of one machine's log segments. Synchronous: it lives in the shim.
//!
//! A line is one `write` to a file opened for appending, so a reader sees
//! whole lines within the time of a system call, and a crash can at most
//! leave an unfinished last line, which readers ignore and the next writer
//! cuts away. A writer holds a lock on its segment: a second writer for the
//! same machine (a new shim while the old one ends, the worker's own remarks)
//! takes a segment of its own, and readers merge them by time.
//!
//! A log that cannot be written stops no machine. When the disk is full or
//! fails, or the machine writes faster than its limit allows, lines are dropped
//! and counted, and the first write that succeeds again is preceded by a system
//! record that says how many.

use crate::bucket::Bucket;
pub use crate::limits::LogLimits;
use crate::line::record_of;
pub use crate::line::{LogIdentity, LogSource};
use crate::segment_writer::SegmentWriter;
use roost_proto::logs::LogStream;
use roost_runtime::clock;
use roost_runtime::fs::{FileError, IoContext as _};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The logs of a machine could not be opened for writing.
#[derive(Debug, thiserror::Error)]
#[error("open the logs in {}", dir.display())]
pub struct OpenLogError {
    /// The machine's log directory.
    pub dir: PathBuf,
    /// Why.
    #[source]
    pub source: FileError,
}

/// Writes the log lines of one machine.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    identity: LogIdentity,
    limits: LogLimits,
    segment: SegmentWriter,
    bucket: Bucket,
    /// Lines that could not be written.
    n_unwritten: u64,
    /// What came too fast.
    excess: Excess,
}

/// Lines that were dropped because there were too many.
#[derive(Debug, Clone, Copy, Default)]
struct Excess {
    n_lines: u64,
    n_bytes: u64,
}

impl Excess {
    fn add(&mut self, line: &[u8]) {
        let n_bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        self.n_lines = self.n_lines.saturating_add(1);
        self.n_bytes = self.n_bytes.saturating_add(n_bytes);
    }
}

impl LogWriter {
    /// Opens the newest segment in `dir`, repaired when a crash left half a
    /// line in it, or begins a new one. Makes the directory.
    pub fn open(
        dir: &Path,
        identity: LogIdentity,
        limits: LogLimits,
    ) -> Result<Self, OpenLogError> {
        let bounds = (limits.segment_bytes, limits.segments_max);
        let segment = SegmentWriter::open(dir, bounds.0, bounds.1).map_err(|source| {
            let dir = dir.to_owned();
            OpenLogError { dir, source }
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            identity,
            limits,
            segment,
            bucket: Bucket::new(limits.bytes_per_second, limits.burst_bytes, Instant::now()),
            n_unwritten: 0,
            excess: Excess::default(),
        })
    }

    /// Writes one line; its line ending is left out.
    ///
    /// A line that cannot be written, or that is too much, is dropped and
    /// counted. Lines about the machine are never too much.
    pub fn write_line(&mut self, source: impl Into<LogSource>, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.write_or_drop(source.into(), line).is_err() {
            self.n_unwritten = self.n_unwritten.saturating_add(1);
        }
    }

    /// Writes a line about the machine.
    pub fn system(&mut self, text: &str) {
        self.write_line(LogStream::System, text.as_bytes());
    }

    /// Says in the log how many lines were dropped, if any were.
    pub fn report_dropped(&mut self) {
        // What cannot be mentioned now stays counted.
        let _ = self.append_dropped();
    }

    /// How many lines were dropped and not yet reported in the log.
    pub fn n_dropped(&self) -> u64 {
        self.n_unwritten.saturating_add(self.excess.n_lines)
    }

    /// Whether the machine writes faster than its limit allows.
    pub fn is_flooded(&self) -> bool {
        self.bucket.is_shut()
    }

    fn write_or_drop(&mut self, source: LogSource, line: &[u8]) -> Result<(), FileError> {
        let is_limited = source.stream != LogStream::System;
        // What is dropped anyway is not worth encoding.
        if is_limited && self.bucket.stays_shut(Instant::now()) {
            self.excess.add(line);
            return Ok(());
        }
        let text = self.encode(source, line)?;
        // As it is on disk, where a byte of the line takes up to six.
        let n_bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if is_limited && !self.bucket.admit(n_bytes, Instant::now()) {
            self.excess.add(line);
            return Ok(());
        }
        self.append_dropped()?;
        self.append(&text)
    }

    /// The record of a line, with its line feed.
    fn encode(&self, source: impl Into<LogSource>, line: &[u8]) -> Result<Vec<u8>, FileError> {
        let record = record_of(
            &self.identity,
            clock::now(),
            source.into(),
            line,
            self.limits.line_bytes_max,
        );
        let mut text = serde_json::to_vec(&record)
            .map_err(io::Error::other)
            .on("encode a line for", &self.dir)?;
        text.push(b'\n');
        Ok(text)
    }

    fn append_dropped(&mut self) -> Result<(), FileError> {
        if self.n_unwritten > 0 {
            let message = format!(
                "{} log lines were dropped: they could not be written",
                self.n_unwritten
            );
            self.append(&self.encode(LogStream::System, message.as_bytes())?)?;
            self.n_unwritten = 0;
        }
        if self.excess.n_lines > 0 {
            let Excess { n_lines, n_bytes } = self.excess;
            let message = format!(
                "{n_lines} log lines ({n_bytes} bytes) were dropped: the machine wrote more than \
                 {} KiB a second",
                self.limits.bytes_per_second / 1024
            );
            self.append(&self.encode(LogStream::System, message.as_bytes())?)?;
            self.excess = Excess::default();
        }
        Ok(())
    }

    fn append(&mut self, text: &[u8]) -> Result<(), FileError> {
        self.segment.append(text)
    }
}

#[cfg(test)]
mod tests;
