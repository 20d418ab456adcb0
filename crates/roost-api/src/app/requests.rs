//! Requests that the edge of this node has served.

use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use roost_auth::policy::Action;
use roost_model::name::AppName;
use roost_proto::rest::RequestRecord;

/// A request of late. It belongs to its app, as the app's logs do; one that no app
/// answered, and one that is not known, are the platform's.
pub(crate) fn get(ctx: &RequestCtx, state: &ApiState, id: &str) -> Result<RequestRecord, ApiError> {
    let records = state.edge_records.get();
    let found = records.and_then(|records| records.request(id));
    let app = found.as_ref().and_then(|record| record.app.as_deref());
    let app = app.and_then(|name| AppName::parse(name).ok());
    ctx.allow(Action::ReadLogs, app.as_ref())?;
    let found = found.ok_or_else(|| {
        let id: String = id.chars().take(limits::REQUEST_ID_SHOWN_MAX).collect();
        let message = format!("no request `{id}` is kept");
        ApiError::not_found("request-not-found", message)
            .with_hint("`roost help errors request-not-found` says which are kept")
    })?;
    Ok(RequestRecord::clone(&found))
}

/// What the edge of this node has counted, as text for Prometheus; nothing without an edge.
pub(crate) fn metrics(ctx: &RequestCtx, state: &ApiState) -> Result<String, ApiError> {
    ctx.allow(Action::ReadMetrics, None)?;
    let records = state.edge_records.get();
    Ok(records.map_or_else(String::new, |records| records.metrics()))
}
