//! The retry budget of an app: retries must not multiply the load of one that fails.

use crate::limits;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

/// Saved-up retries, in parts of a retry.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    parts: AtomicI64,
    origin: Instant,
    /// The second up to which time has added its retries.
    paid: AtomicU64,
}

const PARTS: i64 = limits::RETRY_BUDGET_REQUESTS;
const PARTS_MAX: i64 = limits::RETRY_BUDGET_MAX * PARTS;

impl Default for RetryBudget {
    /// A full budget.
    fn default() -> Self {
        Self {
            parts: AtomicI64::new(PARTS_MAX),
            origin: Instant::now(),
            paid: AtomicU64::new(0),
        }
    }
}

impl RetryBudget {
    fn add(&self, parts: i64) {
        // Two threads may pass the bound by a little: it is a bound on load, not on memory.
        let room = PARTS_MAX - self.parts.load(Ordering::Relaxed);
        if room > 0 {
            self.parts.fetch_add(parts.min(room), Ordering::Relaxed);
        }
    }

    /// A request came.
    pub(crate) fn request(&self) {
        self.add(1);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn take(&self) -> bool {
        self.take_at(self.origin.elapsed().as_secs())
    }

    fn take_at(&self, second: u64) -> bool {
        let passed = second.saturating_sub(self.paid.fetch_max(second, Ordering::Relaxed));
        let earned = i64::try_from(passed).unwrap_or(i64::MAX);
        self.add(earned.saturating_mul(limits::RETRY_BUDGET_PER_SECOND * PARTS));
        let take = |parts: i64| (parts >= PARTS).then(|| parts - PARTS);
        self.parts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;
    use crate::limits;

    #[test]
    fn retries_run_out_and_come_back_with_requests_and_time() {
        let budget = RetryBudget::default();
        let mut taken = 0;
        while budget.take_at(0) {
            taken += 1;
        }
        assert_eq!(taken, limits::RETRY_BUDGET_MAX);
        for _ in 0..limits::RETRY_BUDGET_REQUESTS {
            assert!(!budget.take_at(0));
            budget.request();
        }
        assert!(budget.take_at(0) && !budget.take_at(0));
        for _ in 0..limits::RETRY_BUDGET_PER_SECOND {
            assert!(budget.take_at(1));
        }
        assert!(!budget.take_at(1));
    }
}
