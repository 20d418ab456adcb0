//! Requests over one HTTP/2 connection, which is never replaced by another.
//!
//! Written on `h2` itself, since a command in a guest must end when its caller
//! leaves: hyper's client does not reset a stream whose answer was dropped
//! while the request still waits for the other side to read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;

use crate::limits::{CONNECTION_WINDOW_BYTES, HEADERS_BYTES_MAX, STREAM_WINDOW_BYTES};

/// Sends requests to the agent of one guest; cheap to clone.
///
/// Dropping the answer, or the future that waits for it, cancels the request.
#[derive(Clone)]
pub struct Channel {
    sender: SendRequest<Bytes>,
    /// What moves the bytes, unless someone else does.
    _tasks: Option<Arc<JoinSet<()>>>,
}

/// Speaks HTTP/2 over `stream`. The connection must be polled.
pub(super) async fn handshake<S>(stream: S) -> Result<(Channel, Connection<S, Bytes>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let channel = Channel {
        sender,
        _tasks: None,
    };
    Ok((channel, connection))
}

impl Channel {
    /// The same, with the task that moves the bytes; it ends with the last
    /// clone and the last answer.
    pub(super) fn with_task(self, task: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Self {
            _tasks: Some(Arc::new(tasks)),
            ..self
        }
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Answer>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.sender.poll_ready(context).map_err(status)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut channel = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            parts.version = Version::HTTP_2;
            parts.uri = address(parts.uri).map_err(|error| Status::from_error(error.into()))?;
            let head = Request::from_parts(parts, ());
            let is_whole = http_body::Body::is_end_stream(&body);
            let (head, stream) = channel
                .sender
                .send_request(head, is_whole)
                .map_err(status)?;
            let mut sending = JoinSet::new();
            if !is_whole {
                sending.spawn(async move {
                    // The end of the answer tells why it failed.
                    let _ = send_body(body, stream).await;
                });
            }
            let answer = head.await.map_err(status)?;
            Ok(answer.map(|stream| Answer {
                stream,
                _sending: sending,
                _channel: channel,
            }))
        })
    }
}

/// The body of an answer. Dropping it cancels the request.
pub struct Answer {
    stream: RecvStream,
    /// The request's body, as long as that lasts.
    _sending: JoinSet<()>,
    /// The connection outlives its requests.
    _channel: Channel,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match ready!(self.stream.poll_data(context)) {
            Some(Ok(data)) => {
                // Who polls has room; the other side may send as much again.
                let released = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(released.map(|()| Frame::data(data)).map_err(status)))
            }
            // All was said; the rest of the request is not wanted.
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(status(error)))),
            None => {
                let trailers = ready!(self.stream.poll_trailers(context)).map_err(status);
                Poll::Ready(
                    trailers
                        .transpose()
                        .map(|result| result.map(Frame::trailers)),
                )
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// The address that HTTP/2 asks for; only the path means something.
fn address(uri: Uri) -> Result<Uri, http::Error> {
    let path = uri.into_parts().path_and_query;
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(Authority::from_static("agent.guest"))
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
}

/// Sends a request's body as the other side takes it.
async fn send_body(mut body: Body, mut stream: SendStream<Bytes>) -> Result<(), h2::Error> {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            reset = std::future::poll_fn(|context| stream.poll_reset(context)) => {
                return reset.map(|_| ());
            }
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            None => return stream.send_data(Bytes::new(), true),
            Some(Err(_)) => {
                stream.send_reset(Reason::CANCEL);
                return Ok(());
            }
            Some(Ok(Ok(data))) => send_data(&mut stream, data).await?,
            Some(Ok(Err(frame))) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
                Some(grown) => grown?,
                None => return Err(Reason::STREAM_CLOSED.into()),
            };
        }
        let n_bytes = stream.capacity().min(data.len());
        stream.send_data(data.split_to(n_bytes), false)?;
    }
    Ok(())
}

/// What a failure of HTTP/2 means to the caller: the other side refused the
/// request, or there is no other side any more.
fn status(error: h2::Error) -> Status {
    if error.is_reset() {
        return Status::from_error(Box::new(error));
    }
    let mut status = Status::unavailable("the connection to the guest is lost");
    status.set_source(Arc::new(io::Error::other(error)));
    status
}
