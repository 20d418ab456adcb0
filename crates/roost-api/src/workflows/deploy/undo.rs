//! Undoing a deployment: the old machines come back first, then the new ones go.

use super::DEPLOYMENT_KEY;
use super::journal::Journal;
use crate::limits;
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::worker::{CheckResult, MachineStatus, WorkerError};
use roost_store::StoreError;
use roost_store::records::SlotPhase;
use tokio::time::Instant;

/// Undoes what the journal says, and what it may not say yet.
pub(super) async fn undo(journal: &Journal) -> Result<(), StoreError> {
    journal
        .step(
            "undo",
            None,
            "started",
            "the old machines take over again".into(),
        )
        .await?;
    let slots = journal.slots().await?;
    // From `Healthy` on, the stop of the old machine may have begun.
    let touched: Vec<MachineId> = slots
        .into_iter()
        .filter(|slot| slot.old_ran && slot.phase >= SlotPhase::Healthy)
        .filter_map(|slot| slot.old_machine)
        .collect();
    for old in &touched {
        match restore(journal, old).await {
            Ok(()) => {
                journal
                    .step(
                        "undo",
                        Some(old),
                        "done",
                        format!("old machine {old} serves again"),
                    )
                    .await?
            }
            Err(reason) => {
                let text = format!("old machine {old} did not come back: {reason}");
                journal.step("undo", Some(old), "failed", text).await?;
            }
        }
    }
    destroy_new(journal).await
}

/// Starts an old machine and waits until it can take traffic.
async fn restore(journal: &Journal, old: &MachineId) -> Result<(), String> {
    let (worker, asker) = (&journal.state.worker, journal.asker());
    let text = |error: WorkerError| chain(&error);
    let status = journal
        .insist(|| worker.set_cordoned(old, false, &asker))
        .await
        .map_err(text)?;
    // Its stop may have begun a moment ago, and cannot be taken back.
    let timeout = limits::RESTORE_TIMEOUT + status.spec.stop.timeout;
    let deadline = Instant::now() + timeout;
    let mut asked = false;
    loop {
        let status = journal.insist(|| worker.machine(old)).await.map_err(text)?;
        if serves(&status) {
            return Ok(());
        }
        // A machine that is still stopping can only be started once it has stopped.
        if !asked
            && matches!(
                status.state,
                MachineState::Stopped | MachineState::Failed | MachineState::Created
            )
        {
            journal
                .insist(|| worker.start_machine(old, &asker))
                .await
                .map_err(text)?;
            asked = true;
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "it is {} after {} s",
                status.state.as_str(),
                timeout.as_secs()
            ));
        }
        tokio::time::sleep(limits::HEALTH_POLL).await;
    }
}

fn serves(status: &MachineStatus) -> bool {
    status.state == MachineState::Started
        && status
            .checks
            .iter()
            .all(|check| check.result == CheckResult::Passing)
}

/// Removes every machine that this deployment made, also one whose creation is not in the journal.
async fn destroy_new(journal: &Journal) -> Result<(), StoreError> {
    let machines = match journal
        .insist(|| journal.state.worker.machines(Some(&journal.app.name)))
        .await
    {
        Ok(machines) => machines,
        Err(error) => {
            let text = format!("the new machines could not be listed: {}", chain(&error));
            return journal.step("undo", None, "failed", text).await;
        }
    };
    // The label alone would miss a machine whose config somebody replaced, the journal alone
    // one that was made just before a crash.
    let slots = journal.slots().await?;
    let is_own = |machine: &MachineStatus| {
        let label = machine.spec.metadata.get(DEPLOYMENT_KEY);
        label.is_some_and(|id| *id == journal.record.id)
            || slots
                .iter()
                .any(|slot| slot.new_machine.as_ref() == Some(&machine.id))
    };
    for machine in machines.iter().filter(|machine| is_own(machine)) {
        let id = &machine.id;
        // It may have served, and its removal alone would cut requests off.
        if let Err(error) = journal.stop(id).await {
            tracing::debug!(machine_id = %id, error = chain(&error), "removed without a stop");
        }
        match journal.destroy(id).await {
            Ok(()) => {
                journal
                    .step(
                        "undo",
                        Some(id),
                        "done",
                        format!("new machine {id} removed"),
                    )
                    .await?
            }
            Err(reason) => {
                let text = format!("new machine {id} could not be removed: {reason}");
                journal.step("undo", Some(id), "failed", text).await?;
            }
        }
    }
    Ok(())
}
