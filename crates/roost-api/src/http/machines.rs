//! `/v1/apps/{app}/machines`.

mod leases;
mod metadata;
mod query;

pub(super) use leases::*;
pub(super) use metadata::*;

use super::apps::ForceParams;
use super::extract::{Json as Body, Params, Route};
use crate::app::machines as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_proto::rest::{
    CreateMachineRequest, ErrorBody, ExecRequest, ExecResponse, Machine, MachineEvent, OkResponse,
    PatchMachineRequest, Process, SignalRequest, StartResponse, StopRequest, UpdateMachineRequest,
};
use serde::Deserialize;

/// How much history.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// The newest this many; 20 by default, at most 200.
    pub(crate) limit: Option<usize>,
}

type At = Route<(AppName, MachineId)>;
type Done = Result<Json<OkResponse>, ApiError>;

const DONE: Json<OkResponse> = Json(OkResponse { ok: true });

/// Create a machine and, unless `skip_launch`, start it.
#[utoipa::path(post, path = "/v1/apps/{app}/machines", tag = "machines", request_body = CreateMachineRequest,
    operation_id = "create_machine", params(("app" = String, Path, description = "name of the app")),
    responses((status = 201, body = Machine), (status = 422, body = ErrorBody)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<CreateMachineRequest>,
) -> Result<(StatusCode, Json<Machine>), ApiError> {
    Ok((
        StatusCode::CREATED,
        Json(app::create(&ctx, &state, &name, request).await?),
    ))
}

/// List the machines of an app, all or some.
#[utoipa::path(get, path = "/v1/apps/{app}/machines", tag = "machines", operation_id = "list_machines",
    params(("app" = String, Path, description = "name of the app"), query::ListParams),
    responses((status = 200, body = Vec<Machine>), (status = 400, body = ErrorBody)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Params(pairs): Params<query::Pairs>,
) -> Result<Json<Vec<Machine>>, ApiError> {
    let filter = query::list_filter(pairs)?;
    Ok(Json(app::list(&ctx, &state, &name, &filter).await?))
}

/// One machine with its newest events.
#[utoipa::path(get, path = "/v1/apps/{app}/machines/{id}", tag = "machines", operation_id = "get_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = Machine), (status = 404, body = ErrorBody)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Result<Json<Machine>, ApiError> {
    Ok(Json(app::get(&ctx, &state, &name, &id).await?))
}

/// Replace the whole config of a machine.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}", tag = "machines", operation_id = "update_machine", request_body = UpdateMachineRequest,
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = Machine), (status = 404, body = ErrorBody)))]
pub(super) async fn update(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Body(request): Body<UpdateMachineRequest>,
) -> Result<Json<Machine>, ApiError> {
    Ok(Json(app::update(&ctx, &state, &name, &id, request).await?))
}

/// Change some of the config of a machine, if its version is still the one that was seen.
#[utoipa::path(patch, path = "/v1/apps/{app}/machines/{id}", tag = "machines", operation_id = "patch_machine", request_body = PatchMachineRequest,
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = Machine), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn patch(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Body(request): Body<PatchMachineRequest>,
) -> Result<Json<Machine>, ApiError> {
    Ok(Json(app::patch(&ctx, &state, &name, &id, request).await?))
}

/// The processes that run in a machine.
#[utoipa::path(get, path = "/v1/apps/{app}/machines/{id}/ps", tag = "machines", operation_id = "list_processes",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = Vec<Process>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(super) async fn processes(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Result<Json<Vec<Process>>, ApiError> {
    Ok(Json(app::processes(&ctx, &state, &name, &id).await?))
}

/// Remove a machine.
#[utoipa::path(delete, path = "/v1/apps/{app}/machines/{id}", tag = "machines", operation_id = "destroy_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine"), ForceParams),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn destroy(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Params(params): Params<ForceParams>,
) -> Done {
    app::destroy(&ctx, &state, &name, &id, params.force || params.kill).await?;
    Ok(DONE)
}

/// Begin to start a machine.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/start", tag = "machines", operation_id = "start_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = StartResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn start(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Result<Json<StartResponse>, ApiError> {
    Ok(Json(app::start(&ctx, &state, &name, &id).await?))
}

/// Begin to stop a machine.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/stop", tag = "machines", operation_id = "stop_machine", request_body = StopRequest,
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn stop(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Body(request): Body<StopRequest>,
) -> Done {
    app::stop(&ctx, &state, &name, &id, request).await?;
    Ok(DONE)
}

/// Begin to suspend a machine: its memory goes to disk, and a start goes on from there.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/suspend", tag = "machines", operation_id = "suspend_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(super) async fn suspend(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Done {
    app::suspend(&ctx, &state, &name, &id).await?;
    Ok(DONE)
}

/// Stop and start a machine.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/restart", tag = "machines", operation_id = "restart_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn restart(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Done {
    app::restart(&ctx, &state, &name, &id).await?;
    Ok(DONE)
}

/// Send a signal to the first process of a machine.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/signal", tag = "machines", operation_id = "signal_machine", request_body = SignalRequest,
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn signal(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Body(request): Body<SignalRequest>,
) -> Done {
    let signal = match &request.signal {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    app::signal(&ctx, &state, &name, &id, &signal).await?;
    Ok(DONE)
}

/// Take a machine out of routing.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/cordon", tag = "machines", operation_id = "cordon_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn cordon(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Done {
    app::set_cordoned(&ctx, &state, &name, &id, true).await?;
    Ok(DONE)
}

/// Put a machine back into routing.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/uncordon", tag = "machines", operation_id = "uncordon_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn uncordon(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
) -> Done {
    app::set_cordoned(&ctx, &state, &name, &id, false).await?;
    Ok(DONE)
}

/// Wait until a machine is in a state; 408 when it is not in time.
#[utoipa::path(get, path = "/v1/apps/{app}/machines/{id}/wait", tag = "machines", operation_id = "wait_machine",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine"), query::WaitParams),
    responses((status = 200, body = OkResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn wait(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Params(pairs): Params<query::Pairs>,
) -> Done {
    app::wait(&ctx, &state, &name, &id, query::wait(pairs)?).await?;
    Ok(DONE)
}

/// The history of a machine, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/machines/{id}/events", tag = "machines", operation_id = "list_machine_events",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine"), EventParams),
    responses((status = 200, body = Vec<MachineEvent>), (status = 404, body = ErrorBody)))]
pub(super) async fn events(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Params(params): Params<EventParams>,
) -> Result<Json<Vec<MachineEvent>>, ApiError> {
    Ok(Json(
        app::events(&ctx, &state, &name, &id, params.limit).await?,
    ))
}

/// Run a command in a machine.
#[utoipa::path(post, path = "/v1/apps/{app}/machines/{id}/exec", tag = "machines", operation_id = "exec_in_machine", request_body = ExecRequest,
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "id of the machine")),
    responses((status = 200, body = ExecResponse), (status = 404, body = ErrorBody)))]
pub(super) async fn exec(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): At,
    Body(request): Body<ExecRequest>,
) -> Result<Json<ExecResponse>, ApiError> {
    Ok(Json(app::exec(&ctx, &state, &name, &id, request).await?))
}
