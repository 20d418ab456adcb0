//! Logging in to a registry: what `WWW-Authenticate` asks for, and the token service.

use super::{Credentials, Remote, RemoteError, Repository};
use crate::limits::{TOKEN_BYTES_MAX, TOKENS_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use std::collections::HashMap;

/// `Authorization` values that worked, by registry and repository.
///
/// No expiry is kept: one that ended gets a 401, and a new one is fetched.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<(String, String), HeaderValue>>);

impl Tokens {
    pub(super) fn get(&self, repository: &Repository) -> Option<HeaderValue> {
        let key = (repository.base.clone(), repository.name.clone());
        self.0.lock().get(&key).cloned()
    }

    fn put(&self, repository: &Repository, header: HeaderValue) {
        let mut tokens = self.0.lock();
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert((repository.base.clone(), repository.name.clone()), header);
    }
}

/// What a registry asks for (RFC 9110, section 11.6.1).
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        parameters: Vec<(&'static str, String)>,
    },
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut realm = None;
        let mut parameters = Vec::new();
        let mut rest = rest;
        while let Some((name, after)) = rest.split_once('=') {
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match name.trim_matches([' ', ',']) {
                "realm" => realm = Some(value.to_owned()),
                "service" => parameters.push(("service", value.to_owned())),
                "scope" => parameters.push(("scope", value.to_owned())),
                _ => {}
            }
            rest = next;
        }
        Some(Self::Bearer {
            realm: realm?,
            parameters,
        })
    }
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Remote {
    /// Does what the 401 answer asks for; returns the `Authorization` to send.
    pub(super) async fn log_in(
        &self,
        repository: &Repository,
        response: &Response,
        what: &str,
    ) -> Result<HeaderValue, RemoteError> {
        let denied = |reason: &str| RemoteError::Denied {
            registry: repository.registry.clone(),
            what: what.to_owned(),
            reason: reason.to_owned(),
        };
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges
            .iter()
            .find_map(|value| Challenge::parse(value.to_str().ok()?));
        let credentials = self.credentials.get(&repository.registry);
        let header = match (challenge, credentials) {
            (Some(Challenge::Basic), Some(credentials)) => basic(credentials),
            (Some(Challenge::Basic), None) => {
                return Err(denied(
                    "it wants a user name and password, and none is configured",
                ));
            }
            (Some(Challenge::Bearer { realm, parameters }), credentials) => {
                // Credentials go over plain HTTP only where the registry itself may.
                if !realm.starts_with("https://") && repository.base.starts_with("https://") {
                    return Err(denied("its token service is not reached by HTTPS"));
                }
                self.token(repository, &realm, &parameters, credentials, what)
                    .await?
            }
            (None, _) => return Err(denied("it does not say how to log in")),
        };
        let mut header = header.ok_or_else(|| denied("its token is no header value"))?;
        header.set_sensitive(true);
        self.tokens.put(repository, header.clone());
        Ok(header)
    }

    async fn token(
        &self,
        repository: &Repository,
        realm: &str,
        parameters: &[(&'static str, String)],
        credentials: Option<&Credentials>,
        what: &str,
    ) -> Result<Option<HeaderValue>, RemoteError> {
        let registry = || repository.registry.clone();
        let mut request = self.http()?.get(realm).query(parameters);
        if let Some(mut header) = credentials.and_then(basic) {
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        let response = tokio::time::timeout(self.waits.stall, request.send())
            .await
            .map_err(|_elapsed| RemoteError::Stalled {
                registry: registry(),
                what: "a token".to_owned(),
                n_bytes: 0,
                n_attempts: 1,
            })?
            .map_err(|source| RemoteError::Connect {
                registry: registry(),
                source: source.without_url(),
            })?;
        if !response.status().is_success() {
            let reason = format!("its token service answers {}", response.status());
            return Err(RemoteError::Denied {
                registry: registry(),
                what: what.to_owned(),
                reason,
            });
        }
        let body = self
            .body(repository, response, "a token", TOKEN_BYTES_MAX)
            .await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
        let Some(TokenAnswer {
            token,
            access_token,
        }) = answer
        else {
            let problem = "is not JSON of the expected form".to_owned();
            return Err(RemoteError::Answer {
                registry: registry(),
                what: "a token".to_owned(),
                problem,
            });
        };
        let token = if token.is_empty() {
            access_token
        } else {
            token
        };
        Ok(HeaderValue::from_str(&format!("Bearer {token}")).ok())
    }
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let text = STANDARD.encode(format!("{}:{}", credentials.username, credentials.password));
    HeaderValue::from_str(&format!("Basic {text}")).ok()
}

#[cfg(test)]
mod tests {
    use super::Challenge;

    #[test]
    fn challenges_are_taken_apart() {
        let text = r#"Bearer realm="https://a/token",service="a, b",scope="repository:x:pull""#;
        let parameters = vec![
            ("service", "a, b".to_owned()),
            ("scope", "repository:x:pull".to_owned()),
        ];
        let realm = "https://a/token".to_owned();
        assert_eq!(
            Challenge::parse(text),
            Some(Challenge::Bearer { realm, parameters })
        );
        assert_eq!(Challenge::parse("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Bearer service=x"), None);
        assert_eq!(Challenge::parse("Bearer realm=\"x"), None);
        assert_eq!(Challenge::parse(""), None);
    }
}
