//! Custom host names and dedicated addresses: an immutable snapshot of the control plane's table.
//!
//! A key is parsed at the first handshake that needs it, and the outcome is kept as long as the
//! certificate stays the same.

use crate::shared::Shared;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use roost_model::host_name::after_first_label;
use roost_model::name::AppName;
use roost_proto::names::{CertificatePem, ChallengeAnswer, NameFeed, NameTable};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// Where HTTP-01 challenges are asked for (RFC 8555 8.3).
const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// Keeps the newest snapshot.
#[derive(Debug)]
pub(crate) struct Names {
    snapshot: ArcSwap<Snapshot>,
    feed: Mutex<NameFeed>,
}

#[derive(Debug, Default)]
struct Snapshot {
    /// By name; `*.example.com` is at `.example.com`.
    hosts: HashMap<String, Host>,
    /// By host name: token and key authorisation.
    http_challenges: HashMap<String, (String, String)>,
    tls_challenges: HashMap<String, Arc<Certificate>>,
    /// Dedicated addresses with their apps.
    addresses: Arc<BTreeMap<IpAddr, AppName>>,
}

#[derive(Debug)]
struct Host {
    app: AppName,
    certificate: Option<Arc<Certificate>>,
}

#[derive(Debug)]
struct Certificate {
    pem: Arc<CertificatePem>,
    parsed: OnceLock<Option<Arc<CertifiedKey>>>,
}

impl Certificate {
    fn key(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let parsed = self.parsed.get_or_init(|| match parse(&self.pem) {
            Ok(key) => Some(Arc::new(key)),
            Err(problem) => {
                tracing::error!(name, problem, "the certificate of a host name is unusable");
                None
            }
        });
        parsed.clone()
    }
}

fn parse(pem: &CertificatePem) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes());
    let chain: Result<Vec<_>, _> = chain.collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes());
    let key = key.map_err(|error| error.to_string())?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
    Ok(CertifiedKey::new(
        chain,
        key.map_err(|error| error.to_string())?,
    ))
}

impl Names {
    /// The names of the feed's present table.
    pub(crate) fn new(mut feed: NameFeed) -> Arc<Self> {
        feed.mark_changed();
        let names = Self {
            snapshot: ArcSwap::default(),
            feed: Mutex::new(feed),
        };
        names.refresh();
        Arc::new(names)
    }

    /// Applies the newest table, if it has not been applied yet.
    fn refresh(&self) {
        let mut feed = self.feed.lock();
        // An error means that the control plane is gone: the last table stays.
        if feed.has_changed().unwrap_or(false) {
            let table = feed.borrow_and_update().clone();
            let new = Snapshot::of(&table, &self.snapshot.load());
            self.snapshot.store(Arc::new(new));
        }
    }

    /// The app behind a host name in lower case.
    pub(crate) fn app(&self, host: &str) -> Option<AppName> {
        let names = self.snapshot.load();
        let found = names.hosts.get(host);
        let found = found.or_else(|| names.hosts.get(after_first_label(host)?));
        found.map(|host| host.app.clone())
    }

    /// The app whose alone an address is.
    pub(crate) fn app_at(&self, address: IpAddr) -> Option<AppName> {
        self.snapshot.load().addresses.get(&address).cloned()
    }

    /// All such addresses.
    pub(crate) fn addresses(&self) -> Arc<BTreeMap<IpAddr, AppName>> {
        self.snapshot.load().addresses.clone()
    }

    /// The certificate of a host name in lower case.
    pub(crate) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.snapshot.load();
        // A name of its own that has no certificate yet may be covered by a wildcard's.
        let own = |name: &str| names.hosts.get(name)?.certificate.as_ref();
        let certificate = own(name).or_else(|| own(after_first_label(name)?));
        certificate?.key(name)
    }

    /// The certificate that answers a TLS-ALPN-01 challenge for this name.
    pub(crate) fn challenge_certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        // The authority may ask as soon as the challenge was published.
        self.refresh();
        self.snapshot.load().tls_challenges.get(name)?.key(name)
    }

    /// The text that answers an HTTP-01 challenge at this path of this host.
    pub(crate) fn key_authorization(&self, host: &str, path: &str) -> Option<String> {
        let asked = path.strip_prefix(CHALLENGE_PATH)?;
        self.refresh();
        let names = self.snapshot.load();
        let (token, text) = names.http_challenges.get(host)?;
        (token == asked).then(|| text.clone())
    }
}

impl Snapshot {
    /// This table, with what `old` has parsed already.
    fn of(table: &NameTable, old: &Self) -> Self {
        let mut new = Self {
            addresses: Arc::new(table.addresses.clone()),
            ..Self::default()
        };
        for (name, host) in &table.hosts {
            let name = name.as_str();
            let name = name.strip_prefix('*').unwrap_or(name);
            let before = old.hosts.get(name);
            let before = before.and_then(|host| host.certificate.as_ref());
            let certificate = host.certificate.as_ref().map(|pem| kept(pem, before));
            let app = host.app.clone();
            let host = Host { app, certificate };
            new.hosts.insert(name.to_owned(), host);
        }
        for (name, answer) in &table.challenges {
            let name = name.as_str().to_owned();
            match answer {
                ChallengeAnswer::Http {
                    token,
                    key_authorization,
                } => {
                    let answer = (token.clone(), key_authorization.clone());
                    new.http_challenges.insert(name, answer);
                }
                ChallengeAnswer::TlsAlpn(pem) => {
                    let certificate = kept(pem, old.tls_challenges.get(&name));
                    new.tls_challenges.insert(name, certificate);
                }
            }
        }
        new
    }
}

/// The certificate as it was, when it is the same.
fn kept(pem: &Arc<CertificatePem>, before: Option<&Arc<Certificate>>) -> Arc<Certificate> {
    match before {
        Some(before) if before.pem == *pem => before.clone(),
        _ => Arc::new(Certificate {
            pem: pem.clone(),
            parsed: OnceLock::new(),
        }),
    }
}

/// Applies each new table. When the control plane is gone, the last one stays.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut feed = shared.names.feed.lock().clone();
    loop {
        // Also after this task's own clone was made: nothing published in between is missed.
        shared.names.refresh();
        // Ports are opened at addresses as these come and go.
        shared.router.nudge();
        tokio::select! {
            changed = feed.changed() => if changed.is_err() { return },
            () = shared.graceful.cancelled() => return,
        }
    }
}
