//! Apps: create, list, delete.

use super::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use crate::view;
use roost_auth::policy::Action;
use roost_model::id::AppId;
use roost_model::machine::MachineState;
use roost_model::name::AppName;
use roost_proto::rest::{App, AppList, CreateAppRequest};
use roost_proto::worker::WorkerError;
use roost_runtime::clock;
use roost_store::records::AppRecord;
use roost_store::{Answer, Claim, StoreError};

/// Creates an app without machines.
pub(crate) async fn create(
    ctx: &RequestCtx,
    state: &ApiState,
    request: CreateAppRequest,
) -> Result<App, ApiError> {
    ctx.allow(Action::CreateApp, None)?;
    let name = AppName::parse(&request.app_name)?;
    if let Some(org) = request.org_slug.as_deref()
        && org != "personal"
    {
        return Err(ApiError::invalid(format!(
            "organisation `{org}` does not exist; only `personal` does"
        )));
    }
    let state_of_task = state.clone();
    ctx.once(state, "create app", &request, |claim| async move {
        record(&state_of_task, &name, claim.as_deref()).await
    })
    .await
}

async fn record(state: &ApiState, name: &AppName, claim: Option<&Claim>) -> Result<App, ApiError> {
    let id = AppId::from_ulid(ulid::Ulid::generate());
    let write = |record: &AppRecord| serde_json::to_string(&view::app(state, record, &[]));
    let answer = claim.map(|claim| Answer {
        claim,
        write: &write,
    });
    match state
        .store
        .create_app(id.as_str(), name, clock::now(), answer)
        .await
    {
        Ok(record) => Ok(view::app(state, &record, &[])),
        Err(StoreError::Exists(_)) => Err(ApiError::conflict(
            "name-taken",
            format!("app `{name}` exists already"),
        )
        .with_hint("choose another name, or deploy to the app that exists")),
        Err(error) => Err(error.into()),
    }
}

/// All apps by name.
pub(crate) async fn list(ctx: &RequestCtx, state: &ApiState) -> Result<AppList, ApiError> {
    ctx.allow(Action::ListApps, None)?;
    let machines = state.worker.machines(None).await?;
    let apps: Vec<App> = state
        .store
        .apps()
        .await?
        .iter()
        .map(|record| {
            let own: Vec<_> = machines
                .iter()
                .filter(|machine| machine.spec.app == record.name)
                .cloned()
                .collect();
            view::app(state, record, &own)
        })
        .collect();
    Ok(AppList {
        total_apps: u64::try_from(apps.len()).unwrap_or(u64::MAX),
        apps,
    })
}

/// One app.
pub(crate) async fn get(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
) -> Result<App, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let record = find_app(state, name).await?;
    let machines = state.worker.machines(Some(name)).await?;
    Ok(view::app(state, &record, &machines))
}

/// Deletes an app with its machines, releases, secrets and logs.
///
/// While machines run it is refused unless `force`.
pub(crate) async fn delete(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    force: bool,
) -> Result<(), ApiError> {
    ctx.allow(Action::DeleteApp, Some(name))?;
    let record = find_app(state, name).await?;
    let state_of_task = state.clone();
    ctx.supervised(state, async move {
        begin_deletion(&state_of_task, &record, force).await?;
        finish_deletion(&state_of_task, &record).await
    })
    .await
}

/// From its end on the app gets no new machine: deployments and requests for machines
/// see the mark, and those that came before have made theirs.
async fn begin_deletion(state: &ApiState, record: &AppRecord, force: bool) -> Result<(), ApiError> {
    super::deployments::refuse_while_deploying(state, record).await?;
    let _no_creation_under_way = state.machine_gate.write().await;
    let machines = state.worker.machines(Some(&record.name)).await?;
    let n_running = machines
        .iter()
        .filter(|machine| is_running(machine.state))
        .count();
    if n_running > 0 && !force {
        return Err(ApiError::conflict(
            "app-has-machines",
            format!("app `{}` has {n_running} machines that run", record.name),
        )
        .with_hint("stop them first, or delete with `force=true`"));
    }
    match state
        .store
        .begin_app_deletion(&record.id, clock::now())
        .await
    {
        // It began after we looked.
        Err(StoreError::Exists(_)) => Err(ApiError::conflict(
            "deploy-in-progress",
            format!("a deployment of app `{}` has just begun", record.name),
        )
        .with_hint("wait for it, and delete the app again")),
        result => Ok(result?),
    }
}

fn is_running(state: MachineState) -> bool {
    match state {
        MachineState::Starting | MachineState::Started | MachineState::Stopping => true,
        MachineState::Created
        | MachineState::Stopped
        | MachineState::Failed
        | MachineState::Destroying
        | MachineState::Destroyed => false,
    }
}

/// Machines first: while the record exists, the deletion can be taken up again.
async fn finish_deletion(state: &ApiState, record: &AppRecord) -> Result<(), ApiError> {
    for machine in state.worker.machines(Some(&record.name)).await? {
        match state.worker.destroy_machine(&machine.id, true).await {
            Ok(()) | Err(WorkerError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    state.logs.remove_app(&record.name).await?;
    state.store.delete_app(&record.id).await?;
    tracing::info!(app = %record.name, "app deleted");
    Ok(())
}

/// Takes up the deletions that the last process left unfinished.
pub(crate) async fn resume_deletions(state: &ApiState) -> Result<(), StoreError> {
    for record in state.store.apps().await? {
        if record.deleting_at.is_none() {
            continue;
        }
        let state_of_task = state.clone();
        state.tasks.spawn("delete app", async move {
            if let Err(error) = finish_deletion(&state_of_task, &record).await {
                let (app, error) = (&record.name, error.message);
                tracing::warn!(%app, error, "app not deleted yet; deleting it again completes it");
            }
        });
    }
    Ok(())
}
