//! `/v1/apps/{app}/operations`.

use super::extract::{Params, Route};
use crate::app::operations as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_proto::rest::ErrorBody;
use roost_proto::worker::Operation;
use serde::Deserialize;

/// Which operations.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OperationParams {
    /// Of this machine only.
    #[param(value_type = Option<String>)]
    pub(crate) machine: Option<MachineId>,
    /// Only those under way.
    pub(crate) unfinished: bool,
}

/// What was and is done to an app and its machines, newest first, without the steps.
#[utoipa::path(get, path = "/v1/apps/{app}/operations", tag = "operations", operation_id = "list_operations",
    params(("app" = String, Path, description = "name of the app"), OperationParams),
    responses((status = 200, body = Vec<Operation>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Params(params): Params<OperationParams>,
) -> Result<Json<Vec<Operation>>, ApiError> {
    let OperationParams {
        machine,
        unfinished,
    } = params;
    Ok(Json(
        app::list(&ctx, &state, &name, machine, unfinished).await?,
    ))
}

/// One operation with its steps.
#[utoipa::path(get, path = "/v1/apps/{app}/operations/{id}", tag = "operations", operation_id = "get_operation",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the operation")),
    responses((status = 200, body = Operation), (status = 404, body = ErrorBody)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): Route<(AppName, String)>,
) -> Result<Json<Operation>, ApiError> {
    Ok(Json(app::get(&ctx, &state, &name, &id).await?))
}

/// Cancel an operation: a deployment is undone, unless it is past its point of no return; a
/// machine that is on its way to start is stopped.
#[utoipa::path(post, path = "/v1/apps/{app}/operations/{id}/cancel", tag = "operations", operation_id = "cancel_operation",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the operation")),
    responses((status = 202, body = Operation), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn cancel(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): Route<(AppName, String)>,
) -> Result<(StatusCode, Json<Operation>), ApiError> {
    let operation = app::cancel(&ctx, &state, &name, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
