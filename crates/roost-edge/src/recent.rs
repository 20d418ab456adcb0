//! The requests of late, so that somebody may ask why one went as it did.
//!
//! Two rings: one of what failed or was slow, one of the rest, so that many
//! good requests push no failure out. Both are bounded by number and by age.

use crate::limits;
use parking_lot::Mutex;
use roost_proto::rest::RequestRecord;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

type Ring = VecDeque<(Instant, Arc<RequestRecord>)>;

/// Records of finished requests.
#[derive(Debug)]
pub(crate) struct Recent {
    origin: Instant,
    /// The second that requests are counted in, and how many began in it.
    second: AtomicU64,
    began: AtomicU32,
    failed: Mutex<Ring>,
    rest: Mutex<Ring>,
}

impl Recent {
    /// None yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            second: AtomicU64::new(0),
            began: AtomicU32::new(0),
            failed: Mutex::default(),
            rest: Mutex::default(),
        })
    }

    /// Whether a request that begins now is followed, and kept whatever becomes of it: the
    /// first ones of each second, and a share of the others.
    pub(crate) fn follows(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.origin).as_secs();
        // Two threads may both begin a second: it is a bound on work, to be kept roughly.
        if self.second.load(Ordering::Relaxed) != second {
            self.second.store(second, Ordering::Relaxed);
            self.began.store(0, Ordering::Relaxed);
        }
        let n = self.began.fetch_add(1, Ordering::Relaxed);
        n < limits::FOLLOWED_PER_SECOND || n.is_multiple_of(limits::FOLLOWED_ONE_IN)
    }

    /// Keeps a record; one of a failure, or of a slow request, for longer.
    pub(crate) fn keep(&self, now: Instant, record: Arc<RequestRecord>, is_failure: bool) {
        let (ring, most) = if is_failure {
            (&self.failed, limits::RECENT_FAILURES_MAX)
        } else {
            (&self.rest, limits::RECENT_MAX)
        };
        let mut dropped = Vec::new();
        let mut ring = ring.lock();
        while ring.len() >= most || ring.front().is_some_and(|(at, _)| is_old(*at, now)) {
            dropped.extend(ring.pop_front());
        }
        ring.push_back((now, record));
        // What is dropped is freed when nobody waits for the lock any more.
        drop(ring);
    }

    /// The record of a request, while it is kept; by its id, which may have a region behind it.
    pub(crate) fn find(&self, now: Instant, id: &str) -> Option<Arc<RequestRecord>> {
        let id = without_region(id);
        [&self.failed, &self.rest].into_iter().find_map(|ring| {
            let ring = ring.lock();
            let kept = ring.iter().rev().take_while(|(at, _)| !is_old(*at, now));
            let mut found = kept.filter(|(_, record)| without_region(&record.request_id) == id);
            found.next().map(|(_, record)| record.clone())
        })
    }
}

/// The id of a request without the region behind it.
fn without_region(id: &str) -> &str {
    id.split_once('-').map_or(id, |(id, _region)| id)
}

fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= limits::RECENT_AGE_MAX
}

#[cfg(test)]
mod tests {
    use super::Recent;
    use crate::limits;
    use roost_proto::rest::RequestRecord;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn record(id: usize) -> Arc<RequestRecord> {
        Arc::new(RequestRecord {
            request_id: id.to_string(),
            trace_id: String::new(),
            at: 0,
            edge: String::new(),
            region: String::new(),
            table_version: 0,
            client: String::new(),
            protocol: String::new(),
            tls: false,
            method: String::new(),
            host: String::new(),
            path: String::new(),
            app: None,
            machine: None,
            status: 200,
            error: None,
            response_bytes: 0,
            complete: true,
            first_byte_us: 0,
            total_us: 0,
            attempts: vec![],
            spans: vec![],
        })
    }

    #[test]
    fn many_good_requests_push_out_the_oldest_of_them_and_no_failure() {
        let (recent, now) = (Recent::new(), Instant::now());
        recent.keep(now, record(0), true);
        for id in 1..=limits::RECENT_MAX + 1 {
            recent.keep(now, record(id), false);
        }
        for (id, is_kept) in [
            (0, true),
            (1, false),
            (2, true),
            (limits::RECENT_MAX + 1, true),
        ] {
            let found = recent.find(now, &id.to_string());
            assert_eq!(found.is_some(), is_kept, "{id}");
        }
        for id in 0..limits::RECENT_FAILURES_MAX {
            recent.keep(now, record(10_000_000 + id), true);
        }
        assert_eq!(recent.find(now, "0"), None);
        assert_eq!(recent.failed.lock().len(), limits::RECENT_FAILURES_MAX);
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (recent, begun) = (Recent::new(), Instant::now());
        recent.keep(begun, record(1), true);
        let almost = begun + limits::RECENT_AGE_MAX - Duration::from_millis(1);
        assert!(recent.find(almost, "1").is_some());
        let then = begun + limits::RECENT_AGE_MAX;
        assert_eq!(recent.find(then, "1"), None);
        recent.keep(then, record(2), true);
        assert_eq!(recent.failed.lock().len(), 1);
    }

    #[test]
    fn the_first_requests_of_a_second_are_followed_and_a_share_of_the_others() {
        let recent = Recent::new();
        let count = |second: u64, n: u32| {
            let now = recent.origin + Duration::from_secs(second);
            (0..n).map(|_| u32::from(recent.follows(now))).sum::<u32>()
        };
        let (first, one_in) = (limits::FOLLOWED_PER_SECOND, limits::FOLLOWED_ONE_IN);
        assert_eq!(count(0, first), first);
        assert_eq!(count(1, first), first);
        let many = first + 10 * one_in;
        assert!((first + 9..=first + 11).contains(&count(2, many)));
    }
}
