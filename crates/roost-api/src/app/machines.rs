//! Machines: what the worker does for one app.

use super::deployments::refuse_while_deploying;
use super::{find_app, secrets, to_spec};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::placement;
use crate::state::ApiState;
use crate::view;
use crate::workflows::deploy;
use roost_auth::policy::Action;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::{MachineState, StopSignal};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_proto::duration::parse_go_duration;
use roost_proto::machine_config::MachineIdentity;
use roost_proto::rest::{
    CreateMachineRequest, ExecRequest, ExecResponse, Machine, MachineEvent, StartResponse,
    StopRequest, UpdateMachineRequest,
};
use roost_proto::worker::{
    CreateMachine, ExecCommand, Launch, MachineStatus, UpdateMachine, WaitFor, WorkerError,
};
use roost_store::StoreError;
use roost_store::records::AppRecord;
use std::time::Duration;

/// The machine, if it is one of this app.
async fn find(state: &ApiState, app: &AppName, id: &MachineId) -> Result<MachineStatus, ApiError> {
    find_app(state, app).await?;
    match state.worker.machine(id).await {
        Ok(status) if status.spec.app == *app => Ok(status),
        Ok(_) | Err(WorkerError::NotFound(_)) => Err(ApiError::not_found(
            "machine-not-found",
            format!("app `{app}` has no machine {id}"),
        )
        .with_hint("`roost machines list` shows the machines that exist")),
        Err(error) => Err(error.into()),
    }
}

/// The machine, if no deployment under way owns it.
async fn find_free(
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<MachineStatus, ApiError> {
    let status = find(state, app, id).await?;
    if status.spec.metadata.contains_key(deploy::DEPLOYMENT_KEY) {
        refuse_while_deploying(state, &find_app(state, app).await?).await?;
    }
    Ok(status)
}

async fn show(state: &ApiState, status: MachineStatus) -> Result<Machine, ApiError> {
    let events = state
        .worker
        .machine_events(&status.id, limits::MACHINE_EVENTS)
        .await?;
    Ok(view::machine(status, events))
}

fn launch(skip: bool) -> Launch {
    if skip { Launch::Skip } else { Launch::Start }
}

/// Creates a machine and, unless asked not to, starts it.
pub(crate) async fn create(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    request: CreateMachineRequest,
) -> Result<Machine, ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    let record = find_app(state, app).await?;
    let request_id = ctx.repeat_id(&format!("create machine of {}", record.id));
    let name = match &request.name {
        Some(name) => name.clone(),
        None => format!(
            "m-{}",
            &roost_auth::token::fingerprint(request_id.as_bytes())[..12]
        ),
    };
    let region = match &request.region {
        Some(region) => RegionCode::parse(region)?,
        None => state.node.region.clone(),
    };
    if region != state.node.region {
        let own = &state.node.region;
        return Err(ApiError::invalid(format!(
            "region `{region}` has no node; this platform has `{own}`"
        )));
    }
    let identity = MachineIdentity {
        app: app.clone(),
        name: MachineName::parse(&name)?,
        region,
    };
    let spec = to_spec(&request.config, identity)?;
    let state_of_task = state.clone();
    let launch = launch(request.skip_launch);
    // The worker knows a repeated request by its id, so that a crash makes none twice.
    ctx.once(state, "create machine", &(app, &request), |_| async move {
        let secrets = secrets::open_all(&state_of_task, &record).await?;
        let request = CreateMachine {
            request_id,
            spec,
            secrets,
            launch,
            reservation: None,
        };
        let status = create_in_app(&state_of_task, &record, request).await?;
        show(&state_of_task, status).await
    })
    .await
}

/// Creates a machine unless its app is gone or going: it would be nobody's.
async fn create_in_app(
    state: &ApiState,
    app: &AppRecord,
    request: CreateMachine,
) -> Result<MachineStatus, ApiError> {
    let _no_deletion_begins = state.machine_gate.read().await;
    let present = find_app(state, &app.name).await?;
    // The name may be another app's by now.
    if present.deleting_at.is_some() || present.id != app.id {
        return Err(StoreError::Deleting(app.name.to_string()).into());
    }
    Ok(placement::create(state, request).await?)
}

/// The machines of an app.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
) -> Result<Vec<Machine>, ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    find_app(state, app).await?;
    let machines = state.worker.machines(Some(app)).await?;
    Ok(machines
        .into_iter()
        .map(|status| view::machine(status, vec![]))
        .collect())
}

/// One machine with its newest events.
pub(crate) async fn get(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<Machine, ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    let status = find(state, app, id).await?;
    show(state, status).await
}

/// Replaces a machine's config.
pub(crate) async fn update(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    request: UpdateMachineRequest,
) -> Result<Machine, ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    let old = find_free(state, app, id).await?;
    let record = find_app(state, app).await?;
    let identity = MachineIdentity {
        app: app.clone(),
        name: old.spec.name,
        region: old.spec.region,
    };
    let spec = to_spec(&request.config, identity)?;
    let current_version = request
        .current_version
        .as_deref()
        .map(InstanceId::parse)
        .transpose()?;
    let (state_of_task, id) = (state.clone(), id.clone());
    ctx.supervised(state, async move {
        let secrets = secrets::open_all(&state_of_task, &record).await?;
        let update = UpdateMachine {
            current_version,
            spec,
            secrets,
            launch: launch(request.skip_launch),
        };
        let status = state_of_task.worker.update_machine(&id, update).await?;
        show(&state_of_task, status).await
    })
    .await
}

/// Removes a machine.
pub(crate) async fn destroy(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    force: bool,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    find_free(state, app, id).await?;
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move {
        Ok(worker.destroy_machine(&id, force).await?)
    })
    .await
}

/// Begins to start a machine.
pub(crate) async fn start(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<StartResponse, ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    let before = find_free(state, app, id).await?;
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move { Ok(worker.start_machine(&id).await?) })
        .await?;
    Ok(StartResponse {
        previous_state: before.state.as_str().to_owned(),
        migrated: false,
    })
}

/// Begins to stop a machine.
pub(crate) async fn stop(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    request: StopRequest,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    let signal = request.signal.as_deref().map(parse_signal).transpose()?;
    let timeout = request.timeout.as_ref().map(parse_timeout).transpose()?;
    find_free(state, app, id).await?;
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move {
        Ok(worker.stop_machine(&id, signal, timeout).await?)
    })
    .await?;
    Ok(())
}

fn parse_signal(text: &str) -> Result<StopSignal, ApiError> {
    StopSignal::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        ApiError::invalid(format!(
            "signal `{shown}` is not one of {}",
            StopSignal::NAMES.join(", ")
        ))
    })
}

/// Seconds as a number, or Go-style text.
fn parse_timeout(value: &serde_json::Value) -> Result<Duration, ApiError> {
    let parsed = match value {
        serde_json::Value::Number(number) => number
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        serde_json::Value::String(text) => parse_go_duration(text),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    };
    let max = Duration::from_secs(roost_model::limits::STOP_TIMEOUT_MAX_SECONDS);
    match parsed {
        Some(timeout) if timeout <= max => Ok(timeout),
        Some(_) => Err(ApiError::invalid("`timeout` is longer than 300 s")),
        None => Err(ApiError::invalid(
            "`timeout` is neither seconds nor text such as 10s",
        )),
    }
}

/// Begins to suspend a machine.
pub(crate) async fn suspend(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    find_free(state, app, id).await?;
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move { Ok(worker.suspend_machine(&id).await?) })
        .await?;
    Ok(())
}

/// Stops and starts a machine.
pub(crate) async fn restart(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    find_free(state, app, id).await?;
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move { Ok(worker.restart_machine(&id).await?) })
        .await?;
    Ok(())
}

/// Sends a signal to a machine's first process.
pub(crate) async fn signal(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    signal: &str,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    let signal = parse_signal(signal)?;
    find(state, app, id).await?;
    Ok(state.worker.signal_machine(id, signal).await?)
}

/// Takes a machine out of routing, or puts it back.
pub(crate) async fn set_cordoned(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    cordoned: bool,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    find_free(state, app, id).await?;
    state.worker.set_cordoned(id, cordoned).await?;
    Ok(())
}

/// Waits until a machine is in a state.
pub(crate) async fn wait(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    params: &crate::http::machines::WaitParams,
) -> Result<(), ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    let text = params.state.as_deref().unwrap_or("started");
    let states = text
        .split(',')
        .map(|word| {
            MachineState::parse(word).ok_or_else(|| {
                let known: Vec<_> = MachineState::ALL
                    .iter()
                    .map(|state| state.as_str())
                    .collect();
                let shown: String = word.chars().take(40).collect();
                ApiError::invalid(format!(
                    "state `{shown}` is not one of {}",
                    known.join(", ")
                ))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let timeout = Duration::from_secs(params.timeout.unwrap_or(limits::WAIT_MAX.as_secs()));
    if timeout > limits::WAIT_MAX {
        return Err(ApiError::invalid("`timeout` is longer than 60 s"));
    }
    let instance_id = params
        .instance_id
        .as_deref()
        .map(InstanceId::parse)
        .transpose()?;
    // A machine that is gone has reached `destroyed`.
    match find(state, app, id).await {
        Err(error)
            if error.code == "machine-not-found" && states.contains(&MachineState::Destroyed) =>
        {
            return Ok(());
        }
        found => found?,
    };
    match state
        .worker
        .wait_machine(
            id,
            WaitFor {
                states: states.clone(),
                instance_id,
                timeout,
            },
        )
        .await
    {
        Err(WorkerError::NotFound(_)) if states.contains(&MachineState::Destroyed) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// A machine's history, newest first.
pub(crate) async fn events(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    limit: Option<usize>,
) -> Result<Vec<MachineEvent>, ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    find(state, app, id).await?;
    let limit = limit
        .unwrap_or(limits::MACHINE_EVENTS)
        .min(limits::MACHINE_EVENTS_MAX);
    let events = state.worker.machine_events(id, limit).await?;
    Ok(events.into_iter().map(view::event).collect())
}

/// Runs a command in a machine.
pub(crate) async fn exec(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    request: ExecRequest,
) -> Result<ExecResponse, ApiError> {
    ctx.allow(Action::Exec, Some(app))?;
    let command = match (&request.cmd, request.command.is_empty()) {
        (Some(_), false) => {
            return Err(ApiError::invalid(
                "give either `command` or `cmd`, not both",
            ));
        }
        (Some(line), true) => shell_words::split(line)
            .map_err(|error| ApiError::invalid(format!("`cmd`: {error}")))?,
        (None, _) => request.command,
    };
    if command.is_empty() {
        return Err(ApiError::invalid("`command` is empty"));
    }
    let timeout = request
        .timeout
        .map_or(limits::EXEC_TIMEOUT_DEFAULT, Duration::from_secs);
    if timeout > limits::EXEC_TIMEOUT_MAX {
        return Err(ApiError::invalid("`timeout` is longer than 600 s"));
    }
    find(state, app, id).await?;
    let stdin = request.stdin.unwrap_or_default().into_bytes();
    let outcome = state
        .worker
        .exec(
            id,
            ExecCommand {
                command,
                stdin,
                timeout,
            },
        )
        .await?;
    Ok(ExecResponse {
        exit_code: outcome.exit_code,
        stdout: String::from_utf8_lossy(&outcome.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&outcome.stderr).into_owned(),
        truncated: outcome.truncated,
    })
}
