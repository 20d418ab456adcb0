//! Custom host names and their certificates.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/apps/{app}/certificates/acme`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueCertificateRequest {
    /// The host name.
    pub hostname: String,
}

/// `POST /v1/apps/{app}/certificates/custom`. `Debug` hides the key.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadCertificateRequest {
    /// The host name.
    pub hostname: String,
    /// The certificate and those that sign it, as PEM.
    pub fullchain: String,
    /// The private key, as PEM.
    pub private_key: String,
}

impl std::fmt::Debug for UploadCertificateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadCertificateRequest")
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

/// A custom host name with its certificate. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// The host name.
    pub hostname: String,
    /// The app that answers.
    pub app: String,
    /// `acme` or `custom` (uploaded).
    pub source: String,
    /// `active` (one serves), `pending` (none yet), `failing` (none yet, and the last attempt
    /// failed) or `expired` (the one that serves).
    pub status: String,
    /// Who signed the certificate that serves.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The names of the certificate that serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// When it expires.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// When the next attempt to get one, or to renew it, is made.
    #[serde(default)]
    pub next_attempt_at: Option<u64>,
    /// Until when the authority wants to be left alone.
    #[serde(default)]
    pub rate_limited_until: Option<u64>,
    /// What came of the last attempts, newest first.
    #[serde(default)]
    pub attempts: Vec<CertificateAttempt>,
    /// Where the name leads, in the answer to a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<HostLookup>,
    /// When the host name was added.
    pub created_at: u64,
}

/// What came of an attempt to get a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateAttempt {
    /// When, in milliseconds since the epoch.
    pub at: u64,
    /// How the name was to be proven: `http-01` or `tls-alpn-01`.
    pub method: String,
    /// `issued`, `failed` (the authority says why), `held-back` (the name does not lead here),
    /// `rate-limited` or `unreachable` (the authority).
    pub outcome: String,
    /// The same for people.
    pub message: String,
}

/// Where a host name leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostLookup {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it leads to this platform; absent when that cannot be known here.
    #[serde(default)]
    pub points_here: Option<bool>,
    /// The same for people.
    pub message: String,
}

/// `GET /v1/apps/{app}/certificates`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CertificateList {
    /// The host names of the app, without their attempts.
    pub certificates: Vec<Certificate>,
}
