//! One slot of a deployment, from the phase that is recorded to its end.

use super::canary;
use super::diagnose;
use super::health::await_healthy;
use super::progress::Progress;
use super::{DEPLOYMENT_KEY, RELEASE_KEY, SlotError};
use crate::app::{deployments, secrets};
use crate::error::ApiError;
use crate::placement;
use roost_model::error::{Classify as _, chain};
use roost_model::id::MachineId;
use roost_model::machine::MachineSpec;
use roost_proto::rest::DeploymentError;
use roost_proto::worker::{CreateMachine, Launch, WorkerError};
use roost_store::StoreError;
use roost_store::records::{SlotPhase, SlotRecord};

/// Create → healthy → stop the old one; each step only if it is not recorded yet.
///
/// A cancelled deployment ends here before it creates a machine and while it waits for one.
/// Other actions are completed: half of one would be no easier to undo.
pub(super) async fn advance(progress: &Progress, mut slot: SlotRecord) -> Result<(), SlotError> {
    if progress.cx.is_asked_to_turn_back() {
        return Err(SlotError::Cancelled);
    }
    if slot.makes_new {
        if slot.phase < SlotPhase::Created {
            slot.new_machine = Some(create(progress, &slot).await?);
            slot.phase = SlotPhase::Created;
            progress.set_slot(&slot).await?;
        }
        if let (SlotPhase::Created, Some(machine)) = (slot.phase, &slot.new_machine) {
            progress
                .step(
                    "healthy",
                    Some(machine),
                    "started",
                    format!("waiting for machine {machine}"),
                )
                .await?;
            tokio::select! {
                biased;
                // Cancel-safe: it only waits.
                () = progress.cx.asked_to_turn_back() => return Err(SlotError::Cancelled),
                // Cancel-safe: it waits for a machine that the undoing removes.
                healthy = await_healthy(progress, machine) => healthy?,
            }
            progress
                .step(
                    "healthy",
                    Some(machine),
                    "done",
                    format!("machine {machine} is healthy"),
                )
                .await?;
            canary::try_out(progress, &slot, machine).await?;
        }
    }
    if slot.phase < SlotPhase::Healthy {
        slot.phase = SlotPhase::Healthy;
        progress.set_slot(&slot).await?;
    }
    if slot.phase < SlotPhase::Shifted {
        if let Some(old) = slot.old_machine.clone() {
            stop_old(progress, &old, slot.old_ran).await?;
        }
        slot.phase = SlotPhase::Shifted;
        progress.set_slot(&slot).await?;
    }
    Ok(())
}

async fn create(progress: &Progress, slot: &SlotRecord) -> Result<MachineId, SlotError> {
    let state = &progress.state;
    let request = match build_request(progress, slot).await {
        Ok(request) => request,
        Err(error) => return Err(failed(diagnose::of_api_error(&error))),
    };
    let name = request.spec.name.to_string();
    let asker = progress.asker();
    match progress
        .insist(|| placement::create(state, request.clone(), &asker))
        .await
    {
        Ok(status) => {
            progress
                .step(
                    "create",
                    Some(&status.id),
                    "done",
                    format!("machine {} ({name}) created", status.id),
                )
                .await?;
            Ok(status.id)
        }
        Err(error) => Err(failed(DeploymentError {
            code: error.code().to_string(),
            message: format!("machine {name} could not be created: {}", chain(&error)),
            hint: error.hint(),
            machine: None,
            log_tail: vec![],
            listening: vec![],
        })),
    }
}

async fn build_request(progress: &Progress, slot: &SlotRecord) -> Result<CreateMachine, ApiError> {
    let state = &progress.state;
    let identity = deployments::identity(state, &progress.app, progress.release.version, slot.idx)?;
    let mut spec = progress
        .release
        .config
        .to_recorded_spec(identity)
        .map_err(ApiError::faults)?;
    spec.metadata
        .insert(DEPLOYMENT_KEY.into(), progress.record.id.clone());
    spec.metadata
        .insert(RELEASE_KEY.into(), progress.release.version.to_string());
    if let Some(canary) = canary::of(progress, slot) {
        let split = canary.split.to_string();
        spec.metadata.insert(MachineSpec::SPLIT_KEY.into(), split);
    }
    Ok(CreateMachine {
        // The same for each repetition, so that a repetition makes no second machine.
        request_id: format!("{}-{}", progress.record.id, slot.idx),
        spec,
        secrets: secrets::open_all(state, &progress.app).await?,
        launch: Launch::Start,
        cordoned: false,
        reservation: None,
        lease: None,
        placement: None,
    })
}

fn failed(error: DeploymentError) -> SlotError {
    SlotError::Failed(Box::new(error))
}

/// Takes an old machine out of routing, lets it finish, and stops it.
///
/// It is only removed at the end, so that it can come back.
async fn stop_old(progress: &Progress, old: &MachineId, ran: bool) -> Result<(), StoreError> {
    if !ran {
        return Ok(());
    }
    let worker = &progress.state.worker;
    progress
        .step(
            "shift",
            Some(old),
            "started",
            format!("traffic leaves machine {old}"),
        )
        .await?;
    let asker = progress.asker();
    let stopped = async {
        progress
            .insist(|| worker.set_cordoned(old, true, &asker))
            .await?;
        progress.stop(old).await
    };
    match stopped.await {
        Ok(()) | Err(WorkerError::NotFound(_)) => {
            progress
                .step(
                    "stop",
                    Some(old),
                    "done",
                    format!("old machine {old} is stopped"),
                )
                .await
        }
        // It is out of routing; its removal at the end kills it.
        Err(error) => {
            let text = format!("old machine {old} did not stop: {}", chain(&error));
            progress.step("stop", Some(old), "failed", text).await
        }
    }
}
