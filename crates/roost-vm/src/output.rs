//! From the output of a guest's app to the machine's log.

use crate::limits::{FLOOD_PAUSE, LOG_LINE_BYTES_MAX};
use anyhow::{Context as _, Result};
use roost_agent::proto::{Output, OutputStream};
use roost_observe::cutter::LineCutter;
use roost_observe::writer::{LogIdentity, LogLimits, LogSource, LogWriter};
use roost_proto::logs::LogStream;
use roost_proto::vm::VmLaunch;
use std::collections::BTreeMap;

/// The log of a machine, with the lines of its guest that have no end yet.
#[derive(Debug)]
pub(crate) struct MachineLog {
    writer: LogWriter,
    n_programs: usize,
    /// By what wrote them: a program's stream, or init.
    lines: BTreeMap<(OutputStream, Option<u8>), LineCutter>,
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
        Ok(Self {
            writer,
            n_programs: 1 + launch.beside.len(),
            lines: BTreeMap::new(),
        })
    }

    /// Takes a piece of output; waits while the machine writes too much, which
    /// in the end makes its app wait.
    pub(crate) async fn take(&mut self, output: &Output) {
        let (stream, program) = match output.stream() {
            OutputStream::Init => (OutputStream::Init, None),
            OutputStream::Stderr => (OutputStream::Stderr, self.program(&output.process)),
            OutputStream::Stdout | OutputStream::Unspecified => {
                (OutputStream::Stdout, self.program(&output.process))
            }
        };
        let lines = self.lines.entry((stream, program));
        let lines = lines.or_insert_with(|| LineCutter::new(LOG_LINE_BYTES_MAX));
        let (writer, source) = (&mut self.writer, source(stream, program));
        lines.take(&output.data, |line| writer.write_line(source, line));
        if self.writer.is_flooded() {
            tokio::time::sleep(FLOOD_PAUSE).await;
        }
    }

    /// The number of a program, by its name; none where one runs, or for a name
    /// that none was given.
    fn program(&self, name: &str) -> Option<u8> {
        let number: u8 = name.parse().ok()?;
        let is_one = self.n_programs > 1 && (1..=self.n_programs).contains(&number.into());
        is_one.then_some(number)
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
        for (&(stream, program), lines) in &mut self.lines {
            let (writer, source) = (&mut self.writer, source(stream, program));
            lines.flush(|line| writer.write_line(source, line));
        }
    }
}

fn source(stream: OutputStream, program: Option<u8>) -> LogSource {
    let stream = match stream {
        // Not `System`: a guest that lies speaks in its own name only, and at no
        // faster rate.
        OutputStream::Stderr | OutputStream::Init => LogStream::Stderr,
        OutputStream::Stdout | OutputStream::Unspecified => LogStream::Stdout,
    };
    LogSource { stream, program }
}
