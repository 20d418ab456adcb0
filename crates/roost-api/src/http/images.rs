//! `/v1/apps/{app}/images`.

use super::extract::{Json as Body, Route};
use super::lines::lines;
use crate::app::images as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::extract::State;
use axum::response::Response;
use roost_model::name::AppName;
use roost_proto::rest::{ErrorBody, PullEvent, PullImageRequest};

/// Have the platform pull an image for a deployment; answers one JSON event per line.
#[utoipa::path(post, path = "/v1/apps/{app}/images", tag = "images", operation_id = "pull_image",
    params(("app" = String, Path, description = "name of the app")), request_body = PullImageRequest,
    responses((status = 200, body = PullEvent, content_type = "application/x-ndjson"),
        (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn pull(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<PullImageRequest>,
) -> Result<Response, ApiError> {
    Ok(lines(app::pull(&ctx, &state, &name, &request).await?))
}
