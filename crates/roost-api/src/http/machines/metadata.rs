//! `/v1/apps/{app}/machines/{id}/metadata`.

use super::At;
use crate::app::machines as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::http::extract::{Json as Body, Route};
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_proto::rest::{ErrorBody, SetMetadataRequest};
use std::collections::BTreeMap;

type Entry = Route<(AppName, MachineId, String)>;

/// The metadata of a machine.
#[utoipa::path(get, path = "/v1/apps/{app}/machines/{id}/metadata", tag = "machines", operation_id = "get_metadata",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = BTreeMap<String, String>), (status = 404, body = ErrorBody)))]
pub(in crate::http) async fn metadata(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Result<Json<BTreeMap<String, String>>, ApiError> {
    Ok(Json(app::metadata(&ctx, &state, &name, &id).await?))
}

/// Set one entry of the metadata of a machine; this makes no new version.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/metadata/{key}", tag = "machines", operation_id = "set_metadata", request_body = SetMetadataRequest,
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine"),
        ("key" = String, Path, description = "the key; `fly_…` and `roost_…` are reserved")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(in crate::http) async fn set_metadata(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id, key)): Entry,
    Body(request): Body<SetMetadataRequest>,
) -> Result<StatusCode, ApiError> {
    app::set_metadata(&ctx, &state, &name, &id, (&key, request.value)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove one entry of the metadata of a machine.
#[utoipa::path(delete, path = "/v1/apps/{app}/machines/{id}/metadata/{key}", tag = "machines", operation_id = "remove_metadata",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine"),
        ("key" = String, Path, description = "the key; `fly_…` and `roost_…` are reserved")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(in crate::http) async fn remove_metadata(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id, key)): Entry,
) -> Result<StatusCode, ApiError> {
    app::remove_metadata(&ctx, &state, &name, &id, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}
