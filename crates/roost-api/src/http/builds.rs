//! `/v1/apps/{app}/builds`.

use super::extract::{Params, Route};
use super::lines::lines;
use crate::app::builds as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures_util::{StreamExt as _, TryStreamExt as _};
use roost_model::name::AppName;
use roost_proto::rest::BuildEvent;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;

/// How to build.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BuildParams {
    /// A build plan as JSON: `{"kind":"static","root":"public"}`.
    pub(crate) plan: String,
}

/// Build an image from a tar of a folder; answers one JSON event per line.
#[utoipa::path(post, path = "/v1/apps/{app}/builds", tag = "builds", operation_id = "build",
    params(("app" = String, Path, description = "name of the app"), BuildParams),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = BuildEvent, content_type = "application/x-ndjson")))]
pub(super) async fn create(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Params(params): Params<BuildParams>,
    body: Body,
) -> Result<Response, ApiError> {
    let upload = body
        .into_data_stream()
        .map_err(std::io::Error::other)
        .boxed();
    let events = app::begin(&ctx, &state, &name, &params.plan, upload).await?;
    Ok(lines(ReceiverStream::new(events)))
}
