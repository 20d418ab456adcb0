//! An authority that speaks ACME.

use crate::chain;
use crate::challenge::{Challenge, Method};
use crate::http_client::{Client, TooMuch};
use crate::issue::{Authority, AuthorityError, Seen};
use async_trait::async_trait;
use instant_acme::{
    AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RevocationRequest,
};
use roost_model::error::chain as told;
use roost_model::host_name::HostName;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// What every type of a problem begins with (RFC 8555 6.7).
const PROBLEM_PREFIX: &str = "urn:ietf:params:acme:error:";

/// Which authority, as the operator says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The URL of its directory.
    pub directory: String,
    /// Whom it may write to.
    pub email: Option<String>,
    /// A file with more authorities of HTTPS that the directory's own certificate may be of.
    pub root: Option<PathBuf>,
}

/// An account with an authority.
pub struct Account(instant_acme::Account);

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Account").field(&self.0.id()).finish()
    }
}

impl Account {
    /// Makes an account. What it gives besides is to be kept, and opens it again.
    pub async fn register(
        settings: &AcmeSettings,
    ) -> Result<(Self, Zeroizing<String>), AuthorityError> {
        let contact = settings
            .email
            .as_ref()
            .map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let builder = builder(settings)?;
        let made = builder.create(&new, settings.directory.clone(), None).await;
        let (account, credentials) = made.map_err(sorted)?;
        let credentials =
            serde_json::to_string(&credentials).map_err(|_| AuthorityError::Crypto)?;
        Ok((Self(account), Zeroizing::new(credentials)))
    }

    /// Opens an account by what was kept of it.
    pub async fn open(settings: &AcmeSettings, kept: &str) -> Result<Self, AuthorityError> {
        let credentials: AccountCredentials =
            serde_json::from_str(kept).map_err(|_| AuthorityError::Lost("the account"))?;
        let opened = builder(settings)?.from_credentials(credentials).await;
        opened.map(Self).map_err(sorted)
    }

    async fn order_at(&self, url: &str) -> Result<Order, AuthorityError> {
        let found = self.0.order(url.to_owned()).await;
        found.map_err(|error| match sorted(error) {
            // The order was made by us: who does not know it has lost it.
            AuthorityError::Refused { .. } => AuthorityError::Lost("the order"),
            other => other,
        })
    }
}

fn builder(settings: &AcmeSettings) -> Result<instant_acme::AccountBuilder, AuthorityError> {
    let client = Client::new(settings.root.as_deref());
    let client = client.map_err(|error| AuthorityError::Unreachable(told(&error)))?;
    Ok(instant_acme::Account::builder_with_http(Box::new(client)))
}

#[async_trait]
impl Authority for Account {
    async fn order(&self, host: &HostName) -> Result<String, AuthorityError> {
        let names = [Identifier::Dns(host.as_str().to_owned())];
        let order = self.0.new_order(&NewOrder::new(&names)).await;
        Ok(order.map_err(sorted)?.url().to_owned())
    }

    async fn look(&self, order: &str, method: Method) -> Result<Seen, AuthorityError> {
        let mut order = self.order_at(order).await?;
        match order.state().status {
            OrderStatus::Ready => Ok(Seen::Ready),
            OrderStatus::Processing => Ok(Seen::Processing),
            OrderStatus::Valid => Ok(Seen::Valid),
            OrderStatus::Pending => proof(&mut order, method).await,
            OrderStatus::Invalid => {
                let own = order.state().error.as_ref().map(words);
                match proof(&mut order, method).await? {
                    Seen::Invalid(why) => Ok(Seen::Invalid(why)),
                    _ => Ok(Seen::Invalid(
                        own.unwrap_or_else(|| "it says not why".into()),
                    )),
                }
            }
        }
    }

    async fn tell(&self, order: &str, method: Method) -> Result<(), AuthorityError> {
        let mut order = self.order_at(order).await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(sorted)?;
            if let Some(mut challenge) = authorization.challenge(kind(method)) {
                return challenge.set_ready().await.map_err(sorted);
            }
        }
        Err(AuthorityError::Lost("the challenge"))
    }

    async fn finalise(&self, order: &str, request: &[u8]) -> Result<(), AuthorityError> {
        let mut order = self.order_at(order).await?;
        order.finalize_csr(request).await.map_err(sorted)
    }

    async fn fetch(&self, order: &str) -> Result<String, AuthorityError> {
        let mut order = self.order_at(order).await?;
        let chain = order.certificate().await.map_err(sorted)?;
        chain.ok_or_else(|| AuthorityError::Unreachable("it gave no certificate".into()))
    }

    async fn revoke(&self, chain: &str) -> Result<(), AuthorityError> {
        let Ok(certificates) = chain::certificates(chain) else {
            return Ok(());
        };
        let request = RevocationRequest {
            certificate: &certificates[0],
            reason: None,
        };
        match self.0.revoke(&request).await.map_err(sorted) {
            Err(AuthorityError::Refused { kind, .. }) if kind == "alreadyRevoked" => Ok(()),
            other => other,
        }
    }
}

/// How far the proof of the name is.
async fn proof(order: &mut Order, method: Method) -> Result<Seen, AuthorityError> {
    let mut authorizations = order.authorizations();
    let Some(authorization) = authorizations.next().await else {
        return Ok(Seen::Processing);
    };
    let mut authorization = authorization.map_err(sorted)?;
    match authorization.status {
        AuthorizationStatus::Valid => Ok(Seen::Processing),
        AuthorizationStatus::Pending => {
            let challenge = authorization.challenge(kind(method));
            Ok(Seen::Pending(challenge.map(|challenge| Challenge {
                token: challenge.token.clone(),
                key_authorization: challenge.key_authorization().as_str().to_owned(),
            })))
        }
        status => {
            let mut errors = authorization
                .challenges
                .iter()
                .filter_map(|c| c.error.as_ref());
            let why = errors.next().map(words);
            Ok(Seen::Invalid(why.unwrap_or_else(|| {
                format!("the authorisation is {status:?}").to_lowercase()
            })))
        }
    }
}

fn kind(method: Method) -> ChallengeType {
    match method {
        Method::Http01 => ChallengeType::Http01,
        Method::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// A problem for people.
fn words(problem: &Problem) -> String {
    let kind = kind_of(problem);
    match problem.detail.as_deref() {
        Some(detail) => format!("{detail} ({kind})"),
        None => kind,
    }
}

fn kind_of(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("unknown");
    kind.strip_prefix(PROBLEM_PREFIX).unwrap_or(kind).to_owned()
}

fn sorted(error: Error) -> AuthorityError {
    match error {
        Error::Api(problem) => match kind_of(&problem).as_str() {
            "accountDoesNotExist" => AuthorityError::Lost("the account"),
            "serverInternal" | "badNonce" => AuthorityError::Unreachable(words(&problem)),
            kind => AuthorityError::Refused {
                kind: kind.to_owned(),
                detail: problem.detail.unwrap_or_default(),
            },
        },
        Error::Other(other) => match other.downcast::<TooMuch>() {
            Ok(too_much) => AuthorityError::RateLimited {
                detail: too_much.detail,
                retry_after: too_much.retry_after,
            },
            Err(other) => AuthorityError::Unreachable(told(other.as_ref())),
        },
        Error::Crypto | Error::KeyRejected => AuthorityError::Crypto,
        other => AuthorityError::Unreachable(told(&other)),
    }
}
