//! One slot of a deployment, from the phase that the journal says to its end.

use super::diagnose;
use super::health::await_healthy;
use super::journal::Journal;
use super::{DEPLOYMENT_KEY, RELEASE_KEY, SlotError};
use crate::app::{deployments, secrets};
use crate::error::ApiError;
use crate::placement;
use roost_model::error::{Classify as _, chain};
use roost_model::id::MachineId;
use roost_proto::rest::DeploymentError;
use roost_proto::worker::{CreateMachine, Launch, WorkerError};
use roost_store::StoreError;
use roost_store::records::{SlotPhase, SlotRecord};

/// Create → healthy → stop the old one; each step only if the journal does not have it yet.
///
/// A cancelled deployment ends here before it creates a machine and while it waits for one.
/// Other actions are completed: half of one would be no easier to undo.
pub(super) async fn advance(journal: &Journal, mut slot: SlotRecord) -> Result<(), SlotError> {
    if journal.cx.is_asked_to_turn_back() {
        return Err(SlotError::Cancelled);
    }
    if slot.makes_new {
        if slot.phase < SlotPhase::Created {
            slot.new_machine = Some(create(journal, &slot).await?);
            slot.phase = SlotPhase::Created;
            journal.set_slot(&slot).await?;
        }
        if let (SlotPhase::Created, Some(machine)) = (slot.phase, &slot.new_machine) {
            journal
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
                () = journal.cx.asked_to_turn_back() => return Err(SlotError::Cancelled),
                // Cancel-safe: it waits for a machine that the undoing removes.
                healthy = await_healthy(journal, machine) => healthy?,
            }
            journal
                .step(
                    "healthy",
                    Some(machine),
                    "done",
                    format!("machine {machine} is healthy"),
                )
                .await?;
        }
    }
    if slot.phase < SlotPhase::Healthy {
        slot.phase = SlotPhase::Healthy;
        journal.set_slot(&slot).await?;
    }
    if slot.phase < SlotPhase::Shifted {
        if let Some(old) = slot.old_machine.clone() {
            stop_old(journal, &old, slot.old_ran).await?;
        }
        slot.phase = SlotPhase::Shifted;
        journal.set_slot(&slot).await?;
    }
    Ok(())
}

async fn create(journal: &Journal, slot: &SlotRecord) -> Result<MachineId, SlotError> {
    let state = &journal.state;
    let request = match build_request(journal, slot).await {
        Ok(request) => request,
        Err(error) => return Err(failed(diagnose::of_api_error(&error))),
    };
    let name = request.spec.name.to_string();
    let asker = journal.asker();
    match journal
        .insist(|| placement::create(state, request.clone(), &asker))
        .await
    {
        Ok(status) => {
            journal
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

async fn build_request(journal: &Journal, slot: &SlotRecord) -> Result<CreateMachine, ApiError> {
    let state = &journal.state;
    let identity = deployments::identity(state, &journal.app, journal.release.version, slot.idx)?;
    let mut spec = journal
        .release
        .config
        .to_recorded_spec(identity)
        .map_err(ApiError::faults)?;
    spec.metadata
        .insert(DEPLOYMENT_KEY.into(), journal.record.id.clone());
    spec.metadata
        .insert(RELEASE_KEY.into(), journal.release.version.to_string());
    Ok(CreateMachine {
        // The same for each repetition, so that a repetition makes no second machine.
        request_id: format!("{}-{}", journal.record.id, slot.idx),
        spec,
        secrets: secrets::open_all(state, &journal.app).await?,
        launch: Launch::Start,
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
async fn stop_old(journal: &Journal, old: &MachineId, ran: bool) -> Result<(), StoreError> {
    if !ran {
        return Ok(());
    }
    let worker = &journal.state.worker;
    journal
        .step(
            "shift",
            Some(old),
            "started",
            format!("traffic leaves machine {old}"),
        )
        .await?;
    let asker = journal.asker();
    let stopped = async {
        journal
            .insist(|| worker.set_cordoned(old, true, &asker))
            .await?;
        journal.stop(old).await
    };
    match stopped.await {
        Ok(()) | Err(WorkerError::NotFound(_)) => {
            journal
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
            journal.step("stop", Some(old), "failed", text).await
        }
    }
}
