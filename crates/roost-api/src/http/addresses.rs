//! `/v1/apps/{app}/ip_assignments`: dedicated addresses.

use super::extract::{Json as Body, Route};
use crate::app::addresses as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use roost_model::name::AppName;
use roost_proto::rest::{AssignIpRequest, ErrorBody, IpAssignment, IpAssignmentList};
use std::net::IpAddr;

/// The addresses that are this app's alone.
#[utoipa::path(get, path = "/v1/apps/{app}/ip_assignments", tag = "addresses", operation_id = "list_ip_assignments",
    params(("app" = String, Path, description = "name of the app")), responses((status = 200, body = IpAssignmentList)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
) -> Result<Json<IpAssignmentList>, ApiError> {
    Ok(Json(app::list(&ctx, &state, &name).await?))
}

/// Give the app an address of its own.
#[utoipa::path(post, path = "/v1/apps/{app}/ip_assignments", tag = "addresses", operation_id = "assign_ip",
    request_body = AssignIpRequest, params(("app" = String, Path, description = "name of the app")),
    responses((status = 201, body = IpAssignment), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn allocate(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<AssignIpRequest>,
) -> Result<(StatusCode, Json<IpAssignment>), ApiError> {
    let assigned = app::allocate(&ctx, &state, &name, &request.kind).await?;
    Ok((StatusCode::CREATED, Json(assigned)))
}

/// Take an address from the app.
#[utoipa::path(delete, path = "/v1/apps/{app}/ip_assignments/{ip}", tag = "addresses", operation_id = "release_ip",
    params(("app" = String, Path, description = "name of the app"), ("ip" = String, Path, description = "the address")),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(super) async fn release(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, address)): Route<(AppName, IpAddr)>,
) -> Result<StatusCode, ApiError> {
    app::release(&ctx, &state, &name, address).await?;
    Ok(StatusCode::NO_CONTENT)
}
