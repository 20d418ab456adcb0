//! Which streams of a connection have something to do.
//!
//! All streams of a connection are driven by its one task. Each has a waker of its own, which
//! notes the stream and wakes the task; so the task polls those that were woken, and no others.

use futures_util::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Wake, Waker};

/// Streams that a connection can have at once: a bit for each.
pub(crate) const SLOTS: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    task: AtomicWaker,
    low: AtomicU64,
    high: AtomicU64,
    /// Bytes of bodies that were read since the connection's window was opened last.
    credit: AtomicU32,
}

impl Ready {
    /// Who is to be woken from now on.
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Notes a stream and wakes the task.
    pub(crate) fn set(&self, slot: usize) {
        let word = if slot < 64 { &self.low } else { &self.high };
        word.fetch_or(1 << (slot % 64), Ordering::AcqRel);
        self.task.wake();
    }

    /// The streams that were noted since the last time.
    pub(crate) fn take(&self) -> u128 {
        let take = |word: &AtomicU64| {
            // Most polls find nothing: a load is cheaper than a swap.
            if word.load(Ordering::Acquire) == 0 {
                return 0;
            }
            u128::from(word.swap(0, Ordering::AcqRel))
        };
        take(&self.low) | take(&self.high) << 64
    }

    /// Whether there is no stream to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.low.load(Ordering::Acquire) | self.high.load(Ordering::Acquire) == 0
    }

    /// Counts bytes that were read; wakes the task when there is enough to tell the client.
    pub(crate) fn add_credit(&self, bytes: u32, enough: u32) {
        let before = self.credit.fetch_add(bytes, Ordering::AcqRel);
        if before < enough && before.saturating_add(bytes) >= enough {
            self.task.wake();
        }
    }

    /// What was read, if it is enough.
    pub(crate) fn take_credit(&self, enough: u32) -> Option<u32> {
        let is_enough = self.credit.load(Ordering::Acquire) >= enough;
        is_enough.then(|| self.credit.swap(0, Ordering::AcqRel))
    }

    /// The waker of the stream in this slot.
    pub(crate) fn waker(self: &Arc<Self>, slot: usize) -> Waker {
        let ready = self.clone();
        Waker::from(Arc::new(SlotWaker { ready, slot }))
    }
}

struct SlotWaker {
    ready: Arc<Ready>,
    slot: usize,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.ready.set(self.slot);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.set(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::{Ready, SLOTS};
    use std::sync::Arc;

    #[test]
    fn those_that_were_woken_are_noted_once() {
        let ready = Arc::<Ready>::default();
        for slot in [0, 63, 64, SLOTS - 1, 0] {
            ready.waker(slot).wake();
        }
        assert_eq!(ready.take(), 1 | 1 << 63 | 1 << 64 | 1 << 127);
        assert_eq!(ready.take(), 0);
    }

    #[test]
    fn credit_is_given_when_there_is_enough_of_it() {
        let ready = Ready::default();
        ready.add_credit(6, 10);
        assert_eq!(ready.take_credit(10), None);
        ready.add_credit(5, 10);
        assert_eq!(
            (ready.take_credit(10), ready.take_credit(1)),
            (Some(11), None)
        );
    }
}
