//! The retry budget: retries must not multiply the load of a failing app.

use crate::limits;
use std::sync::atomic::{AtomicI64, Ordering};

/// Saved-up retries, in parts of a retry.
#[derive(Debug)]
pub(crate) struct RetryBudget(AtomicI64);

const PARTS: i64 = limits::RETRY_BUDGET_REQUESTS;
const PARTS_MAX: i64 = limits::RETRY_BUDGET_MAX * PARTS;

impl RetryBudget {
    /// A full budget.
    pub(crate) fn new() -> Self {
        Self(AtomicI64::new(PARTS_MAX))
    }

    fn add(&self, parts: i64) {
        // Two threads may pass the bound by a little: it is a bound on load, not on memory.
        if self.0.load(Ordering::Relaxed) < PARTS_MAX {
            self.0.fetch_add(parts, Ordering::Relaxed);
        }
    }

    /// A request came.
    pub(crate) fn request(&self) {
        self.add(1);
    }

    /// A second has passed.
    pub(crate) fn second(&self) {
        self.add(limits::RETRY_BUDGET_PER_SECOND * PARTS);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn take(&self) -> bool {
        let take = |parts: i64| (parts >= PARTS).then(|| parts - PARTS);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;
    use crate::limits;

    #[test]
    fn retries_run_out_and_come_back_with_requests() {
        let budget = RetryBudget::new();
        let mut taken = 0;
        while budget.take() {
            taken += 1;
        }
        assert_eq!(taken, limits::RETRY_BUDGET_MAX);
        for _ in 0..limits::RETRY_BUDGET_REQUESTS {
            assert!(!budget.take());
            budget.request();
        }
        assert!(budget.take());
    }
}
