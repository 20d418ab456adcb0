//! Releases: look, and go back.

use super::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::state::ApiState;
use crate::view;
use roost_auth::policy::Action;
use roost_model::name::AppName;
use roost_proto::rest::{CanaryJudgement, Release};
use roost_store::StoreError;
use roost_store::records::{AppRecord, ReleaseRecord, ReleaseStatus};
use std::collections::BTreeMap;

/// The releases of an app, newest first.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
) -> Result<Vec<Release>, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let releases = state.store.releases(&app.id).await?;
    let mut canaries = canaries(state, &app).await?;
    let view = |record: ReleaseRecord| {
        let canary = canaries.remove(&record.version);
        view::release(&app, record, canary)
    };
    Ok(releases.into_iter().map(view).collect())
}

/// One release.
pub(crate) async fn get(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    version: u64,
) -> Result<Release, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let release = find(state, &app, version).await?;
    let canary = canaries(state, &app).await?.remove(&version);
    Ok(view::release(&app, release, canary))
}

/// What became of canaries, by release.
async fn canaries(
    state: &ApiState,
    app: &AppRecord,
) -> Result<BTreeMap<u64, CanaryJudgement>, ApiError> {
    let deployments = state.store.deployments(&app.id).await?.into_iter();
    let judged = deployments.filter_map(|one| Some((one.release_version, one.canary?.judgement?)));
    Ok(judged.collect())
}

/// The release with this number, or an error that says what to do.
pub(crate) async fn find(
    state: &ApiState,
    app: &AppRecord,
    version: u64,
) -> Result<ReleaseRecord, ApiError> {
    match state.store.release(&app.id, version).await {
        Err(StoreError::NotFound(_)) => Err(ApiError::not_found(
            "not-found",
            format!("app `{}` has no release {version}", app.name),
        )
        .with_hint("`roost releases` shows the releases that exist")),
        result => Ok(result?),
    }
}

/// The newest release before the current one that was deployed.
pub(crate) async fn find_previous(
    state: &ApiState,
    app: &AppRecord,
) -> Result<ReleaseRecord, ApiError> {
    let nothing = || {
        ApiError::conflict(
            "never-deployed",
            format!("app `{}` has no earlier release", app.name),
        )
        .with_hint("`roost releases` shows the releases that exist")
    };
    let current = app.current_release.ok_or_else(nothing)?;
    state
        .store
        .releases(&app.id)
        .await?
        .into_iter()
        .find(|release| release.version < current && release.status == ReleaseStatus::Succeeded)
        .ok_or_else(nothing)
}
