//! `/v1/apps/{app}/releases`.

use super::extract::Route;
use crate::app::releases as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use roost_model::name::AppName;
use roost_proto::rest::{ErrorBody, Release};

/// The releases of an app, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/releases", tag = "releases", operation_id = "list_releases",
    params(("app" = String, Path, description = "name of the app")), responses((status = 200, body = Vec<Release>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
) -> Result<Json<Vec<Release>>, ApiError> {
    Ok(Json(app::list(&ctx, &state, &name).await?))
}

/// One release.
#[utoipa::path(get, path = "/v1/apps/{app}/releases/{version}", tag = "releases", operation_id = "get_release",
    params(("app" = String, Path, description = "name of the app"), ("version" = u64, Path, description = "number")),
    responses((status = 200, body = Release), (status = 404, body = ErrorBody)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, version)): Route<(AppName, u64)>,
) -> Result<Json<Release>, ApiError> {
    Ok(Json(app::get(&ctx, &state, &name, version).await?))
}
