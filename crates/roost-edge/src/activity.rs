//! What a client connection is doing: serving, reading a header, or nothing.

use crate::coarse;
use crate::config::EdgeTimeouts;
use crate::lanes::Seat;
use crate::rates::Visit;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// No header is being read.
const NO_HEADER: u64 = u64::MAX;
/// The client takes what is written to it.
const NOT_STUCK: u64 = u64::MAX;

/// What bytes of a client belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// The beginning of an HTTP/1 header.
    NewHeader,
    /// The header that has begun.
    MoreOfHeader,
    /// A body, or HTTP/2.
    Other,
}

/// The state of one client connection. Times are milliseconds since it began.
#[derive(Debug)]
pub(crate) struct Activity {
    origin: std::time::Instant,
    serving: AtomicUsize,
    idle_since: AtomicU64,
    header_since: AtomicU64,
    stuck_since: AtomicU64,
    multiplexed: AtomicBool,
    late: AtomicBool,
    closing: AtomicBool,
    /// Whether the header that came last has both a length and a transfer coding.
    two_lengths: AtomicBool,
    /// The place among the edge's connections; a tunnel keeps it until it ends.
    _place: OwnedSemaphorePermit,
    /// Likewise the one at its thread; none for connections of other edges.
    _seat: Option<Seat>,
    /// Known once the client is.
    visit: OnceLock<Visit>,
}

impl Activity {
    /// A new connection, from which a header is expected.
    pub(crate) fn new(place: OwnedSemaphorePermit, seat: Option<Seat>) -> Arc<Self> {
        Arc::new(Self {
            origin: coarse::now(),
            serving: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            header_since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(NOT_STUCK),
            multiplexed: AtomicBool::new(false),
            late: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            two_lengths: AtomicBool::new(false),
            _place: place,
            _seat: seat,
            visit: OnceLock::new(),
        })
    }

    /// It is a connection of this client.
    pub(crate) fn belongs_to(&self, visit: Visit) {
        // Once per connection: there is none yet.
        let _ = self.visit.set(visit);
    }

    /// The client's visit, once it is known who that is.
    pub(crate) fn visit(&self) -> Option<&Visit> {
        self.visit.get()
    }

    fn now(&self) -> u64 {
        coarse::ms_since(self.origin)
    }

    /// HTTP/2 sends frames that belong to no request: only idleness counts.
    pub(crate) fn is_http2(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
        self.header_since.store(NO_HEADER, Ordering::Relaxed);
    }

    /// Bytes have come; what of.
    pub(crate) fn bytes_read(&self) -> Came {
        if self.serving.load(Ordering::Relaxed) > 0 || self.multiplexed.load(Ordering::Relaxed) {
            return Came::Other;
        }
        if self.header_since.load(Ordering::Relaxed) != NO_HEADER {
            return Came::MoreOfHeader;
        }
        self.header_since.store(self.now(), Ordering::Relaxed);
        self.two_lengths.store(false, Ordering::Relaxed);
        Came::NewHeader
    }

    /// The header that is coming has both a length and a transfer coding.
    pub(crate) fn has_two_lengths(&self) {
        self.two_lengths.store(true, Ordering::Relaxed);
    }

    /// Bytes were to be written; whether the client's side took any.
    pub(crate) fn written(&self, taken: bool) {
        let is_stuck = self.stuck_since.load(Ordering::Relaxed) != NOT_STUCK;
        if taken && is_stuck {
            self.stuck_since.store(NOT_STUCK, Ordering::Relaxed);
        } else if !taken && !is_stuck {
            self.stuck_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether the client has taken nothing for too long.
    pub(crate) fn is_stuck(&self, timeouts: &EdgeTimeouts) -> bool {
        let since = self.stuck_since.load(Ordering::Relaxed);
        since != NOT_STUCK && self.is_over(since, timeouts.body_idle)
    }

    /// A request has come; it is served until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Ordering::Relaxed);
        self.header_since.store(NO_HEADER, Ordering::Relaxed);
        Serving(self.clone())
    }

    /// When the connection should be looked at next: when by the coarse clock, too, it is time.
    pub(crate) fn next_look(&self, timeouts: &EdgeTimeouts) -> Instant {
        Instant::now() + timeouts.header.min(timeouts.idle) + coarse::LATE_MAX
    }

    /// Whether a header has been on the way for too long.
    pub(crate) fn header_is_late(&self, timeouts: &EdgeTimeouts) -> bool {
        let since = self.header_since.load(Ordering::Relaxed);
        since != NO_HEADER && self.is_over(since, timeouts.header)
    }

    /// The connection is cut since its header is late.
    pub(crate) fn cut_as_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// Whether that has happened.
    pub(crate) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// The connection is to end with the answer that is under way.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether that has been said.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether nothing has been asked for too long.
    pub(crate) fn is_idle(&self, timeouts: &EdgeTimeouts) -> bool {
        self.serving.load(Ordering::Relaxed) == 0
            && self.is_over(self.idle_since.load(Ordering::Relaxed), timeouts.idle)
    }

    fn is_over(&self, since: u64, limit: Duration) -> bool {
        u128::from(self.now().saturating_sub(since)) >= limit.as_millis()
    }
}

/// One request that a connection is serving.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Activity>);

impl Serving {
    /// Whether its client may ask for that now.
    pub(crate) fn may_ask(&self) -> bool {
        self.visit().is_none_or(Visit::may_ask)
    }

    /// The client's visit, once it is known who that is.
    pub(crate) fn visit(&self) -> Option<&Visit> {
        self.0.visit()
    }

    /// Whether its header has both a length and a transfer coding.
    pub(crate) fn has_two_lengths(&self) -> bool {
        self.0.two_lengths.load(Ordering::Relaxed)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Relaxed);
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}
