//! The host's end: begins a session with the guest and speaks HTTP/2 over it.
//!
//! [`connect`] is for who owns the stream to the guest; [`passthrough`] lets
//! others on the host use that connection, by [`dial`]. The guest is not
//! trusted: whatever it sends or keeps back, memory is bounded by
//! [`crate::limits`] and time by [`ConnectOptions`].

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use h2::Ping;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::limits::{DISCARDED_BYTES_MAX, PREAMBLE_PERIOD, REPLY_BYTES_MAX};
use crate::proto::agent_client::AgentClient;
use crate::session::link::{Link, LinkEvent, StreamEnd, StreamKind};
use crate::session::{Decoder, SessionEnd, SessionId, SessionStream, VERSION, flush, preamble};

pub use channel::{Answer, Channel};

mod channel;
pub mod passthrough;

/// How long to wait for the guest.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    /// Time for the guest to answer; booting is part of it.
    pub answer_within: Duration,
    /// Time between two HTTP/2 pings.
    pub ping_interval: Duration,
    /// Time for the answer to a ping, after which the connection is given up.
    /// A guest that is paused for longer loses its connection.
    pub ping_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            answer_within: Duration::from_secs(60),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No session can be named.
    #[error("read random bytes")]
    Random(#[source] io::Error),
    /// The guest did not answer.
    #[error("the guest did not answer within {0:?}")]
    Silent(Duration),
    /// The guest sent much, and no answer.
    #[error("the guest sent {0} bytes that were no answer")]
    Garbage(u64),
    /// The guest answered in another version.
    #[error("the guest speaks version {0} of the session layer, this side speaks {VERSION}")]
    OtherVersion(u8),
    /// The session ended as soon as it began.
    #[error("the session ended at once")]
    Ended(#[source] SessionEnd),
    /// The stream to the guest ended.
    #[error("the stream to the guest ended")]
    StreamEnded,
    /// The stream to the guest failed.
    #[error("use the stream to the guest")]
    Stream(#[source] io::Error),
    /// HTTP/2 did not come up.
    #[error("speak HTTP/2 with the guest")]
    Http2(#[source] h2::Error),
}

/// Why a guest cannot be reached through its socket.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody serves there.
    #[error("connect to {}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// What connecting said.
        #[source]
        source: io::Error,
    },
    /// HTTP/2 did not come up.
    #[error("speak HTTP/2 with the guest")]
    Http2(#[source] h2::Error),
}

/// Moves the bytes of a connection. Must be polled for it to live; ready when
/// the session is over; dropping it ends the session.
pub type Driver = Pin<Box<dyn Future<Output = SessionEnd> + Send>>;

/// A connection to a guest's agent.
#[expect(missing_debug_implementations, reason = "a future has none")]
pub struct Connection {
    /// For requests; cheap to clone. When all clones are gone the session ends.
    /// After the end of the session every request fails.
    pub channel: Channel,
    /// To be run by the owner.
    pub driver: Driver,
    /// Tells of the end.
    pub closed: Closed,
}

/// Tells of the end of a connection.
#[derive(Clone, Debug)]
pub struct Closed {
    receiver: watch::Receiver<Option<SessionEnd>>,
}

impl Closed {
    /// Waits until the session is over. Cancel-safe.
    pub async fn wait(&mut self) -> SessionEnd {
        match self.receiver.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(SessionEnd::ClosedHere),
            // The driver was dropped.
            Err(_) => SessionEnd::ClosedHere,
        }
    }
}

/// The gRPC client on `channel`, with the limits of the agent.
#[must_use]
pub fn client(channel: Channel) -> AgentClient<Channel> {
    AgentClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
}

/// Begins a session on `stream` and HTTP/2 on that. It does not begin another
/// when this one ends: the owner does, on this stream if it still has it.
///
/// The stream must not keep back what is written to it.
///
/// # Errors
/// See [`ConnectError`]. Whether trying again helps is for the owner to judge:
/// a guest that did not answer may still be booting.
pub async fn connect<S>(stream: S, options: &ConnectOptions) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let id = random_id().await.map_err(ConnectError::Random)?;
    let mut link = Box::new(Link::new(stream, StreamKind::Connection, Decoder::host(id)));
    let within = options.answer_within;
    let session = tokio::time::timeout(within, begin(&mut link, id))
        .await
        .map_err(|_| ConnectError::Silent(within))??;
    // Fits into the session's buffer, which nobody empties yet.
    let (channel, connection) = channel::handshake(session)
        .await
        .map_err(ConnectError::Http2)?;
    let http2 = speak(connection, *options);
    let (ended, receiver) = watch::channel(None);
    let driver = Box::pin(async move {
        let end = drive(&mut link, http2).await;
        ended.send_replace(Some(end.clone()));
        end
    });
    Ok(Connection {
        channel,
        driver,
        closed: Closed { receiver },
    })
}

/// Connects to the guest's agent by way of [`passthrough::serve`] at `path`.
/// The connection lives as long as the client, its clones and their answers.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(path: &Path) -> Result<AgentClient<Channel>, DialError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| DialError::Connect {
            path: path.to_owned(),
            source,
        })?;
    let (channel, connection) = channel::handshake(stream).await.map_err(DialError::Http2)?;
    let channel = channel.with_task(async move {
        // Requests that are under way tell how it ended.
        let _ = connection.await;
    });
    Ok(client(channel))
}

/// The name of a session; the kernel's random numbers never block here, since
/// the host has long booted.
async fn random_id() -> io::Result<SessionId> {
    let mut source = tokio::fs::File::open("/dev/urandom").await?;
    loop {
        let mut bytes = [0; 16];
        source.read_exact(&mut bytes).await?;
        if let Some(id) = SessionId::new(bytes) {
            return Ok(id);
        }
    }
}

/// Sends preambles until one is answered. Only one flush: a guest that reads
/// late gets all at once, and must find nothing else between the preambles.
async fn begin<S>(link: &mut Link<S>, id: SessionId) -> Result<SessionStream, ConnectError>
where
    S: AsyncRead + AsyncWrite,
{
    link.greet(flush());
    link.greet(&preamble(id));
    let mut period = tokio::time::interval_at(Instant::now() + PREAMBLE_PERIOD, PREAMBLE_PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = link.step() => match event {
                Ok(LinkEvent::Opened(id)) => return Ok(link.open(id)),
                Ok(LinkEvent::OtherVersion { version, .. }) => {
                    return Err(ConnectError::OtherVersion(version));
                }
                Ok(LinkEvent::Ended(end)) => return Err(ConnectError::Ended(end)),
                Ok(LinkEvent::Repeated(_)) => {}
                Err(StreamEnd::Ended) => return Err(ConnectError::StreamEnded),
                Err(StreamEnd::Failed(error)) => return Err(ConnectError::Stream(error)),
            },
            // Nobody reads while the guest boots: what is there is enough.
            _ = period.tick() => if !link.has_outgoing() {
                link.greet(&preamble(id));
            },
        }
        if link.n_discarded() > DISCARDED_BYTES_MAX {
            return Err(ConnectError::Garbage(link.n_discarded()));
        }
    }
}

/// Moves bytes until the session is over; the end of HTTP/2 ends it.
async fn drive<S>(link: &mut Link<S>, http2: impl Future<Output = ()>) -> SessionEnd
where
    S: AsyncRead + AsyncWrite,
{
    let event = tokio::select! {
        event = link.step() => event,
        // With it goes its half of the session, which the next step finds out.
        () = http2 => link.step().await,
    };
    let end = match event {
        Ok(LinkEvent::Ended(end)) => end,
        // Not sent to a host that has its answer.
        Ok(LinkEvent::Opened(_) | LinkEvent::Repeated(_) | LinkEvent::OtherVersion { .. }) => {
            link.close(&SessionEnd::Superseded);
            SessionEnd::Superseded
        }
        Err(StreamEnd::Ended) => return SessionEnd::StreamEnded,
        Err(StreamEnd::Failed(error)) => return SessionEnd::StreamFailed(error.kind()),
    };
    link.finish().await;
    end
}

/// Speaks HTTP/2 until one side ends it or a ping is not answered in time.
async fn speak<S>(mut connection: h2::client::Connection<S>, options: ConnectOptions)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let pinging = async move {
        let Some(mut pings) = pings else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(options.ping_interval).await;
            let pong = pings.ping(Ping::opaque());
            if !matches!(
                tokio::time::timeout(options.ping_timeout, pong).await,
                Ok(Ok(_))
            ) {
                return;
            }
        }
    };
    tokio::select! {
        // Requests that are under way tell how it ended.
        _ = connection => {}
        () = pinging => {}
    }
}
