//! What proves to an authority that a name leads here.

use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256};
use roost_model::host_name::HostName;
use roost_proto::names::{CertificatePem, ChallengeAnswer};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A way to prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By a file over plain HTTP.
    #[serde(rename = "http-01")]
    Http01,
    /// By a TLS handshake.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl Method {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Http01 => Self::TlsAlpn01,
            Self::TlsAlpn01 => Self::Http01,
        }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http01, Self::TlsAlpn01]
            .into_iter()
            .find(|method| method.as_str() == text)
    }

    /// The name that ACME has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an authority asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Names the challenge.
    pub token: String,
    /// The token, and a digest of the account's key.
    pub key_authorization: String,
}

impl Challenge {
    /// What the edge answers.
    pub fn answer(&self, host: &HostName, method: Method) -> Result<ChallengeAnswer, rcgen::Error> {
        match method {
            Method::Http01 => Ok(ChallengeAnswer::Http {
                token: self.token.clone(),
                key_authorization: self.key_authorization.clone(),
            }),
            Method::TlsAlpn01 => {
                let digest = Sha256::digest(self.key_authorization.as_bytes());
                let mut params = CertificateParams::new(vec![host.as_str().to_owned()])?;
                params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                let certificate = params.self_signed(&key)?;
                Ok(ChallengeAnswer::TlsAlpn(Arc::new(CertificatePem {
                    chain: certificate.pem(),
                    key: Zeroizing::new(key.serialize_pem()),
                })))
            }
        }
    }
}
