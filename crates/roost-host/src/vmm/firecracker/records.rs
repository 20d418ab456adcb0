//! What a Firecracker says beside the guest's console: complaints, log, metrics.
//!
//! Of the first two the end is kept, for the day on which it dies. Metrics come
//! once a minute, as one JSON object a line, each with what happened since the
//! line before; what should not happen goes to the log of the node.

use super::limits::{MESSAGE_BYTES_MAX, METRICS_BYTES_MAX};
use super::process::Exit;
use parking_lot::Mutex;
use roost_runtime::tasks::Tasks;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Counters that stay 0 as long as all is well, as paths into the metrics
/// (Firecracker, `src/vmm/src/logger/metrics.rs`).
const TROUBLE: [&str; 4] = [
    "/seccomp/num_faults",
    "/vcpu/failures",
    "/signals/sigsegv",
    "/vmm/panic_count",
];

/// Where it says things.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) stderr: pipe::Receiver,
    pub(super) log: pipe::Receiver,
    pub(super) metrics: pipe::Receiver,
}

/// The last words of a process, collected while it runs and until it has ended.
#[derive(Debug)]
pub(super) struct Records {
    message: Arc<Mutex<Vec<u8>>>,
    is_complete: watch::Receiver<bool>,
}

impl Records {
    /// Begins to collect; ends with the process.
    pub(super) fn collect(
        name: String,
        sources: Sources,
        exit: watch::Receiver<Option<Exit>>,
    ) -> Self {
        let message = Arc::new(Mutex::new(Vec::new()));
        let (complete, is_complete) = watch::channel(false);
        let kept = Arc::clone(&message);
        Tasks::new().spawn("firecracker records", async move {
            let keep = |bytes: &[u8]| keep_end(&mut kept.lock(), bytes);
            let mut lines = Lines::default();
            let report = |bytes: &[u8]| lines.push(bytes, |line| report(&name, line));
            tokio::join!(
                read(sources.stderr, exit.clone(), keep),
                read(sources.log, exit.clone(), keep),
                read(sources.metrics, exit, report),
            );
            complete.send_replace(true);
        });
        Self {
            message,
            is_complete,
        }
    }

    /// What was said last. Waits for what is still in the pipes of a process that
    /// has ended, but not for long. Cancel-safe.
    pub(super) async fn message(&mut self, limit: Duration) -> String {
        // An error is a task that is gone: what there is, is there.
        let _ = tokio::time::timeout(limit, self.is_complete.wait_for(|done| *done)).await;
        let kept = self.message.lock();
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

/// Reads until the pipe has ended, or the process has and the pipe is empty.
async fn read(
    mut pipe: pipe::Receiver,
    mut exit: watch::Receiver<Option<Exit>>,
    mut take: impl FnMut(&[u8]),
) {
    let mut part = [0; 4_096];
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: bytes are either returned or still in the pipe.
            read = pipe.read(&mut part) => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => take(&part[..n]),
            },
            // Cancel-safe: the value stays.
            _ = exit.wait_for(Option::is_some) => break,
        }
    }
    // Past the runtime, which may not have heard yet that there is something.
    while let Ok(n @ 1..) = rustix::io::read(&pipe, &mut part) {
        take(&part[..n]);
    }
}

fn keep_end(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(bytes);
    let excess = kept.len().saturating_sub(MESSAGE_BYTES_MAX);
    kept.drain(..excess);
}

/// Cuts a stream into lines; of one that is too long nothing is kept.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    is_too_long: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > METRICS_BYTES_MAX {
                self.is_too_long = true;
                self.line.clear();
            }
            if !self.is_too_long {
                self.line.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                if !self.is_too_long {
                    take(&self.line);
                }
                *self = Self::default();
            }
        }
    }
}

fn report(name: &str, line: &[u8]) {
    let Ok(metrics) = serde_json::from_slice::<Value>(line) else {
        return;
    };
    for (counter, count) in trouble(&metrics) {
        tracing::warn!(machine_id = name, counter, count, "trouble in firecracker");
    }
}

fn trouble(metrics: &Value) -> impl Iterator<Item = (&'static str, u64)> {
    TROUBLE.iter().filter_map(|path| {
        let count = metrics.pointer(path)?.as_u64()?;
        (count > 0).then_some((*path, count))
    })
}

#[cfg(test)]
mod tests {
    use super::{Lines, keep_end, trouble};
    use crate::vmm::firecracker::limits::{MESSAGE_BYTES_MAX, METRICS_BYTES_MAX};
    use serde_json::json;

    #[test]
    fn only_the_end_of_a_flood_is_kept() {
        let mut kept = Vec::new();
        for _ in 0..100 {
            keep_end(&mut kept, &[b'x'; 1_000]);
        }
        keep_end(&mut kept, b"last words");
        assert_eq!(kept.len(), MESSAGE_BYTES_MAX);
        assert!(kept.ends_with(b"xlast words"));
    }

    #[test]
    fn lines_come_whole_whatever_their_parts_and_one_too_long_is_skipped() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut push = |bytes: &[u8]| lines.push(bytes, |line| seen.push(line.to_vec()));
        push(b"{\"a\"");
        push(b":1}\n{}\n");
        for _ in 0..=METRICS_BYTES_MAX / 1_024 {
            push(&[b'x'; 1_024]);
        }
        push(b"\n{\"b\":2}\n");
        assert_eq!(
            seen,
            [&b"{\"a\":1}\n"[..], &b"{}\n"[..], &b"{\"b\":2}\n"[..]]
        );
    }

    #[test]
    fn metrics_that_tell_of_trouble_are_found_and_garbage_is_not() {
        let metrics = json!({ "seccomp": { "num_faults": 2 }, "vcpu": { "failures": 0 } });
        let found: Vec<_> = trouble(&metrics).collect();
        assert_eq!(found, [("/seccomp/num_faults", 2)]);
        assert_eq!(trouble(&json!([{ "seccomp": -1 }])).count(), 0);
    }
}
