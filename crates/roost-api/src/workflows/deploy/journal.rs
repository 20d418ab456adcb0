//! The journal of one deployment, and actions of the worker that are not given up at once.

use crate::limits;
use crate::state::ApiState;
use roost_model::error::{Classify, Retry, chain};
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::rest::{DeploymentError, DeploymentStep};
use roost_proto::worker::{Asker, Cause, WaitFor, WorkerError};
use roost_runtime::clock;
use roost_store::StoreError;
use roost_store::records::{
    AppRecord, DeploymentRecord, DeploymentStatus, ReleaseRecord, SlotRecord,
};
use std::future::Future;

/// A deployment and where its progress is written.
pub(super) struct Journal {
    pub(super) state: ApiState,
    pub(super) app: AppRecord,
    pub(super) release: ReleaseRecord,
    pub(super) record: DeploymentRecord,
}

impl Journal {
    pub(super) async fn load(state: &ApiState, app_id: &str, id: &str) -> Result<Self, StoreError> {
        let app = state.store.app_by_id(app_id).await?;
        let record = state.store.deployment(app_id, id).await?;
        let release = state.store.release(app_id, record.release_version).await?;
        Ok(Self {
            state: state.clone(),
            app,
            release,
            record,
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

    pub(super) async fn set_status(
        &self,
        status: DeploymentStatus,
        error: Option<&DeploymentError>,
    ) -> Result<DeploymentStatus, StoreError> {
        self.pass().await;
        let held = self
            .state
            .store
            .set_deployment_status(&self.record, status, error)
            .await?;
        self.wake();
        Ok(held)
    }

    /// Whether somebody decided meanwhile that the deployment is undone.
    pub(super) async fn is_cancelled(&self) -> Result<bool, StoreError> {
        let record = &self.record;
        let present = self.state.store.deployment(&record.app_id, &record.id);
        Ok(present.await?.status == DeploymentStatus::Undoing)
    }

    /// Ends once somebody decided that the deployment is undone.
    pub(super) async fn cancelled(&self) -> Result<(), StoreError> {
        let mut wake = self.state.cancels.subscribe();
        while !self.is_cancelled().await? {
            // A cancellation since `subscribe` wakes this. The sender lives as long as `self`.
            let _ = wake.changed().await;
        }
        Ok(())
    }

    pub(super) async fn finish(&self, status: DeploymentStatus) -> Result<(), StoreError> {
        self.pass().await;
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
        self.step("finish", None, word, text).await?;
        self.state
            .store
            .finish_deployment(&self.record, status, clock::now())
            .await?;
        tracing::info!(deployment = self.record.id, app = %self.app.name, status = status.as_str(), "deployment ended");
        self.wake();
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
            at: clock::now().as_ms(),
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
