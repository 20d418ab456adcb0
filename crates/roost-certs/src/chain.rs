//! Chains and keys as people give them and authorities issue them.

use crate::limits;
use roost_model::host_name::{HostName, wildcard_of};
use roost_model::time::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

/// What is known of a certificate from itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its names, exact or wildcards.
    pub names: Vec<String>,
    /// Who signed it, for people.
    pub issuer: String,
    /// From when on it holds.
    pub not_before: Timestamp,
    /// Until when it holds.
    pub not_after: Timestamp,
}

/// A chain and a key cannot serve a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// There is too much of it.
    #[error("the {what} has more than {} bytes", limits::PEM_BYTES_MAX)]
    Long {
        /// Chain or key.
        what: &'static str,
    },
    /// It is no PEM.
    #[error("the {what} is not PEM (`-----BEGIN …-----`): {problem}")]
    Pem {
        /// Chain or key.
        what: &'static str,
        /// Why.
        problem: String,
    },
    /// There is no certificate, or there are too many.
    #[error("the chain has {0} certificates; from 1 to {max} can be", max = limits::CHAIN_MAX)]
    Count(usize),
    /// A certificate cannot be read.
    #[error("certificate {number} of the chain cannot be read: {problem}")]
    Certificate {
        /// Which, from 1.
        number: usize,
        /// Why.
        problem: String,
    },
    /// Each certificate is to be signed by the next one.
    #[error("certificate {0} of the chain was not signed by the one after it")]
    Order(usize),
    /// The key is of a kind that cannot be used.
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// The key is another one's.
    #[error("the key does not fit the first certificate of the chain")]
    KeyOfAnother,
    /// It is for other names.
    #[error("the certificate is for {}, not for {host}", if names.is_empty() { "no name".into() } else { names.join(", ") })]
    Names {
        /// The name it is to be for.
        host: HostName,
        /// Its own.
        names: Vec<String>,
    },
    /// It holds no more.
    #[error("the certificate has expired")]
    Expired,
    /// It holds later.
    #[error("the certificate does not hold yet")]
    NotYet,
}

/// Checks that this chain and key can serve this host now.
pub fn check(chain: &str, key: &str, host: &HostName, now: Timestamp) -> Result<Facts, ChainFault> {
    let certificates = certificates(chain)?;
    bounded(key, "key")?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    // Not in the words of the reader, which repeat what it could not read.
    let key = key.map_err(|_| ChainFault::Pem {
        what: "key",
        problem: "no private key is in it; its BEGIN and END lines have to be lines of their own"
            .into(),
    })?;
    for (idx, pair) in certificates.windows(2).enumerate() {
        let [signed, signer] = pair else { continue };
        if parse(signed, idx + 1)?.issuer() != parse(signer, idx + 2)?.subject() {
            return Err(ChainFault::Order(idx + 1));
        }
    }
    let facts = facts_of(&certificates[0])?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(certificates, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ChainFault::KeyOfAnother,
        other => ChainFault::Key(other.to_string()),
    })?;
    if !covers(&facts.names, host) {
        let (host, names) = (host.clone(), facts.names);
        return Err(ChainFault::Names { host, names });
    }
    if facts.not_after <= now {
        return Err(ChainFault::Expired);
    }
    if facts.not_before > now {
        return Err(ChainFault::NotYet);
    }
    Ok(facts)
}

/// What the first certificate of this chain says.
pub fn facts(chain: &str) -> Result<Facts, ChainFault> {
    facts_of(&certificates(chain)?[0])
}

/// The certificates of a chain, at least one.
pub(crate) fn certificates(chain: &str) -> Result<Vec<CertificateDer<'static>>, ChainFault> {
    bounded(chain, "chain")?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let list = list.map_err(|error| ChainFault::Pem {
        what: "chain",
        problem: error.to_string(),
    })?;
    if list.is_empty() || list.len() > limits::CHAIN_MAX {
        return Err(ChainFault::Count(list.len()));
    }
    Ok(list)
}

fn bounded(text: &str, what: &'static str) -> Result<(), ChainFault> {
    let fits = text.len() <= limits::PEM_BYTES_MAX;
    fits.then_some(()).ok_or(ChainFault::Long { what })
}

fn parse<'a>(
    der: &'a CertificateDer<'_>,
    number: usize,
) -> Result<X509Certificate<'a>, ChainFault> {
    let fault = |problem: String| ChainFault::Certificate { number, problem };
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| fault(error.to_string()))?;
    Ok(certificate)
}

fn facts_of(der: &CertificateDer<'_>) -> Result<Facts, ChainFault> {
    let certificate = parse(der, 1)?;
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|error| ChainFault::Certificate {
        number: 1,
        problem: error.to_string(),
    })?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    let validity = certificate.validity();
    Ok(Facts {
        names: names.iter().filter_map(dns).collect(),
        issuer: certificate.issuer().to_string(),
        not_before: time(validity.not_before),
        not_after: time(validity.not_after),
    })
}

fn time(time: ASN1Time) -> Timestamp {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    Timestamp::from_ms(seconds.saturating_mul(1000))
}

fn covers(names: &[String], host: &HostName) -> bool {
    let wildcard = (!host.is_wildcard())
        .then(|| wildcard_of(host.as_str()))
        .flatten();
    let fits = |name: &String| name == host.as_str() || Some(name) == wildcard.as_ref();
    names.iter().any(fits)
}

#[cfg(test)]
mod tests;
