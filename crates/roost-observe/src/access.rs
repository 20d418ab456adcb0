//! The access log of an edge: records of requests as JSON lines in segments of
//! one directory.
//!
//! Records wait in a bounded queue for the task that writes them. One that
//! finds no room is dropped and counted, so that no request waits for a disk;
//! a line of the log says how many were dropped.

use crate::limits;
use crate::segment_writer::SegmentWriter;
use roost_proto::rest::RequestRecord;
use roost_runtime::clock;
use roost_runtime::fs::FileError;
use roost_runtime::tasks::Tasks;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessShare {
    /// None.
    Off,
    /// Failures, and of the others this many of a million.
    PerMillion(u32),
}

const MILLION: u32 = 1_000_000;

impl AccessShare {
    /// All requests.
    pub const FULL: Self = Self::PerMillion(MILLION);

    /// Reads `off`, `full`, or a percentage such as `1%` or `0.01%`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => return Some(Self::Off),
            "full" => return Some(Self::FULL),
            _ => {}
        }
        let (whole, part) = match text.strip_suffix('%')?.split_once('.') {
            Some((whole, part)) => (whole, part),
            None => (text.strip_suffix('%')?, "0"),
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || whole.len() > 3 || part.len() > 4 {
            return None;
        }
        // A percent is 10,000 of a million.
        let part: u32 = format!("{part:0<4}").parse().ok()?;
        let share = whole.parse::<u32>().ok()? * 10_000 + part;
        (share <= MILLION).then_some(Self::PerMillion(share))
    }

    /// Whether a request is logged; `random` is different for each.
    pub fn wants(self, is_failure: bool, random: u64) -> bool {
        match self {
            Self::Off => false,
            Self::PerMillion(share) => is_failure || random % u64::from(MILLION) < u64::from(share),
        }
    }
}

/// Where an edge puts records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessFile {
    records: mpsc::Sender<Arc<RequestRecord>>,
    n_dropped: Arc<AtomicU64>,
}

impl AccessFile {
    /// Begins, or goes on with, the log in this directory. What is in the queue when `tasks`
    /// are asked to stop is still written.
    pub fn open(dir: &Path, tasks: &Tasks) -> Result<Self, FileError> {
        let (bytes, most) = (limits::ACCESS_SEGMENT_BYTES, limits::ACCESS_SEGMENTS_MAX);
        let segment = SegmentWriter::open(dir, bytes, most)?;
        let (file, writer) = Self::new(segment, limits::ACCESS_QUEUE_MAX);
        tasks.spawn("access log", writer.run(tasks.stopping()));
        Ok(file)
    }

    fn new(segment: SegmentWriter, queue_max: usize) -> (Self, AccessWriter) {
        let (records, queue) = mpsc::channel(queue_max);
        let n_dropped = Arc::new(AtomicU64::new(0));
        let writer = AccessWriter {
            queue,
            segment: Some(segment),
            n_dropped: n_dropped.clone(),
            n_told: 0,
            is_failing: false,
        };
        (Self { records, n_dropped }, writer)
    }

    /// Logs a request, if there is room in the queue. Never waits.
    pub fn record(&self, record: &Arc<RequestRecord>) {
        if self.records.try_send(record.clone()).is_err() {
            self.n_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many records were dropped since the start.
    pub fn n_dropped(&self) -> u64 {
        self.n_dropped.load(Ordering::Relaxed)
    }
}

struct AccessWriter {
    queue: mpsc::Receiver<Arc<RequestRecord>>,
    /// Here but while it writes.
    segment: Option<SegmentWriter>,
    n_dropped: Arc<AtomicU64>,
    /// How many of them the log has told of.
    n_told: u64,
    is_failing: bool,
}

impl AccessWriter {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: what was not received stays in the queue.
                n = self.queue.recv_many(&mut batch, limits::ACCESS_BATCH_MAX) => {
                    if n == 0 {
                        return;
                    }
                    self.write(std::mem::take(&mut batch)).await;
                    if n < limits::ACCESS_BATCH_MAX {
                        // What comes meanwhile wakes nobody, and is written at once.
                        stop.run_until_cancelled(sleep(limits::ACCESS_PAUSE)).await;
                    }
                }
                // Nothing is in the queue.
                () = stop.cancelled() => return,
            }
        }
    }

    /// Writes records; those that cannot be written are dropped.
    async fn write(&mut self, batch: Vec<Arc<RequestRecord>>) {
        let Some(mut segment) = self.segment.take() else {
            return;
        };
        let n_records = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let n_dropped = self.n_dropped.load(Ordering::Relaxed);
        let n_untold = n_dropped - self.n_told;
        let write = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            if n_untold > 0 {
                let at = clock::now().as_ms();
                let line = serde_json::json!({"at": at, "dropped": n_untold});
                text.extend_from_slice(format!("{line}\n").as_bytes());
            }
            for record in batch {
                // Strings and numbers always serialise, and memory takes what is written to it.
                drop(serde_json::to_writer(&mut text, &*record));
                text.push(b'\n');
            }
            let written = segment.append(&text);
            (segment, written)
        });
        let Ok((segment, written)) = write.await else {
            tracing::error!("the access log has ended");
            return;
        };
        self.segment = Some(segment);
        match written {
            Ok(()) => {
                self.n_told = n_dropped;
                self.is_failing = false;
            }
            Err(error) => {
                self.n_dropped.fetch_add(n_records, Ordering::Relaxed);
                // Once, until it succeeds again: requests go on.
                if !std::mem::replace(&mut self.is_failing, true) {
                    let error = roost_model::error::chain(&error);
                    tracing::warn!(error, "records of the access log are dropped");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
