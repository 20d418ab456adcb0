//! The local certificate authority: HTTPS on a development machine and on a
//! new installation, before any public certificate exists.
//!
//! The authority is two files in one directory: `ca.pem`, which people may
//! trust, and `ca-key.pem`, which only its owner may read. Certificates for
//! names are made on demand and live in memory; losing them costs nothing.
//! The authority itself decides nothing about which names are allowed: its
//! caller does.

use crate::seal::SealError;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use roost_model::time::Timestamp;
use roost_runtime::fs::{FileError, ensure_dir, read_bounded, write_atomic};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// File name of the authority's certificate.
const CERTIFICATE_FILE: &str = "ca.pem";
/// File name of the authority's private key.
const KEY_FILE: &str = "ca-key.pem";
/// Most bytes that either file may have.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Life of the authority's own certificate.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Life of a certificate for a name. Browsers refuse much longer ones.
const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long before its end a certificate should be replaced.
const LEAF_RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Certificates begin this long ago, for clients whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The authority could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenAuthorityError {
    /// A file could not be read or written.
    #[error("keep the certificate authority in {}", dir.display())]
    File {
        /// The directory.
        dir: PathBuf,
        /// Which file, and why.
        #[source]
        source: FileError,
    },
    /// One of the two files is there and the other is not.
    #[error("{} is missing while the other file of the certificate authority is there; restore it, or delete both to make a new authority", path.display())]
    Half {
        /// The missing file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} is not {expected}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A new authority could not be made.
    #[error("make a certificate authority")]
    Make(#[source] rcgen::Error),
    /// The key does not open, or could not be sealed.
    #[error("the sealed key of the certificate authority in {}", path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SealError,
    },
}

/// A certificate could not be issued.
#[derive(Debug, thiserror::Error)]
#[error("issue a certificate for `{name}`")]
pub struct IssueError {
    /// The name it was for.
    pub name: String,
    /// Why.
    #[source]
    pub source: rcgen::Error,
}

/// A certificate for one name, with its key.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// The certificate, then that of the authority where its users expect that.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key (ECDSA P-256, PKCS #8).
    pub key: PrivateKeyDer<'static>,
    /// From when on it should be replaced.
    pub renew_at: Timestamp,
}

/// A certificate authority in a directory.
pub struct LocalAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    certificate_path: PathBuf,
}

impl std::fmt::Debug for LocalAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalAuthority")
            .field("certificate_path", &self.certificate_path)
            .finish_non_exhaustive()
    }
}

/// Two openers of one process must not make two authorities in one directory.
pub(crate) static OPENING: Mutex<()> = Mutex::new(());

impl LocalAuthority {
    /// Reads the authority of this directory, or makes it.
    pub fn open(dir: &Path) -> Result<Self, OpenAuthorityError> {
        let _one_at_a_time = OPENING.lock();
        let (certificate_path, key_path) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        ensure_dir(dir).map_err(|source| file_error(&key_path, source))?;
        match (certificate_path.exists(), key_path.exists()) {
            (true, true) => {}
            (false, false) => make(&certificate_path, &key_path)?,
            (true, false) => return Err(OpenAuthorityError::Half { path: key_path }),
            (false, true) => {
                return Err(OpenAuthorityError::Half {
                    path: certificate_path,
                });
            }
        }
        let pem = read_text(&certificate_path, "a certificate in PEM")?;
        let key = read_text(&key_path, "a private key in PEM")?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| unreadable(&certificate_path, "a certificate in PEM"))?;
        let key =
            KeyPair::from_pem(&key).map_err(|_| unreadable(&key_path, "a private key in PEM"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|_| unreadable(&certificate_path, "a certificate of an authority"))?;
        Ok(Self {
            issuer,
            certificate,
            pem,
            certificate_path,
        })
    }

    /// The authority's certificate in PEM: what a client has to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// Where the authority's certificate is, for messages.
    pub fn certificate_path(&self) -> &Path {
        &self.certificate_path
    }

    /// Makes a certificate with a new key for one DNS name.
    pub fn issue(&self, name: &str, now: Timestamp) -> Result<IssuedCertificate, IssueError> {
        let error = |source| IssueError {
            name: name.chars().take(255).collect(),
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(error)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(error)?;
        set_life(&mut params, now, BACKDATE, LEAF_LIFE);
        params.serial_number = Some(random_serial().map_err(error)?);
        params.distinguished_name = DistinguishedName::new();
        // A common name has at most 64 characters; the name that counts is the alternative one.
        params
            .distinguished_name
            .push(DnType::CommonName, "roost app");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer).map_err(error)?;
        Ok(IssuedCertificate {
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            renew_at: now.after(LEAF_LIFE.saturating_sub(LEAF_RENEW_BEFORE)),
        })
    }
}

pub(crate) fn read_text(path: &Path, expected: &'static str) -> Result<String, OpenAuthorityError> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|source| file_error(path, source))?;
    String::from_utf8(bytes).map_err(|_| unreadable(path, expected))
}

pub(crate) fn file_error(path: &Path, source: FileError) -> OpenAuthorityError {
    let dir = path.parent().unwrap_or(path).to_owned();
    OpenAuthorityError::File { dir, source }
}

pub(crate) fn unreadable(path: &Path, expected: &'static str) -> OpenAuthorityError {
    OpenAuthorityError::Unreadable {
        path: path.to_owned(),
        expected,
    }
}

/// Makes a new authority. The key is written first: a certificate without its key is useless.
fn make(certificate_path: &Path, key_path: &Path) -> Result<(), OpenAuthorityError> {
    let (certificate, key) = new_root("roost local authority").map_err(OpenAuthorityError::Make)?;
    write_atomic(key_path, key.serialize_pem().as_bytes(), 0o600)
        .and_then(|()| write_atomic(certificate_path, certificate.pem().as_bytes(), 0o644))
        .map_err(|source| file_error(key_path, source))
}

/// The certificate of a new authority that signs no other authorities, and its key.
pub(crate) fn new_root(name: &str) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(Vec::new())?;
    let now = roost_runtime::clock::now();
    set_life(&mut params, now, BACKDATE, AUTHORITY_LIFE);
    let serial = random_serial()?;
    // Each authority has a name of its own, so that two of them in one trust store are told apart.
    let suffix = hex::encode(serial.as_ref().get(..4).unwrap_or_default());
    params.serial_number = Some(serial);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "roost");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {suffix}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key)?, key))
}

/// Valid from `before` ago until `life` from now.
pub(crate) fn set_life(
    params: &mut CertificateParams,
    now: Timestamp,
    before: Duration,
    life: Duration,
) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(now.as_ms());
    params.not_before = now - before;
    params.not_after = now + life;
}

/// A positive serial number of 16 bytes (RFC 5280 4.1.2.2 allows 20).
pub(crate) fn random_serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests;
