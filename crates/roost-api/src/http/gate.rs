//! What every request goes through: a request id, the bodies of errors, who asks.

use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use roost_auth::policy::{Caller, Denied, Scope};
use roost_auth::token::{TokenHash, TokenSecret};
use roost_model::id::RequestId;
use roost_proto::rest::{ErrorBody, IDEMPOTENCY_KEY, LEASE_NONCE, LEASE_NONCE_FLY, REQUEST_ID};
use roost_proto::worker::LeaseNonce;
use std::panic::AssertUnwindSafe;
use tracing::Instrument as _;

/// The id of a request, kept with it.
#[derive(Debug, Clone)]
struct Id(String);

/// Names the request, and writes the body of an error with that name in it.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let id = RequestId::from_ulid(ulid::Ulid::generate()).to_string();
    request.extensions_mut().insert(Id(id.clone()));
    let span =
        tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    let answered = AssertUnwindSafe(next.run(request).instrument(span)).catch_unwind();
    // The panic hook has said where. What the handler held goes with it.
    let mut response = answered
        .await
        .unwrap_or_else(|_| ApiError::internal("the request's handler panicked").into_response());
    if let Some(mut body) = response.extensions_mut().remove::<ErrorBody>() {
        body.request_id.clone_from(&id);
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut with_body = (response.status(), text).into_response();
        with_body
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response = with_body;
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Finds out who asks, and turns strangers away.
pub(super) async fn authenticate(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match find_caller(&state, request.headers()).await {
        Ok(Caller::Anonymous) => return ApiError::from(Denied::Unauthenticated).into_response(),
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let ctx = match build_ctx(caller, &request) {
        Ok(ctx) => ctx,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(ctx);
    next.run(request).await
}

/// The caller that an `Authorization` header stands for.
async fn find_caller(state: &ApiState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let header = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let Some(secret) = header.and_then(TokenSecret::from_authorization) else {
        return Ok(Caller::Anonymous);
    };
    find_bearer(state, &secret).await
}

/// The caller that a token stands for.
pub(crate) async fn find_bearer(
    state: &ApiState,
    secret: &TokenSecret,
) -> Result<Caller, ApiError> {
    let hash = secret.hash();
    let Some(record) = state.store.token_by_hash(&hash.to_hex()).await? else {
        return Ok(Caller::Anonymous);
    };
    // The lookup is by index; this comparison is the one that decides.
    let same = TokenHash::parse(&record.hash).is_some_and(|stored| stored.matches(&hash));
    Ok(match Scope::parse(&record.scope) {
        Some(scope) if same => Caller::Token {
            id: record.id,
            name: record.name,
            scope,
        },
        _ => Caller::Anonymous,
    })
}

fn build_ctx(caller: Caller, request: &Request) -> Result<RequestCtx, ApiError> {
    let idempotency_key = match request.headers().get(IDEMPOTENCY_KEY) {
        None => None,
        Some(value) => match value.to_str() {
            Ok(key) if !key.is_empty() && key.len() <= limits::IDEMPOTENCY_KEY_BYTES_MAX => {
                Some(key.to_owned())
            }
            _ => {
                let max = limits::IDEMPOTENCY_KEY_BYTES_MAX;
                return Err(ApiError::malformed(format!(
                    "`idempotency-key` must be 1 to {max} ASCII characters"
                )));
            }
        },
    };
    let request_id = request
        .extensions()
        .get::<Id>()
        .map(|id| id.0.clone())
        .unwrap_or_default();
    Ok(RequestCtx {
        caller,
        request_id,
        idempotency_key,
        lease_nonce: lease_nonce(request.headers())?,
    })
}

/// The nonce in whichever of its headers; two different ones are refused.
fn lease_nonce(headers: &HeaderMap) -> Result<Option<LeaseNonce>, ApiError> {
    let mut found = None;
    for name in [LEASE_NONCE, LEASE_NONCE_FLY] {
        for value in headers.get_all(name) {
            let nonce = value.to_str().ok().and_then(LeaseNonce::parse);
            match (nonce, &found) {
                (Some(nonce), None) => found = Some(nonce),
                (Some(nonce), Some(other)) if nonce == *other => {}
                _ => {
                    let text = format!("`{LEASE_NONCE}` is not one nonce of visible characters");
                    return Err(ApiError::malformed(text));
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::identify;
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn broken() -> &'static str {
        panic!("a fault in a handler")
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_as_an_internal_error() {
        let router = Router::new()
            .route("/broken", get(broken))
            .layer(from_fn(identify));
        let request = Request::builder().uri("/broken");
        let response = router
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(error["code"], "internal");
        assert!(error["request_id"].as_str().unwrap().starts_with("req_"));
    }
}
