//! Waiting for a state of a machine.

use super::find;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use roost_auth::policy::Action;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::MachineState;
use roost_model::name::AppName;
use roost_proto::worker::{WaitFor, WorkerError};
use std::time::Duration;

/// What to wait for.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    /// Any of these; `started` when there is none.
    pub(crate) states: Vec<MachineState>,
    /// Of this version only.
    pub(crate) instance_id: Option<InstanceId>,
    /// Reached by an event after this one.
    pub(crate) after_event: Option<u64>,
    /// For how long; as long as possible when absent.
    pub(crate) timeout: Option<Duration>,
}

/// Waits until a machine is in a state.
pub(crate) async fn wait(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    wait: Wait,
) -> Result<(), ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    let timeout = wait.timeout.unwrap_or(limits::WAIT_MAX);
    if timeout > limits::WAIT_MAX {
        return Err(ApiError::invalid("`timeout` is longer than 60 s"));
    }
    let mut states = wait.states;
    if states.is_empty() {
        states.push(MachineState::Started);
    }
    // A machine that is gone has reached `destroyed`.
    let may_be_gone = states.contains(&MachineState::Destroyed);
    match find(state, app, id).await {
        Err(error) if error.code == "machine-not-found" && may_be_gone => return Ok(()),
        found => found?,
    };
    let wait = WaitFor {
        states,
        instance_id: wait.instance_id,
        after_event: wait.after_event,
        timeout,
    };
    match state.worker.wait_machine(id, wait).await {
        Err(WorkerError::NotFound(_)) if may_be_gone => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
