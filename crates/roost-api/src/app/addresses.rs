//! Dedicated addresses: list, allocate, release.

use super::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::host_names::publish;
use crate::state::ApiState;
use roost_auth::policy::Action;
use roost_model::name::AppName;
use roost_proto::rest::{IpAssignment, IpAssignmentList};
use roost_store::addresses::{AddressKind, AddressRecord};
use std::net::IpAddr;

/// The addresses of an app.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
) -> Result<IpAssignmentList, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let records = state.store.addresses(Some(&app.id)).await?;
    Ok(IpAssignmentList {
        ips: records.iter().map(|record| view(state, record)).collect(),
    })
}

/// Gives an app one of the node's addresses.
pub(crate) async fn allocate(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    kind: &str,
) -> Result<IpAssignment, ApiError> {
    ctx.allow(Action::ManageAddresses, Some(name))?;
    let kind = AddressKind::parse(kind).ok_or_else(|| {
        ApiError::invalid(format!("type `{kind}` is not `v4` or `v6`"))
            .with_hint("the addresses that all apps share need no allocation")
    })?;
    let app = find_app(state, name).await?;
    let state_of_task = state.clone();
    let taken = ctx.supervised(state, async move {
        let state = state_of_task;
        let (pool, now) = (&state.node.edge_addresses, state.clock.now());
        let taken = state.store.take_address(&app.id, kind, pool, now).await?;
        publish(&state).await?;
        Ok(taken)
    });
    match taken.await? {
        Some(record) => Ok(view(state, &record)),
        None => Err(none_free(state, kind)),
    }
}

/// Takes an address from an app.
pub(crate) async fn release(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    address: IpAddr,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageAddresses, Some(name))?;
    let app = find_app(state, name).await?;
    let state_of_task = state.clone();
    let was_its = ctx.supervised(state, async move {
        let state = state_of_task;
        let was_its = state.store.release_address(&app.id, address).await?;
        publish(&state).await?;
        Ok(was_its)
    });
    if was_its.await? {
        return Ok(());
    }
    let message = format!("app `{name}` has no address {address}");
    Err(ApiError::not_found("address-not-found", message)
        .with_hint(format!("`roost ips list -a {name}` shows those it has")))
}

fn none_free(state: &ApiState, kind: AddressKind) -> ApiError {
    let pool = state.node.edge_addresses.iter();
    let message = match pool.filter(|address| kind.includes(**address)).count() {
        0 => format!(
            "this platform has no {} addresses to give to apps",
            kind.as_str()
        ),
        n => format!(
            "all {n} {} addresses of this platform are taken",
            kind.as_str()
        ),
    };
    ApiError::conflict("no-free-address", message).with_hint(
        "release one (`roost ips release`), or give the platform another one that the host has: \
         `roost up --restart --edge-address ADDRESS`",
    )
}

fn view(state: &ApiState, record: &AddressRecord) -> IpAssignment {
    IpAssignment {
        ip: record.address.to_string(),
        kind: record.kind.as_str().into(),
        region: state.node.region.to_string(),
        shared: false,
        created_at: record.created_at.as_ms(),
    }
}
