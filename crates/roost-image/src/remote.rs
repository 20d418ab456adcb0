//! The client of other people's registries (OCI distribution specification 1.1).
//!
//! Answers are untrusted: heads and bodies are bounded, waits end, and nothing
//! is returned that was not verified against a digest, but for a manifest that
//! was asked for by tag.

mod auth;
mod download;

use crate::limits::{
    CONNECT_TIMEOUT, ERROR_BODY_BYTES_MAX, MANIFEST_BYTES_MAX, REDIRECTS_MAX, RESPONSE_TIMEOUT,
};
use crate::manifest::ACCEPT;
use auth::Tokens;
use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT as ACCEPT_HEADER, AUTHORIZATION, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use roost_model::digest::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

/// A name and password for a registry.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password or access token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The client could not be set up, for instance without CA certificates.
    #[error("set up the registry client")]
    Client(#[source] reqwest::Error),
    /// No answer.
    #[error("registry {registry} does not answer")]
    Connect {
        /// Which one.
        registry: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It has no such thing.
    #[error("registry {registry} has no {what}")]
    NotFound {
        /// Which one.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// It wants other credentials, or any.
    #[error("registry {registry} refuses access to {what}: {reason}")]
    Denied {
        /// Which one.
        registry: String,
        /// What was asked for.
        what: String,
        /// What it says.
        reason: String,
    },
    /// Another status.
    #[error("registry {registry} answers {status} for {what}: {reason}")]
    Status {
        /// Which one.
        registry: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
        /// What it says.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("registry {registry} sends {what} that {problem}")]
    Answer {
        /// Which one.
        registry: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It stopped sending, again and again.
    #[error(
        "registry {registry} stopped sending {what} after {n_bytes} bytes, in {n_attempts} attempts"
    )]
    Stalled {
        /// Which one.
        registry: String,
        /// What was asked for.
        what: String,
        /// How far it came.
        n_bytes: u64,
        /// How often it was tried.
        n_attempts: u32,
    },
    /// The content is not what its digest says.
    #[error("registry {registry} sends {what} with digest {actual}")]
    Digest {
        /// Which one.
        registry: String,
        /// What was asked for.
        what: String,
        /// What came.
        actual: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// Waits that a test shortens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    pub stall: Duration,
    pub backoff: Duration,
}

/// One repository of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// `https://host` or `http://host`.
    pub base: String,
    /// As users name it, for errors and credentials.
    pub registry: String,
    pub name: String,
}

/// The client. One per node.
#[derive(Debug)]
pub(crate) struct Remote {
    http: OnceLock<reqwest::Client>,
    credentials: BTreeMap<String, Credentials>,
    tokens: Tokens,
    waits: Waits,
}

/// A manifest as it came.
#[derive(Debug)]
pub(crate) struct FetchedManifest {
    pub bytes: Bytes,
    pub digest: Digest,
}

impl Remote {
    pub(crate) fn new(credentials: BTreeMap<String, Credentials>, waits: Waits) -> Self {
        Self {
            http: OnceLock::new(),
            credentials,
            tokens: Tokens::default(),
            waits,
        }
    }

    /// The HTTP client, made at first use: a node that pulls nothing needs no CA certificates.
    fn http(&self) -> Result<&reqwest::Client, RemoteError> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::custom(follow))
            .no_proxy()
            .build()
            .map_err(RemoteError::Client)?;
        Ok(self.http.get_or_init(|| http))
    }

    /// Fetches a manifest by tag or digest.
    pub(crate) async fn manifest(
        &self,
        repository: &Repository,
        reference: &str,
    ) -> Result<FetchedManifest, RemoteError> {
        let what = format!("manifest {}:{reference}", repository.name);
        let url = format!(
            "{}/v2/{}/manifests/{reference}",
            repository.base, repository.name
        );
        let response = self.get(repository, &url, &what, None).await?;
        let said = response.headers().get("docker-content-digest").cloned();
        let bytes = self
            .body(repository, response, &what, MANIFEST_BYTES_MAX)
            .await?;
        let actual = Digest::from_sha256(Sha256::digest(&bytes).into());
        let said = said.and_then(|said| Digest::parse(said.to_str().ok()?).ok());
        let expected = Digest::parse(reference).ok().or(said);
        if expected.is_some_and(|expected| expected != actual) {
            return Err(RemoteError::Digest {
                registry: repository.registry.clone(),
                what,
                actual,
            });
        }
        Ok(FetchedManifest {
            bytes,
            digest: actual,
        })
    }

    /// Sends a GET, logs in when asked to, and returns a success.
    async fn get(
        &self,
        repository: &Repository,
        url: &str,
        what: &str,
        offset: Option<u64>,
    ) -> Result<Response, RemoteError> {
        let registry = &repository.registry;
        let known = self.tokens.get(repository);
        let mut response = self.send(registry, url, known.as_ref(), offset).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let header = self.log_in(repository, &response, what).await?;
            response = self.send(registry, url, Some(&header), offset).await?;
        }
        let status = response.status();
        if status.is_success() || (status == StatusCode::RANGE_NOT_SATISFIABLE && offset.is_some())
        {
            return Ok(response);
        }
        let (registry, what) = (registry.clone(), what.to_owned());
        if status == StatusCode::NOT_FOUND {
            return Err(RemoteError::NotFound { registry, what });
        }
        let reason = self.reason(repository, response).await;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RemoteError::Denied {
                registry,
                what,
                reason,
            }),
            _ => Err(RemoteError::Status {
                registry,
                what,
                status,
                reason,
            }),
        }
    }

    async fn send(
        &self,
        registry: &str,
        url: &str,
        authorization: Option<&HeaderValue>,
        offset: Option<u64>,
    ) -> Result<Response, RemoteError> {
        let mut request = self.http()?.get(url).header(ACCEPT_HEADER, ACCEPT);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(offset) = offset {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let timeout = RESPONSE_TIMEOUT.min(self.waits.stall * 2);
        match tokio::time::timeout(timeout, request.send()).await {
            Ok(result) => result.map_err(|source| RemoteError::Connect {
                registry: registry.to_owned(),
                source: source.without_url(),
            }),
            Err(_elapsed) => Err(RemoteError::Stalled {
                registry: registry.to_owned(),
                what: "the head of an answer".to_owned(),
                n_bytes: 0,
                n_attempts: 1,
            }),
        }
    }

    /// The whole of a small body.
    async fn body(
        &self,
        repository: &Repository,
        mut response: Response,
        what: &str,
        bytes_max: u64,
    ) -> Result<Bytes, RemoteError> {
        let answer = |problem: String| RemoteError::Answer {
            registry: repository.registry.clone(),
            what: what.to_owned(),
            problem,
        };
        let mut body = BytesMut::new();
        loop {
            let chunk = tokio::time::timeout(self.waits.stall, response.chunk()).await;
            match chunk {
                Ok(Ok(Some(chunk))) if (body.len() + chunk.len()) as u64 > bytes_max => {
                    return Err(answer(format!("has more than {bytes_max} bytes")));
                }
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(body.freeze()),
                Ok(Err(_broken)) => return Err(answer("breaks off".to_owned())),
                Err(_elapsed) => return Err(answer("does not end".to_owned())),
            }
        }
    }

    /// What an error answer says, in one printable line.
    async fn reason(&self, repository: &Repository, response: Response) -> String {
        #[derive(serde::Deserialize)]
        struct Errors {
            errors: Vec<Error>,
        }
        #[derive(serde::Deserialize)]
        struct Error {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let body = self
            .body(repository, response, "an error", ERROR_BODY_BYTES_MAX)
            .await;
        let errors = body
            .ok()
            .and_then(|body| serde_json::from_slice::<Errors>(&body).ok());
        let first = errors.and_then(|errors| errors.errors.into_iter().next());
        match first {
            Some(Error { code, message }) => format!("{code} {message}")
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect(),
            None => "no reason given".to_owned(),
        }
    }
}

/// Follows redirects to blob stores, but never from HTTPS to HTTP.
///
/// The client drops `Authorization` when the host or port changes.
fn follow(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let was_https = attempt
        .previous()
        .last()
        .is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS_MAX as usize {
        attempt.error("too many redirects")
    } else if was_https && attempt.url().scheme() != "https" {
        attempt.error("redirect from HTTPS to HTTP")
    } else {
        attempt.follow()
    }
}
