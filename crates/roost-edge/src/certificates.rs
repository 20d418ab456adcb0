//! Certificates by name: where the TLS phase gets them.

use crate::{limits, table::app_of_host};
use parking_lot::Mutex;
use roost_auth::authority::LocalAuthority;
use roost_model::time::Timestamp;
use roost_runtime::clock;
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// Gives the certificate of a host name. Called during handshakes: it must be fast.
pub trait CertificateSource: Send + Sync + std::fmt::Debug + 'static {
    /// The certificate for this name (lower case, no final dot), or none.
    fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>>;
}

#[derive(Debug)]
struct Cached {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
    used: u64,
}

#[derive(Debug, Default)]
struct Cache {
    names: HashMap<String, Cached>,
    uses: u64,
}

/// Certificates of the local authority, made at the first handshake, for
/// `APP.DOMAIN` only.
#[derive(Debug)]
pub struct LocalCertificates {
    authority: Arc<LocalAuthority>,
    domains: Vec<String>,
    cache: Mutex<Cache>,
}

impl LocalCertificates {
    /// Certificates for the apps of these domains.
    pub fn new(authority: Arc<LocalAuthority>, domains: &[String]) -> Arc<Self> {
        let domains = domains
            .iter()
            .map(|domain| domain.to_ascii_lowercase())
            .collect();
        Arc::new(Self {
            authority,
            domains,
            cache: Mutex::default(),
        })
    }

    fn make(&self, name: &str, now: Timestamp) -> Option<(Arc<CertifiedKey>, Timestamp)> {
        let issued = match self.authority.issue(name, now) {
            Ok(issued) => issued,
            Err(error) => {
                tracing::error!(
                    name,
                    error = roost_model::error::chain(&error),
                    "no certificate could be issued"
                );
                return None;
            }
        };
        match rustls::crypto::aws_lc_rs::sign::any_supported_type(&issued.key) {
            Ok(key) => Some((
                Arc::new(CertifiedKey::new(issued.chain, key)),
                issued.renew_at,
            )),
            Err(error) => {
                tracing::error!(name, %error, "the key of a new certificate cannot be used");
                None
            }
        }
    }
}

impl CertificateSource for LocalCertificates {
    fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        app_of_host(name, &self.domains)?;
        let now = clock::now();
        let mut cache = self.cache.lock();
        cache.uses += 1;
        let used = cache.uses;
        if let Some(cached) = cache.names.get_mut(name)
            && now < cached.renew_at
        {
            cached.used = used;
            return Some(cached.key.clone());
        }
        // Made under the lock on purpose: 1,000 first handshakes of one name make one certificate.
        let (key, renew_at) = self.make(name, now)?;
        if cache.names.len() >= limits::CERTIFICATES_MAX {
            let oldest = cache
                .names
                .iter()
                .min_by_key(|(_, cached)| cached.used)
                .map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                cache.names.remove(&oldest);
            }
        }
        cache.names.insert(
            name.to_owned(),
            Cached {
                key: key.clone(),
                renew_at,
                used,
            },
        );
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::{CertificateSource as _, LocalCertificates};
    use crate::limits;
    use roost_auth::authority::LocalAuthority;
    use std::sync::Arc;

    #[test]
    fn certificates_are_made_once_only_for_app_names_and_the_cache_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(LocalAuthority::open(dir.path()).unwrap());
        let source = LocalCertificates::new(authority, &["localhost".to_owned()]);
        let first = source.certificate("hello.localhost").unwrap();
        assert!(Arc::ptr_eq(
            &first,
            &source.certificate("hello.localhost").unwrap()
        ));
        for not_ours in [
            "localhost",
            "a.b.localhost",
            "example.com",
            "hello.localhost.example.com",
            "",
        ] {
            assert!(source.certificate(not_ours).is_none(), "{not_ours}");
        }
        for number in 0..limits::CERTIFICATES_MAX + 5 {
            source
                .certificate(&format!("app-{number}.localhost"))
                .unwrap();
        }
        assert_eq!(source.cache.lock().names.len(), limits::CERTIFICATES_MAX);
    }
}
