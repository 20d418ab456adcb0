//! `/v1/apps`.

use super::extract::{Json as Body, Params, Route};
use crate::app::apps as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use roost_model::name::AppName;
use roost_proto::rest::{App, AppList, CreateAppRequest, ErrorBody, OkResponse};
use serde::Deserialize;

/// What a listing may be narrowed by.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Only `personal` exists; every app belongs to it.
    pub(crate) org_slug: Option<String>,
}

/// How to remove.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ForceParams {
    /// Kill what runs, at once.
    pub(crate) force: bool,
    /// The same as `force`.
    pub(crate) kill: bool,
}

/// Create an app.
#[utoipa::path(post, path = "/v1/apps", tag = "apps", request_body = CreateAppRequest,
    responses((status = 201, body = App), (status = 422, body = ErrorBody)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Body(request): Body<CreateAppRequest>,
) -> Result<(StatusCode, Json<App>), ApiError> {
    Ok((
        StatusCode::CREATED,
        Json(app::create(&ctx, &state, request).await?),
    ))
}

/// List apps.
#[utoipa::path(get, path = "/v1/apps", tag = "apps", params(ListParams), responses((status = 200, body = AppList)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Params(params): Params<ListParams>,
) -> Result<Json<AppList>, ApiError> {
    let mut list = app::list(&ctx, &state).await?;
    if params.org_slug.is_some_and(|org| org != "personal") {
        list = AppList {
            total_apps: 0,
            apps: vec![],
        };
    }
    Ok(Json(list))
}

/// One app.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path, description = "name")),
    responses((status = 200, body = App), (status = 404, body = ErrorBody)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
) -> Result<Json<App>, ApiError> {
    Ok(Json(app::get(&ctx, &state, &name).await?))
}

/// Delete an app with its machines, releases, secrets and logs.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps",
    params(("app" = String, Path, description = "name"), ForceParams),
    responses((status = 202, body = OkResponse), (status = 409, body = ErrorBody)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Params(params): Params<ForceParams>,
) -> Result<(StatusCode, Json<OkResponse>), ApiError> {
    app::delete(&ctx, &state, &name, params.force || params.kill).await?;
    Ok((StatusCode::ACCEPTED, Json(OkResponse { ok: true })))
}
