//! The identity of this process: a certificate that is replaced while
//! connections go on, and the TLS settings of both sides that use it.

use super::{ClusterAuthority, Peer};
use crate::authority::{IssueError, IssuedCertificate};
use parking_lot::RwLock;
use roost_model::time::Timestamp;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
#[cfg(test)]
use rustls::pki_types::CertificateDer;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;

/// What is spoken over these connections (RFC 7301): HTTP/2, below gRPC.
const ALPN: &[u8] = b"h2";

/// An identity could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The authority did not issue it.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The TLS library refused it.
    #[error("use the identity of {name}")]
    Tls {
        /// Whose it is.
        name: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library refused the authority's certificate.
    #[error("trust the cluster's authority")]
    Trust(#[from] VerifierBuilderError),
}

/// Who this process is in the cluster.
pub struct ClusterIdentity {
    peer: Peer,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    held: RwLock<Held>,
}

struct Held {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

impl std::fmt::Debug for ClusterIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterIdentity")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl ClusterIdentity {
    /// The identity of `peer`, issued now.
    pub fn new(
        authority: &ClusterAuthority,
        peer: Peer,
        now: Timestamp,
    ) -> Result<Arc<Self>, IdentityError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let trusted = roots.add(authority.certificate().clone());
        trusted.map_err(|source| tls_error(&peer, source))?;
        let held = certify(&provider, &peer, authority.issue(&peer, now)?)?;
        Ok(Arc::new(Self {
            peer,
            provider,
            roots: Arc::new(roots),
            held: RwLock::new(held),
        }))
    }

    /// Who it is.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// From when on it should be renewed.
    pub fn renew_at(&self) -> Timestamp {
        self.held.read().renew_at
    }

    /// Replaces the certificate for the handshakes to come.
    pub fn renew(&self, authority: &ClusterAuthority, now: Timestamp) -> Result<(), IdentityError> {
        let issued = authority.issue(&self.peer, now)?;
        *self.held.write() = certify(&self.provider, &self.peer, issued)?;
        Ok(())
    }

    /// TLS as a client: the peer must be of the cluster, and have the name that is dialled.
    pub fn client_config(self: &Arc<Self>) -> Result<ClientConfig, IdentityError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| tls_error(&self.peer, source))?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesClientCert>);
        // A resumed session would go on with a certificate that may have ended.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// TLS as a server: the peer must be of the cluster. What it may do is for
    /// [`super::Role::of`] to say.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, IdentityError> {
        let provider = Arc::clone(&self.provider);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider)
                .build()?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| tls_error(&self.peer, source))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.held.read().key)
    }

    /// The certificate that is shown now.
    #[cfg(test)]
    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.key().cert[0].clone()
    }
}

impl ResolvesServerCert for ClusterIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for ClusterIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certify(
    provider: &CryptoProvider,
    peer: &Peer,
    issued: IssuedCertificate,
) -> Result<Held, IdentityError> {
    let key = CertifiedKey::from_der(issued.chain, issued.key, provider)
        .map_err(|source| tls_error(peer, source))?;
    Ok(Held {
        key: Arc::new(key),
        renew_at: issued.renew_at,
    })
}

fn tls_error(peer: &Peer, source: rustls::Error) -> IdentityError {
    let name = peer.name();
    IdentityError::Tls { name, source }
}
