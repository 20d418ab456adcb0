//! The client against a server of other people: many requests at once on one connection, with
//! bodies of every size both ways, some of which are left in the middle.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]
#![expect(clippy::disallowed_methods, reason = "the crate knows no tasks")]

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_http2::client::{Limits, Sender, begin};
use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const LIMITS: Limits = Limits {
    streams_max: 1000,
    stream_window: 64 * 1024,
    connection_window: 1 << 20,
    header_bytes_max: 64 * 1024,
    header_lines_max: 100,
};

/// So many bytes, in pieces, with pauses, and trailers at the end.
#[derive(Debug)]
struct Pieces {
    left: usize,
    piece: usize,
    n_polls: usize,
    trailers: Option<HeaderMap>,
}

impl Pieces {
    fn new(length: usize, piece: usize, has_trailers: bool) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-length", HeaderValue::from(length));
        Self {
            left: length,
            piece,
            n_polls: 0,
            trailers: has_trailers.then_some(trailers),
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        this.n_polls += 1;
        if this.n_polls.is_multiple_of(3) {
            // From a task of its own, at another time.
            let waker = cx.waker().clone();
            tokio::spawn(async move { waker.wake() });
            return Poll::Pending;
        }
        if this.left == 0 {
            return Poll::Ready(this.trailers.take().map(|map| Ok(Frame::trailers(map))));
        }
        let n = this.left.min(this.piece);
        this.left -= n;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; n])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.trailers.is_none()
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    let mut response = Response::new(());
    let id = request.headers().get("x-id").cloned();
    response
        .headers_mut()
        .extend(id.map(|id| (http::HeaderName::from_static("x-id"), id)));
    Ok(response.map(|()| request.into_body()))
}

/// A connection to a server that echoes and takes only so many requests at once.
async fn connected(streams_max: u32) -> Sender<Pieces> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(streams_max)
            .max_local_error_reset_streams(None)
            .max_pending_accept_reset_streams(100_000)
            .serve_connection(TokioIo::new(stream), service_fn(echo));
        drop(served.await);
    });
    let (sender, driver) = begin(TcpStream::connect(address).await.unwrap(), LIMITS);
    tokio::spawn(driver);
    sender
}

fn never() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Sends a body and checks that it comes back; leaves after `leave_after` polls, if that is said.
async fn exchange(sender: &Sender<Pieces>, n: usize, leave_after: Option<usize>) {
    // From nothing to several windows, in pieces from bytes to more than a frame.
    let length = [0, 1, 100, 5000, 70_000, 300_000][n % 6];
    let piece = [7000, 40_000, 333][n / 6 % 3];
    let body = Pieces::new(length, piece, n.is_multiple_of(2));
    let id = format!("id-{n}");
    let asked = async {
        let write = |block: &mut roost_http2::hpack::Block<'_>| {
            for (name, value) in [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "app"),
                (":path", "/echo"),
                ("user-agent", "a test"),
                ("x-id", &id),
            ] {
                block.field(name, value.as_bytes());
            }
        };
        let response = sender.send(write, false, body, never).await.unwrap();
        assert_eq!(response.headers()["x-id"], id.as_str());
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned();
        let bytes = collected.to_bytes();
        assert!(bytes.len() == length && bytes.iter().all(|byte| *byte == b'x'));
        assert_eq!(trailers.is_some(), n.is_multiple_of(2), "{n}");
    };
    let mut asked = pin!(asked);
    let mut n_polls = 0;
    poll_fn(|cx| {
        n_polls += 1;
        let polled = asked.as_mut().poll(cx);
        let leaves = leave_after.is_some_and(|most| n_polls > most);
        if leaves { Poll::Ready(()) } else { polled }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bodies_of_every_size_come_back_whole_whoever_else_leaves() {
    const AT_ONCE: usize = 24;
    const IN_A_ROW: usize = 40;
    // Fewer places than there are requests.
    let sender = connected(10).await;
    let mut tasks = Vec::new();
    for task in 0..AT_ONCE {
        let sender = sender.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..IN_A_ROW {
                let n = n * AT_ONCE + task;
                let leave_after = n.is_multiple_of(5).then_some(n / 5 % 4);
                exchange(&sender, n, leave_after).await;
            }
        }));
    }
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
    };
    let limit = Duration::from_secs(120);
    tokio::time::timeout(limit, all)
        .await
        .expect("nothing hangs");
    assert!(sender.takes_more());
}
