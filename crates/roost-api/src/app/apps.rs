//! Apps: create, list, delete.

use super::{app_not_found, find_app};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::host_names;
use crate::limits;
use crate::state::ApiState;
use crate::view;
use roost_auth::policy::Action;
use roost_model::id::{AppId, MachineId};
use roost_model::machine::MachineState;
use roost_model::name::AppName;
use roost_proto::rest::{App, AppList, CreateAppRequest};
use roost_proto::worker::{Asker, Cause, WaitFor, WorkerError};
use roost_store::records::AppRecord;
use roost_store::{Answer, Claim, StoreError};
use tokio::time::Instant;

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
        .create_app(id.as_str(), name, state.clock.now(), answer)
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
pub(crate) async fn begin_deletion(
    state: &ApiState,
    record: &AppRecord,
    force: bool,
) -> Result<(), ApiError> {
    super::deployments::refuse_while_deploying(state, record).await?;
    let gate = state.machine_gates.of(&record.id);
    let _no_creation_under_way = gate.write().await;
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
        .begin_app_deletion(&record.id, state.clock.now())
        .await
    {
        // Another deletion of it has ended since we looked.
        Err(StoreError::NotFound(_)) => Err(app_not_found(&record.name)),
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
        MachineState::Starting
        | MachineState::Started
        | MachineState::Stopping
        | MachineState::Suspending => true,
        MachineState::Created
        | MachineState::Stopped
        | MachineState::Suspended
        | MachineState::Failed
        | MachineState::Destroying
        | MachineState::Destroyed => false,
    }
}

/// Machines first: while the record exists, the deletion can be taken up again.
///
/// The app, its logs and its machines are found by name, which is free for another app once
/// the record is gone. So whatever removes something holds the gate and has seen the record.
pub(crate) async fn finish_deletion(state: &ApiState, record: &AppRecord) -> Result<(), ApiError> {
    let Some(machines) = destroy_machines(state, record).await? else {
        return Ok(());
    };
    // A machine that is not gone yet holds its name, and its shim writes logs.
    let deadline = Instant::now() + limits::DESTROY_TIMEOUT;
    for id in &machines {
        wait_destroyed(state, id, deadline).await?;
    }
    let _alone = state.deletion_gate.lock().await;
    if !is_there(state, record).await? {
        return Ok(());
    }
    state.logs.remove_app(&record.name).await?;
    state
        .store
        .delete_app(&record.id, state.clock.now())
        .await?;
    state.worker.load_fences().await?;
    host_names::publish(state).await?;
    state.host_names.wake();
    tracing::info!(app = %record.name, "app deleted");
    Ok(())
}

/// Begins to destroy all machines of an app; `None` if another deletion of it has ended.
async fn destroy_machines(
    state: &ApiState,
    record: &AppRecord,
) -> Result<Option<Vec<MachineId>>, ApiError> {
    let _alone = state.deletion_gate.lock().await;
    if !is_there(state, record).await? {
        return Ok(None);
    }
    let asker = Asker::from(Cause::AppDeletion);
    let mut ids = vec![];
    for machine in state.worker.machines(Some(&record.name)).await? {
        let destroyed = state.worker.destroy_machine(&machine.id, true, &asker);
        match destroyed.await {
            Ok(()) => ids.push(machine.id),
            Err(WorkerError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(ids))
}

async fn is_there(state: &ApiState, record: &AppRecord) -> Result<bool, StoreError> {
    match state.store.app_by_id(&record.id).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until a machine is destroyed; one that is forgotten already is.
async fn wait_destroyed(
    state: &ApiState,
    id: &MachineId,
    deadline: Instant,
) -> Result<(), WorkerError> {
    loop {
        let timeout = limits::WAIT_MAX.min(deadline.saturating_duration_since(Instant::now()));
        let wait = WaitFor {
            states: vec![MachineState::Destroyed],
            instance_id: None,
            after_event: None,
            timeout,
        };
        match state.worker.wait_machine(id, wait).await {
            Ok(_) | Err(WorkerError::NotFound(_)) => return Ok(()),
            Err(WorkerError::WaitTimeout { .. }) if Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes up the deletions that the last process left unfinished.
pub(crate) async fn resume_deletions(state: &ApiState) -> Result<(), StoreError> {
    for record in state.store.apps().await? {
        if record.deleting_at.is_none() {
            continue;
        }
        let state_of_task = state.clone();
        let stop = state.tasks.stopping();
        state.tasks.spawn("delete app", async move {
            tokio::select! {
                biased;
                // Cancel-safe: the mark stays, and the deletion is taken up at the next start.
                () = stop.cancelled() => {}
                // Cancel-safe: the same.
                () = delete_at_last(&state_of_task, &record) => {}
            }
        });
    }
    Ok(())
}

/// Takes a deletion up again until the app is gone.
async fn delete_at_last(state: &ApiState, record: &AppRecord) {
    let mut pause = limits::TAKE_UP_BACKOFF;
    while let Err(error) = finish_deletion(state, record).await {
        let (app, error) = (&record.name, error.message);
        tracing::warn!(%app, error, "app not deleted yet; it is tried again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(limits::TAKE_UP_BACKOFF_MAX);
    }
}
