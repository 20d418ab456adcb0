//! Kept connections to one endpoint.
//!
//! HTTP/1: a stack of idle connections; the newest is used first, so that the
//! others grow old and are closed. HTTP/2: one connection that all share; one
//! with as many requests as the machine takes gives way to another, and ends
//! with the last of them. A closed pool keeps nothing: what comes back is dropped.
//!
//! A connection is used by the thread that it belongs to ([`crate::lanes`]), since elsewhere each
//! of its answers would have to wake another one. Who has none takes an idle one of another thread:
//! an app that serves one connection at a time must not wait for one that nobody uses.

use crate::body::RequestBody;
use crate::http1::machine::MachineConnection;
use crate::{coarse, lanes, limits};
use hyper::client::conn::http1;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sender of requests on one HTTP/1 connection.
pub(crate) type Http1Sender = http1::SendRequest<RequestBody>;
/// A sender of requests on one HTTP/2 connection.
pub(crate) type Http2Sender = roost_http2::client::Sender<RequestBody>;

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
    lane: usize,
}

impl<C> Idle<C> {
    fn begins(connection: C) -> Self {
        let (since, lane) = (coarse::now(), lanes::number());
        Self {
            connection,
            since,
            lane,
        }
    }
}

/// The newest of this lane that is younger than `limit` and still good, else the newest of all.
fn newest<C>(idle: &mut Vec<Idle<C>>, limit: Duration, is_good: fn(&C) -> bool) -> Option<Idle<C>> {
    let (here, now) = (lanes::number(), coarse::now());
    loop {
        // Older ones stay: others may have more patience.
        let is_young = |at: &usize| now.saturating_duration_since(idle[*at].since) < limit;
        let own = idle.iter().rposition(|idle| idle.lane == here);
        let last = || idle.len().checked_sub(1).filter(is_young);
        let at = own.filter(is_young).or_else(last)?;
        let newest = idle.remove(at);
        if is_good(&newest.connection) {
            return Some(newest);
        }
    }
}

/// Keeps one more, in place of the oldest when there are too many.
fn keep<C>(idle: &mut Vec<Idle<C>>, connection: C) -> Option<Idle<C>> {
    let oldest = (idle.len() >= limits::POOL_IDLE_MAX).then(|| idle.remove(0));
    idle.push(Idle::begins(connection));
    oldest
}

#[derive(Debug)]
struct State {
    open: bool,
    /// For requests with a body.
    idle: Vec<Idle<Http1Sender>>,
    /// For those without.
    plain: Vec<Idle<Box<MachineConnection>>>,
    /// One of each lane; since when it is not used.
    shared: Vec<Idle<Http2Sender>>,
}

/// The kept connections.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

impl Pool {
    /// An open pool without connections.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                open: true,
                idle: Vec::new(),
                plain: Vec::new(),
                shared: Vec::new(),
            }),
        })
    }

    /// Opens or closes the pool; closing drops idle connections.
    pub(crate) fn set_open(&self, open: bool) {
        let mut state = self.state.lock();
        state.open = open;
        if !open {
            // Requests under way hold their own senders.
            let plain = std::mem::take(&mut state.plain);
            let shared = std::mem::take(&mut state.shared);
            let dropped = (std::mem::take(&mut state.idle), plain, shared);
            drop(state);
            drop(dropped);
        }
    }

    /// The newest idle connection that is still open and younger than `limit`.
    pub(crate) fn take_http1(&self, limit: Duration) -> Option<Http1Sender> {
        let is_good = |sender: &Http1Sender| !sender.is_closed();
        let newest = newest(&mut self.state.lock().idle, limit, is_good);
        newest.map(|idle| idle.connection)
    }

    /// The same for a request without a body.
    pub(crate) fn take_plain(&self, limit: Duration) -> Option<Box<MachineConnection>> {
        let newest = newest(&mut self.state.lock().plain, limit, |it| it.is_quiet())?;
        if newest.lane == lanes::number() {
            return Some(newest.connection);
        }
        // Cheaper than a new one. It fails only when this thread ends.
        newest.connection.moved_here().ok()
    }

    /// Keeps a connection on which nothing is under way.
    pub(crate) fn put_plain(&self, connection: Box<MachineConnection>) {
        let mut state = self.state.lock();
        let dropped = state.open.then(|| keep(&mut state.plain, connection));
        drop(state);
        drop(dropped);
    }

    /// Keeps a connection whose response has ended.
    pub(crate) fn put_http1(&self, sender: Http1Sender) {
        if sender.is_closed() {
            return;
        }
        let mut state = self.state.lock();
        let dropped = state.open.then(|| keep(&mut state.idle, sender));
        drop(state);
        drop(dropped);
    }

    /// The shared HTTP/2 connection, if it takes another request now.
    pub(crate) fn take_http2(&self) -> Option<Http2Sender> {
        let here = lanes::number();
        let mut state = self.state.lock();
        let at = state.shared.iter().position(|shared| shared.lane == here)?;
        let shared = &mut state.shared[at];
        if !shared.connection.takes_more() {
            state.shared.swap_remove(at);
            return None;
        }
        shared.since = coarse::now();
        Some(shared.connection.clone())
    }

    /// Shares a new HTTP/2 connection, in place of the one before.
    pub(crate) fn put_http2(&self, sender: Http2Sender) {
        let new = Idle::begins(sender);
        let mut state = self.state.lock();
        if state.open {
            state.shared.retain(|shared| shared.lane != new.lane);
            state.shared.push(new);
        }
    }

    /// Shares this HTTP/2 connection no more.
    pub(crate) fn forget_http2(&self, sender: &Http2Sender) {
        let mut state = self.state.lock();
        let is_it = |shared: &mut Idle<Http2Sender>| shared.connection.is_of(sender);
        let forgotten: Vec<_> = state.shared.extract_if(.., is_it).collect();
        drop(state);
        drop(forgotten);
    }

    /// Drops what has been idle for longer than `limit`.
    pub(crate) fn reap(&self, limit: Duration, nothing_in_flight: bool) {
        let mut state = self.state.lock();
        state
            .idle
            .retain(|idle| idle.since.elapsed() < limit && !idle.connection.is_closed());
        state
            .plain
            .retain(|idle| idle.since.elapsed() < limit && idle.connection.is_quiet());
        if nothing_in_flight {
            state.shared.retain(|shared| shared.since.elapsed() < limit);
        }
    }
}
