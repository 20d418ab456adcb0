//! What a machine's service is serving, and the queue of a service whose
//! machines are all full.

use crate::eject::{Ejection, Outcome};
use crate::wake::LastWake;
use crate::{coarse, limits};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// It has taken traffic for longer than it counts as new.
const LONG_AGO: u64 = u64::MAX;

/// Says to the fronts of an app's queues that a machine has given up a request.
///
/// One for all: ports that lead to the same machines may have queues of their own.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    /// Requests in all the queues.
    waiting: AtomicUsize,
    pub(crate) notify: Notify,
}

/// Requests to one service that wait for a machine: first come, first served.
///
/// Whoever holds the front looks for a machine; the others wait for the front.
/// So a place that is given up wakes one request of a queue, and never the wrong one.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Requests that wait; new ones do not pass them.
    waiting: AtomicUsize,
    /// Requests that wait for machines of their own choice, and hold up nobody.
    beside: AtomicUsize,
    pub(crate) front: tokio::sync::Mutex<()>,
    pub(crate) freed: Arc<Freed>,
}

impl Queue {
    /// Nobody waits yet.
    pub(crate) fn new(freed: &Arc<Freed>) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            beside: AtomicUsize::new(0),
            front: tokio::sync::Mutex::default(),
            freed: freed.clone(),
        })
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }
}

/// One request in the queue, or beside it.
#[derive(Debug)]
pub(crate) struct Waiting {
    queue: Arc<Queue>,
    is_beside: bool,
}

impl Waiting {
    /// Joins the queue, or those beside it; `None` when that many wait there already.
    pub(crate) fn join(queue: &Arc<Queue>, is_beside: bool, most: usize) -> Option<Self> {
        let waiting = Self {
            queue: queue.clone(),
            is_beside,
        };
        if !is_beside {
            queue.freed.waiting.fetch_add(1, Ordering::SeqCst);
        }
        let before = waiting.count().fetch_add(1, Ordering::SeqCst);
        (before < most).then_some(waiting)
    }

    fn count(&self) -> &AtomicUsize {
        if self.is_beside {
            &self.queue.beside
        } else {
            &self.queue.waiting
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::SeqCst);
        if !self.is_beside {
            self.queue.freed.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// What the edge knows of one service of one machine by its own requests.
/// Lives as long as the machine is in the table.
#[derive(Debug)]
pub(crate) struct Load {
    count: AtomicUsize,
    /// What it is serving for other edges, as far as the edge of its node has told; nothing of
    /// a machine of this node, whose requests all are in `count`.
    elsewhere: AtomicUsize,
    /// The most that this edge had under way there since its edge has told last; counted for
    /// machines of other nodes only.
    most: AtomicUsize,
    freed: Arc<Freed>,
    origin: Instant,
    /// When it began to take traffic, in milliseconds since the origin; or [`LONG_AGO`].
    began: AtomicU64,
    ejection: Mutex<Ejection>,
    /// Whether the ejection has to be asked at all.
    is_suspect: AtomicBool,
    /// How it was last woken.
    pub(crate) wake: LastWake,
}

impl Load {
    /// A service of a machine that has served nothing yet.
    pub(crate) fn new(freed: &Arc<Freed>) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicUsize::new(0),
            elsewhere: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            freed: freed.clone(),
            origin: Instant::now(),
            began: AtomicU64::new(0),
            ejection: Mutex::default(),
            is_suspect: AtomicBool::new(false),
            wake: LastWake::default(),
        })
    }

    /// What it is serving for this edge.
    pub(crate) fn now(&self) -> usize {
        // Who waits for a place looks at it after he has said that he waits.
        self.count.load(Ordering::SeqCst)
    }

    /// What it is serving for all edges, as far as that is known.
    pub(crate) fn everywhere(&self) -> usize {
        self.now()
            .saturating_add(self.elsewhere.load(Ordering::Relaxed))
    }

    /// The edge of its node says what it was serving for all edges: what is not this edge's is
    /// that of others, and stays so until the next time. Requests of this edge may have ended
    /// since that was so, and are not to count as those of others: the most that it had counts.
    pub(crate) fn told(&self, all: usize) {
        let now = self.now();
        let own = self.most.swap(now, Ordering::Relaxed).max(now);
        self.elsewhere
            .store(all.saturating_sub(own), Ordering::Relaxed);
    }

    /// One more was taken, for a machine of another node: for [`Self::told`].
    pub(crate) fn note_most(&self) {
        self.most.fetch_max(self.now(), Ordering::Relaxed);
    }

    /// One was not taken there after all: what its edge tells of does not have it.
    pub(crate) fn was_not_taken(&self) {
        let less = |most: usize| most.checked_sub(1);
        let order = Ordering::Relaxed;
        // Its edge may have told meanwhile.
        let _ = self.most.fetch_update(order, order, less);
    }

    /// It takes traffic from now on.
    pub(crate) fn begins(&self) {
        self.began.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether it began to take traffic only now ([`limits::SLOW_START`]).
    pub(crate) fn is_new(&self) -> bool {
        let began = self.began.load(Ordering::Relaxed);
        // Asked for each request: the clock is not.
        if began == LONG_AGO {
            return false;
        }
        let is_new = self.origin.elapsed() < Duration::from_millis(began) + limits::SLOW_START;
        if !is_new {
            let order = Ordering::Relaxed;
            // It may have begun anew meanwhile.
            let _ = self.began.compare_exchange(began, LONG_AGO, order, order);
        }
        is_new
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes one more request, unless it is at its hard limit.
    pub(crate) fn take(self: &Arc<Self>, hard_limit: Option<usize>) -> Option<Serving> {
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        // Dropped, it counts down again.
        let serving = Serving(self.clone());
        if hard_limit.is_some_and(|limit| before >= limit) {
            return None;
        }
        if self.is_suspect.load(Ordering::Relaxed) {
            self.ejection.lock().let_through(self.origin.elapsed());
        }
        Some(serving)
    }

    /// Whether it is ejected.
    pub(crate) fn is_ejected(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed)
            && self.ejection.lock().is_out(self.origin.elapsed())
    }

    /// Notes how a request ended; whether the machine has earned an ejection.
    pub(crate) fn note(&self, outcome: Outcome) -> bool {
        // It counts by the second.
        let now = coarse::now().saturating_duration_since(self.origin);
        let mut ejection = self.ejection.lock();
        let is_earned = ejection.note(now, outcome);
        self.is_suspect
            .store(ejection.is_doubted(), Ordering::Relaxed);
        is_earned
    }

    /// Sends nothing there for a while.
    pub(crate) fn eject(&self) {
        let mut ejection = self.ejection.lock();
        self.is_suspect.store(true, Ordering::Relaxed);
        // The clock's last digits differ enough from machine to machine.
        let spread = f64::from(self.origin.elapsed().subsec_nanos() % 1000) / 1000.0;
        ejection.eject(self.origin.elapsed(), spread);
    }
}

/// One request that a service of a machine is serving; counted until dropped.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Load>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        if self.0.freed.waiting.load(Ordering::SeqCst) > 0 {
            self.0.freed.notify.notify_waiters();
        }
    }
}
