//! The built-in registry: the OCI distribution API v1.1 over the content store.
//!
//! ```text
//! request → auth (401, 403) → path (404) → body size (413) → blobs | manifests | uploads | lists
//! ```
//!
//! Repository names contain slashes, so paths are taken apart by hand from the
//! right ([`path`]). Uploads live in memory and in the store's `partial/`
//! ([`uploads`]); an unfinished one is gone after a restart, and clients begin anew.
//! Who may do what is decided by a [`RegistryAuth`]; everything needs a token.

mod blobs;
mod error;
mod lists;
mod manifests;
mod path;
#[cfg(test)]
mod tests;
mod uploads;

use crate::limits::{MANIFEST_BYTES_MAX, NON_UPLOAD_BODY_BYTES_MAX};
use crate::store::ContentStore;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{HeaderValue, Method, Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::any;
use base64::Engine as _;
use error::{RegistryCode, RegistryError};
use path::Route;
use roost_model::web::path::decode;
use std::sync::Arc;
use uploads::Uploads;

/// What a token may do in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryAccess {
    /// Pull and list.
    Read,
    /// Pull, list, push and delete.
    Write,
}

/// Who decides what a token may do.
#[async_trait]
pub trait RegistryAuth: Send + Sync + 'static {
    /// What the bearer of `secret` may do; `None` when it is no valid token.
    ///
    /// Must compare in constant time; may be called for every request.
    async fn check(&self, secret: &str) -> Option<RegistryAccess>;
}

struct Registry {
    store: ContentStore,
    auth: Arc<dyn RegistryAuth>,
    uploads: Uploads,
}

type Answer = Result<Response<Body>, RegistryError>;

/// The registry's routes, all under `/v2`: to be merged into the API's router.
pub fn router(store: ContentStore, auth: Arc<dyn RegistryAuth>) -> Router {
    let registry = Arc::new(Registry {
        store,
        auth,
        uploads: Uploads::default(),
    });
    Router::new()
        .route("/v2", any(answer))
        .route("/v2/", any(answer))
        .route("/v2/{*path}", any(answer))
        .with_state(registry)
}

async fn answer(State(registry): State<Arc<Registry>>, request: Request) -> Response<Body> {
    let mut response = match registry.dispatch(request).await {
        Ok(response) => response,
        Err(error) => {
            if error.status().is_server_error() {
                tracing::error!(error = %roost_model::error::chain(&error), "registry request failed");
            }
            error.into_response()
        }
    };
    let version = HeaderValue::from_static("registry/2.0");
    response
        .headers_mut()
        .insert("docker-distribution-api-version", version);
    response
}

impl Registry {
    async fn dispatch(&self, request: Request) -> Answer {
        let (parts, body) = request.into_parts();
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        self.allow(&parts.headers, is_read).await?;
        let route = Route::parse(parts.uri.path())?;
        limit_body(&route, &parts.method, &parts.headers)?;
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let (method, headers) = (parts.method, parts.headers);
        match route {
            Route::Base if is_read => Ok(json(StatusCode::OK, "{}".to_owned())),
            Route::Catalog if is_read => self.catalog(&query).await,
            Route::Tags { name } if is_read => self.tags(&name, &query).await,
            Route::Referrers { name, digest } if is_read => {
                self.referrers(&name, &digest, &query).await
            }
            Route::Blob { name, digest } => match method {
                Method::GET | Method::HEAD => self.blob(&name, &digest, &method, &headers).await,
                Method::DELETE => self.delete_blob(&name, &digest).await,
                _ => Err(RegistryError::method()),
            },
            Route::Manifest { name, reference } => match method {
                Method::GET | Method::HEAD => self.manifest(&name, &reference, &method).await,
                Method::PUT => self.put_manifest(&name, &reference, &headers, body).await,
                Method::DELETE => self.delete_manifest(&name, &reference).await,
                _ => Err(RegistryError::method()),
            },
            Route::Uploads { name } if method == Method::POST => {
                self.begin_upload(&name, &query, &headers, body).await
            }
            Route::Upload { name, id } => match method {
                Method::GET => self.upload_status(&name, &id),
                Method::PATCH => self.append_upload(&name, &id, &headers, body).await,
                Method::PUT => self.finish_upload(&name, &id, &query, &headers, body).await,
                Method::DELETE => self.cancel_upload(&name, &id),
                _ => Err(RegistryError::method()),
            },
            _ => Err(RegistryError::method()),
        }
    }

    async fn allow(&self, headers: &HeaderMap, is_read: bool) -> Result<(), RegistryError> {
        let unauthorized =
            || RegistryError::new(RegistryCode::Unauthorized, "a valid roost token is needed");
        let secret = secret(headers).ok_or_else(unauthorized)?;
        match self.auth.check(&secret).await {
            None => Err(unauthorized()),
            Some(RegistryAccess::Read) if !is_read => Err(RegistryError::new(
                RegistryCode::Denied,
                "this token may only pull",
            )),
            Some(RegistryAccess::Read | RegistryAccess::Write) => Ok(()),
        }
    }
}

/// The token of a request: a bearer token, or the password of any user.
fn secret(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(credentials)
        .ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    decoded
        .split_once(':')
        .map(|(_user, password)| password.to_owned())
}

/// Refuses a large body where none belongs, before any of it is read.
fn limit_body(route: &Route, method: &Method, headers: &HeaderMap) -> Result<(), RegistryError> {
    let bytes_max = match route {
        Route::Uploads { .. } | Route::Upload { .. } => return Ok(()),
        Route::Manifest { .. } if method == Method::PUT => MANIFEST_BYTES_MAX,
        _ => NON_UPLOAD_BODY_BYTES_MAX,
    };
    match content_length(headers) {
        Some(length) if length > bytes_max => Err(RegistryError::too_large(length, bytes_max)),
        _ => Ok(()),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// The query of a request, decoded.
#[derive(Debug)]
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(
            pairs
                .filter_map(|(key, value)| Some((key?, value?)))
                .collect(),
        )
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// An answer without a body. A header value that is not valid text is left out.
fn empty(status: StatusCode, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

/// Reads what clients send besides bodies; for the fuzz target.
///
/// # Panics
///
/// When a range that was accepted leaves the blob.
pub(crate) fn read_request_parts(path: &str, query: &str, range: &str, content_range: &str) {
    const SIZE: u64 = 1_000;
    drop(Route::parse(path));
    let query = Query::parse(query);
    drop(query.get("digest").map(path::digest));
    if let blobs::Slice::Part { start, length } = blobs::slice(range, SIZE) {
        assert!(length > 0 && start + length <= SIZE, "{range}");
    }
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(content_range) {
        headers.insert(header::CONTENT_RANGE, value);
        drop(uploads::check_chunk(&headers, 0));
    }
}
