//! What this platform is, and who the caller is.

use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use roost_auth::policy::{Action, Caller};
use roost_model::machine::{Isolation, MachineState, Rung};
use roost_proto::rest::{NodeInfo, NodeRung, TokenInfo};

/// The node.
pub(crate) async fn node(ctx: &RequestCtx, state: &ApiState) -> Result<NodeInfo, ApiError> {
    ctx.allow(Action::SeePlatform, None)?;
    let machines = state.worker.machines(None).await?;
    let n_running = machines
        .iter()
        .filter(|machine| machine.state == MachineState::Started)
        .count();
    let rungs = state.worker.rungs().await?;
    let is_offered = |wanted: &&Rung| {
        rungs
            .iter()
            .any(|status| status.rung == **wanted && status.refusal.is_none())
    };
    let default = Isolation::Default.rungs().iter().find(is_offered);
    let node = &state.node;
    Ok(NodeInfo {
        version: node.version.clone(),
        region: node.region.to_string(),
        isolation: default.map(ToString::to_string),
        rungs: rungs
            .iter()
            .map(|status| NodeRung {
                rung: status.rung.to_string(),
                refusal: status.refusal.clone(),
            })
            .collect(),
        domains: node.domains.clone(),
        http_port: node.http_port,
        https_port: node.https_port,
        machines_running: u64::try_from(n_running).unwrap_or(u64::MAX),
        registry: node.registry.clone(),
    })
}

/// The caller's token.
pub(crate) async fn token(ctx: &RequestCtx, state: &ApiState) -> Result<TokenInfo, ApiError> {
    ctx.allow(Action::SeePlatform, None)?;
    let Caller::Token { id, .. } = &ctx.caller else {
        return Err(ApiError::not_found("not-found", "the caller has no token"));
    };
    let token =
        state.store.token(id).await?.ok_or_else(|| {
            ApiError::not_found("not-found", format!("token `{id}` does not exist"))
        })?;
    Ok(TokenInfo {
        id: token.id,
        name: token.name,
        scope: token.scope,
        created_at: token.created_at.as_ms(),
    })
}
