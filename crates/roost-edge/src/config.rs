//! What an operator decides about the edge.

use crate::access::AccessLog;
use crate::limits;
use crate::rates::EdgeRates;
use crate::relay::RelayConfig;
use roost_auth::tickets::TicketKeys;
use roost_model::name::RegionCode;
use roost_proto::names::NameFeed;
use roost_proto::traffic::{MachineFiles, SleepControl};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Settings of an edge.
#[derive(Clone)]
pub struct EdgeConfig {
    /// Addresses for plain HTTP; port 0 takes a free one.
    pub http: Vec<SocketAddr>,
    /// Addresses for HTTPS; port 0 takes a free one.
    pub https: Vec<SocketAddr>,
    /// Addresses at which ports that services ask for are opened.
    pub port_ips: Vec<IpAddr>,
    /// Where dedicated addresses are private: the host takes what is for all of them, but no
    /// interface has them, and only streams come.
    pub private: Option<Network>,
    /// Proxies that say who the client is, by the PROXY protocol. Each of their
    /// connections has to begin so; what others send is never read as that.
    pub proxies: Vec<Network>,
    /// The app `hello` answers at `hello.DOMAIN` for each of these.
    pub domains: Vec<String>,
    /// Host names besides those, as the control plane publishes them; none at first.
    pub names: NameFeed,
    /// The keys of session tickets, shared by all edges that a client may come to; without them
    /// each handshake is a full one.
    pub tickets: Option<Arc<TicketKeys>>,
    /// The node of this edge, as records of requests name it.
    pub node: String,
    /// The region of this edge, told to apps.
    pub region: RegionCode,
    /// How long to wait for what.
    pub timeouts: EdgeTimeouts,
    /// Threads that serve clients, each with a runtime of its own; 0 is the runtime that the edge
    /// is started in.
    pub threads: usize,
    /// Client connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// What one client and one app may ask.
    pub rates: EdgeRates,
    /// Bytes of memory that this process may have; close to them the edge takes nothing new.
    pub memory_max: Option<u64>,
    /// How late the edge may run before it takes nothing new.
    pub late_max: Duration,
    /// Wakes machines that sleep; without it none is woken.
    pub sleep: Option<Arc<dyn SleepControl>>,
    /// Edges of other nodes; without it requests stay on this one.
    pub relay: Option<RelayConfig>,
    /// Opens static files of machines; without it all requests go to the apps.
    pub files: Option<Arc<dyn MachineFiles>>,
    /// Where access records go, besides the log at debug level.
    pub access_log: Option<Arc<dyn AccessLog>>,
}

impl std::fmt::Debug for EdgeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeConfig")
            .field("http", &self.http)
            .field("https", &self.https)
            .field("port_ips", &self.port_ips)
            .field("private", &self.private)
            .field("proxies", &self.proxies)
            .field("domains", &self.domains)
            .field("tickets", &self.tickets)
            .field("node", &self.node)
            .field("region", &self.region)
            .field("timeouts", &self.timeouts)
            .field("threads", &self.threads)
            .field("connections_max", &self.connections_max)
            .field("rates", &self.rates)
            .field("sleep", &self.sleep.is_some())
            .field("relay", &self.relay)
            .field("files", &self.files.is_some())
            .field("memory_max", &self.memory_max)
            .field("late_max", &self.late_max)
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
            port_ips: Vec::new(),
            private: None,
            proxies: Vec::new(),
            domains: vec!["localhost".to_owned()],
            names: tokio::sync::watch::channel(Arc::default()).1,
            tickets: None,
            node: "local".to_owned(),
            region,
            timeouts: EdgeTimeouts::default(),
            threads: 0,
            connections_max: limits::CONNECTIONS_MAX,
            rates: EdgeRates::default(),
            memory_max: None,
            late_max: limits::LATE_MAX,
            sleep: None,
            relay: None,
            files: None,
            access_log: None,
        }
    }
}

impl EdgeConfig {
    /// Whether this dedicated address is for machines of the node only.
    pub(crate) fn is_private(&self, own: IpAddr) -> bool {
        self.private.is_some_and(|private| private.contains(own))
    }

    /// Whether connections from this address begin with a PROXY header.
    pub(crate) fn is_proxy(&self, client: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(client))
    }
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = bits.unwrap_or(most);
        (prefix_bits <= most).then_some(Self {
            address,
            prefix_bits,
        })
    }

    /// Whether the address is one of them.
    pub fn contains(self, address: IpAddr) -> bool {
        let n_bits = u32::from(self.prefix_bits);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= n_bits
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= n_bits
            }
            _ => false,
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
    /// For a machine to take a request when none does: none is healthy, or all
    /// are at their hard limits.
    pub machine: Duration,
    /// The same when a machine is woken for it.
    pub wake: Duration,
    /// From the end of the request to the response header.
    pub response_header: Duration,
    /// Between two pieces of a body, and for a client to take any of what is sent
    /// to it: over HTTP/1 the connection is cut then; over HTTP/2 the stream is
    /// reset whose last piece (64 KiB or less) the client has not taken in this time.
    pub body_idle: Duration,
    /// Silence on an upgraded connection.
    pub tunnel_idle: Duration,
    /// A flow of datagrams through which nothing goes in either direction.
    pub flow_idle: Duration,
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
            machine: Duration::from_secs(10),
            wake: limits::WAKE_LONGEST,
            response_header: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            flow_idle: Duration::from_secs(60),
            pool_idle: Duration::from_secs(4),
            drain: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Network;

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
        ] {
            let network = Network::parse(network).unwrap();
            assert_eq!(
                network.contains(address.parse().unwrap()),
                is_in,
                "{network:?} {address}"
            );
        }
        for bad in ["10.0.0.0/33", "10.0.0/8", "::/129", "", "10.0.0.0/", "/8"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
