//! What the app knows about the machine it runs in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What stays the same, and the counter.
pub(crate) struct Facts {
    machine: String,
    app: String,
    region: String,
    image: String,
    started: Instant,
    n_requests: AtomicU64,
}

/// The facts at one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The machine's id.
    pub(crate) machine: String,
    /// The app's name.
    pub(crate) app: String,
    /// The region.
    pub(crate) region: String,
    /// The image the machine runs.
    pub(crate) image: String,
    /// Requests for a page or JSON so far, this one included.
    pub(crate) n_requests: u64,
    /// Seconds since the app started.
    pub(crate) uptime_seconds: u64,
    /// Memory the machine may use, when known.
    pub(crate) memory_limit_mib: Option<u64>,
    /// Memory this process uses, when known.
    pub(crate) memory_used_mib: Option<u64>,
}

impl Facts {
    /// Reads them from the environment.
    pub(crate) fn gather() -> Self {
        let of = |name| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
        Self {
            machine: of("FLY_MACHINE_ID"),
            app: of("FLY_APP_NAME"),
            region: of("FLY_REGION"),
            image: of("FLY_IMAGE_REF"),
            started: Instant::now(),
            n_requests: AtomicU64::new(0),
        }
    }

    /// Counts a request.
    pub(crate) fn at_request(&self) -> Snapshot {
        Snapshot {
            machine: self.machine.clone(),
            app: self.app.clone(),
            region: self.region.clone(),
            image: self.image.clone(),
            n_requests: self.n_requests.fetch_add(1, Ordering::Relaxed) + 1,
            uptime_seconds: self.started.elapsed().as_secs(),
            memory_limit_mib: memory_limit_mib(),
            memory_used_mib: field_kib("/proc/self/status", "VmRSS:")
                .map(|kib| kib.div_ceil(1_024)),
        }
    }
}

/// The smallest limit in sight: the platform's word, cgroup v2, cgroup v1, all memory there is.
fn memory_limit_mib() -> Option<u64> {
    let announced = std::env::var("FLY_VM_MEMORY_MB")
        .ok()
        .and_then(|text| text.parse().ok());
    let cgroup = |path: &str| {
        let bytes: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Some(bytes / (1_024 * 1_024))
    };
    let limits = [
        announced,
        cgroup("/sys/fs/cgroup/memory.max"),
        cgroup("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        field_kib("/proc/meminfo", "MemTotal:").map(|kib| kib / 1_024),
    ];
    limits.into_iter().flatten().min()
}

fn field_kib(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Facts;

    #[test]
    fn each_request_counts_once_and_the_memory_is_known() {
        let facts = Facts::gather();
        assert_eq!(facts.at_request().n_requests, 1);
        let second = facts.at_request();
        assert_eq!(second.n_requests, 2);
        assert!(second.memory_used_mib.unwrap() <= second.memory_limit_mib.unwrap());
    }
}
