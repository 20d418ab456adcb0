//! Operations of an app: those of its machines, and its deployments.

use super::{deployments, find_app, machines};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use crate::workflows::deploy;
use roost_auth::policy::Action;
use roost_fsm::journal::{Filter, Journal as _};
use roost_fsm::record::Story;
use roost_fsm::view::{operation, operation_with_steps};
use roost_model::id::{MachineId, RunId};
use roost_model::name::AppName;
use roost_proto::rest::StopRequest;
use roost_proto::worker::{Operation, OperationFilter, WorkerError};
use roost_store::StoreError;
use roost_store::records::AppRecord;

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
        operations.extend(runs.iter().map(|run| Operation {
            subject: subject_of(name),
            ..operation(run)
        }));
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
    if let Some(story) = of_app(state, &app, id).await? {
        return Ok(view_of(name, &story));
    }
    let run = RunId::parse(id).map_err(|_| unknown(name, id))?;
    Ok(of_machine(state, name, &run).await?.0)
}

/// Cancels an operation: a deployment is undone, a machine that is on its way to start is stopped.
pub(crate) async fn cancel(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &RunId,
) -> Result<Operation, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    if let Some(story) = of_app(state, &app, id.as_str()).await? {
        let deployment = story.run.key.unwrap_or_default();
        deployments::cancel(ctx, state, name, &deployment).await?;
    } else {
        cancel_of_machine(ctx, state, name, id).await?;
    }
    get(ctx, state, name, id.as_str()).await
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

/// A run of this app, by its own id or that of the deployment that it executes.
async fn of_app(state: &ApiState, app: &AppRecord, id: &str) -> Result<Option<Story>, ApiError> {
    let run = match RunId::parse(id) {
        Ok(run) => run,
        Err(_) => match state.store.run_with_key(id).await? {
            Some(run) => run.id,
            None => return Ok(None),
        },
    };
    let story = state.store.runs().load(run).await;
    let story = story.map_err(StoreError::from)?;
    let subject = deploy::subject(&app.id)?;
    Ok(story.filter(|story| story.run.subject == subject))
}

fn view_of(name: &AppName, story: &Story) -> Operation {
    Operation {
        subject: subject_of(name),
        ..operation_with_steps(story)
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
