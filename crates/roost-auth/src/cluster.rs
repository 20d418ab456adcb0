//! The cluster's certificate authority: says which node a peer is, and in
//! which role it speaks.
//!
//! It is apart from the authority of [`crate::authority`], which people may
//! trust for web pages: what that signs opens nothing between nodes. An
//! identity is a short-lived certificate with two names,
//!
//! ```text
//! <role>.role.roost.internal                what the holder may do: a server asks for this
//! <role>.<node id>.node.roost.internal      who it is: a client dials this
//! ```
//!
//! so that both sides check by the ordinary rules for names. Keys of
//! identities never touch a disk: a process that starts again is issued
//! another. Nothing is revoked; an identity that is not renewed ends within
//! [`IDENTITY_LIFE`].

mod identity;

pub use identity::{ClusterIdentity, IdentityError};

use crate::authority::{
    IssueError, IssuedCertificate, OPENING, OpenAuthorityError, file_error, new_root,
    random_serial, read_text, set_life, unreadable,
};
use crate::seal::SealingKey;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use roost_model::id::NodeId;
use roost_model::time::Timestamp;
use roost_runtime::fs::{ensure_dir, read_bounded, write_atomic};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ParsedCertificate;
use std::path::Path;
use std::time::Duration;

/// Life of an identity.
pub const IDENTITY_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How far the clocks of two nodes may be apart: identities are valid this
/// much earlier and longer than their life.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10 * 60);
/// Identities are renewed after two thirds of their life, or up to this much earlier.
const RENEWAL_JITTER_MAX: Duration = Duration::from_secs(2 * 3600);

/// File name of the authority's certificate.
const CERTIFICATE_FILE: &str = "root.pem";
/// File name of the authority's private key, sealed.
const KEY_FILE: &str = "root.key";
/// What the key is sealed for.
const KEY_CONTEXT: &[u8] = b"cluster-authority-key";
/// Most bytes of the sealed key.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// What a holder of an identity may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Decides for users: may ask workers.
    Api,
    /// Owns the machines of its node.
    Worker,
    /// Hands requests to other edges, and takes theirs.
    Edge,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Api, Self::Worker, Self::Edge];

    /// The word in names and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Edge => "edge",
        }
    }

    fn name(self) -> String {
        format!("{}.role.roost.internal", self.as_str())
    }

    /// The role that a certificate gives its holder, which the handshake has
    /// found to be of the cluster; none when it gives none.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = ParsedCertificate::try_from(certificate).ok()?;
        Self::ALL.into_iter().find(|role| {
            ServerName::try_from(role.name())
                .is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
        })
    }
}

/// One party of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The node it runs on.
    pub node: NodeId,
    /// What it does there.
    pub role: Role,
}

impl Peer {
    /// The name that a client dials: a DNS name in form, of no zone that exists.
    pub fn name(&self) -> String {
        let node = self.node.as_str().replace('_', "-").to_ascii_lowercase();
        format!("{}.{node}.node.roost.internal", self.role.as_str())
    }
}

/// The authority of a cluster, in a directory.
pub struct ClusterAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterAuthority(key hidden)")
    }
}

impl ClusterAuthority {
    /// Reads the authority of this directory, or makes it.
    pub fn open(dir: &Path, sealer: &SealingKey) -> Result<Self, OpenAuthorityError> {
        let _one_at_a_time = OPENING.lock();
        let (certificate_path, key_path) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        ensure_dir(dir).map_err(|source| file_error(&key_path, source))?;
        match (certificate_path.exists(), key_path.exists()) {
            (true, true) => {}
            (false, false) => make(&certificate_path, &key_path, sealer)?,
            (true, false) => return Err(OpenAuthorityError::Half { path: key_path }),
            (false, true) => {
                let path = certificate_path;
                return Err(OpenAuthorityError::Half { path });
            }
        }
        let pem = read_text(&certificate_path, "a certificate in PEM")?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| unreadable(&certificate_path, "a certificate in PEM"))?;
        let sealed = read_bounded(&key_path, KEY_BYTES_MAX)
            .map_err(|source| file_error(&key_path, source))?;
        let key =
            sealer
                .open(&sealed, KEY_CONTEXT)
                .map_err(|source| OpenAuthorityError::Sealed {
                    path: key_path.clone(),
                    source,
                })?;
        let key = KeyPair::try_from(key.as_slice())
            .map_err(|_| unreadable(&key_path, "a sealed private key"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|_| unreadable(&certificate_path, "a certificate of an authority"))?;
        Ok(Self {
            issuer,
            certificate,
        })
    }

    /// The certificate that every node trusts.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Makes an identity with a new key.
    pub fn issue(&self, peer: &Peer, now: Timestamp) -> Result<IssuedCertificate, IssueError> {
        let error = |source| IssueError {
            name: peer.name(),
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(error)?;
        let names = vec![peer.role.name(), peer.name()];
        let mut params = CertificateParams::new(names).map_err(error)?;
        let life = IDENTITY_LIFE + CLOCK_SKEW_MAX;
        set_life(&mut params, now, CLOCK_SKEW_MAX, life);
        params.serial_number = Some(random_serial().map_err(error)?);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, peer.node.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer).map_err(error)?;
        let renew_after = (IDENTITY_LIFE * 2 / 3).saturating_sub(jitter().map_err(error)?);
        Ok(IssuedCertificate {
            chain: vec![leaf.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            renew_at: now.after(renew_after),
        })
    }
}

/// Nodes that started together do not renew together.
fn jitter() -> Result<Duration, rcgen::Error> {
    let mut bytes = [0_u8; 4];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    let part = f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX);
    Ok(RENEWAL_JITTER_MAX.mul_f64(part))
}

/// The key is written first: a certificate without its key is useless.
fn make(
    certificate_path: &Path,
    key_path: &Path,
    sealer: &SealingKey,
) -> Result<(), OpenAuthorityError> {
    let (certificate, key) =
        new_root("roost cluster authority").map_err(OpenAuthorityError::Make)?;
    let key = zeroize::Zeroizing::new(key.serialize_der());
    let sealed = sealer
        .seal(&key, KEY_CONTEXT)
        .map_err(|source| OpenAuthorityError::Sealed {
            path: key_path.to_owned(),
            source,
        })?;
    write_atomic(key_path, &sealed, 0o600)
        .and_then(|()| write_atomic(certificate_path, certificate.pem().as_bytes(), 0o644))
        .map_err(|source| file_error(key_path, source))
}

#[cfg(test)]
mod tests;
