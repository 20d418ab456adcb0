//! `/v1/apps/{app}/secrets`: write-only.

use super::extract::{Json as Body, Route};
use crate::app::secrets as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use roost_model::name::AppName;
use roost_proto::rest::{ErrorBody, SecretList, SetSecretRequest, SetSecretsRequest};

type Answer = Result<Json<SecretList>, ApiError>;

/// Names and digests of an app's secrets.
#[utoipa::path(get, path = "/v1/apps/{app}/secrets", tag = "secrets", operation_id = "list_secrets",
    params(("app" = String, Path, description = "name of the app")), responses((status = 200, body = SecretList)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
) -> Answer {
    Ok(Json(app::list(&ctx, &state, &name).await?))
}

/// Set and remove (`null`) secrets, all or none. Machines get them with the next deployment.
#[utoipa::path(post, path = "/v1/apps/{app}/secrets", tag = "secrets", operation_id = "set_secrets",
    request_body = SetSecretsRequest, params(("app" = String, Path, description = "name of the app")),
    responses((status = 200, body = SecretList), (status = 422, body = ErrorBody)))]
pub(super) async fn set(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<SetSecretsRequest>,
) -> Answer {
    Ok(Json(app::set(&ctx, &state, &name, request).await?))
}

/// Set one secret.
#[utoipa::path(post, path = "/v1/apps/{app}/secrets/{name}", tag = "secrets", operation_id = "set_secret",
    request_body = SetSecretRequest,
    params(("app" = String, Path, description = "name of the app"), ("name" = String, Path, description = "name")),
    responses((status = 200, body = SecretList), (status = 422, body = ErrorBody)))]
pub(super) async fn set_one(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, secret)): Route<(AppName, String)>,
    Body(request): Body<SetSecretRequest>,
) -> Answer {
    let values = [(secret, Some(request.value))].into();
    Ok(Json(
        app::set(&ctx, &state, &name, SetSecretsRequest { values }).await?,
    ))
}

/// Remove one secret.
#[utoipa::path(delete, path = "/v1/apps/{app}/secrets/{name}", tag = "secrets", operation_id = "remove_secret",
    params(("app" = String, Path, description = "name of the app"), ("name" = String, Path, description = "name")),
    responses((status = 200, body = SecretList)))]
pub(super) async fn remove_one(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, secret)): Route<(AppName, String)>,
) -> Answer {
    let values = [(secret, None)].into();
    Ok(Json(
        app::set(&ctx, &state, &name, SetSecretsRequest { values }).await?,
    ))
}
