//! A machine that runs: told to all, checked, and taken out of traffic.

use super::adopt::watch_exit;
use super::outcome::bounded;
use super::{Arrival, Happened, Owner, Stopped};
use crate::health::{self, Unhealthy};
use crate::lifecycle::Event;
use crate::limits;
use crate::store::row::{NewEvent, Row, Wanted};
use crate::worker::entry_of;
use futures_util::FutureExt as _;
use roost_host::driver::Origin;
use roost_model::machine::MachineState;
use std::sync::Arc;
use tokio::sync::mpsc;

impl Owner {
    pub(super) async fn announce(&mut self) -> Result<(), Stopped> {
        let pid = self.pid;
        let arrival = self.arrival.clone();
        // Watched before anything is awaited, so that no end is missed.
        let watch = watch_exit(Arc::clone(&self.inner), self.id.clone(), self.rung);
        self.exit_watch = Some(watch.boxed());
        // On the board before it is recorded: who is told that it has started
        // finds its process id and checks there.
        let row = self.load().await?;
        let is_new = matches!(arrival, Arrival::Launched(_));
        let healthy = if is_new { &[] } else { row.healthy.as_slice() };
        let mut entry = entry_of(&self.inner, &row);
        entry.state = MachineState::Started;
        entry.pid = pid;
        health::begin(&mut entry, &row.spec, healthy, self.inner.clock.now());
        let ipv4 = entry.ipv4;
        self.inner.board.put([(self.id.clone(), entry)]);
        let generation = self.current_generation;
        let row = self
            .record(move |row| {
                if is_new {
                    row.healthy = vec![];
                }
                // A snapshot was used up, or is of no use any more.
                row.has_snapshot = false;
                let events = record_arrival(row, &arrival, pid);
                // Asked for something else meanwhile.
                row.state = match row.wanted {
                    Wanted::Run if row.generation == generation => MachineState::Started,
                    Wanted::Suspend => MachineState::Suspending,
                    Wanted::Run | Wanted::Rest | Wanted::Gone => MachineState::Stopping,
                };
                events
            })
            .await?;
        self.inner
            .board
            .update(&self.id, |entry| entry.cordoned = row.cordoned);
        self.inner.notify(&self.id);
        let checks = self.inner.tasks.stopping().child_token();
        let (unhealthy, mut told) = mpsc::channel(1);
        health::spawn(&self.inner, &row, ipv4, &checks, &unhealthy);
        self.checks = Some(checks);
        let ailment = async move {
            match told.recv().await {
                Some(ailment) => ailment,
                // No check is left that could ask for a stop.
                None => std::future::pending().await,
            }
        };
        self.unhealthy = Some(ailment.boxed());
        tracing::info!(machine_id = %self.id, pid, arrival = ?self.arrival, "machine runs");
        Ok(())
    }

    /// Its end is looked upon as a failure because of what is recorded here,
    /// also by a `roostd` that only finds that it has ended.
    pub(super) async fn record_unhealthy(&mut self) -> Result<(), Stopped> {
        let Some(ailment) = self.ailment.take() else {
            return Ok(());
        };
        let Unhealthy {
            check,
            n_failed,
            output,
        } = ailment;
        tracing::warn!(machine_id = %self.id, check, n_failed, output, "machine is unhealthy");
        self.record(move |row| {
            row.state_reason = Some(format!(
                "its check {check} failed {n_failed} times in a row: {output}"
            ));
            let detail = serde_json::json!({
                "check": check, "failures": n_failed, "output": output,
            });
            vec![NewEvent::by_worker("unhealthy", detail)]
        })
        .await
        .map(drop)
    }

    pub(super) async fn withdraw(&mut self) -> Result<(), Stopped> {
        self.cancel_checks();
        // The edge is told first, so that it sends nothing more meanwhile.
        let state = self.phase.state();
        self.inner
            .board
            .update(&self.id, |entry| entry.state = state);
        self.record(|_| vec![]).await.map(drop)
    }

    pub(super) fn drain(&mut self) {
        let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
        let has_services = inner
            .board
            .get(&id)
            .is_some_and(|entry| !entry.services.is_empty());
        let drain_timeout = inner.config.drain_timeout;
        let drain = async move {
            let wait = async {
                tokio::time::sleep(limits::DRAIN_SETTLE).await;
                while inner.gauge.in_flight(&id) > 0 {
                    tokio::time::sleep(limits::DRAIN_POLL).await;
                }
            };
            if has_services && tokio::time::timeout(drain_timeout, wait).await.is_err() {
                let n_left = inner.gauge.in_flight(&id);
                tracing::warn!(machine_id = %id, n_left, "requests under way are cut off");
            }
            Happened::Event(Event::Drained)
        };
        self.operation = Some(drain.boxed());
    }
}

/// The event of a machine that runs, and its reason.
fn record_arrival(row: &mut Row, arrival: &Arrival, pid: Option<u32>) -> Vec<NewEvent> {
    let (kind, mut detail) = match arrival {
        Arrival::Launched(_) => ("start", serde_json::json!({ "pid": pid })),
        Arrival::Adopted => ("adopt", serde_json::json!({ "pid": pid })),
        // Its failed suspend was the event, and is the reason.
        Arrival::RunsOn => {
            if row.wanted == Wanted::Suspend {
                row.wanted = Wanted::Run;
            }
            return vec![];
        }
    };
    row.state_reason = None;
    if let Arrival::Launched(running) = arrival {
        if let Some(kernel) = &running.kernel {
            detail["kernel"] = kernel.as_str().into();
        }
        match &running.origin {
            Origin::Cold => {}
            Origin::Resumed => detail["resumed"] = true.into(),
            Origin::ColdAfter(reason) => {
                let reason = bounded(reason);
                row.state_reason = Some(format!(
                    "started anew, as it could not be resumed: {reason}"
                ));
                detail["resumed"] = false.into();
                detail["reason"] = reason.into();
            }
        }
    }
    vec![NewEvent::by_worker(kind, detail)]
}
