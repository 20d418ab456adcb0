//! Deployments: begin one, cancel it, look at them.

mod begin;

pub(crate) use begin::refuse_while_deploying;

use super::{find_app, releases, to_spec};
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use crate::view;
use crate::workflows::deploy;
use begin::begin;
use roost_auth::policy::Action;
use roost_fsm::journal::CancelAnswer;
use roost_fsm::record::Status;
use roost_model::id::DeploymentId;
use roost_model::name::{AppName, MachineName};
use roost_model::rollout::MaxUnavailable;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::rest::{
    CanaryConfig, CreateDeploymentRequest, Deployment, DeploymentCanary, DeploymentStep,
    RollbackRequest,
};
use roost_store::StoreError;
use roost_store::records::{AppRecord, DeploymentRecord, DeploymentStatus};
use std::time::Duration;

/// What a deployment moves to, checked.
struct Wanted {
    /// The image as the user named it.
    image: String,
    config: MachineConfig,
    description: Option<String>,
    count: Option<u32>,
    max_unavailable: MaxUnavailable,
    wait_timeout: Duration,
    canary: Option<DeploymentCanary>,
}

/// Begins a deployment of a new release.
pub(crate) async fn create(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    request: CreateDeploymentRequest,
) -> Result<Deployment, ApiError> {
    ctx.allow(Action::Deploy, Some(name))?;
    let app = find_app(state, name).await?;
    let wanted = to_wanted(state, &app, &request)?;
    let (state_of_task, cause) = (state.clone(), ctx.asker().cause);
    ctx.once(
        state,
        "create deployment",
        &(name, &request),
        |claim| async move { begin(&state_of_task, &app, &wanted, &cause, claim.as_deref()).await },
    )
    .await
}

/// Deploys the current release again, for instance to give machines new secrets.
pub(crate) async fn redeploy(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
) -> Result<Deployment, ApiError> {
    ctx.allow(Action::Deploy, Some(name))?;
    let app = find_app(state, name).await?;
    let (state_of_task, cause) = (state.clone(), ctx.asker().cause);
    ctx.once(state, "redeploy", name, |claim| async move {
        let Some(version) = app.current_release else {
            return Err(ApiError::conflict(
                "never-deployed",
                format!("app `{}` was never deployed", app.name),
            )
            .with_hint("`roost deploy` makes the first release"));
        };
        let wanted = copy_of(&state_of_task, &app, version, "redeploy of").await?;
        begin(&state_of_task, &app, &wanted, &cause, claim.as_deref()).await
    })
    .await
}

/// Deploys a copy of an earlier release.
pub(crate) async fn rollback(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    request: &RollbackRequest,
) -> Result<Deployment, ApiError> {
    ctx.allow(Action::Deploy, Some(name))?;
    let app = find_app(state, name).await?;
    let (state_of_task, asked) = (state.clone(), request.version);
    let cause = ctx.asker().cause;
    ctx.once(state, "rollback", &(name, asked), |claim| async move {
        let version = match asked {
            Some(version) => version,
            None => releases::find_previous(&state_of_task, &app).await?.version,
        };
        let wanted = copy_of(&state_of_task, &app, version, "rollback to").await?;
        begin(&state_of_task, &app, &wanted, &cause, claim.as_deref()).await
    })
    .await
}

async fn copy_of(
    state: &ApiState,
    app: &AppRecord,
    version: u64,
    what: &str,
) -> Result<Wanted, ApiError> {
    let release = releases::find(state, app, version).await?;
    Ok(Wanted {
        image: release.image,
        config: release.config,
        description: Some(format!("{what} v{version}")),
        count: None,
        max_unavailable: MaxUnavailable::DEFAULT,
        wait_timeout: limits::WAIT_TIMEOUT_DEFAULT,
        canary: None,
    })
}

fn to_wanted(
    state: &ApiState,
    app: &AppRecord,
    request: &CreateDeploymentRequest,
) -> Result<Wanted, ApiError> {
    let max = limits::DEPLOY_MACHINES_MAX;
    if let Some(count) = request.count
        && !(1..=max).contains(&count)
    {
        return Err(ApiError::invalid(format!(
            "`count` is {count}, and must be from 1 to {max}"
        )));
    }
    let max_unavailable = request
        .max_unavailable
        .map(MaxUnavailable::from_number)
        .transpose()
        .map_err(|error| ApiError::invalid(format!("`max_unavailable`: {error}")))?
        .unwrap_or(MaxUnavailable::DEFAULT);
    let wait_timeout = request
        .wait_timeout
        .map_or(limits::WAIT_TIMEOUT_DEFAULT, Duration::from_secs);
    if wait_timeout.is_zero() || wait_timeout > limits::WAIT_TIMEOUT_MAX {
        let max = limits::WAIT_TIMEOUT_MAX.as_secs();
        return Err(ApiError::invalid(format!(
            "`wait_timeout` must be from 1 to {max} seconds"
        )));
    }
    let canary = request.canary.as_ref().map(to_deployment_canary);
    let canary = canary.transpose()?;
    // Every machine has this config, so one conversion tells all that is wrong.
    to_spec(&request.config, identity(state, app, 1, 1)?)?;
    Ok(Wanted {
        image: request.config.image.clone(),
        config: request.config.clone(),
        description: request.description.clone(),
        count: request.count,
        max_unavailable,
        wait_timeout,
        canary,
    })
}

fn to_deployment_canary(config: &CanaryConfig) -> Result<DeploymentCanary, ApiError> {
    let canary = config.to_canary();
    let canary = canary.map_err(|error| ApiError::invalid(format!("`canary`: {error}")))?;
    Ok(DeploymentCanary {
        config: CanaryConfig::from(&canary),
        judgement: None,
    })
}

/// Who the machine of a slot is.
pub(crate) fn identity(
    state: &ApiState,
    app: &AppRecord,
    release_version: u64,
    slot_idx: usize,
) -> Result<MachineIdentity, ApiError> {
    let name = MachineName::parse(&format!("{}-v{release_version}-{}", app.name, slot_idx + 1))?;
    Ok(MachineIdentity {
        app: app.name.clone(),
        name,
        region: state.node.region.clone(),
    })
}

/// One deployment with its steps.
pub(crate) async fn get(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &str,
) -> Result<Deployment, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    load(state, &app, id).await
}

/// Whether a deployment has ended, and then its steps after number `after`: all of them, or
/// as many as are read at once.
pub(crate) async fn steps_after(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &str,
    after: u64,
) -> Result<(bool, Vec<DeploymentStep>), ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    // In this order: no step comes after the end.
    let record = find(state, &app, id).await?;
    let steps = state.store.steps(&record.id, after).await?;
    Ok((record.finished_at.is_some(), steps))
}

/// Cancels a deployment: it is undone as a failed one is. Again is harmless.
pub(crate) async fn cancel(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    id: &str,
) -> Result<Deployment, ApiError> {
    ctx.allow(Action::Deploy, Some(name))?;
    let app = find_app(state, name).await?;
    let record = find(state, &app, id).await?;
    let reason = format!(
        "cancelled by {}",
        ctx.asker().cause.subject().unwrap_or("roost")
    );
    let state_of_task = state.clone();
    ctx.supervised(state, async move {
        let state = state_of_task;
        let answer = match state.store.run_with_key(&record.id).await? {
            Some(run) => {
                let answer = state.engine()?.cancel(&run.id, &reason).await;
                answer.map_err(StoreError::from)?
            }
            // It is long over.
            None if record.status == DeploymentStatus::Succeeded => CancelAnswer::PastPoint,
            None => CancelAnswer::TurnsBackAlready,
        };
        match answer {
            CancelAnswer::PastPoint | CancelAnswer::EndedBefore(Status::Succeeded) => {
                return Err(too_late(&app, &record));
            }
            CancelAnswer::Ended => {
                let (status, reason) = (Status::Cancelled, String::new());
                deploy::end_without_run(&state, &record, status, reason).await?;
            }
            // Without its deployment, unless that has ended as well.
            CancelAnswer::EndedBefore(status) => {
                deploy::end_without_run(&state, &record, status, String::new()).await?;
            }
            CancelAnswer::Asked | CancelAnswer::TurnsBackAlready => {}
        }
        load(&state, &app, &record.id).await
    })
    .await
}

fn too_late(app: &AppRecord, record: &DeploymentRecord) -> ApiError {
    let message = format!(
        "deployment {} of app `{}` is past its point of no return: release v{} serves",
        record.id, app.name, record.release_version
    );
    ApiError::conflict("too-late-to-cancel", message).with_hint(format!(
        "`roost rollback -a {}` goes back to the release before",
        app.name
    ))
}

/// The deployment with this id, or an error that says whose it is not.
async fn find(state: &ApiState, app: &AppRecord, id: &str) -> Result<DeploymentRecord, ApiError> {
    let id = DeploymentId::parse(id)?;
    match state.store.deployment(&app.id, id.as_str()).await {
        Err(StoreError::NotFound(what)) => Err(ApiError::not_found(
            "not-found",
            format!("{what} of app `{}` does not exist", app.name),
        )),
        result => Ok(result?),
    }
}

/// A deployment as it is now.
async fn load(state: &ApiState, app: &AppRecord, id: &str) -> Result<Deployment, ApiError> {
    let record = find(state, app, id).await?;
    let steps = state.store.steps(&record.id, 0).await?;
    Ok(view::deployment(state, app, record, steps))
}

/// The deployments of an app, newest first, without their steps.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
) -> Result<Vec<Deployment>, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let records = state.store.deployments(&app.id).await?;
    Ok(records
        .into_iter()
        .map(|record| view::deployment(state, &app, record, vec![]))
        .collect())
}
