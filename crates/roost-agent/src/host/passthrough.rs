//! Lets other programs of the host use the connection to the guest.
//!
//! An HTTP/2 server on a Unix socket that hands every request on as it is and
//! streams both bodies, trailers included: it knows nothing of the messages.
//! Who may use it is decided by the permissions of the socket's folder. Flow
//! control works hop by hop: nothing is read here that the next hop has no room
//! for, and whoever drops a stream drops it on the other hop too.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;

use super::{Answer, Channel};
use crate::limits::{
    ACCEPT_RETRY_PAUSE, CONNECTION_WINDOW_BYTES, HEADERS_BYTES_MAX, PASSTHROUGH_CONNECTIONS_MAX,
    PASSTHROUGH_REQUESTS_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX,
};

/// Serves the guest's agent on `listener` until `shutdown` is ready, then drops
/// all connections. More connections than [`PASSTHROUGH_CONNECTIONS_MAX`] wait;
/// more requests than [`PASSTHROUGH_REQUESTS_MAX`] are refused.
pub async fn serve(listener: UnixListener, agent: Channel, shutdown: impl Future<Output = ()>) {
    tokio::pin!(shutdown);
    let agent = Agent {
        channel: agent,
        places: Arc::new(Semaphore::new(PASSTHROUGH_REQUESTS_MAX)),
    };
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < PASSTHROUGH_CONNECTIONS_MAX;
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, agent.clone()));
                }
                // Out of descriptors, say: the connection waits in the backlog.
                Err(_) => tokio::time::sleep(ACCEPT_RETRY_PAUSE).await,
            },
        }
    }
}

/// The guest's agent and the room for requests to it.
#[derive(Clone)]
struct Agent {
    channel: Channel,
    places: Arc<Semaphore>,
}

async fn serve_connection(stream: UnixStream, agent: Agent) {
    let forward = service_fn(move |request| forward(agent.clone(), request));
    // How a connection fails is the business of its other end.
    let _ = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), forward)
        .await;
}

async fn forward(agent: Agent, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let Ok(place) = agent.places.try_acquire_owned() else {
        return Ok(Status::resource_exhausted("too many requests to the guest").into_http());
    };
    match agent.channel.oneshot(request.map(Body::new)).await {
        Ok(answer) => Ok(answer.map(|answer| {
            Body::new(Forwarded {
                answer,
                _place: place,
            })
        })),
        Err(status) => Ok(status.into_http()),
    }
}

/// An answer on its way, and the place that its request takes.
struct Forwarded {
    answer: Answer,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Forwarded {
    type Data = Bytes;
    type Error = Infallible;

    /// Passes a failure on as the trailers of the answer, so that the caller
    /// learns what it was.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = ready!(Pin::new(&mut self.answer).poll_frame(context));
        Poll::Ready(frame.map(|frame| Ok(frame.unwrap_or_else(|status| trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }
}

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut headers = HeaderMap::new();
    // Fails for a text that no header can hold; then there is no status at all.
    let _ = status.add_header(&mut headers);
    Frame::trailers(headers)
}
