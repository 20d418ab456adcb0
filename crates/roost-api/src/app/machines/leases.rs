//! Leases on machines.

use super::{find, find_free};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use crate::view;
use roost_auth::policy::Action;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_proto::rest::{LEASE_NONCE, LeaseRequest, LeaseResponse};
use roost_proto::worker::{Asker, LeaseNonce, ReleaseLease, TakeLease, WorkerError};
use std::time::Duration;

fn new_nonce() -> LeaseNonce {
    LeaseNonce::from_bytes(ulid::Ulid::generate().to_bytes())
}

/// The lease that a creation asks for.
pub(super) fn with_creation(ttl: u64) -> TakeLease {
    TakeLease {
        nonce: new_nonce(),
        ttl: Duration::from_secs(ttl),
        description: String::new(),
    }
}

/// The nonce, unless the machine was made by an earlier try, with another.
pub(super) async fn nonce_if_held(
    state: &ApiState,
    id: &MachineId,
    nonce: LeaseNonce,
    mut asker: Asker,
) -> Result<Option<String>, ApiError> {
    asker.lease_nonce = Some(nonce.clone());
    let lease = state.worker.lease(id, &asker).await?;
    let is_held = lease.is_some_and(|lease| lease.is_own);
    Ok(is_held.then(|| nonce.expose().to_owned()))
}

/// Takes a lease, or gives more time to the one whose nonce came with the request.
pub(crate) async fn take_lease(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    request: LeaseRequest,
) -> Result<LeaseResponse, ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    find_free(state, app, id).await?;
    let nonce = ctx.lease_nonce.clone().unwrap_or_else(new_nonce);
    let ttl = request
        .ttl
        .map_or(limits::LEASE_TTL_DEFAULT, Duration::from_secs);
    let take = TakeLease {
        nonce: nonce.clone(),
        ttl,
        description: request.description.unwrap_or_default(),
    };
    let lease = state.worker.take_lease(id, take, &ctx.asker()).await?;
    Ok(view::lease(lease, Some(&nonce)))
}

/// The lease that holds now. Its nonce is told to none but who gave it.
pub(crate) async fn lease(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<LeaseResponse, ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    find(state, app, id).await?;
    match state.worker.lease(id, &ctx.asker()).await? {
        Some(lease) => Ok(view::lease(lease, ctx.lease_nonce.as_ref())),
        None => Err(ApiError::not_found(
            "lease-not-found",
            format!("machine {id} has no lease"),
        )),
    }
}

/// Gives back the lease whose nonce came with the request; with `force`, any.
pub(crate) async fn release_lease(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    force: bool,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    find(state, app, id).await?;
    let how = match (force, &ctx.lease_nonce) {
        (true, _) => ReleaseLease::Any,
        (false, Some(_)) => ReleaseLease::Own,
        (false, None) => {
            return Err(ApiError::malformed(format!("`{LEASE_NONCE}` is missing")));
        }
    };
    match state.worker.release_lease(id, how, &ctx.asker()).await {
        // As the Machines API answers a wrong nonce.
        Err(error @ WorkerError::Leased { .. }) => {
            let text = format!("the nonce is not that of the lease: {error}");
            Err(ApiError::malformed(text))
        }
        result => Ok(result?),
    }
}
