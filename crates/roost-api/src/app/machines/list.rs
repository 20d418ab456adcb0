//! The machines of an app, all or some.

use crate::app::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use crate::view;
use roost_auth::policy::Action;
use roost_model::machine::MachineState;
use roost_model::name::{AppName, RegionCode};
use roost_proto::rest::Machine;
use roost_proto::worker::MachineStatus;

/// Which machines; all when nothing is asked for.
#[derive(Debug, Default)]
pub(crate) struct MachineFilter {
    /// In one of these states.
    pub(crate) states: Vec<MachineState>,
    /// Also those that are destroyed and still on record.
    pub(crate) include_deleted: bool,
    /// In this region.
    pub(crate) region: Option<RegionCode>,
    /// With all of these entries of metadata.
    pub(crate) metadata: Vec<(String, String)>,
}

impl MachineFilter {
    fn takes(&self, status: &MachineStatus) -> bool {
        let has = |(key, value): &(String, String)| status.spec.metadata.get(key) == Some(value);
        (self.states.is_empty() || self.states.contains(&status.state))
            && self
                .region
                .as_ref()
                .is_none_or(|region| *region == status.spec.region)
            && self.metadata.iter().all(has)
    }
}

/// The machines of an app.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    filter: &MachineFilter,
) -> Result<Vec<Machine>, ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    find_app(state, app).await?;
    let mut machines = state.worker.machines(Some(app)).await?;
    if filter.include_deleted {
        machines.extend(state.worker.destroyed_machines(app).await);
    }
    let taken = machines.into_iter().filter(|status| filter.takes(status));
    Ok(taken.map(|status| view::machine(status, vec![])).collect())
}
