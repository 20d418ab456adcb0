//! The progress of one deployment as it is recorded, and actions of the worker that are not given up at once.

use super::{DeployParams, not_stored, why_ended};
use crate::limits;
use crate::state::ApiState;
use roost_fsm::record::Turn;
use roost_fsm::{Cx, StepError};
use roost_model::error::{Classify, Retry, chain};
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::rest::{DeploymentCanary, DeploymentError, DeploymentStep};
use roost_proto::worker::{Asker, Cause, WaitFor, WorkerError};
use roost_store::StoreError;
use roost_store::records::{
    AppRecord, DeploymentRecord, DeploymentStatus, ReleaseRecord, SlotRecord,
};
use std::future::Future;

/// A deployment and how far it is.
pub(super) struct Progress {
    pub(super) state: ApiState,
    pub(super) app: AppRecord,
    pub(super) release: ReleaseRecord,
    pub(super) record: DeploymentRecord,
    pub(super) cx: Cx<DeployParams>,
}

impl Progress {
    pub(super) async fn load(state: &ApiState, cx: Cx<DeployParams>) -> Result<Self, StoreError> {
        let DeployParams { app, deployment } = cx.params();
        let record = state.store.deployment(app, deployment).await?;
        let release = state.store.release(app, record.release_version).await?;
        let app = state.store.app_by_id(app).await?;
        Ok(Self {
            state: state.clone(),
            app,
            release,
            record,
            cx,
        })
    }

    /// Who asks for what the deployment does.
    pub(super) fn asker(&self) -> Asker {
        Asker::from(Cause::Deployment {
            id: self.record.id.clone(),
        })
    }

    /// Where a kill strikes in tests.
    #[cfg(test)]
    async fn pass(&self) {
        self.state.kill_switch.pass().await;
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_async, reason = "tests wait here")]
    async fn pass(&self) {}

    pub(super) async fn slots(&self) -> Result<Vec<SlotRecord>, StoreError> {
        self.state.store.slots(&self.record.id).await
    }

    pub(super) async fn set_slot(&self, slot: &SlotRecord) -> Result<(), StoreError> {
        self.pass().await;
        self.state.store.set_slot(&self.record.id, slot).await
    }

    pub(super) async fn set_canary(&self, canary: &DeploymentCanary) -> Result<(), StoreError> {
        self.pass().await;
        self.state.store.set_canary(&self.record.id, canary).await
    }

    pub(super) async fn set_status(
        &self,
        status: DeploymentStatus,
        error: Option<&DeploymentError>,
    ) -> Result<(), StepError> {
        self.pass().await;
        let set = self.state.store.set_deployment_status(
            &self.record,
            status,
            error,
            self.state.clock.now(),
        );
        set.await.map_err(not_stored)?;
        self.wake();
        Ok(())
    }

    /// Why the deployment is undone, unless that is recorded already.
    pub(super) fn why_undone(&self) -> Option<DeploymentError> {
        let (turn, reason) = self.cx.turned_back()?;
        let is_known = self.record.error.is_some() && turn != Turn::Cancelled;
        (!is_known).then(|| why_ended(&self.record, turn.ends_as(), reason.to_owned()))
    }

    /// The end of the deployment; again is harmless.
    pub(super) async fn finish(
        &self,
        status: DeploymentStatus,
        error: Option<&DeploymentError>,
    ) -> Result<(), StepError> {
        if self.record.finished_at.is_some() {
            return Ok(());
        }
        let word = if status == DeploymentStatus::Succeeded {
            "done"
        } else {
            "failed"
        };
        let text = format!(
            "release v{} {}",
            self.record.release_version,
            status.as_str()
        );
        self.step("finish", None, word, text)
            .await
            .map_err(not_stored)?;
        self.set_status(status, error).await?;
        tracing::info!(deployment = self.record.id, app = %self.app.name, status = status.as_str(), "deployment ended");
        Ok(())
    }

    /// Tells the people who watch what happens.
    pub(super) async fn step(
        &self,
        name: &str,
        machine: Option<&MachineId>,
        status: &str,
        message: String,
    ) -> Result<(), StoreError> {
        let step = DeploymentStep {
            seq: 0,
            name: name.to_owned(),
            machine: machine.map(ToString::to_string),
            status: status.to_owned(),
            message,
            at: self.state.clock.now().as_ms(),
        };
        self.state.store.add_step(&self.record.id, step).await?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        self.state
            .deploy_steps
            .send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Does something at the worker, again if it fails in a way that may pass.
    pub(super) async fn insist<T, E, F>(&self, mut action: impl FnMut() -> F) -> Result<T, E>
    where
        E: Classify + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let mut pause = limits::WORKER_BACKOFF;
        for _ in 1..limits::WORKER_ATTEMPTS {
            match action().await {
                Err(error) if error.retry() != Retry::Never => {
                    tracing::warn!(
                        deployment = self.record.id,
                        error = chain(&error),
                        "tried again"
                    );
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        action().await
    }

    /// Stops a machine, which lets it finish the requests under way, and waits until it has.
    pub(super) async fn stop(&self, id: &MachineId) -> Result<(), WorkerError> {
        let worker = &self.state.worker;
        let asker = self.asker();
        let status = self
            .insist(|| worker.stop_machine(id, None, None, &asker))
            .await?;
        let deadline = tokio::time::Instant::now() + status.spec.stop.timeout + limits::STOP_MARGIN;
        let wait = WaitFor {
            states: vec![
                MachineState::Stopped,
                MachineState::Failed,
                MachineState::Created,
                MachineState::Destroyed,
            ],
            instance_id: None,
            after_event: None,
            timeout: limits::WAIT_MAX,
        };
        loop {
            match worker.wait_machine(id, wait.clone()).await {
                Err(WorkerError::WaitTimeout { .. }) if tokio::time::Instant::now() < deadline => {}
                result => return result.map(drop),
            }
        }
    }

    /// Removes a machine; a missing one is fine. The error is a text for people.
    pub(super) async fn destroy(&self, id: &MachineId) -> Result<(), String> {
        let asker = self.asker();
        match self
            .insist(|| self.state.worker.destroy_machine(id, true, &asker))
            .await
        {
            Ok(()) | Err(WorkerError::NotFound(_)) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }
}
