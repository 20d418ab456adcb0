//! Suspending: the actions around a snapshot.
//!
//! While the driver writes one, nobody watches for the machine's end, since
//! being suspended looks like one. Whether it still runs after a failure is
//! found out as it is after a kill of `roostd`: by adoption.

use super::outcome::{Ending, bounded};
use super::{Arrival, Happened, Owner, Stopped};
use crate::limits;
use crate::store::row::{NewEvent, StopAsked, Wanted};
use crate::worker::entry_of;
use futures_util::FutureExt as _;
use roost_host::vmm::snapshot::suspend_timeout;
use roost_model::error::chain;

impl Owner {
    /// Has the driver write a snapshot and end the process.
    pub(super) async fn suspend(&mut self) -> Result<(), Stopped> {
        self.exit_watch = None;
        // Of use if it is to be gone before this is over.
        self.ending = Some(Ending::killed_in_suspend());
        let memory = self.load().await?.spec.guest.memory;
        let limit = suspend_timeout(memory) + limits::SUSPEND_MARGIN;
        let (driver, id) = (self.driver(), self.id.clone());
        let suspend = async move {
            let call = async { driver?.suspend(&id).await };
            Happened::Suspended(match tokio::time::timeout(limit, call).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(chain(&error)),
                Err(_) => Err(format!(
                    "its snapshot was not written within {} s",
                    limit.as_secs()
                )),
            })
        };
        self.operation = Some(suspend.boxed());
        Ok(())
    }

    pub(super) async fn record_suspended(&mut self) -> Result<(), Stopped> {
        self.cancel_checks();
        (self.operation, self.exit_watch, self.pid) = (None, None, None);
        self.ending = None;
        let row = self
            .record(|row| {
                row.vm_live = false;
                row.has_snapshot = true;
                row.state_reason = None;
                row.stop_asked = StopAsked::default();
                vec![NewEvent::by_worker("suspended", serde_json::json!({}))]
            })
            .await?;
        self.inner
            .board
            .put([(self.id.clone(), entry_of(&self.inner, &row))]);
        tracing::info!(machine_id = %self.id, "machine is suspended");
        Ok(())
    }

    pub(super) async fn record_suspend_failed(&mut self) -> Result<(), Stopped> {
        self.ending = None;
        self.arrival = Arrival::RunsOn;
        let reason = bounded(&self.suspend_failure.take().unwrap_or_default());
        tracing::warn!(machine_id = %self.id, reason, "machine cannot be suspended");
        let row = self
            .record(move |row| {
                row.state_reason = Some(format!("could not be suspended: {reason}"));
                // Only a start can have been asked for meanwhile, and it runs.
                if row.wanted == Wanted::Run {
                    row.launched_generation = row.generation;
                }
                let detail = serde_json::json!({ "reason": reason });
                vec![NewEvent::by_worker("suspend_failed", detail)]
            })
            .await?;
        self.current_generation = row.launched_generation;
        Ok(())
    }

    pub(super) async fn discard_snapshot(&mut self) -> Result<(), Stopped> {
        // First the record, then the host: killed in between, the next start
        // clears what is left.
        let row = self
            .record(|row| {
                row.has_snapshot = false;
                row.stop_asked = StopAsked::default();
                row.state_reason = Some("its snapshot was discarded".into());
                vec![NewEvent::by_worker("discard", serde_json::json!({}))]
            })
            .await?;
        self.inner
            .board
            .put([(self.id.clone(), entry_of(&self.inner, &row))]);
        self.clear_host().await
    }
}
