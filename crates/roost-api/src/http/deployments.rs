//! `/v1/apps/{app}/deployments`, and what makes a deployment from what is there.

use super::extract::{Json as Body, Route};
use crate::app::deployments as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use roost_model::name::AppName;
use roost_proto::rest::{CreateDeploymentRequest, Deployment, ErrorBody, RollbackRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Created = Result<(StatusCode, Json<Deployment>), ApiError>;

/// Begin a deployment of a new release.
#[utoipa::path(post, path = "/v1/apps/{app}/deployments", tag = "deployments", operation_id = "create_deployment",
    request_body = CreateDeploymentRequest, params(("app" = String, Path, description = "name of the app")),
    responses((status = 201, body = Deployment), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<CreateDeploymentRequest>,
) -> Created {
    Ok((
        StatusCode::CREATED,
        Json(app::create(&ctx, &state, &name, request).await?),
    ))
}

/// Deploy the current release again, for instance for new secrets.
#[utoipa::path(post, path = "/v1/apps/{app}/redeploy", tag = "deployments", operation_id = "redeploy",
    params(("app" = String, Path, description = "name of the app")),
    responses((status = 201, body = Deployment), (status = 409, body = ErrorBody)))]
pub(super) async fn redeploy(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
) -> Created {
    Ok((
        StatusCode::CREATED,
        Json(app::redeploy(&ctx, &state, &name).await?),
    ))
}

/// Deploy a copy of an earlier release.
#[utoipa::path(post, path = "/v1/apps/{app}/rollback", tag = "deployments", operation_id = "rollback",
    request_body = RollbackRequest, params(("app" = String, Path, description = "name of the app")),
    responses((status = 201, body = Deployment), (status = 409, body = ErrorBody)))]
pub(super) async fn rollback(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<RollbackRequest>,
) -> Created {
    Ok((
        StatusCode::CREATED,
        Json(app::rollback(&ctx, &state, &name, &request).await?),
    ))
}

/// The deployments of an app, newest first, without their steps.
#[utoipa::path(get, path = "/v1/apps/{app}/deployments", tag = "deployments", operation_id = "list_deployments",
    params(("app" = String, Path, description = "name of the app")),
    responses((status = 200, body = Vec<Deployment>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
) -> Result<Json<Vec<Deployment>>, ApiError> {
    Ok(Json(app::list(&ctx, &state, &name).await?))
}

/// One deployment with its steps.
#[utoipa::path(get, path = "/v1/apps/{app}/deployments/{id}", tag = "deployments", operation_id = "get_deployment",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "its id")),
    responses((status = 200, body = Deployment), (status = 404, body = ErrorBody)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): Route<(AppName, String)>,
) -> Result<Json<Deployment>, ApiError> {
    Ok(Json(app::get(&ctx, &state, &name, &id).await?))
}

/// Cancel a deployment: it is undone, and ends as `failed` with code `deploy-cancelled`.
#[utoipa::path(post, path = "/v1/apps/{app}/deployments/{id}/cancel", tag = "deployments", operation_id = "cancel_deployment",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "its id")),
    responses((status = 202, body = Deployment), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn cancel(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): Route<(AppName, String)>,
) -> Created {
    Ok((
        StatusCode::ACCEPTED,
        Json(app::cancel(&ctx, &state, &name, &id).await?),
    ))
}

/// The steps of a deployment as they happen, then the deployment: server-sent
/// events `step` and `deployment`. `Last-Event-ID` resumes.
#[utoipa::path(get, path = "/v1/apps/{app}/deployments/{id}/events", tag = "deployments",
    operation_id = "follow_deployment",
    params(("app" = String, Path, description = "name of the app"), ("id" = String, Path, description = "its id")),
    responses((status = 200, content_type = "text/event-stream"), (status = 404, body = ErrorBody)))]
pub(super) async fn events(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, id)): Route<(AppName, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    app::get(&ctx, &state, &name, &id).await?;
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let after = last.and_then(|text| text.parse().ok()).unwrap_or(0);
    let (sender, receiver) = mpsc::channel(limits::STREAM_QUEUE);
    state.tasks.clone().spawn("deployment events", async move {
        let stop = state.tasks.stopping();
        // A failure ends the stream; the client comes back with Last-Event-ID.
        drop(
            stop.run_until_cancelled(send_events(&state, &ctx, &name, &id, after, sender))
                .await,
        );
    });
    let stream = Sse::new(ReceiverStream::new(receiver));
    Ok(stream
        .keep_alive(KeepAlive::new().interval(limits::STREAM_KEEP_ALIVE))
        .into_response())
}

/// Sends steps after number `after`, and waits for more until the deployment has ended.
async fn send_events(
    state: &ApiState,
    ctx: &RequestCtx,
    name: &AppName,
    id: &str,
    mut after: u64,
    sender: mpsc::Sender<Result<Event, axum::Error>>,
) -> Result<(), ApiError> {
    let gone = |_| ApiError::internal("the reader left");
    let mut wake = state.deploy_steps.subscribe();
    loop {
        wake.mark_unchanged();
        let (has_ended, steps) = app::steps_after(ctx, state, name, id, after).await?;
        for step in &steps {
            let event = Event::default()
                .event("step")
                .id(step.seq.to_string())
                .json_data(step);
            sender.send(event).await.map_err(gone)?;
            after = step.seq;
        }
        if has_ended && steps.is_empty() {
            let deployment = app::get(ctx, state, name, id).await?;
            let event = Event::default().event("deployment").json_data(&deployment);
            return sender.send(event).await.map_err(gone);
        }
        if has_ended {
            continue;
        }
        tokio::select! {
            // Cancel-safe: the channel stays closed.
            () = sender.closed() => return Ok(()),
            // Cancel-safe: what changed is read again from the database.
            _ = wake.changed() => {}
            // Cancel-safe: a timer.
            () = tokio::time::sleep(limits::STREAM_POLL) => {}
        }
    }
}
