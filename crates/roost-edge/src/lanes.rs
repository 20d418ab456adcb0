//! The threads that serve clients. Each is a runtime of its own; a connection stays on the one
//! that it was given to, with all that is done for its requests, so that a request wakes no
//! other core.
//!
//! [`Lanes`] owns the threads: they end when it is dropped, which is when the last task of the
//! edge is. The first of them accepts for all, and gives each connection to who has fewest.
//! Datagrams, connections of other edges and those to them belong to the caller's runtime.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::ready;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::sync::oneshot;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(CALLER) };
}

/// The number of the runtime that the edge was started in, which is no lane's.
const CALLER: usize = 0;

/// Which lane this thread is; 0 for all that are none. What has to do with a socket is cheapest
/// where the socket is.
pub(crate) fn number() -> usize {
    NUMBER.get()
}

/// One runtime.
#[derive(Debug)]
pub(crate) struct Lane {
    handle: Handle,
    n_connections: AtomicUsize,
    /// Whether its tasks run late.
    is_late: AtomicBool,
    /// The thread ends when this is dropped.
    _stop: Option<oneshot::Sender<Infallible>>,
}

impl Lane {
    fn of_caller() -> Self {
        Self {
            handle: Handle::current(),
            n_connections: AtomicUsize::new(0),
            is_late: AtomicBool::new(false),
            _stop: None,
        }
    }

    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let thread = std::thread::Builder::new().name(format!("edge-{number}"));
        // Not joined: the last owner of the lanes may be a task of this very thread.
        thread.spawn(move || {
            NUMBER.set(number);
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self {
            handle,
            n_connections: AtomicUsize::new(0),
            is_late: AtomicBool::new(false),
            _stop: Some(stop),
        })
    }

    /// What is begun while this is held belongs to the lane.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Says whether its tasks run late; `true` when it was otherwise before.
    pub(crate) fn set_late(&self, is_late: bool) -> bool {
        self.is_late.swap(is_late, Ordering::Relaxed) != is_late
    }
}

/// All of an edge.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Behind the caller's runtime.
    all: Box<[Arc<Lane>]>,
    /// Where the next look for the emptiest begins.
    turn: AtomicUsize,
}

impl Lanes {
    /// So many threads; with none of them all is done by the runtime of the caller.
    pub(crate) fn start(n_threads: usize) -> io::Result<Self> {
        let lanes = (1..=n_threads).map(|number| Lane::start(number).map(Arc::new));
        let caller = std::iter::once_with(|| Ok(Arc::new(Lane::of_caller())));
        let all = caller.chain(lanes).collect::<io::Result<_>>()?;
        let turn = AtomicUsize::new(0);
        Ok(Self { all, turn })
    }

    /// Those that serve clients: at least one.
    fn serving(&self) -> &[Arc<Lane>] {
        match &*self.all {
            [_, lanes @ ..] if !lanes.is_empty() => lanes,
            all => all,
        }
    }

    /// The one that accepts.
    pub(crate) fn first(&self) -> &Lane {
        &self.serving()[0]
    }

    /// Each, with the caller's runtime.
    pub(crate) fn all(&self) -> &[Arc<Lane>] {
        &self.all
    }

    /// Whether the tasks of this thread run late.
    pub(crate) fn is_late_here(&self) -> bool {
        let here = self.all.get(number()).unwrap_or(&self.all[CALLER]);
        here.is_late.load(Ordering::Relaxed)
    }

    /// The next connection, at the lane that is to serve it.
    pub(crate) async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr, Seat)> {
        std::future::poll_fn(|cx| {
            let lane = self.emptiest();
            // A stream belongs to the runtime in which it comes to be.
            let _here = lane.enter();
            let (stream, client) = ready!(listener.poll_accept(cx))?;
            self.turn.fetch_add(1, Ordering::Relaxed);
            Ok((stream, client, Seat::take(lane.clone()))).into()
        })
        .await
    }

    /// The one with the fewest connections, among equals by turns; one that is late only if all are.
    fn emptiest(&self) -> &Arc<Lane> {
        let lanes = self.serving();
        let (after, before) = lanes.split_at(self.turn.load(Ordering::Relaxed) % lanes.len());
        let key = |lane: &&Arc<Lane>| {
            let is_late = lane.is_late.load(Ordering::Relaxed);
            (is_late, lane.n_connections.load(Ordering::Relaxed))
        };
        let in_turn = before.iter().chain(after);
        in_turn.min_by_key(key).unwrap_or(&lanes[0])
    }
}

/// The place of one connection at its lane.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Lane>);

impl Seat {
    fn take(lane: Arc<Lane>) -> Self {
        lane.n_connections.fetch_add(1, Ordering::Relaxed);
        Self(lane)
    }

    /// The runtime of its lane.
    pub(crate) fn runtime(&self) -> Handle {
        self.0.handle.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.n_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Lanes, Seat, number};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;

    async fn connect(lanes: &Lanes, listener: &TcpListener) -> (TcpStream, TcpStream, Seat) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (stream, _, seat) = lanes.accept(listener).await.unwrap();
        (client.unwrap(), stream, seat)
    }

    #[tokio::test]
    async fn connections_are_spread_and_stay_where_they_are() {
        let lanes = Lanes::start(2).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tracker, (told, mut seen)) = (TaskTracker::new(), mpsc::channel(8));
        let (mut clients, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (client, mut stream, seat) = connect(&lanes, &listener).await;
            let (told, (end, ended)) = (told.clone(), tokio::sync::oneshot::channel::<()>());
            let runtime = seat.runtime();
            let served = async move {
                let _seat = seat;
                told.send(number()).await.unwrap();
                // Through the socket, whose runtime it has to be.
                let byte = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
                assert_eq!(byte.unwrap(), 7);
                told.send(number()).await.unwrap();
                let _ = ended.await;
            };
            tracker.spawn_on(served, &runtime);
            clients.push(client);
            ends.push(end);
        }
        // What fails there sends nothing.
        drop(told);
        let mut first = [0; 4];
        for place in &mut first {
            *place = seen.recv().await.unwrap();
        }
        first.sort_unstable();
        assert_eq!(first, [1, 1, 2, 2]);
        for client in &mut clients {
            tokio::io::AsyncWriteExt::write_u8(client, 7).await.unwrap();
        }
        let mut again = [0; 4];
        for place in &mut again {
            *place = seen.recv().await.unwrap();
        }
        again.sort_unstable();
        assert_eq!(again, first);
        // Those that end make room.
        drop(ends);
        tracker.close();
        tracker.wait().await;
        let n_left = |lanes: &Lanes| {
            let counts = lanes.serving().iter();
            let counts = counts.map(|lane| lane.n_connections.load(super::Ordering::Relaxed));
            counts.sum::<usize>()
        };
        assert_eq!(n_left(&lanes), 0);
    }

    #[tokio::test]
    async fn one_that_is_late_gets_no_more_unless_all_are() {
        let lanes = Lanes::start(2).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut held = Vec::new();
        assert!(lanes.serving()[0].set_late(true));
        assert!(!lanes.serving()[0].set_late(true));
        for _ in 0..3 {
            held.push(connect(&lanes, &listener).await);
        }
        assert_eq!(
            lanes.serving()[0]
                .n_connections
                .load(super::Ordering::Relaxed),
            0
        );
        lanes.serving()[1].set_late(true);
        held.push(connect(&lanes, &listener).await);
        assert_eq!(
            lanes.serving()[0]
                .n_connections
                .load(super::Ordering::Relaxed),
            1
        );
        assert!(!lanes.is_late_here(), "the caller's runtime is not late");
    }

    #[tokio::test]
    async fn without_threads_the_caller_serves() {
        let lanes = Lanes::start(0).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_client, _stream, seat) = connect(&lanes, &listener).await;
        let served = seat.runtime().spawn(async { number() });
        assert_eq!(served.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_threads_end_with_their_owner() {
        let lanes = Lanes::start(1).unwrap();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        lanes.first().handle.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(lanes);
        assert!(dropped.await.is_err());
    }
}
