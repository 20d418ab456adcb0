//! TLS to machines.

use roost_model::machine::CheckTls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The protocol of HTTP checks.
pub(super) const HTTP_1: &[u8] = b"http/1.1";
/// The protocol of gRPC checks.
pub(super) const HTTP_2: &[u8] = b"h2";

/// Speaks TLS with certificates verified or not, as a check asks.
#[derive(Debug)]
pub(super) struct TlsClient {
    provider: Arc<CryptoProvider>,
    verified: Arc<dyn ServerCertVerifier>,
    unverified: Arc<dyn ServerCertVerifier>,
}

impl TlsClient {
    /// One that trusts whom the host trusts.
    pub(super) async fn of_host() -> Result<Self, String> {
        // Reads some hundred files.
        let load = || {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider))
                .map_err(|error| format!("the host trusts no certificate authority: {error}"))?;
            Ok(Self::new(provider, Arc::new(verifier)))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn new(provider: Arc<CryptoProvider>, verified: Arc<dyn ServerCertVerifier>) -> Self {
        let unverified = Arc::new(AnyCertificate(Arc::clone(&provider)));
        Self {
            provider,
            verified,
            unverified,
        }
    }

    /// One that trusts these only.
    #[cfg(test)]
    pub(super) fn with_roots(roots: rustls::RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        );
        Self::new(provider, verifier.build().unwrap())
    }

    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        tls: &CheckTls,
        protocol: &[u8],
    ) -> Result<Transport, String> {
        let name = match &tls.server_name {
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| format!("`{name}` is not a name for TLS"))?,
            None => {
                let peer = stream.peer_addr().map_err(|error| error.to_string())?;
                ServerName::from(peer.ip())
            }
        };
        let verifier = if tls.skip_verify {
            &self.unverified
        } else {
            &self.verified
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        // A new connection each time is what is to be checked.
        config.resumption = rustls::client::Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
        Ok(Box::new(stream))
    }
}

/// Accepts any certificate whose key the other side has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to a machine, with TLS or without.
pub(super) type Transport = Box<dyn Stream>;

/// Bytes in and out.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
