//! Phase 2, tls: the certificate by the name that the client asks for, and how
//! TLS is spoken by what the service of that name wants.

use crate::accept::Ends;
use crate::certificates::CertificateSource;
use crate::names::Names;
use crate::shared::Shared;
use crate::table::AppRoute;
use crate::tickets::{Handshakes, Tickets};
use crate::{limits, pg_tls, route};
use parking_lot::Mutex;
use roost_auth::tickets::TicketKeys;
use roost_model::machine::{
    PortHandler, PortSharing, Service, ServicePort, TlsOptions, TlsVersion,
};
use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// The protocol of a handshake that validates a name (RFC 8737 6.2).
const CHALLENGE_PROTOCOL: &str = "acme-tls/1";

/// The certificates of custom host names, and those of the platform for all else.
#[derive(Debug)]
struct BySni {
    names: Arc<Names>,
    local: Arc<dyn CertificateSource>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Without a name there is nothing to choose by: the handshake fails.
        let name = server_name(&hello)?;
        if is_asked_to_validate(&hello) {
            return self.names.challenge_certificate(&name);
        }
        let custom = self.names.certificate(&name);
        custom.or_else(|| self.local.certificate(&name))
    }
}

/// No certificate for anybody: the handshake ends with the alert for that.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The name that the client asks for, in lower case without a final dot.
pub(crate) fn server_name(hello: &ClientHello<'_>) -> Option<String> {
    let name = hello.server_name()?;
    Some(name.trim_end_matches('.').to_ascii_lowercase())
}

/// Whether the client is there to validate a name and for nothing else.
pub(crate) fn is_asked_to_validate(hello: &ClientHello<'_>) -> bool {
    let mut protocols = hello.alpn().into_iter().flatten();
    protocols.next() == Some(CHALLENGE_PROTOCOL.as_bytes()) && protocols.next().is_none()
}

/// How TLS is spoken, by what services want.
#[derive(Debug)]
pub(crate) struct Tls {
    certificates: Arc<BySni>,
    tickets: Tickets,
    pub(crate) handshakes: Handshakes,
    http: Arc<ServerConfig>,
    nobody: Arc<ServerConfig>,
    /// Those that services have of their own.
    others: Mutex<HashMap<TlsOptions, Arc<ServerConfig>>>,
}

/// A client that TLS was agreed with.
pub(crate) struct Secured {
    /// On the heap: what holds it is moved, and is as large as all that it may become.
    pub(crate) stream: Box<TlsStream<TcpStream>>,
    /// The app that the bytes in it are for; none when they are HTTP, which says so itself.
    pub(crate) app: Option<Arc<AppRoute>>,
}

impl Tls {
    /// TLS with the certificates of custom host names, and these for all else.
    pub(crate) fn new(
        names: Arc<Names>,
        local: Arc<dyn CertificateSource>,
        ticket_keys: Option<Arc<TicketKeys>>,
    ) -> Result<Self, rustls::Error> {
        let certificates = Arc::new(BySni { names, local });
        let tickets = Tickets(ticket_keys);
        let http = config(&http_options(), certificates.clone(), &tickets)?;
        let nobody = config(&TlsOptions::default(), Arc::new(Nobody), &Tickets(None))?;
        Ok(Self {
            certificates,
            tickets,
            handshakes: Handshakes::default(),
            http,
            nobody,
            others: Mutex::default(),
        })
    }

    /// What a port of a service wants.
    fn of(&self, port: &ServicePort) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut options = port.tls.clone();
        if options.alpn.is_empty() {
            options.alpn = match port.handler {
                PortHandler::Https => http_options().alpn,
                PortHandler::PgTls => vec![pg_tls::PROTOCOL.to_owned()],
                PortHandler::Raw | PortHandler::Tls | PortHandler::Http => vec![],
            };
        }
        if options == http_options() {
            return Ok(self.http.clone());
        }
        let mut others = self.others.lock();
        if let Some(config) = others.get(&options) {
            return Ok(config.clone());
        }
        if others.len() >= limits::TLS_CONFIGS_MAX {
            // They are made anew when they are wanted.
            others.clear();
        }
        let made = config(&options, self.certificates.clone(), &self.tickets)?;
        others.insert(options, made.clone());
        Ok(made)
    }

    /// The same, with the certificate of this name for everybody.
    fn under(&self, name: &str, config: &ServerConfig) -> io::Result<Arc<ServerConfig>> {
        let key = self.certificates.local.certificate(name);
        let key = key.ok_or_else(|| io::Error::other("an app without a certificate"))?;
        let mut config = config.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(key));
        // A ticket of another app's name would do without the certificate.
        Tickets(None).use_in(&mut config);
        Ok(Arc::new(config))
    }

    /// Agrees with a client on TLS, as the service wants it that it asks for where it has come to.
    /// At a dedicated address that is one of its app, whatever name the client has for it.
    pub(crate) async fn accept(
        &self,
        shared: &Shared,
        stream: TcpStream,
        ends: Ends,
        sharing: PortSharing,
    ) -> io::Result<Secured> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let name = server_name(&begun.client_hello());
        let is_challenge = is_asked_to_validate(&begun.client_hello());
        let named = name.filter(|_| !is_challenge);
        let named = named.and_then(|name| route::app(shared, &name));
        let own = ends.own.filter(|_| !is_challenge);
        let own = own.map(|address| route::app_at(shared, address));
        let is_strange = match (&own, &named) {
            (Some(Some(own)), Some(named)) => own.name != named.name,
            (Some(Some(_)), None) => true,
            (Some(None) | None, _) => false,
        };
        let app = own.unwrap_or(named);
        let most = shared.config.rates.app_handshakes;
        if app
            .as_ref()
            .is_some_and(|app| !app.rates.handshakes.take(most))
        {
            return Err(io::Error::other("too many handshakes with the app's names"));
        }
        let external = ends.external;
        let port = app.as_ref().and_then(|app| app.port(external));
        let rule = port
            .map(|port| &port.rule)
            .filter(|rule| rule.handler.sharing() == sharing);
        let config = match rule {
            Some(rule) => self.of(rule).map_err(io::Error::other)?,
            // A page says what is wrong with the name.
            None if external == Service::HTTPS_PORT => self.http.clone(),
            None => self.nobody.clone(),
        };
        let config = match app.as_ref().zip(shared.domains.first()) {
            Some((app, domain)) if is_strange && rule.is_some() => {
                self.under(&format!("{}.{domain}", app.name), &config)?
            }
            _ => config,
        };
        let is_http = rule.is_none_or(|rule| rule.handler.is_http());
        let stream = Box::new(begun.into_stream(config).await?);
        self.handshakes.count(stream.get_ref().1);
        Ok(Secured {
            stream,
            app: app.filter(|_| !is_http),
        })
    }
}

/// What HTTP is spoken over unless a service wants otherwise.
fn http_options() -> TlsOptions {
    TlsOptions {
        alpn: ["h2", "http/1.1", CHALLENGE_PROTOCOL]
            .map(str::to_owned)
            .into(),
        only: None,
    }
}

fn config(
    options: &TlsOptions,
    certificates: Arc<dyn ResolvesServerCert>,
    tickets: &Tickets,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[_] = match options.only {
        None => &[&rustls::version::TLS13, &rustls::version::TLS12],
        Some(TlsVersion::V12) => &[&rustls::version::TLS12],
        Some(TlsVersion::V13) => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    let names = options.alpn.iter();
    config.alpn_protocols = names.map(|name| name.clone().into_bytes()).collect();
    tickets.use_in(&mut config);
    Ok(Arc::new(config))
}

/// Whether the handshake was all that the client came for: it validates a name.
pub(crate) fn is_challenge(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(CHALLENGE_PROTOCOL.as_bytes())
}

/// Whether client and edge agreed on HTTP/2.
pub(crate) fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
