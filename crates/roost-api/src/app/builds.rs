//! Builds: an uploaded folder becomes an image in the built-in registry.

use super::find_app;
use crate::ctx::{RequestCtx, work_permit};
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use roost_auth::policy::Action;
use roost_model::name::AppName;
use roost_proto::rest::{BuildEvent, BuildPlan};
use tokio::sync::mpsc;

/// Begins a build; the channel ends with `Done` or `Failed`.
///
/// The upload comes from the caller's connection, and fails when that ends before it is whole.
/// From then on the build goes on when the caller leaves.
pub(crate) async fn begin(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    plan: &str,
    upload: BoxStream<'static, std::io::Result<Bytes>>,
) -> Result<mpsc::Receiver<BuildEvent>, ApiError> {
    ctx.allow(Action::Deploy, Some(name))?;
    find_app(state, name).await?;
    let plan: BuildPlan = serde_json::from_str(plan).map_err(|error| {
        ApiError::malformed(format!("query `plan` is not a build plan: {error}"))
    })?;
    let (sender, receiver) = mpsc::channel(limits::STREAM_QUEUE);
    let builder = state.builder.clone();
    let app = name.clone();
    let permit = work_permit(state)?;
    state.tasks.spawn("build", async move {
        let _permit = permit;
        builder.build(app, plan, upload, sender).await
    });
    Ok(receiver)
}
