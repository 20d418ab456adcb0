//! Machines: what the worker does for one app.

mod leases;
mod list;
mod metadata;
mod wait;

pub(crate) use leases::{lease, release_lease, take_lease};
pub(crate) use list::{MachineFilter, list};
pub(crate) use metadata::{metadata, remove_metadata, set_metadata};
pub(crate) use wait::{Wait, wait};

use super::deployments::refuse_while_deploying;
use super::{find_app, ports, secrets, to_next_spec, to_spec};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::placement;
use crate::state::ApiState;
use crate::view;
use crate::workflows::deploy;
use roost_auth::policy::Action;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::StopSignal;
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_proto::duration::parse_go_duration;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::rest::{
    CreateMachineRequest, ExecRequest, ExecResponse, Machine, MachineEvent, PatchMachineRequest,
    Process, StartResponse, StopRequest, UpdateMachineRequest,
};
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, Launch, MachineStatus, UpdateMachine, WorkerError,
};
use roost_store::StoreError;
use roost_store::records::AppRecord;
use std::time::Duration;

/// The machine, if it is one of this app.
async fn find(state: &ApiState, app: &AppName, id: &MachineId) -> Result<MachineStatus, ApiError> {
    find_app(state, app).await?;
    let found = match state.worker.machine(id).await {
        // So that what is on a lost node can be removed.
        Err(error @ WorkerError::Unreachable { .. }) => state.worker.last_known(id).ok_or(error),
        found => found,
    };
    match found {
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

/// Who asks, for a change of the version that was seen here: should the change be
/// carried out late, when the machine has another one, it is refused. A machine
/// is destroyed whatever its version.
fn asker_of(ctx: &RequestCtx, seen: MachineStatus) -> Asker {
    ctx.asker().for_version(seen.instance_id)
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
    if region != state.node.region && !state.worker.has_region(&region) {
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
    ports::refuse_taken(state, app, &spec.services).await?;
    let lease = request.lease_ttl.map(leases::with_creation);
    let state_of_task = state.clone();
    let (launch, asker) = (launch(request.skip_launch), ctx.asker());
    // The worker knows a repeated request by its id, so that a crash makes none twice.
    ctx.once(state, "create machine", &(app, &request), |_| async move {
        let secrets = secrets::open_all(&state_of_task, &record).await?;
        let request = CreateMachine {
            request_id,
            spec,
            secrets,
            launch,
            cordoned: false,
            reservation: None,
            lease: lease.clone(),
            placement: None,
        };
        let status = create_in_app(&state_of_task, &record, request, &asker).await?;
        let id = status.id.clone();
        let mut machine = show(&state_of_task, status).await?;
        if let Some(lease) = lease {
            machine.nonce = leases::nonce_if_held(&state_of_task, &id, lease.nonce, asker).await?;
        }
        Ok(machine)
    })
    .await
}

/// Creates a machine unless its app is gone or going: it would be nobody's.
async fn create_in_app(
    state: &ApiState,
    app: &AppRecord,
    request: CreateMachine,
    asker: &Asker,
) -> Result<MachineStatus, ApiError> {
    let gate = state.machine_gates.of(&app.id);
    let _no_deletion_begins = gate.read().await;
    let present = find_app(state, &app.name).await?;
    // The name may be another app's by now.
    if present.deleting_at.is_some() || present.id != app.id {
        return Err(StoreError::Deleting(app.name.to_string()).into());
    }
    // Boxed: it is large, and part of what every creation waits for.
    let created = Box::pin(placement::create(state, request, asker));
    Ok(created.await?)
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
    replace(ctx, state, old, request).await
}

/// Changes some of a machine's config.
pub(crate) async fn patch(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
    request: PatchMachineRequest,
) -> Result<Machine, ApiError> {
    ctx.allow(Action::ManageMachines, Some(app))?;
    let old = find_free(state, app, id).await?;
    let config = serde_json::to_value(MachineConfig::from(&old.spec));
    let mut config = config.map_err(|error| ApiError::internal(error.to_string()))?;
    merge_patch(&mut config, &request.config);
    // The version that the patch is of is that of the config just read, or it is refused.
    let request = UpdateMachineRequest {
        config: serde_json::from_value(config)
            .map_err(|error| ApiError::invalid(format!("the patched config: {error}")))?,
        current_version: Some(request.current_version),
        skip_launch: request.skip_launch,
    };
    if request.current_version.as_deref() != Some(old.instance_id.as_str()) {
        return Err(WorkerError::Conflict(format!(
            "machine {id} has version {} now: read it again and repeat the update",
            old.instance_id
        ))
        .into());
    }
    replace(ctx, state, old, request).await
}

/// Applies a merge patch (RFC 7396, section 2).
fn merge_patch(target: &mut serde_json::Value, patch: &serde_json::Value) {
    let serde_json::Value::Object(members) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    for (name, value) in members {
        if value.is_null() {
            target.as_object_mut().map(|object| object.remove(name));
        } else {
            merge_patch(&mut target[name], value);
        }
    }
}

async fn replace(
    ctx: &RequestCtx,
    state: &ApiState,
    old: MachineStatus,
    request: UpdateMachineRequest,
) -> Result<Machine, ApiError> {
    let record = find_app(state, &old.spec.app).await?;
    let spec = to_next_spec(old.spec, request.config)?;
    ports::refuse_taken(state, &record.name, &spec.services).await?;
    let current_version = request
        .current_version
        .as_deref()
        .map(InstanceId::parse)
        .transpose()?;
    let (state_of_task, id, asker) = (state.clone(), old.id, ctx.asker());
    ctx.supervised(state, async move {
        let secrets = secrets::open_all(&state_of_task, &record).await?;
        let update = UpdateMachine {
            current_version,
            spec,
            secrets,
            launch: launch(request.skip_launch),
        };
        let worker = &state_of_task.worker;
        let status = worker.update_machine(&id, update, &asker).await?;
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
    let (worker, id, asker) = (state.worker.clone(), id.clone(), ctx.asker());
    ctx.supervised(state, async move {
        Ok(worker.destroy_machine(&id, force, &asker).await?)
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
    let previous_state = before.state.as_str().to_owned();
    let asker = asker_of(ctx, before);
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move {
        Ok(worker.start_machine(&id, &asker).await?)
    })
    .await?;
    Ok(StartResponse {
        previous_state,
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
    let asker = asker_of(ctx, find_free(state, app, id).await?);
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move {
        Ok(worker.stop_machine(&id, signal, timeout, &asker).await?)
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
    let asker = asker_of(ctx, find_free(state, app, id).await?);
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move {
        Ok(worker.suspend_machine(&id, &asker).await?)
    })
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
    let asker = asker_of(ctx, find_free(state, app, id).await?);
    let (worker, id) = (state.worker.clone(), id.clone());
    ctx.supervised(state, async move {
        Ok(worker.restart_machine(&id, &asker).await?)
    })
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
    let asker = asker_of(ctx, find(state, app, id).await?);
    Ok(state.worker.signal_machine(id, signal, &asker).await?)
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
    let asker = asker_of(ctx, find_free(state, app, id).await?);
    state.worker.set_cordoned(id, cordoned, &asker).await?;
    Ok(())
}

/// The processes that run in a machine.
pub(crate) async fn processes(
    ctx: &RequestCtx,
    state: &ApiState,
    app: &AppName,
    id: &MachineId,
) -> Result<Vec<Process>, ApiError> {
    ctx.allow(Action::SeeApp, Some(app))?;
    find(state, app, id).await?;
    let processes = state.worker.processes(id).await?;
    Ok(processes.into_iter().map(view::process).collect())
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
