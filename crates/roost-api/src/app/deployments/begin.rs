//! The beginning of a deployment: its plan, and its record with all that belongs to it.
//!
//! From its record to its end a deployment owns the machines that deployments of its app
//! made. So its plan is of the machines as the deployment before left them: when another one
//! came while they were looked up, the record is refused and the plan is made anew.

use super::Wanted;
use crate::app::ports;
use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use crate::view;
use crate::workflows::deploy;
use roost_model::id::{DeploymentId, MachineId, ReleaseId};
use roost_model::image_ref::ImageRef;
use roost_model::machine::MachineState;
use roost_model::rollout::{self, SlotWork};
use roost_proto::machine_config::MachineConfig;
use roost_proto::rest::Deployment;
use roost_proto::worker::{Asker, Cause, MachineStatus, WorkerError};
use roost_store::placements::Placement;
use roost_store::records::{
    AppRecord, DeploymentRecord, NewDeployment, NewRelease, SlotPhase, SlotRecord,
};
use roost_store::{Answer, Claim, StoreError};
use std::collections::BTreeMap;

/// Pins the image, plans, records release, deployment, slots, run and the answer in one
/// transaction, and sets off.
pub(super) async fn begin(
    state: &ApiState,
    app: &AppRecord,
    wanted: &Wanted,
    cause: &Cause,
    claim: Option<&Claim>,
) -> Result<Deployment, ApiError> {
    // Looked at before the image, which may take long to pull.
    refuse_while_deploying(state, app).await?;
    let spec = wanted
        .config
        .to_recorded_spec(super::identity(state, app, 1, 1)?);
    let spec = spec.map_err(ApiError::faults)?;
    ports::refuse_taken(state, &app.name, &spec.services).await?;
    let release = pin(state, wanted).await?;
    let write = |record: &DeploymentRecord| {
        serde_json::to_string(&view::deployment(state, app, record.clone(), vec![]))
    };
    for _ in 0..limits::PLAN_ATTEMPTS {
        let deployment = plan(state, app, wanted, cause).await?;
        let answer = claim.map(|claim| Answer {
            claim,
            write: &write,
        });
        match state
            .store
            .create_deployment(&app.id, &release, &deployment, state.clock.now(), answer)
            .await
        {
            // Another deployment came since the machines were looked up.
            Err(StoreError::Exists(_)) => {}
            result => {
                let record = result?;
                state.engine()?.kick();
                return Ok(view::deployment(state, app, record, vec![]));
            }
        }
    }
    Err(ApiError::conflict(
        "deploy-in-progress",
        format!("other deployments of app `{}` came in between", app.name),
    )
    .with_hint("try again"))
}

async fn pin(state: &ApiState, wanted: &Wanted) -> Result<NewRelease, ApiError> {
    let image = ImageRef::parse(&wanted.config.image)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let digest = state.images.pin(&image).await?;
    Ok(NewRelease {
        id: ReleaseId::from_ulid(ulid::Ulid::generate()).to_string(),
        image: wanted.image.clone(),
        image_digest: Some(digest.to_string()),
        config: MachineConfig {
            image: image.with_digest(digest).to_string(),
            ..wanted.config.clone()
        },
        description: wanted.description.clone(),
    })
}

/// What is to be done about the machines of now.
async fn plan(
    state: &ApiState,
    app: &AppRecord,
    wanted: &Wanted,
    cause: &Cause,
) -> Result<NewDeployment, ApiError> {
    let follows = refuse_while_deploying(state, app).await?;
    let current = state.store.app_by_id(&app.id).await?.current_release;
    let mut machines = deployed_machines(state, app).await?;
    refuse_leased(state, &machines).await?;
    // What an earlier deployment could not remove is not counted, and comes last.
    let serves = |machine: &MachineStatus| deploy::release_of(machine) == current;
    // Machines that run are the ones worth replacing one by one.
    machines.sort_by_key(|machine| {
        let runs = machine.state == MachineState::Started;
        (!serves(machine), !runs, machine.created_at)
    });
    let n_wanted = match wanted.count {
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
        None => {
            let n_listed = machines.iter().filter(|machine| serves(machine)).count();
            // Some may be on their way to another node just now.
            n_listed.max(n_placed(state, app, current).await?).max(1)
        }
    };
    let ids: Vec<MachineId> = machines.iter().map(|machine| machine.id.clone()).collect();
    let is_canary = wanted.canary.is_some();
    let plan = rollout::plan(&ids, n_wanted, wanted.max_unavailable, is_canary);
    let ran: BTreeMap<MachineId, bool> = machines
        .into_iter()
        .map(|machine| (machine.id, is_up(machine.state)))
        .collect();
    let id = DeploymentId::from_ulid(ulid::Ulid::generate()).to_string();
    Ok(NewDeployment {
        run: deploy::new_run(state, &app.id, &id, cause)?,
        id,
        follows,
        slots: plan
            .slots
            .iter()
            .enumerate()
            .map(|(idx, work)| to_slot(idx, work, &ran))
            .collect(),
        batches: plan.batches,
        wait_timeout: wanted.wait_timeout,
        canary: wanted.canary.clone(),
    })
}

fn is_up(state: MachineState) -> bool {
    match state {
        MachineState::Starting | MachineState::Started => true,
        MachineState::Created
        | MachineState::Stopping
        | MachineState::Stopped
        | MachineState::Suspending
        | MachineState::Suspended
        | MachineState::Failed
        | MachineState::Destroying
        | MachineState::Destroyed => false,
    }
}

fn to_slot(idx: usize, work: &SlotWork, ran: &BTreeMap<MachineId, bool>) -> SlotRecord {
    let (old_machine, makes_new) = match work {
        SlotWork::Replace(old) => (Some(old.clone()), true),
        SlotWork::Add => (None, true),
        SlotWork::Remove(old) => (Some(old.clone()), false),
    };
    let old_ran = old_machine
        .as_ref()
        .and_then(|old| ran.get(old))
        .copied()
        .unwrap_or(false);
    SlotRecord {
        idx,
        old_machine,
        old_ran,
        makes_new,
        new_machine: None,
        phase: SlotPhase::Planned,
    }
}

/// How many machines of a release there are to be.
async fn n_placed(
    state: &ApiState,
    app: &AppRecord,
    release: Option<u64>,
) -> Result<usize, ApiError> {
    let placements = state.store.placements().await?;
    let is_of_release = |placement: &&Placement| {
        placement.app_id == app.id
            && placement.release_version.is_some()
            && placement.release_version == release
            && placement.is_kept
            && placement.leaving_since.is_none()
    };
    Ok(placements.iter().filter(is_of_release).count())
}

/// The machines of an app that deployments made; others are their maker's business.
async fn deployed_machines(
    state: &ApiState,
    app: &AppRecord,
) -> Result<Vec<MachineStatus>, ApiError> {
    let mut machines = state.worker.machines(Some(&app.name)).await?;
    machines.retain(|machine| {
        machine.spec.metadata.contains_key(deploy::DEPLOYMENT_KEY)
            && !matches!(
                machine.state,
                MachineState::Destroying | MachineState::Destroyed
            )
    });
    Ok(machines)
}

/// Fails while somebody holds a lease on one of the machines.
async fn refuse_leased(state: &ApiState, machines: &[MachineStatus]) -> Result<(), ApiError> {
    let nobody = Asker::from(Cause::Deployment { id: String::new() });
    for machine in machines {
        let lease = match state.worker.lease(&machine.id, &nobody).await {
            // It was removed, or replaced, since it was listed.
            Err(WorkerError::NotFound(_)) => None,
            // Whoever holds one can do nothing there, either. No app waits for a lost node.
            Err(WorkerError::Unreachable { .. }) => None,
            lease => lease?,
        };
        if let Some(lease) = lease {
            return Err(WorkerError::Leased {
                machine: machine.id.clone(),
                owner: lease.owner,
                expires_at: lease.expires_at,
                left: lease.expires_at.since(state.clock.now()),
            }
            .into());
        }
    }
    Ok(())
}

/// Fails, naming it, while a deployment of the app is unfinished. Returns the one that ended last.
pub(crate) async fn refuse_while_deploying(
    state: &ApiState,
    app: &AppRecord,
) -> Result<Option<String>, ApiError> {
    // An unfinished one is the newest: there is no other while it lasts.
    match state.store.newest_deployment(&app.id).await? {
        Some(record) if record.finished_at.is_none() => {
            let message = format!(
                "deployment {} of app `{}` is under way",
                record.id, app.name
            );
            let hint = format!(
                "wait for its end, which `roost status -a {}` shows, and try again",
                app.name
            );
            Err(ApiError::conflict("deploy-in-progress", message).with_hint(hint))
        }
        newest => Ok(newest.map(|record| record.id)),
    }
}
