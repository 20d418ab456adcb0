//! From the output of a guest's app to the machine's log.

use crate::limits::{FLOOD_PAUSE, LOG_LINE_BYTES_MAX};
use anyhow::{Context as _, Result};
use roost_agent::proto::{Output, OutputStream};
use roost_observe::cutter::LineCutter;
use roost_observe::writer::{LogIdentity, LogLimits, LogWriter};
use roost_proto::logs::LogStream;
use roost_proto::vm::VmLaunch;

/// The log of a machine, with the lines of its guest that have no end yet.
#[derive(Debug)]
pub(crate) struct MachineLog {
    writer: LogWriter,
    stdout: LineCutter,
    stderr: LineCutter,
    init: LineCutter,
}

impl MachineLog {
    /// The log of the machine that is launched.
    pub(crate) fn open(launch: &VmLaunch) -> Result<Self> {
        let identity = LogIdentity {
            app: launch.app.clone(),
            machine: launch.machine_id.clone(),
            region: launch.region.clone(),
        };
        let writer = LogWriter::open(&launch.log_dir, identity, LogLimits::default())
            .context("open the machine's log")?;
        let cutter = || LineCutter::new(LOG_LINE_BYTES_MAX);
        Ok(Self {
            writer,
            stdout: cutter(),
            stderr: cutter(),
            init: cutter(),
        })
    }

    /// Takes a piece of output; waits while the machine writes too much, which
    /// in the end makes its app wait.
    pub(crate) async fn take(&mut self, output: &Output) {
        let (cutter, stream) = match output.stream() {
            OutputStream::Stderr => (&mut self.stderr, LogStream::Stderr),
            // Not `System`: a guest that lies speaks in its own name only, and
            // at no faster rate.
            OutputStream::Init => (&mut self.init, LogStream::Stderr),
            OutputStream::Stdout | OutputStream::Unspecified => {
                (&mut self.stdout, LogStream::Stdout)
            }
        };
        let writer = &mut self.writer;
        cutter.take(&output.data, |line| writer.write_line(stream, line));
        if self.writer.is_flooded() {
            tokio::time::sleep(FLOOD_PAUSE).await;
        }
    }

    /// Writes a line about the machine.
    pub(crate) fn system(&mut self, text: &str) {
        self.writer.system(text);
    }

    /// Whether lines were dropped that the log does not mention yet.
    pub(crate) fn has_dropped(&self) -> bool {
        self.writer.n_dropped() > 0
    }

    /// Mentions the dropped lines in the log.
    pub(crate) fn report_dropped(&mut self) {
        self.writer.report_dropped();
    }

    /// Writes lines that have no end yet.
    pub(crate) fn flush(&mut self) {
        let writer = &mut self.writer;
        for (cutter, stream) in [
            (&mut self.stdout, LogStream::Stdout),
            (&mut self.stderr, LogStream::Stderr),
            (&mut self.init, LogStream::Stderr),
        ] {
            cutter.flush(|line| writer.write_line(stream, line));
        }
    }
}
