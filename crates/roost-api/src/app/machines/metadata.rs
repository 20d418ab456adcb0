//! Metadata of machines: a change of it makes no new version.

use super::{find, find_free};
use crate::app::OWN_METADATA;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use roost_auth::policy::Action;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use std::collections::BTreeMap;

/// What only roost itself writes.
const RESERVED_PREFIXES: [&str; 2] = ["fly_", OWN_METADATA];

/// The metadata of a machine.
pub(crate) async fn metadata(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<BTreeMap<String, String>, ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    Ok(find(state, app, id).await?.spec.metadata)
}

/// Sets one entry.
pub(crate) async fn set_metadata(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    (key, value): (&str, String),
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    refuse_reserved(key)?;
    let key_max = limits::METADATA_KEY_BYTES_MAX;
    if !(1..=key_max).contains(&key.len()) || key.contains(char::is_control) {
        return Err(ApiError::invalid(format!(
            "the key has not 1 to {key_max} characters, or control characters among them"
        )));
    }
    if value.len() > limits::METADATA_VALUE_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "the value is longer than {} bytes",
            limits::METADATA_VALUE_BYTES_MAX
        )));
    }
    let metadata = find_free(state, app, id).await?.spec.metadata;
    if !metadata.contains_key(key) && metadata.len() >= limits::METADATA_ENTRIES_MAX {
        return Err(ApiError::invalid(format!(
            "machine {id} has {} entries of metadata already, which is the most",
            metadata.len()
        )));
    }
    let asker = ctx.asker();
    state
        .worker
        .set_metadata(id, key, Some(value), &asker)
        .await?;
    Ok(())
}

/// Removes one entry; one that is not there is removed already.
pub(crate) async fn remove_metadata(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    key: &str,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    refuse_reserved(key)?;
    find_free(state, app, id).await?;
    state
        .worker
        .set_metadata(id, key, None, &ctx.asker())
        .await?;
    Ok(())
}

fn refuse_reserved(key: &str) -> Result<(), ApiError> {
    let prefix = RESERVED_PREFIXES
        .into_iter()
        .find(|prefix| key.starts_with(prefix));
    match prefix {
        Some(prefix) => Err(ApiError::invalid(format!(
            "keys that start with `{prefix}` are reserved"
        ))),
        None => Ok(()),
    }
}
