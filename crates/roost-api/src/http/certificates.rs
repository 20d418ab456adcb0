//! `/v1/apps/{app}/certificates`: custom host names.

use super::extract::{Json as Body, Route};
use crate::app::certificates as app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use roost_model::host_name::HostName;
use roost_model::name::AppName;
use roost_proto::names::CertificatePem;
use roost_proto::rest::{
    Certificate, CertificateList, ErrorBody, IssueCertificateRequest, UploadCertificateRequest,
};

type Added = Result<(StatusCode, Json<Certificate>), ApiError>;
type At = Route<(AppName, HostName)>;

/// The custom host names of an app with their certificates.
#[utoipa::path(get, path = "/v1/apps/{app}/certificates", tag = "certificates", operation_id = "list_certificates",
    params(("app" = String, Path, description = "name of the app")), responses((status = 200, body = CertificateList)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
) -> Result<Json<CertificateList>, ApiError> {
    Ok(Json(app::list(&ctx, &state, &name).await?))
}

/// Add a host name and have a certificate issued for it.
#[utoipa::path(post, path = "/v1/apps/{app}/certificates/acme", tag = "certificates", operation_id = "issue_certificate",
    request_body = IssueCertificateRequest, params(("app" = String, Path, description = "name of the app")),
    responses((status = 201, body = Certificate), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn issue(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<IssueCertificateRequest>,
) -> Added {
    let added = app::issue(&ctx, &state, &name, &request.hostname).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Add a host name with a certificate of your own, or replace the one that it has.
#[utoipa::path(post, path = "/v1/apps/{app}/certificates/custom", tag = "certificates", operation_id = "upload_certificate",
    request_body = UploadCertificateRequest, params(("app" = String, Path, description = "name of the app")),
    responses((status = 201, body = Certificate), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn upload(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route(name): Route<AppName>,
    Body(request): Body<UploadCertificateRequest>,
) -> Added {
    let certificate = CertificatePem {
        chain: request.fullchain,
        key: request.private_key.into(),
    };
    let added = app::upload(&ctx, &state, &name, &request.hostname, certificate).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// One host name with its certificate and the last attempts to get one.
#[utoipa::path(get, path = "/v1/apps/{app}/certificates/{hostname}", tag = "certificates", operation_id = "get_certificate",
    params(("app" = String, Path, description = "name of the app"), ("hostname" = String, Path, description = "the host name")),
    responses((status = 200, body = Certificate), (status = 404, body = ErrorBody)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, host)): At,
) -> Result<Json<Certificate>, ApiError> {
    Ok(Json(app::get(&ctx, &state, &name, &host).await?))
}

/// Look where a host name leads, and try again now what failed.
#[utoipa::path(post, path = "/v1/apps/{app}/certificates/{hostname}/check", tag = "certificates", operation_id = "check_certificate",
    params(("app" = String, Path, description = "name of the app"), ("hostname" = String, Path, description = "the host name")),
    responses((status = 200, body = Certificate), (status = 404, body = ErrorBody)))]
pub(super) async fn check(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, host)): At,
) -> Result<Json<Certificate>, ApiError> {
    Ok(Json(app::check(&ctx, &state, &name, &host).await?))
}

/// Remove a host name; a certificate that was issued for it is revoked.
#[utoipa::path(delete, path = "/v1/apps/{app}/certificates/{hostname}", tag = "certificates", operation_id = "remove_certificate",
    params(("app" = String, Path, description = "name of the app"), ("hostname" = String, Path, description = "the host name")),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    ctx: RequestCtx,
    Route((name, host)): At,
) -> Result<StatusCode, ApiError> {
    app::remove(&ctx, &state, &name, &host).await?;
    Ok(StatusCode::NO_CONTENT)
}
