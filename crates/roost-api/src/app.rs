//! What the API does, apart from HTTP.

pub(crate) mod addresses;
pub(crate) mod apps;
pub(crate) mod builds;
pub(crate) mod certificates;
pub(crate) mod deployments;
pub(crate) mod images;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod operations;
pub(crate) mod platform;
pub(crate) mod ports;
pub(crate) mod releases;
pub(crate) mod requests;
pub(crate) mod secrets;

use crate::error::ApiError;
use crate::state::ApiState;
use roost_model::machine::MachineSpec;
use roost_model::name::AppName;
use roost_proto::machine_config::{ConfigFault, MachineConfig, MachineIdentity};
use roost_store::StoreError;
use roost_store::records::AppRecord;

/// The app of this name, or an error that says what to do.
pub(crate) async fn find_app(state: &ApiState, name: &AppName) -> Result<AppRecord, ApiError> {
    match state.store.app(name).await {
        Err(StoreError::NotFound(_)) => Err(app_not_found(name)),
        result => Ok(result?),
    }
}

/// What the keys of metadata begin with that only roost itself writes.
const OWN_METADATA: &str = "roost_";

/// What a machine with a user's config should be, or all that is wrong with the config.
pub(crate) fn to_spec(
    config: &MachineConfig,
    identity: MachineIdentity,
) -> Result<MachineSpec, ApiError> {
    let own = config.metadata.keys().filter(|key| is_own(key));
    let faults: Vec<_> = own
        .map(|key| ConfigFault {
            path: format!("metadata.{key}"),
            problem: format!("roost itself writes what begins with `{OWN_METADATA}`: leave it out"),
        })
        .collect();
    if !faults.is_empty() {
        return Err(ApiError::faults(faults));
    }
    let spec = config.to_spec(identity).map_err(ApiError::faults)?;
    spec.guest.check().map_err(|error| {
        ApiError::faults(vec![ConfigFault {
            path: "guest".into(),
            problem: error.to_string(),
        }])
    })?;
    Ok(spec)
}

/// What a machine with a user's new config should be. What roost wrote into its metadata stays,
/// and may be sent back.
pub(crate) fn to_next_spec(
    old: MachineSpec,
    mut config: MachineConfig,
) -> Result<MachineSpec, ApiError> {
    let mut own = old.metadata;
    own.retain(|key, _| is_own(key));
    config
        .metadata
        .retain(|key, value| own.get(key) != Some(value));
    let identity = MachineIdentity {
        app: old.app,
        name: old.name,
        region: old.region,
    };
    let mut spec = to_spec(&config, identity)?;
    spec.metadata.append(&mut own);
    Ok(spec)
}

fn is_own(key: &str) -> bool {
    key.starts_with(OWN_METADATA)
}

pub(crate) fn app_not_found(name: &AppName) -> ApiError {
    ApiError::not_found("app-not-found", format!("app `{name}` does not exist"))
        .with_hint("`roost apps list` shows the apps that exist")
}
