//! Operations of an app: those of its machines, and its deployments.

use super::{find_app, machines};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use crate::view;
use roost_auth::policy::Action;
use roost_model::id::{MachineId, RunId};
use roost_model::name::AppName;
use roost_proto::rest::{Deployment, StopRequest};
use roost_proto::worker::{Operation, OperationFilter, OperationStep, WorkerError};
use roost_store::StoreError;

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
        let deployments = state.store.deployments(&app.id).await?;
        let deployments = deployments
            .into_iter()
            .map(|record| of_deployment(view::deployment(state, &app, record, vec![])));
        operations.extend(deployments.filter(|one| !only_unfinished || !one.is_ended()));
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
    let steps = state.store.steps(&record.id, 0).await?;
    Ok(of_deployment(view::deployment(state, &app, record, steps)))
}

/// Cancels an operation of a machine that is on its way to start, by a stop.
/// Deployments are cancelled as such.
pub(crate) async fn cancel(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &RunId,
) -> Result<Operation, ApiError> {
    ctx.allow(Action::ManageMachines, Some(name))?;
    find_app(state, name).await?;
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
    Ok(of_machine(state, name, id).await?.0)
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

/// A deployment as an operation: each of its steps tells of one thing that was done.
fn of_deployment(deployment: Deployment) -> Operation {
    let code = deployment.error.as_ref().map(|error| error.code.as_str());
    let status = match (deployment.status.as_str(), code) {
        ("pending", _) => "queued",
        ("running" | "retiring", _) => "running",
        ("failed", Some("deploy-cancelled")) => "cancelled",
        (same, _) => same,
    };
    let steps = deployment.steps.iter().map(|step| OperationStep {
        name: match &step.machine {
            Some(machine) => format!("{} {machine}", step.name),
            None => step.name.clone(),
        },
        direction: if step.name == "undo" { "undo" } else { "do" }.to_owned(),
        attempt: 1,
        started_at: step.at,
        ended_at: (step.status != "started").then_some(step.at),
        outcome: (step.status != "started").then(|| step.status.clone()),
        reason: Some(step.message.clone()),
    });
    Operation {
        kind: "deploy".to_owned(),
        subject: format!("app/{}", deployment.app),
        cause: serde_json::json!({ "kind": "release", "release": deployment.release }),
        status: status.to_owned(),
        reason: deployment.error.as_ref().map(|error| error.message.clone()),
        created_at: deployment.created_at,
        ended_at: deployment.finished_at,
        steps: steps.collect(),
        id: deployment.id,
    }
}
