//! From what a config says about a service to the service, or everything that is wrong with it.

use super::{
    Autostop, Concurrency, ConcurrencyKind, HttpOptions, PortHandler, PortRange, Protocol,
    ProxyVersion, Service, ServicePort, TlsOptions, TlsVersion,
};
use crate::limits;
use crate::machine::Check;

mod http;
mod sessions;

pub use sessions::{AffinityDraft, ReplayCacheDraft};

/// A service as a config writes it; what is absent has its default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceDraft {
    /// `protocol`: tcp or udp.
    pub protocol: Option<String>,
    /// `internal_port`.
    pub internal_port: u16,
    /// `ports`; 80 and 443 with their usual handlers when empty.
    pub ports: Vec<PortDraft>,
    /// `concurrency`.
    pub concurrency: ConcurrencyDraft,
    /// `autostart`.
    pub autostart: bool,
    /// `autostop`: off, stop or suspend.
    pub autostop: Option<String>,
    /// `min_machines_running`.
    pub min_machines_running: u32,
    /// The checks, built already.
    pub checks: Vec<Check>,
}

/// `ports` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortDraft {
    /// `port`.
    pub port: Option<u16>,
    /// `start_port`.
    pub start_port: Option<u16>,
    /// `end_port`.
    pub end_port: Option<u16>,
    /// `handlers`.
    pub handlers: Vec<String>,
    /// `force_https`.
    pub force_https: bool,
    /// `http_options` without the two below; names of headers in any case.
    pub http: Option<HttpOptions>,
    /// `http_options.replay_cache`.
    pub replay_cache: Vec<ReplayCacheDraft>,
    /// `http_options.session_affinity`.
    pub session_affinity: Option<AffinityDraft>,
    /// `tls_options.alpn`.
    pub alpn: Option<Vec<String>>,
    /// `tls_options.versions`.
    pub versions: Option<Vec<String>>,
    /// `proxy_proto_options.version`: v1 or v2.
    pub proxy_proto_version: Option<String>,
}

/// `concurrency` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConcurrencyDraft {
    /// `type`: connections or requests.
    pub kind: Option<String>,
    /// `soft_limit`.
    pub soft_limit: Option<u32>,
    /// `hard_limit`.
    pub hard_limit: Option<u32>,
}

/// One thing that is wrong with a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFault {
    /// The key below the service: `ports[1].handlers`.
    pub key: String,
    /// What is wrong, without a full stop.
    pub problem: String,
}

#[derive(Default)]
struct Faults(Vec<ServiceFault>);

impl Faults {
    fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        let (key, problem) = (key.into(), problem.into());
        self.0.push(ServiceFault { key, problem });
    }
}

/// The keys that name a port; the reason why each is as it is stays with the fault.
const USUAL: &str = "port 80 is plain HTTP and port 443 TLS for all apps: \
                     use [\"http\"] at 80, [\"tls\", \"http\"] or [\"tls\"] at 443, or another port";

impl ServiceDraft {
    /// The service, or all that is wrong with it.
    pub fn build(self) -> Result<Service, Vec<ServiceFault>> {
        let mut faults = Faults::default();
        let protocol = match self.protocol.as_deref() {
            None | Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            Some(_) => {
                faults.add("protocol", "must be tcp or udp");
                Protocol::Tcp
            }
        };
        if self.internal_port == 0 {
            faults.add("internal_port", "is 0");
        }
        if self.ports.len() > limits::SERVICE_PORTS_MAX {
            let most = limits::SERVICE_PORTS_MAX;
            faults.add("ports", format!("more than {most}; use ranges"));
        }
        let usual = Service::http(self.internal_port);
        let ports = if self.ports.is_empty() && protocol == Protocol::Udp {
            faults.add("ports", "are to be named: a udp service has no usual ones");
            vec![]
        } else if self.ports.is_empty() {
            usual.ports
        } else {
            let ports = self.ports.iter().take(limits::SERVICE_PORTS_MAX);
            ports
                .enumerate()
                .filter_map(|(idx, port)| {
                    port.build(protocol, &format!("ports[{idx}]"), &mut faults)
                })
                .collect()
        };
        let service = Service {
            protocol,
            internal_port: self.internal_port,
            ports,
            concurrency: self.concurrency.build(&mut faults),
            autostart: self.autostart,
            autostop: autostop(self.autostop.as_deref(), &mut faults),
            min_machines_running: self.min_machines_running,
            checks: self.checks,
        };
        if self.min_machines_running > limits::MIN_MACHINES_RUNNING_MAX {
            let most = limits::MIN_MACHINES_RUNNING_MAX;
            faults.add("min_machines_running", format!("is more than {most}"));
        }
        if faults.0.is_empty() {
            Ok(service)
        } else {
            Err(faults.0)
        }
    }
}

fn autostop(word: Option<&str>, faults: &mut Faults) -> Autostop {
    match word {
        None | Some("off") => Autostop::Off,
        Some("stop") => Autostop::Stop,
        Some("suspend") => Autostop::Suspend,
        Some(_) => {
            faults.add("autostop", "must be \"off\", \"stop\" or \"suspend\"");
            Autostop::Off
        }
    }
}

impl ConcurrencyDraft {
    fn build(&self, faults: &mut Faults) -> Concurrency {
        let kind = match self.kind.as_deref() {
            None | Some("connections") => ConcurrencyKind::Connections,
            Some("requests") => ConcurrencyKind::Requests,
            Some(_) => {
                let problem = "must be \"connections\" or \"requests\"";
                faults.add("concurrency.type", problem);
                ConcurrencyKind::Connections
            }
        };
        for (key, limit) in [
            ("concurrency.soft_limit", self.soft_limit),
            ("concurrency.hard_limit", self.hard_limit),
        ] {
            if limit == Some(0) {
                faults.add(key, "is 0, which nothing is below");
            }
        }
        let most = self.hard_limit.unwrap_or(u32::MAX);
        let default = Concurrency::DEFAULT.soft_limit.min(most);
        let soft_limit = self.soft_limit.unwrap_or(default);
        if soft_limit > most {
            let problem = format!("is {soft_limit}, above the hard limit of {most}");
            faults.add("concurrency.soft_limit", problem);
        }
        Concurrency {
            kind,
            soft_limit,
            hard_limit: self.hard_limit,
        }
    }
}

impl PortDraft {
    /// One that is the port alone.
    pub fn single(port: u16, handlers: &[&str]) -> Self {
        Self {
            port: Some(port),
            handlers: handlers.iter().map(|&handler| handler.to_owned()).collect(),
            ..Self::default()
        }
    }

    fn build(&self, protocol: Protocol, path: &str, faults: &mut Faults) -> Option<ServicePort> {
        let before = faults.0.len();
        let ports = self.range(path, faults);
        if protocol == Protocol::Udp {
            self.check_datagrams(path, faults);
            let port = ServicePort::new(ports?, PortHandler::Raw);
            return (faults.0.len() == before).then_some(port);
        }
        let handlers = self.handler(path, faults);
        if let (Some(ports), Some((handler, _))) = (ports, handlers) {
            self.check_shared(ports, handler, path, faults);
        }
        let handler = handlers.map(|(handler, _)| handler);
        let port = ServicePort {
            ports: ports.unwrap_or(PortRange::single(0)),
            proxy_proto: self.proxy_proto(handlers, path, faults),
            handler: handler.unwrap_or(PortHandler::Raw),
            force_https: self.force_https,
            http: self.http_options(handler, path, faults),
            tls: self.tls_options(handler, path, faults),
        };
        (faults.0.len() == before).then_some(port)
    }

    /// Datagrams pass as they are: all that is done to streams is refused.
    fn check_datagrams(&self, path: &str, faults: &mut Faults) {
        for (key, is_set) in [
            ("handlers", !self.handlers.is_empty()),
            ("force_https", self.force_https),
            (
                "http_options",
                self.http.is_some() || !self.replay_cache.is_empty(),
            ),
            (
                "tls_options",
                self.alpn.is_some() || self.versions.is_some(),
            ),
            ("proxy_proto_options", self.proxy_proto_version.is_some()),
        ] {
            if is_set {
                let problem = "is for tcp services; datagrams reach the app as they are, \
                               from the client's own address";
                faults.add(format!("{path}.{key}"), problem);
            }
        }
    }

    fn range(&self, path: &str, faults: &mut Faults) -> Option<PortRange> {
        let (first, last) = match (self.port, self.start_port, self.end_port) {
            (Some(port), None, None) => (port, port),
            (None, Some(first), Some(last)) => (first, last),
            _ => {
                faults.add(path, "needs either port, or start_port and end_port");
                return None;
            }
        };
        if first == 0 {
            faults.add(path, "begins at port 0");
            return None;
        }
        if first > last {
            let problem = format!("is {last}, below the start_port {first}");
            faults.add(format!("{path}.end_port"), problem);
            return None;
        }
        Some(PortRange { first, last })
    }

    /// The handler, and whether the PROXY protocol is asked for beside it.
    fn handler(&self, path: &str, faults: &mut Faults) -> Option<(PortHandler, bool)> {
        let key = format!("{path}.handlers");
        let known = ["http", "tls", "pg_tls", "proxy_proto", "tcp"];
        if let Some(other) = self.handlers.iter().find(|h| !known.contains(&h.as_str())) {
            let other = other.escape_debug();
            let problem = format!("`{other}` is not one of http, tls, pg_tls, proxy_proto");
            faults.add(key, problem);
            return None;
        }
        let has = |word: &str| self.handlers.iter().any(|handler| handler == word);
        let handler = match (has("pg_tls"), has("tls"), has("http")) {
            (false, false, false) => PortHandler::Raw,
            (false, true, false) => PortHandler::Tls,
            (false, false, true) => PortHandler::Http,
            (false, true, true) => PortHandler::Https,
            (true, false, false) => PortHandler::PgTls,
            (true, _, _) => {
                let problem = "pg_tls is TLS for PostgreSQL already; it goes with no other \
                               handler but proxy_proto";
                faults.add(key, problem);
                return None;
            }
        };
        Some((handler, has("proxy_proto")))
    }

    fn check_shared(
        &self,
        ports: PortRange,
        handler: PortHandler,
        path: &str,
        faults: &mut Faults,
    ) {
        let at_http = ports.contains(Service::HTTP_PORT);
        let at_https = ports.contains(Service::HTTPS_PORT);
        let fits_http = !at_http || handler == PortHandler::Http;
        let fits_https = !at_https || matches!(handler, PortHandler::Tls | PortHandler::Https);
        if !fits_http || !fits_https {
            faults.add(format!("{path}.handlers"), USUAL);
        }
        if self.force_https && !handler.is_http() {
            let problem = "is for ports with the http handler";
            faults.add(format!("{path}.force_https"), problem);
        }
    }

    fn proxy_proto(
        &self,
        handlers: Option<(PortHandler, bool)>,
        path: &str,
        faults: &mut Faults,
    ) -> Option<ProxyVersion> {
        let version = match self.proxy_proto_version.as_deref() {
            None | Some("v1" | "1") => ProxyVersion::V1,
            Some("v2" | "2") => ProxyVersion::V2,
            Some(_) => {
                let problem = "must be \"v1\" or \"v2\"";
                faults.add(format!("{path}.proxy_proto_options.version"), problem);
                return None;
            }
        };
        let (handler, is_wanted) = handlers?;
        if !is_wanted {
            if self.proxy_proto_version.is_some() {
                let problem = "is for ports with the proxy_proto handler";
                faults.add(format!("{path}.proxy_proto_options"), problem);
            }
            return None;
        }
        if handler.is_http() {
            let problem = "the http handler tells the app who its client is in headers; \
                           proxy_proto goes with the other handlers only";
            faults.add(format!("{path}.handlers"), problem);
        }
        Some(version)
    }

    fn tls_options(
        &self,
        handler: Option<PortHandler>,
        path: &str,
        faults: &mut Faults,
    ) -> TlsOptions {
        let path = format!("{path}.tls_options");
        let is_set = self.alpn.is_some() || self.versions.is_some();
        if is_set && handler.is_some_and(|handler| !handler.is_tls()) {
            faults.add(path, "is for ports with the tls or pg_tls handler");
            return TlsOptions::default();
        }
        let alpn = self.alpn.clone().unwrap_or_default();
        let is_http = handler.is_some_and(PortHandler::is_http);
        let fits = |name: &String| (1..=limits::ALPN_BYTES_MAX).contains(&name.len());
        let spoken = |name: &String| !is_http || name == "h2" || name == "http/1.1";
        if alpn.len() > limits::ALPN_MAX || !alpn.iter().all(fits) {
            let (most, bytes) = (limits::ALPN_MAX, limits::ALPN_BYTES_MAX);
            let problem = format!("must be at most {most} names of 1 to {bytes} bytes");
            faults.add(format!("{path}.alpn"), problem);
        } else if !alpn.iter().all(spoken) {
            let problem = "the http handler speaks h2 and http/1.1 only";
            faults.add(format!("{path}.alpn"), problem);
        }
        let words = self.versions.as_deref().unwrap_or_default();
        let versions: Option<Vec<TlsVersion>> =
            words.iter().map(|word| TlsVersion::parse(word)).collect();
        let only = match versions.as_deref() {
            Some([]) => None,
            Some([first, rest @ ..]) => rest.iter().all(|v| v == first).then_some(*first),
            None => {
                let problem = "must be a list of TLSv1.2 and TLSv1.3";
                faults.add(format!("{path}.versions"), problem);
                None
            }
        };
        TlsOptions { alpn, only }
    }
}

/// Whether a byte may be in the name of a header (RFC 9110 5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// What is wrong with the services of one machine taken together: the index of
/// the service, and the fault.
pub fn service_conflicts(services: &[Service]) -> Vec<(usize, ServiceFault)> {
    let mut faults = vec![];
    let mut taken: Vec<(usize, Protocol, PortRange)> = vec![];
    let mut n_ports = 0_usize;
    for (service_idx, service) in services.iter().enumerate() {
        for (idx, port) in service.ports.iter().enumerate() {
            let key = format!("ports[{idx}]");
            n_ports += port.ports.iter().count();
            let is_taken = |(_, protocol, ports): &&(usize, Protocol, PortRange)| {
                *protocol == service.protocol && ports.overlaps(port.ports)
            };
            if let Some((other, ..)) = taken.iter().find(is_taken) {
                let of = if *other == service_idx {
                    "this service has"
                } else {
                    "another service has"
                };
                let problem = format!("port {}: {of} it already", port.ports);
                faults.push((service_idx, ServiceFault { key, problem }));
            }
            taken.push((service_idx, service.protocol, port.ports));
        }
    }
    let most = limits::EXTERNAL_PORTS_MAX;
    if n_ports > most {
        let problem = format!("{n_ports} ports with those of all services, and {most} is the most");
        let key = "ports".into();
        faults.push((0, ServiceFault { key, problem }));
    }
    faults
}
