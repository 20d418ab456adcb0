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
use roost_store::StoreError;
use roost_store::records::AppRecord;

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
    let worker_state = state.clone();
    ctx.once(state, "create app", &request, async move {
        let id = AppId::from_ulid(ulid::Ulid::generate());
        match worker_state
            .store
            .create_app(id.as_str(), &name, clock::now())
            .await
        {
            Ok(record) => Ok(view::app(&worker_state, &record, &[])),
            Err(StoreError::Exists(_)) => Err(ApiError::conflict(
                "name-taken",
                format!("app `{name}` exists already"),
            )
            .with_hint("choose another name, or deploy to the app that exists")),
            Err(error) => Err(error.into()),
        }
    })
    .await
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
    super::deployments::refuse_while_deploying(state, &record).await?;
    let machines = state.worker.machines(Some(name)).await?;
    let n_running = machines
        .iter()
        .filter(|machine| is_running(machine.state))
        .count();
    if n_running > 0 && !force {
        return Err(ApiError::conflict(
            "app-has-machines",
            format!("app `{name}` has {n_running} machines that run"),
        )
        .with_hint("stop them first, or delete with `force=true`"));
    }
    let state_of_task = state.clone();
    ctx.supervised(
        state,
        async move { delete_now(&state_of_task, &record).await },
    )
    .await
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

/// Machines first: while the record exists, a crash is mended by deleting again.
async fn delete_now(state: &ApiState, record: &AppRecord) -> Result<(), ApiError> {
    for machine in state.worker.machines(Some(&record.name)).await? {
        match state.worker.destroy_machine(&machine.id, true).await {
            Ok(()) | Err(WorkerError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    state.logs.remove_app(&record.name).await?;
    match state.store.delete_app(&record.id).await {
        // It began after we looked; what it makes goes when the app is deleted again.
        Err(StoreError::Exists(_)) => {
            return Err(ApiError::conflict(
                "deploy-in-progress",
                format!("a deployment of app `{}` has just begun", record.name),
            )
            .with_hint("wait for it, and delete the app again"));
        }
        result => result?,
    }
    tracing::info!(app = %record.name, "app deleted");
    Ok(())
}
