//! HTTP: routes, what every request goes through, the OpenAPI document.

mod addresses;
mod apps;
mod builds;
mod certificates;
mod deployments;
mod extract;
mod gate;
mod images;
mod lines;
mod logs;
pub(crate) mod machines;
mod operations;
mod platform;
mod releases;
mod requests;
mod secrets;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use gate::find_bearer;

use crate::error::ApiError;
use crate::state::ApiState;
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use roost_image::ContentStore;
use std::sync::Arc;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "roost", description = "The REST API of roost.", version = "1"),
    security(("token" = [])),
    modifiers(&TokenScheme)
)]
struct Document;

/// Says that every route takes a bearer token.
struct TokenScheme;

impl utoipa::Modify for TokenScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme(
            "token",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        );
    }
}

fn v1() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(platform::node))
        .routes(routes!(platform::token))
        .routes(routes!(apps::create, apps::list))
        .routes(routes!(apps::get, apps::delete))
        .routes(routes!(machines::create, machines::list))
        .routes(routes!(
            machines::get,
            machines::update,
            machines::patch,
            machines::destroy
        ))
        .routes(routes!(machines::start))
        .routes(routes!(machines::stop))
        .routes(routes!(machines::suspend))
        .routes(routes!(machines::restart))
        .routes(routes!(machines::signal))
        .routes(routes!(machines::cordon))
        .routes(routes!(machines::uncordon))
        .routes(routes!(machines::wait))
        .routes(routes!(machines::events))
        .routes(routes!(machines::exec))
        .routes(routes!(machines::processes))
        .routes(routes!(
            machines::take_lease,
            machines::lease,
            machines::release_lease
        ))
        .routes(routes!(machines::metadata))
        .routes(routes!(machines::set_metadata, machines::remove_metadata))
        .routes(routes!(deployments::create, deployments::list))
        .routes(routes!(deployments::get))
        .routes(routes!(deployments::events))
        .routes(routes!(deployments::cancel))
        .routes(routes!(deployments::redeploy))
        .routes(routes!(deployments::rollback))
        .routes(routes!(operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(operations::cancel))
        .routes(routes!(requests::get))
        .routes(routes!(requests::metrics))
        .routes(routes!(releases::list))
        .routes(routes!(releases::get))
        .routes(routes!(secrets::list, secrets::set))
        .routes(routes!(secrets::set_one, secrets::remove_one))
        .routes(routes!(certificates::list))
        .routes(routes!(certificates::issue))
        .routes(routes!(certificates::upload))
        .routes(routes!(certificates::get, certificates::remove))
        .routes(routes!(certificates::check))
        .routes(routes!(addresses::list, addresses::allocate))
        .routes(routes!(addresses::release))
        .routes(routes!(logs::logs))
        .routes(routes!(builds::create))
        .routes(routes!(images::pull))
}

/// The OpenAPI document of everything under `/v1`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    v1().into_openapi()
}

/// The API and the built-in registry as one service.
pub fn router(state: ApiState, registry: ContentStore) -> Router {
    let registry = roost_image::registry::router(registry, Arc::new(state.clone()));
    api_router(state).merge(registry)
}

/// The API alone.
fn api_router(state: ApiState) -> Router {
    let (routes, document) = v1().split_for_parts();
    let document = serde_json::to_string(&document).unwrap_or_default();
    let routes = routes
        .route(
            "/v1/openapi.json",
            get(move || async move { platform::openapi(document) }),
        )
        .fallback(|| async {
            ApiError::not_found("route-not-found", "there is nothing at this path")
        })
        .method_not_allowed_fallback(|| async { ApiError::malformed_method() })
        // Before anything else: who asks. Unknown paths tell a stranger nothing either.
        .layer(from_fn_with_state(state.clone(), gate::authenticate))
        .with_state(state);
    Router::new()
        .route("/healthz", get(platform::healthz))
        .merge(routes)
        .layer(from_fn(gate::identify))
}
