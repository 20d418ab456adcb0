//! Lets other programs of the host use the connection to the guest.
//!
//! An HTTP/2 server on a Unix socket that hands every request on as it is and
//! streams both bodies, trailers included: it knows nothing of the messages.
//! Who may use it is decided by the permissions of the socket's folder. Flow
//! control works hop by hop: nothing is read here that the next hop has no room
//! for, and whoever drops a stream drops it on the other hop too.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::ServiceExt;

use crate::limits::{
    CONNECTION_WINDOW_BYTES, HEADERS_BYTES_MAX, PASSTHROUGH_CONNECTIONS_MAX, STREAM_WINDOW_BYTES,
    STREAMS_MAX,
};

/// Serves the guest's agent on `listener` until `shutdown` is ready, then drops
/// all connections. More connections than [`PASSTHROUGH_CONNECTIONS_MAX`] wait.
pub async fn serve(listener: UnixListener, agent: Channel, shutdown: impl Future<Output = ()>) {
    tokio::pin!(shutdown);
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
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Pause after a failed accept.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

async fn serve_connection(stream: UnixStream, agent: Channel) {
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

async fn forward(agent: Channel, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let answer = agent.oneshot(request.map(Body::new)).await;
    Ok(answer.unwrap_or_else(|error| tonic::Status::from_error(error.into()).into_http()))
}
