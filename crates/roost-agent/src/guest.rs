//! The guest's end: takes the sessions that the host begins.
//!
//! [`sessions`] gives two halves. The [`Acceptor`] drives streams, one session
//! on each at a time; [`Sessions`] yields each session that begins, and is what
//! a server serves:
//!
//! ```no_run
//! # async fn example<A: roost_agent::proto::agent_server::Agent>(device: tokio::net::UnixStream, agent: A) {
//! use roost_agent::guest::{self, StreamKind};
//! let (acceptor, sessions) = guest::sessions();
//! let serve = guest::server().add_service(guest::service(agent)).serve_with_incoming(sessions);
//! tokio::select! {
//!     end = acceptor.run(device, StreamKind::Device) => { /* a device has no end */ }
//!     end = serve => { /* never: sessions come until the acceptor is gone */ }
//! }
//! # }
//! ```

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tonic::transport::Server;

use crate::limits::{
    CONNECTION_WINDOW_BYTES, HEADERS_BYTES_MAX, MESSAGE_BYTES_MAX, PENDING_SESSIONS_MAX,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use crate::proto::agent_server::{Agent, AgentServer};
pub use crate::session::SessionStream;
pub use crate::session::link::StreamKind;
use crate::session::link::{Link, LinkEvent, StreamEnd};
use crate::session::{Decoder, SessionId, answer};

/// The two halves of the guest's end.
#[must_use]
pub fn sessions() -> (Acceptor, Sessions) {
    let (sender, receiver) = mpsc::channel(PENDING_SESSIONS_MAX);
    (Acceptor { sender }, Sessions { receiver })
}

/// An HTTP/2 server with the limits of the agent.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
}

/// The gRPC service, which takes messages as large as a boot request.
#[must_use]
pub fn service<A: Agent>(agent: A) -> AgentServer<A> {
    AgentServer::new(agent).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// The sessions as they begin; ends when the last acceptor is gone.
///
/// An older session of the same stream ends with an error.
#[derive(Debug)]
pub struct Sessions {
    receiver: mpsc::Receiver<SessionStream>,
}

impl Sessions {
    /// The next session. Cancel-safe.
    pub async fn next(&mut self) -> Option<SessionStream> {
        self.receiver.recv().await
    }
}

impl Stream for Sessions {
    type Item = Result<SessionStream, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver
            .poll_recv(context)
            .map(|session| session.map(Ok))
    }
}

/// Drives streams of which each carries a session at a time.
#[derive(Clone, Debug)]
pub struct Acceptor {
    sender: mpsc::Sender<SessionStream>,
}

/// Why a stream is no longer driven.
#[derive(Debug, thiserror::Error)]
pub enum AcceptEnd {
    /// The host closed the connection.
    #[error("the stream ended")]
    StreamEnded,
    /// The connection failed.
    #[error("the stream failed")]
    Stream(#[source] io::Error),
    /// The [`Sessions`] were dropped.
    #[error("nobody takes sessions any more")]
    NotTaken,
}

impl Acceptor {
    /// Drives `stream` to its end; a [`StreamKind::Device`] has none. Sessions
    /// only live while this is polled; dropping it ends them.
    pub async fn run<S>(&self, stream: S, kind: StreamKind) -> AcceptEnd
    where
        S: AsyncRead + AsyncWrite,
    {
        let mut link = Link::new(stream, kind, Decoder::guest());
        loop {
            let event = match link.step().await {
                Ok(event) => event,
                Err(StreamEnd::Ended) => return AcceptEnd::StreamEnded,
                Err(StreamEnd::Failed(error)) => return AcceptEnd::Stream(error),
            };
            match event {
                LinkEvent::Opened(id) => self.begin(&mut link, id),
                LinkEvent::Repeated(id) if link.has_session() => link.greet(&answer(id)),
                LinkEvent::Repeated(id) => self.begin(&mut link, id),
                // The answer tells the host what this side speaks.
                LinkEvent::OtherVersion { id, .. } => link.greet(&answer(id)),
                LinkEvent::Ended(_) => {}
            }
            if self.sender.is_closed() && !link.has_session() {
                link.finish().await;
                return AcceptEnd::NotTaken;
            }
        }
    }

    /// Hands the session on and answers. Without room there is no answer, and
    /// the host asks again.
    fn begin<S: AsyncRead + AsyncWrite>(&self, link: &mut Link<S>, id: SessionId) {
        let Ok(place) = self.sender.try_reserve() else {
            return;
        };
        place.send(link.open(id));
        link.forget_outgoing();
        link.greet(&answer(id));
    }
}
