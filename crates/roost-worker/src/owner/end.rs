//! How a machine ends: signals, the record of its end, its removal.

use super::adopt::remove_from_host;
use super::outcome::Ending;
use super::{Happened, Owner, SIGKILL, Stopped};
use crate::launch::plan_stop;
use crate::lifecycle::Event;
use crate::limits;
use crate::store::row::{NewEvent, Row, StopAsked, Wanted};
use crate::worker::entry_of;
use futures_util::FutureExt as _;
use roost_host::driver::DriverError;
use roost_model::restart::{BACKOFF_MAX, is_recent};
use roost_model::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

impl Owner {
    pub(super) async fn signal_stop(&mut self) -> Result<(), Stopped> {
        let plan = plan_stop(&self.load().await?);
        self.send_signal(plan.signal.number()).await;
        self.arm_signal_timer(plan.timeout);
        Ok(())
    }

    pub(super) async fn signal_kill(&mut self) -> Result<(), Stopped> {
        self.send_signal(SIGKILL).await;
        self.arm_signal_timer(limits::KILL_TIMEOUT);
        Ok(())
    }

    pub(super) async fn force_remove(&mut self) -> Result<(), Stopped> {
        tracing::warn!(machine_id = %self.id, "machine outlives SIGKILL; removing it by force");
        self.clear_host().await?;
        self.arm_signal_timer(limits::KILL_TIMEOUT);
        Ok(())
    }

    async fn send_signal(&mut self, signal: i32) {
        let driver = self.driver();
        let call = async { driver?.signal(&self.id, signal).await };
        match tokio::time::timeout(limits::DRIVER_CALL_TIMEOUT, call).await {
            // Not running: its end is on the way to us.
            Ok(Ok(()) | Err(DriverError::NotRunning(_))) => {}
            Ok(Err(error)) => {
                tracing::warn!(machine_id = %self.id, signal, %error, "cannot signal")
            }
            Err(_) => tracing::warn!(machine_id = %self.id, signal, "signal takes too long"),
        }
    }

    fn arm_signal_timer(&mut self, timeout: Duration) {
        self.operation = Some(
            async move {
                tokio::time::sleep(timeout).await;
                Happened::Event(Event::SignalTimedOut)
            }
            .boxed(),
        );
    }

    pub(super) fn arm_backoff(&mut self, at: Timestamp) {
        // Recorded by a clock that was set back since, it may be days ahead.
        let wait = at.since(self.inner.clock.now()).min(BACKOFF_MAX);
        self.operation = Some(
            async move {
                tokio::time::sleep(wait).await;
                Happened::Event(Event::BackoffElapsed)
            }
            .boxed(),
        );
    }

    pub(super) async fn record_end(&mut self) -> Result<(), Stopped> {
        self.cancel_checks();
        (self.operation, self.exit_watch, self.pid) = (None, None, None);
        let ending = self.ending.take().unwrap_or_else(Ending::gone);
        let (generation, state) = (self.current_generation, self.phase.state());
        self.inner.board.update(&self.id, |entry| {
            entry.state = state;
            entry.pid = None;
            entry.checks.clear();
        });
        // First the record, then the host: killed in between, the end is not
        // counted again, since `vm_live` is no longer set, and the next start
        // clears what is left.
        let row = self
            .record(move |row| apply_ending(row, &ending, generation))
            .await?;
        tracing::info!(machine_id = %self.id, reason = row.state_reason, "machine ended");
        self.clear_host().await
    }

    pub(super) async fn record_rest(&mut self) -> Result<(), Stopped> {
        self.operation = None;
        let row = self
            .record(|row| {
                row.restart_at = None;
                row.stop_asked = StopAsked::default();
                settle_suspend(row);
                vec![]
            })
            .await?;
        self.inner
            .board
            .put([(self.id.clone(), entry_of(&self.inner, &row))]);
        Ok(())
    }

    pub(super) async fn remove(&mut self) -> Result<(), Stopped> {
        let row = self
            .record(|row| {
                row.wanted = Wanted::Gone;
                vec![]
            })
            .await?;
        self.inner
            .board
            .put([(self.id.clone(), entry_of(&self.inner, &row))]);
        let (inner, id, rung) = (Arc::clone(&self.inner), self.id.clone(), self.rung);
        let removal = async move {
            remove_from_host(&inner, &id, rung).await;
            // A failed release leaves garbage for the collector, nothing worse.
            if let Err(error) = inner.images.release(&id).await {
                tracing::warn!(machine_id = %id, %error, "cannot release image");
            }
            Happened::Event(Event::Removed)
        };
        self.operation = Some(removal.boxed());
        Ok(())
    }

    pub(super) async fn forget(&mut self) -> Result<(), Stopped> {
        self.inner.board.remove(&self.id);
        self.record(|row| {
            row.slot = None;
            row.has_snapshot = false;
            row.secrets = vec![];
            row.state_reason = None;
            vec![NewEvent::by_worker("destroyed", serde_json::json!({}))]
        })
        .await?;
        tracing::info!(machine_id = %self.id, "machine removed");
        Ok(())
    }
}

/// Nothing is left to suspend.
fn settle_suspend(row: &mut Row) {
    if row.wanted == Wanted::Suspend {
        row.wanted = Wanted::Rest;
    }
}

fn apply_ending(row: &mut Row, ending: &Ending, generation: u64) -> Vec<NewEvent> {
    row.vm_live = false;
    // A start that is tried again finds what the driver could keep.
    row.has_snapshot &= ending.exit.is_none() && ending.restart.is_some();
    settle_suspend(row);
    row.last_exit = ending.exit.or(row.last_exit);
    row.state_reason.clone_from(&ending.reason);
    row.stop_asked = StopAsked::default();
    row.restart_at = ending.restart.map(|(_, at)| at);
    if let Some((now, _)) = ending.restart {
        row.restarts.retain(|at| is_recent(*at, now));
        row.restarts.push(now);
    }
    if ending.settles && row.wanted == Wanted::Run && row.generation == generation {
        row.wanted = Wanted::Rest;
    }
    if ending.destroys {
        row.wanted = Wanted::Gone;
    }
    vec![ending.event.clone()]
}
