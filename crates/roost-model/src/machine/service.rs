//! Services: the ports of the edge at which a machine takes traffic, and what
//! the edge does with it on the way.
//!
//! A config is read into a [`ServiceDraft`], whether it is TOML or JSON, and
//! [`ServiceDraft::build`] is the only place that knows defaults and bounds.

mod draft;

#[cfg(test)]
mod tests;

pub use draft::{
    AffinityDraft, ConcurrencyDraft, PortDraft, ReplayCacheDraft, ServiceDraft, ServiceFault,
    service_conflicts,
};

use super::Check;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A port of a machine that takes traffic through the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What carries the traffic, at the edge and to the machine.
    pub protocol: Protocol,
    /// The port the app listens on.
    pub internal_port: u16,
    /// The ports of the edge that lead to it; no two overlap.
    pub ports: Vec<ServicePort>,
    /// How much of it one machine takes at once.
    pub concurrency: Concurrency,
    /// Whether traffic starts a machine that rests.
    pub autostart: bool,
    /// What becomes of machines that traffic has no need of.
    pub autostop: Autostop,
    /// So many machines in the app's first region are not stopped for want of traffic.
    pub min_machines_running: u32,
    /// While one of them does not pass no traffic goes to this service of the machine.
    pub checks: Vec<Check>,
}

impl Service {
    /// The external port of plain HTTP that all apps share.
    pub const HTTP_PORT: u16 = 80;
    /// The external port of HTTPS that all apps share.
    pub const HTTPS_PORT: u16 = 443;

    /// HTTP by host name on the shared ports 80 and 443, with every default.
    pub fn http(internal_port: u16) -> Self {
        let port = |number, handler| ServicePort::new(PortRange::single(number), handler);
        Self {
            protocol: Protocol::Tcp,
            internal_port,
            ports: vec![
                port(Self::HTTP_PORT, PortHandler::Http),
                port(Self::HTTPS_PORT, PortHandler::Https),
            ],
            concurrency: Concurrency::DEFAULT,
            autostart: false,
            autostop: Autostop::Off,
            min_machines_running: 0,
            checks: vec![],
        }
    }

    /// Whether it is HTTP at one of the shared ports, and so has a URL without a port.
    pub fn has_url(&self) -> bool {
        if self.protocol != Protocol::Tcp {
            return false;
        }
        let shared = [Self::HTTP_PORT, Self::HTTPS_PORT];
        let mut ports = shared.iter().filter_map(|&number| self.port(number));
        ports.any(|port| port.handler.is_http())
    }

    /// What it does at a port of the edge, of its own protocol; `None` when that port does not lead to it.
    pub fn port(&self, external: u16) -> Option<&ServicePort> {
        let mut ports = self.ports.iter();
        ports.find(|port| port.ports.contains(external))
    }
}

/// What carries the traffic of a service. Each has external ports of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// The word in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One external port, or several next to each other that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The numbers.
    pub ports: PortRange,
    /// What the edge takes off the stream before the app gets it.
    pub handler: PortHandler,
    /// Whether the stream to the app begins with a PROXY header, and of which version.
    pub proxy_proto: Option<ProxyVersion>,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    pub force_https: bool,
    /// How HTTP is spoken, if it is.
    pub http: HttpOptions,
    /// How TLS is spoken, if it is.
    pub tls: TlsOptions,
}

impl ServicePort {
    /// These ports with every default.
    pub fn new(ports: PortRange, handler: PortHandler) -> Self {
        Self {
            ports,
            handler,
            proxy_proto: None,
            force_https: false,
            http: HttpOptions::default(),
            tls: TlsOptions::default(),
        }
    }
}

/// External ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last; not below the first.
    pub last: u16,
}

impl PortRange {
    /// One port.
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Whether the port is in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether a port is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The numbers.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// What the edge takes off the stream of a port before the app gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortHandler {
    /// Nothing: the app gets the bytes of the client.
    Raw,
    /// TLS.
    Tls,
    /// TLS after the request for it in PostgreSQL's protocol.
    PgTls,
    /// HTTP: the app gets requests, by host name.
    Http,
    /// TLS, and HTTP in it.
    Https,
}

/// How apps share an external port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortSharing {
    /// Nothing in the stream says which app it is for: one app has the port.
    Alone,
    /// By the host name of each request.
    ByHost,
    /// By the name that TLS begins with.
    ByServerName,
    /// The same, after PostgreSQL's request for TLS.
    ByServerNameOfPostgres,
}

impl PortHandler {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Tls, Self::PgTls, Self::Http, Self::Https];

    /// The handlers that a config writes for it.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Raw => &[],
            Self::Tls => &["tls"],
            Self::PgTls => &["pg_tls"],
            Self::Http => &["http"],
            Self::Https => &["tls", "http"],
        }
    }

    /// Whether the app gets HTTP requests.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Whether the client speaks TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::PgTls | Self::Https)
    }

    /// How apps share a port with it.
    pub fn sharing(self) -> PortSharing {
        match self {
            Self::Raw => PortSharing::Alone,
            Self::Http => PortSharing::ByHost,
            Self::Tls | Self::Https => PortSharing::ByServerName,
            Self::PgTls => PortSharing::ByServerNameOfPostgres,
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How HTTP is spoken on a port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpOptions {
    /// Whether to speak HTTP/2 with prior knowledge to the app.
    pub h2_backend: bool,
    /// How long an exchange may stand still; as the edge has it when absent.
    pub idle_timeout: Option<Duration>,
    /// Whether responses go out without the headers that the edge adds.
    pub pristine: bool,
    /// Whether the edge compresses answers that are text for clients that take it.
    pub compress: bool,
    /// Response headers that replace the app's, by name in lower case; no value takes one away.
    pub response_headers: BTreeMap<String, Vec<String>>,
    /// Sessions for which the edge keeps the replays of the app.
    pub replay_cache: Box<[ReplayCacheRule]>,
    /// What is the same in requests that go to one machine, while it takes them; a cookie is set by the edge.
    pub session_affinity: Option<Box<SessionKey>>,
}

/// Which requests belong together, so that the edge sends them where the app replayed the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplayCacheRule {
    /// The only host, in lower case, if not all.
    pub host: Option<String>,
    /// The path, with all below it; empty for all.
    pub path: String,
    /// How long a replay is kept.
    pub ttl: Duration,
    /// What is the same in all requests of a session.
    pub key: SessionKey,
    /// Whether clients may ask not to be served by what is kept.
    pub allow_bypass: bool,
}

/// What stands for a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SessionKey {
    /// The cookie of this name.
    Cookie(String),
    /// The request header of this name, in lower case.
    Header(String),
}

/// How TLS is spoken on a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsOptions {
    /// The protocols that clients may choose from, best first; those of the handler when empty.
    pub alpn: Vec<String>,
    /// The only version, if not both.
    pub only: Option<TlsVersion>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

impl TlsVersion {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V12, Self::V13];

    /// The word in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V12 => "TLSv1.2",
            Self::V13 => "TLSv1.3",
        }
    }

    /// The version with this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }
}

/// How much of a service one machine takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// What is counted.
    pub kind: ConcurrencyKind,
    /// From here on others are preferred.
    pub soft_limit: u32,
    /// From here on it gets nothing new.
    pub hard_limit: Option<u32>,
}

impl Concurrency {
    /// What Fly.io has: connections, 20, and no hard limit.
    pub const DEFAULT: Self = Self {
        kind: ConcurrencyKind::Connections,
        soft_limit: 20,
        hard_limit: None,
    };
}

/// What the concurrency of a service counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConcurrencyKind {
    /// Connections to the app, each of which serves one request.
    Connections,
    /// Requests; connections to the app are kept for others.
    Requests,
}

impl ConcurrencyKind {
    /// The word in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
        }
    }
}

/// What becomes of machines that traffic has no need of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Autostop {
    /// They run on.
    Off,
    /// They are stopped.
    Stop,
    /// They are suspended, or stopped where that is not possible.
    Suspend,
}

impl Autostop {
    /// The word in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Stop => "stop",
            Self::Suspend => "suspend",
        }
    }
}
