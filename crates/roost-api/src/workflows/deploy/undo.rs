//! Undoing a deployment: the old machines come back first, then the new ones go.

use super::DEPLOYMENT_KEY;
use super::progress::Progress;
use crate::limits;
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::worker::{CheckResult, MachineStatus, WorkerError};
use roost_store::StoreError;
use roost_store::records::SlotPhase;
use tokio::time::Instant;

/// Undoes what is recorded, and what may not be recorded yet.
pub(super) async fn undo(progress: &Progress) -> Result<(), StoreError> {
    progress
        .step(
            "undo",
            None,
            "started",
            "the old machines take over again".into(),
        )
        .await?;
    let slots = progress.slots().await?;
    // From `Healthy` on, the stop of the old machine may have begun.
    let touched: Vec<MachineId> = slots
        .into_iter()
        .filter(|slot| slot.old_ran && slot.phase >= SlotPhase::Healthy)
        .filter_map(|slot| slot.old_machine)
        .collect();
    // Also what is on a node that does not answer now: it is made anew elsewhere then.
    for old in &touched {
        progress.state.worker.want_serving(old).await?;
    }
    for old in &touched {
        match restore(progress, old).await {
            Ok(()) => {
                progress
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
                progress.step("undo", Some(old), "failed", text).await?;
            }
        }
    }
    destroy_new(progress).await
}

/// Starts an old machine and waits until it can take traffic.
async fn restore(progress: &Progress, old: &MachineId) -> Result<(), String> {
    let (worker, asker) = (&progress.state.worker, progress.asker());
    let text = |error: WorkerError| chain(&error);
    let status = progress
        .insist(|| worker.set_cordoned(old, false, &asker))
        .await
        .map_err(text)?;
    // Its stop may have begun a moment ago, and cannot be taken back.
    let timeout = limits::RESTORE_TIMEOUT + status.spec.stop.timeout;
    let deadline = Instant::now() + timeout;
    let mut asked = false;
    loop {
        let status = progress
            .insist(|| worker.machine(old))
            .await
            .map_err(text)?;
        if serves(&status) {
            return Ok(());
        }
        // A machine that is still stopping can only be started once it has stopped.
        if !asked
            && matches!(
                status.state,
                MachineState::Stopped
                    | MachineState::Suspended
                    | MachineState::Failed
                    | MachineState::Created
            )
        {
            progress
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

/// Removes every machine that this deployment made, also one whose creation is not recorded.
async fn destroy_new(progress: &Progress) -> Result<(), StoreError> {
    let machines = match progress
        .insist(|| progress.state.worker.machines(Some(&progress.app.name)))
        .await
    {
        Ok(machines) => machines,
        Err(error) => {
            let text = format!("the new machines could not be listed: {}", chain(&error));
            return progress.step("undo", None, "failed", text).await;
        }
    };
    // The label alone would miss a machine whose config somebody replaced, the record alone
    // one that was made just before a crash.
    let slots = progress.slots().await?;
    let is_own = |machine: &MachineStatus| {
        let label = machine.spec.metadata.get(DEPLOYMENT_KEY);
        label.is_some_and(|id| *id == progress.record.id)
            || slots
                .iter()
                .any(|slot| slot.new_machine.as_ref() == Some(&machine.id))
    };
    for machine in machines.iter().filter(|machine| is_own(machine)) {
        let id = &machine.id;
        // It may have served, and its removal alone would cut requests off. No request is to start
        // it again meanwhile.
        let asker = progress.asker();
        let worker = &progress.state.worker;
        let stopped = async {
            worker.set_cordoned(id, true, &asker).await?;
            progress.stop(id).await
        };
        if let Err(error) = stopped.await {
            tracing::debug!(machine_id = %id, error = chain(&error), "removed without a stop");
        }
        match progress.destroy(id).await {
            Ok(()) => {
                progress
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
                progress.step("undo", Some(id), "failed", text).await?;
            }
        }
    }
    Ok(())
}
