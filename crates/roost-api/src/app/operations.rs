//! Operations of an app: those of its machines, and its deployments.

use super::{deployments, find_app, machines};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use crate::workflows::deploy::{self, Deploy};
use roost_auth::policy::Action;
use roost_fsm::Workflow as _;
use roost_fsm::journal::{Filter, Journal as _};
use roost_fsm::record::Run;
use roost_fsm::view::{operation, operation_with_steps};
use roost_model::id::{MachineId, RunId};
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use roost_proto::rest::StopRequest;
use roost_proto::worker::{Operation, OperationFilter, WorkerError};
use roost_store::StoreError;
use roost_store::records::{DeploymentRecord, DeploymentStatus};
use std::collections::BTreeSet;

/// The newest operations of an app, without their steps.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    machine: Option<MachineId>,
    only_unfinished: bool,
) -> Result<Vec<Operation>, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let filter = OperationFilter {
        app: Some(name.clone()),
        machine: machine.clone(),
        only_unfinished,
        limit: limits::OPERATIONS,
    };
    let mut operations = state.worker.operations(filter).await?;
    if machine.is_none() {
        let filter = Filter {
            subject: Some(deploy::subject(&app.id)?),
            only_unfinished,
            limit: Some(limits::OPERATIONS),
            ..Filter::default()
        };
        let runs = state.store.runs().list(filter).await;
        let runs = runs.map_err(StoreError::from)?;
        let keys: BTreeSet<&str> = runs.iter().filter_map(|run| run.key.as_deref()).collect();
        let records = state.store.deployments(&app.id).await?.into_iter();
        let without_run = records
            .filter(|record| !keys.contains(record.id.as_str()))
            .map(|record| of_record(name, record))
            .filter(|one| !only_unfinished || !one.is_ended());
        operations.extend(without_run);
        operations.extend(runs.iter().map(|run| of_run(name, run, operation(run))));
    }
    operations.sort_by_key(|operation| std::cmp::Reverse(operation.created_at));
    operations.truncate(usize::try_from(limits::OPERATIONS).unwrap_or(usize::MAX));
    Ok(operations)
}

/// One operation with its steps.
pub(crate) async fn get(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &str,
) -> Result<Operation, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    if let Ok(run) = RunId::parse(id) {
        return Ok(of_machine(state, name, &run).await?.0);
    }
    let record = match state.store.deployment(&app.id, id).await {
        Err(StoreError::NotFound(_)) => return Err(unknown(name, id)),
        found => found?,
    };
    let Some(run) = state.store.run_with_key(id).await? else {
        return Ok(of_record(name, record));
    };
    let story = state.store.runs().load(run.id).await;
    match story.map_err(StoreError::from)? {
        Some(story) => Ok(of_run(name, &story.run, operation_with_steps(&story))),
        None => Ok(of_record(name, record)),
    }
}

/// Cancels an operation: a deployment is undone, a machine that is on its way to start is stopped.
pub(crate) async fn cancel(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &str,
) -> Result<Operation, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    if let Ok(run) = RunId::parse(id) {
        cancel_of_machine(ctx, state, name, &run).await?;
    } else {
        deployments::cancel(ctx, state, name, id).await?;
    }
    get(ctx, state, name, id).await
}

async fn cancel_of_machine(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &RunId,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageMachines, Some(name))?;
    let (operation, machine) = of_machine(state, name, id).await?;
    let Operation { kind, status, .. } = &operation;
    if operation.is_ended() {
        let message = format!("the {kind} of machine {machine} has ended already: {status}");
        return Err(ApiError::conflict("operation-ended", message));
    }
    if !matches!(kind.as_str(), "create" | "start" | "restart" | "update") {
        let message = format!("a {kind} of a machine cannot be cancelled once it has begun");
        return Err(
            ApiError::conflict("operation-ended", message).with_hint(format!(
                "`roost ops watch -a {name} {id}` waits for its end; start the machine again then"
            )),
        );
    }
    // Refused as any stop while a deployment owns the machine.
    machines::stop(ctx, state, name, &machine, StopRequest::default()).await?;
    Ok(())
}

/// The run of a deployment, under the deployment's id and the app's name.
fn of_run(name: &AppName, run: &Run, operation: Operation) -> Operation {
    Operation {
        id: run.key.clone().unwrap_or(operation.id),
        subject: subject_of(name),
        ..operation
    }
}

/// A deployment whose run is forgotten, or from before there were runs.
fn of_record(name: &AppName, record: DeploymentRecord) -> Operation {
    let code = record.error.as_ref().map(|error| error.code.as_str());
    let status = match (record.status, code) {
        (DeploymentStatus::Failed, Some("deploy-cancelled")) => "cancelled",
        (DeploymentStatus::Failed, _) => "failed",
        (DeploymentStatus::Succeeded, _) => "succeeded",
        (DeploymentStatus::Pending, _) => "queued",
        (DeploymentStatus::Undoing, _) => "undoing",
        (DeploymentStatus::Running | DeploymentStatus::Retiring, _) => "running",
    };
    let release = record.release_version;
    Operation {
        kind: Deploy::NAME.to_owned(),
        subject: subject_of(name),
        cause: serde_json::json!({ "kind": "release", "release": release }),
        status: status.to_owned(),
        reason: record.error.map(|error| error.message),
        created_at: record.created_at.as_ms(),
        ended_at: record.finished_at.map(Timestamp::as_ms),
        steps: vec![],
        id: record.id,
    }
}

/// Runs know their app by its id.
fn subject_of(name: &AppName) -> String {
    format!("app/{name}")
}

/// An operation of a machine of this app, with its steps.
async fn of_machine(
    state: &ApiState,
    name: &AppName,
    id: &RunId,
) -> Result<(Operation, MachineId), ApiError> {
    let unknown = || unknown(name, id.as_str());
    let found = state.worker.operation(id).await?.ok_or_else(unknown)?;
    let machine = machine_of(&found).ok_or_else(unknown)?;
    match state.worker.machine(&machine).await {
        Ok(status) if status.spec.app == *name => Ok((found, machine)),
        Ok(_) | Err(WorkerError::NotFound(_)) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

fn unknown(name: &AppName, id: &str) -> ApiError {
    let shown: String = id.chars().take(60).collect();
    let message = format!("app `{name}` has no operation {shown}");
    ApiError::not_found("operation-not-found", message)
        .with_hint(format!("`roost ops list -a {name}` shows its operations"))
}

fn machine_of(operation: &Operation) -> Option<MachineId> {
    let id = operation.subject.strip_prefix("machine/")?;
    MachineId::parse(id).ok()
}
