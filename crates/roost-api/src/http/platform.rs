//! `/v1/node`, `/v1/token`, `/v1/openapi.json`, `/healthz`.

use crate::app::platform as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;
use roost_proto::rest::{NodeInfo, TokenInfo};

/// What this platform is.
#[utoipa::path(get, path = "/v1/node", tag = "platform", responses((status = 200, body = NodeInfo)))]
pub(super) async fn node(
    State(state): State<ApiState>,
    ctx: RequestCtx,
) -> Result<Json<NodeInfo>, ApiError> {
    Ok(Json(app::node(&ctx, &state).await?))
}

/// Who the caller is.
#[utoipa::path(get, path = "/v1/token", tag = "platform", responses((status = 200, body = TokenInfo)))]
pub(super) async fn token(
    State(state): State<ApiState>,
    ctx: RequestCtx,
) -> Result<Json<TokenInfo>, ApiError> {
    Ok(Json(app::token(&ctx, &state).await?))
}

pub(super) fn openapi(document: String) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document)
}

/// Answers as long as the process does; needs no token.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}
