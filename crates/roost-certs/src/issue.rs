//! One certificate from order to chain, in bounded pieces.
//!
//! The authority's own record says how far an order is; ours says only what has to be known
//! besides. So every piece may be repeated, and an order goes on wherever it was cut off.

use crate::challenge::{Challenge, Method};
use crate::limits;
use async_trait::async_trait;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use roost_model::host_name::HostName;
use roost_model::time::Timestamp;
use roost_proto::names::CertificatePem;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// An authority did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// It is too much for it at present.
    #[error("the certificate authority limits how much it issues: {detail}")]
    RateLimited {
        /// Its own words.
        detail: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It refuses; a repetition will be refused as well.
    #[error("the certificate authority refuses: {detail} ({kind})")]
    Refused {
        /// The type of the problem (RFC 8555 6.7), without its prefix.
        kind: String,
        /// Its own words.
        detail: String,
    },
    /// It knows nothing of the account or the order.
    #[error("the certificate authority has lost {0}")]
    Lost(&'static str),
    /// It does not answer, or with something that makes no sense.
    #[error("the certificate authority cannot be asked: {0}")]
    Unreachable(String),
    /// A key or a request could not be made.
    #[error("make a key")]
    Crypto,
}

/// How far an order is, by the authority's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It waits for a proof; by this challenge, if it offers one of the method.
    Pending(Option<Challenge>),
    /// It works.
    Processing,
    /// The name is proven.
    Ready,
    /// The certificate is there.
    Valid,
    /// It has come to nothing.
    Invalid(String),
}

/// What issues certificates.
#[async_trait]
pub trait Authority: Send + Sync {
    /// Asks for a certificate for one name, and gives the order's URL.
    async fn order(&self, host: &HostName) -> Result<String, AuthorityError>;
    /// Looks how far an order is that is to be proven by this method.
    async fn look(&self, order: &str, method: Method) -> Result<Seen, AuthorityError>;
    /// Says that the answer to the challenge is in place.
    async fn tell(&self, order: &str, method: Method) -> Result<(), AuthorityError>;
    /// Sends the request for the certificate (PKCS #10, DER).
    async fn finalise(&self, order: &str, request: &[u8]) -> Result<(), AuthorityError>;
    /// Fetches the chain as PEM.
    async fn fetch(&self, order: &str) -> Result<String, AuthorityError>;
    /// Revokes the first certificate of a chain.
    async fn revoke(&self, chain: &str) -> Result<(), AuthorityError>;
}

/// An order under way. `Debug` hides the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Where the authority has it.
    pub url: String,
    /// How the name is proven.
    pub method: Method,
    /// Since when it is.
    pub since: Timestamp,
    /// The key that the certificate will be for, as PEM.
    #[serde(with = "secret_text")]
    pub key: Zeroizing<String>,
    /// What is asked for, once that is known.
    pub challenge: Option<Challenge>,
    /// Whether the authority knows that the answer is in place.
    pub is_told: bool,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("url", &self.url)
            .field("method", &self.method)
            .field("is_told", &self.is_told)
            .finish_non_exhaustive()
    }
}

/// A secret text in a record that is sealed as a whole.
mod secret_text {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(
        text: &Zeroizing<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

/// What one piece of work came to. But for the last two the order is to be recorded, and its
/// challenge to be published, before the next piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is more to do at once.
    Again,
    /// The authority works.
    Wait,
    /// The certificate.
    Issued(CertificatePem),
    /// Nothing comes of this order.
    Failed(String),
}

/// Begins an order.
pub async fn begin(
    authority: &dyn Authority,
    host: &HostName,
    method: Method,
    now: Timestamp,
) -> Result<Order, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    let key = key.map_err(|_| AuthorityError::Crypto)?.serialize_pem();
    Ok(Order {
        url: authority.order(host).await?,
        method,
        since: now,
        key: Zeroizing::new(key),
        challenge: None,
        is_told: false,
    })
}

/// Brings an order one piece further.
pub async fn advance(
    authority: &dyn Authority,
    host: &HostName,
    order: &mut Order,
    now: Timestamp,
) -> Result<Step, AuthorityError> {
    let seen = authority.look(&order.url, order.method).await?;
    match next(order, seen, now) {
        Next::Answer(challenge) => {
            order.challenge = Some(challenge);
            Ok(Step::Again)
        }
        Next::Tell => {
            authority.tell(&order.url, order.method).await?;
            order.is_told = true;
            Ok(Step::Wait)
        }
        Next::Finalise => {
            let request = request(host, &order.key).map_err(|_| AuthorityError::Crypto)?;
            authority.finalise(&order.url, &request).await?;
            Ok(Step::Again)
        }
        Next::Fetch => Ok(Step::Issued(CertificatePem {
            chain: authority.fetch(&order.url).await?,
            key: order.key.clone(),
        })),
        Next::Wait => Ok(Step::Wait),
        Next::GiveUp(why) => Ok(Step::Failed(why)),
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Answer(Challenge),
    Tell,
    Wait,
    Finalise,
    Fetch,
    GiveUp(String),
}

fn next(order: &Order, seen: Seen, now: Timestamp) -> Next {
    let is_late = now.since(order.since) > limits::ORDER_MAX;
    match seen {
        Seen::Valid => Next::Fetch,
        Seen::Ready => Next::Finalise,
        Seen::Invalid(why) => Next::GiveUp(why),
        Seen::Pending(_) | Seen::Processing if is_late => Next::GiveUp(format!(
            "the certificate authority has not decided in {} minutes",
            limits::ORDER_MAX.as_secs() / 60
        )),
        Seen::Processing => Next::Wait,
        Seen::Pending(None) => Next::GiveUp(format!(
            "the certificate authority does not offer {}",
            order.method
        )),
        Seen::Pending(Some(challenge)) => match &order.challenge {
            Some(known) if *known == challenge && order.is_told => Next::Wait,
            Some(known) if *known == challenge => Next::Tell,
            Some(_) | None => Next::Answer(challenge),
        },
    }
}

fn request(host: &HostName, key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key)?;
    let mut params = CertificateParams::new(vec![host.as_str().to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

#[cfg(test)]
mod tests;
