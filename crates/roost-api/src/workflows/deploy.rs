//! A rolling deploy that may be killed anywhere.
//!
//! ```text
//! Pending ─▶ Running ──────────────▶ Retiring ─▶ Succeeded
//!              │  per slot:             (point of no return:
//!              │  create → healthy →     old machines are removed)
//!              │  stop the old one
//!              └─ a slot fails, or ─▶ Undoing ─▶ Failed
//!                 it is cancelled     (old machines come back, new ones go)
//! ```
//!
//! One task owns a deployment, and an app has one unfinished deployment, which the
//! database sees to. Others change of it only this: a request to cancel it writes
//! `Undoing`, unless `Retiring` was there first, and wakes the owner.
//!
//! Each slot starts its new machine before it stops its old one. How far each
//! slot came is journalled in the control database after each action, and each
//! action may be repeated: creation has a request id made of the deployment and
//! the slot, start and stop of what is started or stopped are nothing. So after
//! a crash the same functions run again from the journal.

mod diagnose;
mod health;
mod journal;
mod slot;
#[cfg(test)]
mod tests;
mod undo;

use crate::limits;
use crate::state::ApiState;
use journal::Journal;
use roost_model::error::chain;
use roost_proto::rest::DeploymentError;
use roost_proto::worker::MachineStatus;
use roost_store::StoreError;
use roost_store::records::{DeploymentRecord, DeploymentStatus, SlotRecord};

/// Label of a machine: the deployment that made it.
pub(crate) const DEPLOYMENT_KEY: &str = "roost_deployment_id";
/// Label of a machine: the number of its release.
pub(crate) const RELEASE_KEY: &str = "roost_release_version";

/// The number of the release that a deployment made this machine for.
pub(crate) fn release_of(machine: &MachineStatus) -> Option<u64> {
    machine.spec.metadata.get(RELEASE_KEY)?.parse().ok()
}

/// Why a slot did not get to its end.
#[derive(Debug)]
enum SlotError {
    /// The deployment has failed, and is undone.
    Failed(Box<DeploymentError>),
    /// Somebody else decided that the deployment is undone.
    Cancelled,
    /// The journal could not be written: nothing is decided, and it is tried again.
    Journal(StoreError),
}

impl From<StoreError> for SlotError {
    fn from(error: StoreError) -> Self {
        Self::Journal(error)
    }
}

/// What a deployment ends with that was cancelled.
pub(crate) fn cancelled_by_request(release_version: u64) -> DeploymentError {
    DeploymentError {
        code: "deploy-cancelled".into(),
        message: format!("the deployment of release v{release_version} was cancelled"),
        hint: None,
        machine: None,
        log_tail: vec![],
        listening: vec![],
    }
}

/// Runs a deployment to its end, in its own task.
pub(crate) fn spawn(state: ApiState, record: DeploymentRecord) {
    let stop = state.tasks.stopping();
    state.tasks.clone().spawn("deploy", async move {
        tokio::select! {
            biased;
            // Cancel-safe: what was done is journalled, and taken up at the next start.
            () = stop.cancelled() => {}
            // Cancel-safe: the same, from the journal.
            () = run_to_end(state, record) => {}
        }
    });
}

/// Takes the deployment up again until its journal says that it ended.
async fn run_to_end(state: ApiState, record: DeploymentRecord) {
    let mut pause = limits::TAKE_UP_BACKOFF;
    loop {
        match run(&state, &record.app_id, &record.id).await {
            Ok(()) => return,
            // The app was deleted meanwhile.
            Err(StoreError::NotFound(_)) => return,
            Err(error) => {
                #[cfg(test)]
                if matches!(error, StoreError::DiskFull { .. }) {
                    state.kill_switch.found_full.notify_one();
                }
                let error = chain(&error);
                tracing::error!(
                    deployment = record.id,
                    error,
                    "deployment waits for the control database"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::TAKE_UP_BACKOFF_MAX);
            }
        }
    }
}

/// One pass from what the journal says.
async fn run(state: &ApiState, app_id: &str, id: &str) -> Result<(), StoreError> {
    let journal = Journal::load(state, app_id, id).await?;
    let mut status = journal.record.status;
    loop {
        match status {
            DeploymentStatus::Pending | DeploymentStatus::Running => {
                status = roll_forward(&journal).await?;
            }
            DeploymentStatus::Retiring => return retire_old(&journal).await,
            DeploymentStatus::Undoing => return undo::undo(&journal).await,
            DeploymentStatus::Succeeded | DeploymentStatus::Failed => return Ok(()),
        }
    }
}

/// Brings every slot to its end and decides what follows. Returns the decision that holds.
async fn roll_forward(journal: &Journal) -> Result<DeploymentStatus, StoreError> {
    if journal.record.status == DeploymentStatus::Pending {
        announce(journal).await?;
        journal.set_status(DeploymentStatus::Running, None).await?;
    }
    match advance_all(journal).await {
        // The point of no return, in one transaction with the app's current release.
        Ok(()) => journal.set_status(DeploymentStatus::Retiring, None).await,
        Err(SlotError::Failed(error)) => {
            let undoing = DeploymentStatus::Undoing;
            journal.set_status(undoing, Some(&error)).await
        }
        Err(SlotError::Cancelled) => Ok(DeploymentStatus::Undoing),
        Err(SlotError::Journal(error)) => Err(error),
    }
}

async fn announce(journal: &Journal) -> Result<(), StoreError> {
    let slots = journal.slots().await?;
    let n_new = slots.iter().filter(|slot| slot.makes_new).count();
    let n_old = slots
        .iter()
        .filter(|slot| slot.old_machine.is_some())
        .count();
    let version = journal.record.release_version;
    let text = format!(
        "release v{version}: machines {n_new} new, {n_old} old; batches {}",
        journal.record.batches.len()
    );
    journal.step("plan", None, "done", text).await
}

async fn advance_all(journal: &Journal) -> Result<(), SlotError> {
    for batch in &journal.record.batches {
        let slots: Vec<SlotRecord> = journal
            .slots()
            .await?
            .into_iter()
            .filter(|slot| batch.contains(&slot.idx))
            .collect();
        // All slots of a batch come to an end before anything is undone.
        let results = futures_util::future::join_all(
            slots.into_iter().map(|slot| slot::advance(journal, slot)),
        );
        results.await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

/// Removes the old machines. They take no traffic any more, so a failure does not undo anything.
async fn retire_old(journal: &Journal) -> Result<(), StoreError> {
    for slot in journal.slots().await? {
        let Some(old) = slot.old_machine else {
            continue;
        };
        match journal.destroy(&old).await {
            Ok(()) => {
                journal
                    .step(
                        "retire",
                        Some(&old),
                        "done",
                        format!("old machine {old} removed"),
                    )
                    .await?
            }
            Err(reason) => {
                let text = format!("old machine {old} could not be removed: {reason}");
                journal.step("retire", Some(&old), "failed", text).await?;
            }
        }
    }
    journal.finish(DeploymentStatus::Succeeded).await
}
