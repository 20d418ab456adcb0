//! What the control plane tells the edge about custom host names and addresses of apps' own: which
//! app each leads to, the certificate of a name, and what a certificate authority that checks it is
//! to be answered.
//!
//! As with [`crate::traffic`], each change is a whole new table; the edge keeps the last one.

use roost_model::host_name::HostName;
use roost_model::name::AppName;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// All custom host names, and all addresses that are one app's alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameTable {
    /// Each name with what is behind it.
    pub hosts: BTreeMap<HostName, Host>,
    /// What is being validated, one answer for each name at most.
    pub challenges: BTreeMap<HostName, ChallengeAnswer>,
    /// Each dedicated address with its app.
    pub addresses: BTreeMap<IpAddr, AppName>,
}

/// What is behind a host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The app that answers.
    pub app: AppName,
    /// The certificate, once there is one.
    pub certificate: Option<Arc<CertificatePem>>,
}

/// A certificate with its key, as PEM. `Debug` hides the key.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificatePem {
    /// The certificate, then those that sign it.
    pub chain: String,
    /// The private key.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for CertificatePem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificatePem(hidden)")
    }
}

/// What proves to a certificate authority that a name leads here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChallengeAnswer {
    /// The text at `/.well-known/acme-challenge/TOKEN` over HTTP (RFC 8555 8.3).
    Http {
        /// The last part of the path.
        token: String,
        /// The text.
        key_authorization: String,
    },
    /// The certificate for a handshake with the protocol `acme-tls/1` (RFC 8737).
    TlsAlpn(Arc<CertificatePem>),
}

/// The edge's subscription: the newest table, and a wake-up at each change.
pub type NameFeed = tokio::sync::watch::Receiver<Arc<NameTable>>;
