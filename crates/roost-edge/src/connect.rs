//! Phase 5, connect: a kept connection to the machine, or a new one.

use crate::body::Slot;
use crate::http1::machine::MachineConnection;
use crate::limits;
use crate::pool::{Http1Sender, Http2Sender};
use crate::relay::{self, client::PeerStream, peers::PeerError};
use crate::shared::Shared;
use crate::table::Target;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// A connection that can take a request now.
#[derive(Debug)]
pub(crate) enum Connection {
    /// For a request without a body.
    Plain(Box<MachineConnection>),
    Http1(Http1Sender),
    Http2(Http2Sender),
    /// To the edge of the machine's node.
    Peer(Box<PeerStream>),
}

/// How a machine was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect to {address}: {source}")]
    Tcp {
        address: std::net::SocketAddr,
        source: io::Error,
    },
    #[error("{address} did not take the connection within {} ms", limit.as_millis())]
    Timeout {
        address: std::net::SocketAddr,
        limit: std::time::Duration,
    },
    #[error("begin HTTP with {address}: {source}")]
    Handshake {
        address: std::net::SocketAddr,
        source: hyper::Error,
    },
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl ConnectError {
    /// Whether it says something of the machine, or of the edge of its node.
    pub(crate) fn blames_machine(&self) -> bool {
        !matches!(self, Self::Peer(error) if !error.blames_them())
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// A request without a body.
    Header,
    /// A request with a body.
    Body,
    /// A request for an upgrade: the connection is new and nobody shares it.
    Upgrade,
}

impl Carries {
    /// A request with this body; `alone` when it is for an upgrade.
    pub(crate) fn of(slot: Slot<'_>, alone: bool) -> Self {
        match slot {
            _ if alone => Self::Upgrade,
            Some(_) => Self::Body,
            None => Self::Header,
        }
    }
}

/// Gets a connection: a kept one that has been idle for less than `kept_max`, or
/// a new one, as the service at this external port speaks HTTP; upgrades are HTTP/1's.
pub(crate) async fn connect(
    shared: &Shared,
    target: &Target,
    external: u16,
    carries: Carries,
    kept_max: Duration,
) -> Result<Connection, ConnectError> {
    if let Some(node) = &target.endpoint.node {
        let stream = Box::pin(relay::client::connect(
            &shared.peers,
            target,
            node,
            external,
        ));
        return Ok(Connection::Peer(Box::new(stream.await?)));
    }
    let limit = shared.config.timeouts.connect;
    let port = target.port(external);
    if port.is_some_and(|port| port.http.h2_backend) && carries != Carries::Upgrade {
        if let Some(sender) = target.pool.take_http2() {
            return Ok(Connection::Http2(sender));
        }
        let sender = Box::pin(open_http2(shared, target)).await?;
        target.pool.put_http2(sender.clone());
        return Ok(Connection::Http2(sender));
    }
    if carries == Carries::Header {
        let kept = target.pool.take_plain(kept_max);
        return Ok(Connection::Plain(match kept {
            Some(connection) => connection,
            None => MachineConnection::new(Box::pin(open(shared, target)).await?),
        }));
    }
    if carries == Carries::Body {
        while let Some(mut sender) = target.pool.take_http1(kept_max) {
            if sender.is_ready() || is_ready_within(limit, sender.ready()).await {
                return Ok(Connection::Http1(sender));
            }
        }
    }
    let sender = Box::pin(open_http1(shared, target, carries == Carries::Upgrade)).await?;
    Ok(Connection::Http1(sender))
}

/// On the heap, as is all that most requests do not need.
async fn is_ready_within(
    limit: Duration,
    ready: impl Future<Output = Result<(), hyper::Error>>,
) -> bool {
    matches!(Box::pin(timeout(limit, ready)).await, Ok(Ok(())))
}

/// Opens a connection to the machine.
pub(crate) async fn open(shared: &Shared, target: &Target) -> Result<TcpStream, ConnectError> {
    let (address, limit) = (target.endpoint.address, shared.config.timeouts.connect);
    let stream = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::Timeout { address, limit })?
        .map_err(|source| ConnectError::Tcp { address, source })?;
    // Only a performance hint: a socket that refuses it still works.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn open_http1(
    shared: &Shared,
    target: &Target,
    upgrades: bool,
) -> Result<Http1Sender, ConnectError> {
    let stream = open(shared, target).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(limits::BACKEND_BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Handshake {
            address: target.endpoint.address,
            source,
        })?;
    // The request that fails with the connection gets the error; here there is nobody to tell.
    if upgrades {
        shared
            .backends
            .spawn(async move { drop(connection.with_upgrades().await) });
    } else {
        shared.backends.spawn(async move { drop(connection.await) });
    }
    let ready = sender.ready().await;
    ready.map_err(|source| ConnectError::Handshake {
        address: target.endpoint.address,
        source,
    })?;
    Ok(sender)
}

async fn open_http2(shared: &Shared, target: &Target) -> Result<Http2Sender, ConnectError> {
    let stream = open(shared, target).await?;
    let (sender, driver) = roost_http2::client::begin(stream, limits::HTTP2_MACHINE);
    shared.backends.spawn(driver);
    Ok(sender)
}

/// Runs the tasks of HTTP/2 connections to other edges on a tracker.
#[derive(Debug, Clone)]
pub(crate) struct Executor(pub(crate) TaskTracker);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
