//! `/v1/apps/{app}/logs`.

use super::extract::{Params, Route};
use crate::app::logs::{self as app, LogParams};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use roost_model::name::AppName;
use roost_proto::logs::LogRecord;

/// Log records of an app; with `follow=true` as server-sent events that go on.
#[utoipa::path(get, path = "/v1/apps/{app}/logs", tag = "logs", operation_id = "read_logs",
    params(("app" = String, Path, description = "name of the app"), LogParams),
    responses((status = 200, body = Vec<LogRecord>)))]
pub(super) async fn logs(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Params(params): Params<LogParams>,
) -> Result<Response, ApiError> {
    if !params.follow {
        return Ok(Json(app::query(&ctx, &state, &name, &params).await?).into_response());
    }
    let events = app::follow(&ctx, &state, &name, &params)
        .await?
        .map(|record| Event::default().json_data(&record));
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::new().interval(limits::STREAM_KEEP_ALIVE))
        .into_response())
}
