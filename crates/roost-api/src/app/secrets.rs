//! Secrets: sealed at rest, write-only, given to machines as environment.

use super::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use crate::view;
use roost_auth::policy::Action;
use roost_model::limits::SECRET_VALUE_BYTES_MAX;
use roost_model::name::{AppName, SecretName};
use roost_proto::machine_config::ConfigFault;
use roost_proto::rest::{SecretList, SetSecretsRequest};
use roost_proto::worker::SecretEnv;
use roost_store::records::{AppRecord, SecretChange};
use std::collections::BTreeMap;

/// Names and digests of an app's secrets.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
) -> Result<SecretList, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let secrets = state.store.secrets(&app.id).await?;
    Ok(SecretList {
        secrets: secrets.into_iter().map(view::secret).collect(),
        version: app.secrets_version,
    })
}

/// Sets and removes secrets, all or none. Machines get them when they are next created or updated.
pub(crate) async fn set(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    request: SetSecretsRequest,
) -> Result<SecretList, ApiError> {
    ctx.allow(Action::ManageSecrets, Some(name))?;
    let app = find_app(state, name).await?;
    let changes = to_changes(state, &app, &request)?;
    let (store, now) = (state.store.clone(), state.clock.now());
    let app_id = app.id.clone();
    ctx.supervised(state, async move {
        Ok(store.change_secrets(&app_id, &changes, now).await?)
    })
    .await?;
    list(ctx, state, name).await
}

fn to_changes(
    state: &ApiState,
    app: &AppRecord,
    request: &SetSecretsRequest,
) -> Result<Vec<SecretChange>, ApiError> {
    if request.values.is_empty() || request.values.len() > limits::SECRET_CHANGES_MAX {
        let max = limits::SECRET_CHANGES_MAX;
        return Err(ApiError::invalid(format!(
            "`values` must have from 1 to {max} members"
        )));
    }
    let mut faults = vec![];
    let mut changes = vec![];
    for (name, value) in &request.values {
        match to_change(state, app, name, value.as_deref()) {
            Ok(change) => changes.push(change),
            Err(error) => {
                let shown: String = name.chars().take(80).collect();
                faults.push(ConfigFault {
                    path: format!("values.{shown}"),
                    problem: error.message,
                });
            }
        }
    }
    if faults.is_empty() {
        Ok(changes)
    } else {
        Err(ApiError::faults(faults))
    }
}

fn to_change(
    state: &ApiState,
    app: &AppRecord,
    name: &str,
    value: Option<&str>,
) -> Result<SecretChange, ApiError> {
    let name = SecretName::parse(name)?;
    let Some(value) = value else {
        return Ok(SecretChange::Remove(name));
    };
    if value.len() > SECRET_VALUE_BYTES_MAX {
        let max = SECRET_VALUE_BYTES_MAX;
        return Err(ApiError::invalid(format!(
            "the value has {} bytes, and {max} is the most",
            value.len()
        )));
    }
    if value.contains('\0') {
        return Err(ApiError::invalid("the value has a NUL byte in it"));
    }
    let sealed = state
        .sealing_key
        .seal(value.as_bytes(), place(app, &name).as_bytes())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let digest = state
        .sealing_key
        .shown_digest(app.id.as_bytes(), value.as_bytes());
    Ok(SecretChange::Set {
        name,
        sealed,
        digest,
    })
}

/// What a sealed value is bound to: a value moved to another row does not open.
fn place(app: &AppRecord, name: &SecretName) -> String {
    format!("secret:{}:{name}", app.id)
}

/// The secrets of an app in the clear, for the worker.
pub(crate) async fn open_all(state: &ApiState, app: &AppRecord) -> Result<SecretEnv, ApiError> {
    let mut values = BTreeMap::new();
    for record in state.store.secrets(&app.id).await? {
        let broken =
            |why: String| ApiError::internal(format!("open secret {}: {why}", record.name));
        let value = state
            .sealing_key
            .open(&record.sealed, place(app, &record.name).as_bytes())
            .map_err(|error| broken(error.to_string()))?;
        let value = std::str::from_utf8(&value).map_err(|_| broken("it is not text".into()))?;
        values.insert(record.name.to_string(), value.to_owned());
    }
    Ok(SecretEnv(values))
}
