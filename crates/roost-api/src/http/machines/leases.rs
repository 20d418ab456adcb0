//! `/v1/apps/{app}/machines/{id}/lease`.

use super::{At, DONE, Done};
use crate::app::machines as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::http::extract::{Json as Body, Params, Route};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use roost_proto::rest::{ErrorBody, LeaseRequest, LeaseResponse, OkResponse};
use serde::Deserialize;

/// How long.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LeaseParams {
    /// Seconds from now, where the body does not say.
    ttl: Option<u64>,
}

/// Whose lease.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReleaseParams {
    /// Anybody's, without its nonce; the machine's history tells who did so.
    force: bool,
}

/// Take a lease: until it ends nobody else changes the machine. With the nonce of
/// one's own lease it is given more time.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/lease", tag = "machines", operation_id = "take_lease", request_body = LeaseRequest,
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine"), LeaseParams,
        ("roost-machine-lease-nonce" = Option<String>, Header, description = "nonce of one's own lease")),
    responses((status = 201, body = LeaseResponse), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(in crate::http) async fn take_lease(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Params(params): Params<LeaseParams>,
    Body(mut request): Body<LeaseRequest>,
) -> Result<(StatusCode, Json<LeaseResponse>), ApiError> {
    request.ttl = request.ttl.or(params.ttl);
    let lease = app::take_lease(&ctx, &state, &name, &id, request).await?;
    Ok((StatusCode::CREATED, Json(lease)))
}

/// The lease that holds now. Its nonce is only shown to who gives it.
#[utoipa::path(get, path = "/v1/apps/{app}/machines/{id}/lease", tag = "machines", operation_id = "get_lease",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = LeaseResponse), (status = 404, body = ErrorBody)))]
pub(in crate::http) async fn lease(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Result<Json<LeaseResponse>, ApiError> {
    Ok(Json(app::lease(&ctx, &state, &name, &id).await?))
}

/// Give a lease back.
#[utoipa::path(delete, path = "/v1/apps/{app}/machines/{id}/lease", tag = "machines", operation_id = "release_lease",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine"), ReleaseParams,
        ("roost-machine-lease-nonce" = Option<String>, Header, description = "nonce of the lease")),
    responses((status = 200, body = OkResponse), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(in crate::http) async fn release_lease(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Params(params): Params<ReleaseParams>,
) -> Done {
    app::release_lease(&ctx, &state, &name, &id, params.force).await?;
    Ok(DONE)
}
