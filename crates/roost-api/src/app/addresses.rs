//! Dedicated addresses: list, allocate, release.

use super::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::host_names::publish;
use crate::limits;
use crate::state::ApiState;
use roost_auth::policy::Action;
use roost_model::name::AppName;
use roost_proto::rest::{IpAssignment, IpAssignmentList};
use roost_store::addresses::{AddressKind, AddressRecord};
use roost_store::{Answer, Claim, StoreError};
use std::net::{IpAddr, Ipv6Addr};

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
        ApiError::invalid(format!("type `{kind}` is not `v4`, `v6` or `private_v6`"))
            .with_hint("the addresses that all apps share need no allocation")
    })?;
    let app = find_app(state, name).await?;
    let state_of_task = state.clone();
    let request = (name, kind.as_str());
    ctx.once(state, "allocate address", &request, |claim| async move {
        take(&state_of_task, &app.id, kind, claim.as_deref()).await
    })
    .await
}

async fn take(
    state: &ApiState,
    app_id: &str,
    kind: AddressKind,
    claim: Option<&Claim>,
) -> Result<IpAssignment, ApiError> {
    let write = |record: &AddressRecord| serde_json::to_string(&view(state, record));
    let answer = claim.map(|claim| Answer {
        claim,
        write: &write,
    });
    let (pool, now) = (pool(state, kind), state.clock.now());
    let taken = state.store.take_address(app_id, kind, pool, now, answer);
    let taken = taken.await?;
    publish(state).await?;
    match taken {
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

/// The addresses of this kind that apps may have.
fn pool(state: &ApiState, kind: AddressKind) -> Vec<IpAddr> {
    let private = state.node.private_addresses;
    match kind {
        AddressKind::V4 | AddressKind::V6 => state.node.edge_addresses.clone(),
        AddressKind::PrivateV6 => private
            .iter()
            .flat_map(|first| (1..=limits::PRIVATE_ADDRESSES_MAX).map(|n| first.to_bits() + n))
            .map(|bits| Ipv6Addr::from_bits(bits).into())
            .collect(),
    }
}

/// The addresses that apps have now: those that the platform no longer gives are nobody's until it
/// does again.
pub(crate) async fn in_use(state: &ApiState) -> Result<Vec<AddressRecord>, StoreError> {
    let mut records = state.store.addresses(None).await?;
    records.retain(|own| is_given(state, own));
    Ok(records)
}

fn is_given(state: &ApiState, own: &AddressRecord) -> bool {
    match (own.kind, own.address, state.node.private_addresses) {
        (AddressKind::V4 | AddressKind::V6, address, _) => {
            state.node.edge_addresses.contains(&address)
        }
        (AddressKind::PrivateV6, IpAddr::V6(address), Some(first)) => {
            let number = address.to_bits().checked_sub(first.to_bits());
            number.is_some_and(|number| (1..=limits::PRIVATE_ADDRESSES_MAX).contains(&number))
        }
        (AddressKind::PrivateV6, ..) => false,
    }
}

fn none_free(state: &ApiState, kind: AddressKind) -> ApiError {
    let pool = pool(state, kind).into_iter();
    let message = match pool.filter(|address| kind.includes(*address)).count() {
        0 => format!(
            "this platform has no {} addresses to give to apps",
            kind.as_str()
        ),
        n => format!(
            "all {n} {} addresses of this platform are taken",
            kind.as_str()
        ),
    };
    let hint = match kind {
        AddressKind::PrivateV6 => "release one (`roost ips release`)",
        AddressKind::V4 | AddressKind::V6 => {
            "release one (`roost ips release`), or give the platform another one that the host \
             has: `roost up --restart --edge-address ADDRESS`"
        }
    };
    ApiError::conflict("no-free-address", message).with_hint(hint)
}

fn view(state: &ApiState, record: &AddressRecord) -> IpAssignment {
    IpAssignment {
        ip: record.address.to_string(),
        kind: record.kind.as_str().into(),
        region: state.node.region.to_string(),
        shared: false,
        state: match is_given(state, record) {
            true => "active".into(),
            false => "not-served".into(),
        },
        created_at: record.created_at.as_ms(),
    }
}
