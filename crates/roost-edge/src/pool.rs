//! Kept connections to one endpoint.
//!
//! HTTP/1: a stack of idle connections; the newest is used first, so that the
//! others grow old and are closed. HTTP/2: one connection that all share; one
//! with as many requests as the machine takes gives way to another, and ends
//! with the last of them. A closed pool keeps nothing: what comes back is dropped.

use crate::body::RequestBody;
use crate::http1::machine::MachineConnection;
use crate::limits;
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
}

impl<C> Idle<C> {
    fn begins(connection: C) -> Self {
        let since = Instant::now();
        Self { connection, since }
    }
}

/// The newest that is younger than `limit` and still good.
fn newest<C>(idle: &mut Vec<Idle<C>>, limit: Duration, is_good: fn(&C) -> bool) -> Option<C> {
    while let Some(newest) = idle.pop() {
        if newest.since.elapsed() >= limit {
            // Those below are older still; others may have more patience.
            idle.push(newest);
            return None;
        }
        if is_good(&newest.connection) {
            return Some(newest.connection);
        }
    }
    None
}

#[derive(Debug)]
struct State {
    open: bool,
    /// For requests with a body.
    idle: Vec<Idle<Http1Sender>>,
    /// For those without.
    plain: Vec<Idle<MachineConnection>>,
    shared: Option<(Http2Sender, Instant)>,
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
                shared: None,
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
            let dropped = (std::mem::take(&mut state.idle), plain, state.shared.take());
            drop(state);
            drop(dropped);
        }
    }

    /// The newest idle connection that is still open and younger than `limit`.
    pub(crate) fn take_http1(&self, limit: Duration) -> Option<Http1Sender> {
        newest(&mut self.state.lock().idle, limit, |sender| {
            !sender.is_closed()
        })
    }

    /// The same for a request without a body.
    pub(crate) fn take_plain(&self, limit: Duration) -> Option<MachineConnection> {
        newest(
            &mut self.state.lock().plain,
            limit,
            MachineConnection::is_quiet,
        )
    }

    /// Keeps a connection on which nothing is under way.
    pub(crate) fn put_plain(&self, connection: MachineConnection) {
        let mut state = self.state.lock();
        if state.open && state.plain.len() < limits::POOL_IDLE_MAX {
            state.plain.push(Idle::begins(connection));
        }
    }

    /// Keeps a connection whose response has ended.
    pub(crate) fn put_http1(&self, sender: Http1Sender) {
        if sender.is_closed() {
            return;
        }
        let mut state = self.state.lock();
        if state.open && state.idle.len() < limits::POOL_IDLE_MAX {
            state.idle.push(Idle::begins(sender));
        }
    }

    /// The shared HTTP/2 connection, if it takes another request now.
    pub(crate) fn take_http2(&self) -> Option<Http2Sender> {
        let mut state = self.state.lock();
        let (sender, used) = state.shared.as_mut()?;
        if sender.is_closed() || sender.is_full() {
            state.shared = None;
            return None;
        }
        *used = Instant::now();
        Some(sender.clone())
    }

    /// Shares a new HTTP/2 connection.
    pub(crate) fn put_http2(&self, sender: Http2Sender) {
        let mut state = self.state.lock();
        if state.open {
            state.shared = Some((sender, Instant::now()));
        }
    }

    /// Shares this HTTP/2 connection no more.
    pub(crate) fn forget_http2(&self, sender: &Http2Sender) {
        let mut state = self.state.lock();
        let shared = state.shared.take_if(|(shared, _)| shared.is_of(sender));
        drop(state);
        drop(shared);
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
        if nothing_in_flight
            && state
                .shared
                .as_ref()
                .is_some_and(|(_, used)| used.elapsed() >= limit)
        {
            state.shared = None;
        }
    }
}
