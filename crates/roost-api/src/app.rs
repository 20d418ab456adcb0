//! What the API does, apart from HTTP.

pub(crate) mod apps;
pub(crate) mod builds;
pub(crate) mod deployments;
pub(crate) mod images;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod operations;
pub(crate) mod platform;
pub(crate) mod releases;
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

/// What a machine with this config should be, or all that is wrong with the config.
pub(crate) fn to_spec(
    config: &MachineConfig,
    identity: MachineIdentity,
) -> Result<MachineSpec, ApiError> {
    let spec = config.to_spec(identity).map_err(ApiError::faults)?;
    spec.guest.check().map_err(|error| {
        ApiError::faults(vec![ConfigFault {
            path: "guest".into(),
            problem: error.to_string(),
        }])
    })?;
    Ok(spec)
}

pub(crate) fn app_not_found(name: &AppName) -> ApiError {
    ApiError::not_found("app-not-found", format!("app `{name}` does not exist"))
        .with_hint("`roost apps list` shows the apps that exist")
}
