//! What an operator decides about the edge.

use crate::access::AccessLog;
use crate::limits;
use roost_model::name::RegionCode;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Settings of an edge.
#[derive(Clone)]
pub struct EdgeConfig {
    /// Addresses for plain HTTP; port 0 takes a free one.
    pub http: Vec<SocketAddr>,
    /// Addresses for HTTPS; port 0 takes a free one.
    pub https: Vec<SocketAddr>,
    /// The app `hello` answers at `hello.DOMAIN` for each of these.
    pub domains: Vec<String>,
    /// The region of this edge, told to apps.
    pub region: RegionCode,
    /// How long to wait for what.
    pub timeouts: EdgeTimeouts,
    /// Client connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Where access records go, besides the log at debug level.
    pub access_log: Option<Arc<dyn AccessLog>>,
}

impl std::fmt::Debug for EdgeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeConfig")
            .field("http", &self.http)
            .field("https", &self.https)
            .field("domains", &self.domains)
            .field("region", &self.region)
            .field("timeouts", &self.timeouts)
            .field("connections_max", &self.connections_max)
            .field("access_log", &self.access_log.is_some())
            .finish()
    }
}

impl EdgeConfig {
    /// An edge of this region that listens nowhere yet and serves `APP.localhost`.
    pub fn new(region: RegionCode) -> Self {
        Self {
            http: Vec::new(),
            https: Vec::new(),
            domains: vec!["localhost".to_owned()],
            region,
            timeouts: EdgeTimeouts::default(),
            connections_max: limits::CONNECTIONS_MAX,
            access_log: None,
        }
    }
}

/// How long the edge waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeTimeouts {
    /// A TLS handshake.
    pub handshake: Duration,
    /// The first byte of a connection, and then each whole header block.
    pub header: Duration,
    /// A client connection without a request.
    pub idle: Duration,
    /// A connection to a machine.
    pub connect: Duration,
    /// For an endpoint to become healthy when none is.
    pub healthy: Duration,
    /// From the end of the request to the response header.
    pub response_header: Duration,
    /// Between two pieces of a body, and for a client to take any of what is sent
    /// to it: over HTTP/1 the connection is cut then; over HTTP/2 the stream is
    /// reset whose last piece (64 KiB or less) the client has not taken in this time.
    pub body_idle: Duration,
    /// Silence on an upgraded connection.
    pub tunnel_idle: Duration,
    /// A kept connection to a machine without a request.
    pub pool_idle: Duration,
    /// For requests under way to end when the edge itself ends.
    pub drain: Duration,
}

impl Default for EdgeTimeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            connect: Duration::from_secs(1),
            healthy: Duration::from_secs(10),
            response_header: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            pool_idle: Duration::from_secs(4),
            drain: Duration::from_secs(30),
        }
    }
}
