//! Reading paths, queries and bodies, with errors in the API's own form.

use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use roost_auth::policy::Denied;
use roost_model::error::{Blame, CallerFault};
use serde::de::DeserializeOwned;

impl<S: Send + Sync> FromRequestParts<S> for RequestCtx {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        // Set by the gate; a route outside it has no caller, and is denied.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Denied::Unauthenticated.into())
    }
}

/// The variable parts of the path.
pub(super) struct Route<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Route<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Invalid URL: ").unwrap_or(&text);
                Err(ApiError::malformed(format!("path: {text}")))
            }
        }
    }
}

/// The query; an unknown member is refused.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Err(ApiError::malformed(format!("query: {text}")))
            }
        }
    }
}

/// A JSON body of bounded size. An empty one is an empty object.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let announced = request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u64>().ok());
        let max = u64::try_from(limits::BODY_BYTES_MAX).unwrap_or(u64::MAX);
        if announced.is_some_and(|length| length > max) {
            return Err(too_large());
        }
        let bytes = tokio::time::timeout(limits::BODY_READ_TIMEOUT, read(request.into_body()))
            .await
            .map_err(|_| ApiError::malformed("the body did not arrive in time"))??;
        let bytes: &[u8] = if bytes.iter().all(u8::is_ascii_whitespace) {
            b"{}"
        } else {
            &bytes
        };
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|error| ApiError::malformed(format!("body: {error}")))
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, ApiError> {
    match Limited::new(body, limits::BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(ApiError::malformed(format!(
            "the body was cut short: {error}"
        ))),
    }
}

fn too_large() -> ApiError {
    let max = limits::BODY_BYTES_MAX;
    ApiError::new(
        Blame::Caller(CallerFault::TooLarge),
        "body-too-large",
        format!("the body is larger than {max} bytes"),
    )
}
