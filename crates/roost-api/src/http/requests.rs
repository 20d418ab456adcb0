//! `/v1/requests`, `/v1/metrics`.

use super::extract::Route;
use crate::app::requests as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;
use roost_proto::rest::{ErrorBody, RequestRecord};

/// A request that the edge of this node has served, with its attempts and what its time went to.
/// Kept for an hour: failures and slow ones, up to 50 a second of the others and one in 1000
/// beyond, the newest 4096 of either.
#[utoipa::path(get, path = "/v1/requests/{id}", tag = "requests", operation_id = "get_request",
    params(("id" = String, Path, description = "id of the request, as its response's header `roost-request-id` says")),
    responses((status = 200, body = RequestRecord), (status = 404, body = ErrorBody)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(id): Route<String>,
) -> Result<Json<RequestRecord>, ApiError> {
    Ok(Json(app::get(&ctx, &state, &id)?))
}

/// What the edge of this node has counted since it began: responses and their times by app,
/// region and class of status, as text for Prometheus.
#[utoipa::path(get, path = "/v1/metrics", tag = "requests", operation_id = "get_metrics",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(
    State(state): State<ApiState>,
    ctx: RequestCtx,
) -> Result<impl IntoResponse, ApiError> {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], app::metrics(&ctx, &state)?))
}
