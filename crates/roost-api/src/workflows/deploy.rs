//! A rolling deploy that may be killed anywhere.
//!
//! ```text
//!   plan ─▶ roll ─────────────│─▶ commit ─▶ retire ─▶ finish
//!            │ per slot:      │   the release  the old machines
//!            │ create →       │   is the one   are removed
//!            │ healthy →      │   that serves
//!            │ (tried out) →  │
//!            │ stop old one   └─ point of no return
//!            ▼ a slot fails, or it is cancelled
//!   fail ◀─ roll back (old machines come back, new ones go)
//! ```
//!
//! The engine of workflows (`roost_fsm`) executes it: one run per app at a time, taken up after
//! a crash at the step that was under way, and cancelled or past its point of no return, never
//! both.
//!
//! Each slot starts its new machine before it stops its old one. How far each slot came is in
//! the control database after each action, and each action may be repeated: creation has a
//! request id made of the deployment and the slot, start and stop of what is started or stopped
//! are nothing. So each step may be repeated as a whole.

mod canary;
mod diagnose;
mod health;
mod progress;
mod slot;
#[cfg(test)]
mod tests;
mod undo;

use crate::error::ApiError;
use crate::limits;
use crate::state::ApiState;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use progress::Progress;
use roost_fsm::journal::{Entry, NewRun};
use roost_fsm::record::{Direction, Outcome, Status, Subject};
use roost_fsm::workflow::OnBusy;
use roost_fsm::{Cx, StartRequest, Step, StepError, Steps, Workflow};
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::rest::DeploymentError;
use roost_proto::worker::{Cause, MachineStatus, WorkerError};
use roost_store::records::{DeploymentRecord, DeploymentStatus, SlotRecord};
use roost_store::{StoreError, subject_of_app};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Label of a machine: the deployment that made it.
pub(crate) const DEPLOYMENT_KEY: &str = "roost_deployment_id";
/// Label of a machine: the number of its release.
pub(crate) const RELEASE_KEY: &str = roost_model::machine::MachineSpec::RELEASE_KEY;

const PLAN: Step<()> = Step::new("plan");
const ROLL: Step<()> = Step::new("roll");
const COMMIT: Step<()> = Step::new("commit");
const RETIRE: Step<()> = Step::new("retire");
const FINISH: Step<()> = Step::new("finish");

/// The workflow of a deployment.
pub(crate) struct Deploy {
    state: ApiState,
}

/// Which deployment a run executes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeployParams {
    /// Id of the app.
    app: String,
    /// Id of the deployment; also the key of the run.
    deployment: String,
}

impl Workflow for Deploy {
    const NAME: &'static str = "deploy";
    const VERSION: u32 = 1;
    // Whoever begins one while another is under way is refused before. The run of one that has
    // finished may have a moment to its end.
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = DeployParams;

    fn steps() -> Steps<Self> {
        Steps::new()
            .step(PLAN, Self::plan)
            .undo(Self::fail)
            .retry(limits::DEPLOY_RETRY)
            .step(ROLL, Self::roll)
            .undo(Self::roll_back)
            .retry(limits::DEPLOY_RETRY)
            .timeout(limits::DEPLOY_STEP_TIMEOUT)
            .winds_down()
            .point_of_no_return()
            .step(COMMIT, Self::commit)
            .retry(limits::DEPLOY_RETRY)
            .step(RETIRE, Self::retire)
            .retry(limits::DEPLOY_RETRY)
            .timeout(limits::DEPLOY_STEP_TIMEOUT)
            .step(FINISH, Self::finish)
            .retry(limits::DEPLOY_RETRY)
    }
}

impl Deploy {
    pub(crate) fn new(state: ApiState) -> Self {
        Self { state }
    }

    async fn progress(&self, cx: Cx<DeployParams>) -> Result<Progress, StepError> {
        Progress::load(&self.state, cx).await.map_err(not_stored)
    }

    async fn plan(self: Arc<Self>, cx: Cx<DeployParams>) -> Result<(), StepError> {
        let progress = self.progress(cx).await?;
        if progress.record.status == DeploymentStatus::Pending {
            announce(&progress).await.map_err(not_stored)?;
            progress.set_status(DeploymentStatus::Running, None).await?;
        }
        Ok(())
    }

    /// Brings every slot to its end, or records why that cannot be.
    async fn roll(self: Arc<Self>, cx: Cx<DeployParams>) -> Result<(), StepError> {
        let progress = self.progress(cx).await?;
        if progress.record.status == DeploymentStatus::Undoing {
            // Decided before a crash.
            let error = progress.record.error;
            let reason = error.map_or_else(String::new, |error| error.message);
            return Err(StepError::Fail(reason));
        }
        match advance_all(&progress).await {
            Ok(()) => Ok(()),
            Err(SlotError::Failed(error)) => {
                let undoing = DeploymentStatus::Undoing;
                progress.set_status(undoing, Some(&error)).await?;
                Err(StepError::Fail(error.message))
            }
            Err(SlotError::Cancelled) => Err(StepError::Retry("the run turns back".into())),
            Err(SlotError::Store(error)) => Err(not_stored(error)),
        }
    }

    async fn roll_back(self: Arc<Self>, cx: Cx<DeployParams>) -> Result<(), StepError> {
        let progress = self.progress(cx).await?;
        let why = progress.why_undone();
        let undoing = DeploymentStatus::Undoing;
        progress.set_status(undoing, why.as_ref()).await?;
        undo::undo(&progress).await.map_err(not_stored)
    }

    /// The end of a deployment that is undone.
    async fn fail(self: Arc<Self>, cx: Cx<DeployParams>) -> Result<(), StepError> {
        let progress = self.progress(cx).await?;
        let why = progress.why_undone();
        progress
            .finish(DeploymentStatus::Failed, why.as_ref())
            .await
    }

    /// From here on the release is the app's current one.
    async fn commit(self: Arc<Self>, cx: Cx<DeployParams>) -> Result<(), StepError> {
        let progress = self.progress(cx).await?;
        progress.set_status(DeploymentStatus::Retiring, None).await
    }

    /// Removes the old machines. They take no traffic any more, so a failure is only told.
    async fn retire(self: Arc<Self>, cx: Cx<DeployParams>) -> Result<(), StepError> {
        let progress = self.progress(cx).await?;
        retire_old(&progress).await.map_err(not_stored)
    }

    async fn finish(self: Arc<Self>, cx: Cx<DeployParams>) -> Result<(), StepError> {
        let progress = self.progress(cx).await?;
        progress.finish(DeploymentStatus::Succeeded, None).await
    }
}

fn not_stored(error: StoreError) -> StepError {
    StepError::of(&error)
}

/// Why a slot did not get to its end.
#[derive(Debug)]
enum SlotError {
    /// The deployment has failed, and is undone.
    Failed(Box<DeploymentError>),
    /// The run is asked to turn back.
    Cancelled,
    /// The control database could not be written: nothing is decided, and it is tried again.
    Store(StoreError),
}

impl From<StoreError> for SlotError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The number of the release that a deployment made this machine for.
pub(crate) fn release_of(machine: &MachineStatus) -> Option<u64> {
    machine.spec.metadata.get(RELEASE_KEY)?.parse().ok()
}

/// The run of a deployment, to be recorded with it.
pub(crate) fn new_run(
    state: &ApiState,
    app_id: &str,
    deployment_id: &str,
    cause: &Cause,
) -> Result<NewRun, ApiError> {
    let request = StartRequest {
        subject: subject(app_id)?,
        params: &DeployParams {
            app: app_id.to_owned(),
            deployment: deployment_id.to_owned(),
        },
        cause: serde_json::to_string(cause)
            .map_err(|error| ApiError::internal(error.to_string()))?,
        key: Some(deployment_id.to_owned()),
    };
    let run = state.engine()?.new_run::<Deploy>(request);
    run.map_err(|error| ApiError::internal(chain(&error)))
}

/// What the runs of an app act on.
pub(crate) fn subject(app_id: &str) -> Result<Subject, ApiError> {
    Subject::new(subject_of_app(app_id)).map_err(|error| ApiError::internal(error.to_string()))
}

/// Takes up a deployment that has not ended and has no run that goes on. Says what was done, if
/// anything was.
pub(crate) async fn take_up(
    state: &ApiState,
    record: &DeploymentRecord,
) -> Result<Option<String>, StoreError> {
    let id = record.id.as_str();
    let Some(run) = state.store.run_with_key(id).await? else {
        let cause = Cause::Deployment {
            id: record.id.clone(),
        };
        let run = match new_run(state, &record.app_id, id, &cause) {
            Ok(run) => run,
            Err(error) => {
                tracing::error!(deployment = id, error = error.message, "not taken up");
                return Ok(None);
            }
        };
        let (done, now) = (done_before(record), state.clock.now());
        state.store.take_up_deployment(&run, &done, now).await?;
        if let Some(engine) = state.engine.get() {
            engine.kick();
        }
        let status = record.status.as_str();
        return Ok(Some(format!(
            "deployment {id} of an earlier version, {status}, goes on"
        )));
    };
    if !run.status.is_ended() {
        return Ok(None);
    }
    let status = run.status;
    end_without_run(state, record, status, run.reason.unwrap_or_default()).await?;
    Ok(Some(format!(
        "deployment {id} ends: its run has ended before it as {status}"
    )))
}

/// Ends a deployment whose run has ended without it: it was cancelled before it had begun, or is
/// stuck. Past the point of no return its release serves, whatever could not be removed.
pub(crate) async fn end_without_run(
    state: &ApiState,
    record: &DeploymentRecord,
    status: Status,
    reason: String,
) -> Result<(), StoreError> {
    let (end, error) = match record.status {
        DeploymentStatus::Retiring => (DeploymentStatus::Succeeded, None),
        _ => {
            let error = why_ended(record, status, reason);
            (DeploymentStatus::Failed, Some(error))
        }
    };
    let now = state.clock.now();
    let set = state
        .store
        .set_deployment_status(record, end, error.as_ref(), now);
    set.await?;
    state.deploy_steps.send_modify(|n| *n = n.wrapping_add(1));
    Ok(())
}

/// What a version without runs has done of a deployment that it left. The steps find out by
/// themselves; but the run has to know what there is to undo, and whether there is a way back.
fn done_before(record: &DeploymentRecord) -> Vec<Entry> {
    let done = Some("null".to_owned());
    let (rolled, output) = match record.status {
        DeploymentStatus::Retiring => (Outcome::Done, done.clone()),
        DeploymentStatus::Running | DeploymentStatus::Undoing => (Outcome::CutOff, None),
        DeploymentStatus::Pending | DeploymentStatus::Succeeded | DeploymentStatus::Failed => {
            return vec![];
        }
    };
    let attempted = |step: Step<()>, outcome, output| {
        let started = Entry::StepStarted {
            step: step.name().to_owned(),
            direction: Direction::Do,
            attempt: 1,
        };
        let ended = Entry::StepEnded {
            outcome,
            reason: None,
            output,
            retry_at: None,
        };
        [started, ended]
    };
    let mut entries = attempted(PLAN, Outcome::Done, done).to_vec();
    entries.extend(attempted(ROLL, rolled, output));
    if rolled == Outcome::Done {
        entries.push(Entry::PointPassed);
    }
    entries
}

/// What a deployment ends with whose run ended as `status`.
fn why_ended(record: &DeploymentRecord, status: Status, reason: String) -> DeploymentError {
    let (code, message) = match status {
        Status::Cancelled => {
            let version = record.release_version;
            let text = format!("the deployment of release v{version} was cancelled");
            ("deploy-cancelled", text)
        }
        _ => ("internal", reason),
    };
    DeploymentError {
        code: code.to_owned(),
        message,
        hint: None,
        machine: None,
        log_tail: vec![],
        listening: vec![],
    }
}

async fn announce(progress: &Progress) -> Result<(), StoreError> {
    let slots = progress.slots().await?;
    let n_new = slots.iter().filter(|slot| slot.makes_new).count();
    let n_old = slots
        .iter()
        .filter(|slot| slot.old_machine.is_some())
        .count();
    let version = progress.record.release_version;
    let text = format!(
        "release v{version}: machines {n_new} new, {n_old} old; batches {}",
        progress.record.batches.len()
    );
    progress.step("plan", None, "done", text).await
}

async fn advance_all(progress: &Progress) -> Result<(), SlotError> {
    for batch in &progress.record.batches {
        let slots: Vec<SlotRecord> = progress
            .slots()
            .await?
            .into_iter()
            .filter(|slot| batch.contains(&slot.idx))
            .collect();
        // All slots of a batch come to an end before anything is undone.
        let results = futures_util::future::join_all(
            slots.into_iter().map(|slot| slot::advance(progress, slot)),
        );
        results.await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

async fn retire_old(progress: &Progress) -> Result<(), StoreError> {
    let slots = progress.slots().await?.into_iter();
    let old = slots.filter_map(|slot| Some((slot.old_machine?, slot.old_ran)));
    let retire = |(old, ran)| -> BoxFuture<'_, _> { Box::pin(retire(progress, old, ran)) };
    let retire: Vec<_> = old.map(retire).collect();
    let mut retire = stream::iter(retire).buffer_unordered(limits::RETIRE_AT_ONCE);
    while let Some(retired) = retire.next().await {
        retired?;
    }
    Ok(())
}

async fn retire(progress: &Progress, old: MachineId, ran: bool) -> Result<(), StoreError> {
    if !ran {
        // Its removal follows whatever comes of it.
        if let Err(error) = stop_woken(progress, &old).await {
            tracing::warn!(machine_id = %old, %error, "old machine did not stop");
        }
    }
    let (outcome, text) = match progress.destroy(&old).await {
        Ok(()) => ("done", format!("old machine {old} removed")),
        Err(reason) => {
            let text = format!("old machine {old} could not be removed: {reason}");
            ("failed", text)
        }
    };
    progress.step("retire", Some(&old), outcome, text).await
}

/// Stops an old machine that slept when the deployment began, if a request has woken it since.
///
/// Not before the new release is the current one: until then it may have to come back, and
/// nobody could tell whether it was cordoned before.
async fn stop_woken(progress: &Progress, old: &MachineId) -> Result<(), WorkerError> {
    let (worker, asker) = (&progress.state.worker, progress.asker());
    let cordon = || worker.set_cordoned(old, true, &asker);
    let state = match progress.insist(cordon).await {
        Ok(status) => status.state,
        // Somebody else has removed it.
        Err(WorkerError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if state.is_settled() && state != MachineState::Started {
        return Ok(());
    }
    progress.stop(old).await
}
