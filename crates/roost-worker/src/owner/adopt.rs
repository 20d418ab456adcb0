//! What is on the host of a machine: finding it, watching it, clearing it away.

use super::{Happened, Owner, SIGKILL, Stopped};
use crate::limits;
use crate::worker::Inner;
use futures_util::FutureExt as _;
use roost_host::driver::{Adoption, DriverError};
use roost_model::id::MachineId;
use roost_model::machine::{ExitCause, MachineExit, Rung};
use std::sync::Arc;

impl Owner {
    /// Finds out what became of the process of an earlier `roostd`, or of one
    /// that could not be suspended.
    pub(super) fn begin_adoption(&mut self) {
        let (inner, id, rung) = (Arc::clone(&self.inner), self.id.clone(), self.rung);
        let adoption = async move {
            loop {
                let adopted = match inner.driver_of(&id, rung) {
                    Ok(driver) => driver.adopt(&id).await,
                    Err(error) => Err(error),
                };
                match adopted {
                    Ok(adoption) => return Happened::Adopted(adoption),
                    Err(DriverError::NotRunning(_)) => return Happened::Adopted(Adoption::Gone),
                    Err(error) => {
                        tracing::warn!(machine_id = %id, %error, "cannot adopt machine yet");
                        tokio::time::sleep(limits::RETRY_DELAY).await;
                    }
                }
            }
        };
        self.operation = Some(adoption.boxed());
    }

    /// Removes what a kill between the record of an end and its clearing left.
    pub(super) async fn clear_leftovers(&mut self) -> Result<(), Stopped> {
        let listed = match self.driver() {
            Ok(driver) => driver.list().await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(listed) if !listed.contains(&self.id) => Ok(()),
            // Not knowing is no reason not to clear: removal is idempotent.
            Ok(_) | Err(_) => self.clear_host().await,
        }
    }

    /// Has the driver remove what is left on the host, until it succeeds.
    pub(super) async fn clear_host(&mut self) -> Result<(), Stopped> {
        let stop = self.inner.tasks.stopping();
        let (inner, id, rung) = (Arc::clone(&self.inner), self.id.clone(), self.rung);
        let removal = async move { remove_from_host(&inner, &id, rung).await };
        stop.run_until_cancelled(removal).await.ok_or(Stopped)
    }
}

/// Removes a machine from the host, trying until it succeeds.
pub(super) async fn remove_from_host(inner: &Inner, id: &MachineId, rung: Option<Rung>) {
    loop {
        let removal = async { inner.driver_of(id, rung)?.remove(id).await };
        match tokio::time::timeout(limits::DRIVER_CALL_TIMEOUT, removal).await {
            // Not running: it was never launched.
            Ok(Ok(()) | Err(DriverError::NotRunning(_))) => return,
            Ok(Err(error)) => tracing::warn!(machine_id = %id, %error, "cannot clear machine yet"),
            Err(_) => tracing::warn!(machine_id = %id, "clearing machine takes too long"),
        }
        tokio::time::sleep(limits::RETRY_DELAY).await;
    }
}

/// Resolves when the machine's process has ended.
pub(super) async fn watch_exit(
    inner: Arc<Inner>,
    id: MachineId,
    rung: Option<Rung>,
) -> MachineExit {
    loop {
        let exit = async { inner.driver_of(&id, rung)?.wait_exit(&id).await };
        match exit.await {
            Ok(exit) => return exit,
            Err(DriverError::NotRunning(_)) => {
                tracing::warn!(machine_id = %id, "how the machine ended is not known");
                return MachineExit {
                    exit_code: 128 + SIGKILL,
                    signal: Some(SIGKILL),
                    oom_killed: false,
                    cause: ExitCause::Shim,
                };
            }
            Err(error) => {
                tracing::warn!(machine_id = %id, %error, "cannot watch machine");
                tokio::time::sleep(limits::RETRY_DELAY).await;
            }
        }
    }
}
