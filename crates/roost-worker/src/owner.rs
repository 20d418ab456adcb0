//! The owner task of one machine: carries out what `lifecycle` decides.
//!
//! One task owns a machine's phase, its operation under way (pull, launch,
//! drain, timer, removal) and the watch for its process's end. Both are plain
//! futures inside the task: dropping the task drops them. The inbox is a
//! `Notify`, since a kick carries nothing: the owner reads what is wanted from
//! the database. After every event it kicks itself until nothing changes.
//!
//! When the database cannot be written the owner stands still and tries again:
//! acting on what is not recorded would break invariant 1.

mod adopt;
mod end;
mod outcome;
mod run;
mod start;
mod suspend;

use crate::health::Unhealthy;
use crate::images::ResolvedImage;
use crate::lifecycle::{Action, Event, Phase, Rest, Wish, on_event};
use crate::limits;
use crate::operations::{self, Note};
use crate::store::StoreError;
use crate::store::row::{NewEvent, Row, Wanted};
use crate::worker::{Handle, Inner};
use futures_util::future::BoxFuture;
use outcome::Ending;
use roost_host::driver::{Adoption, DriverError, MachineDriver, Running};
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::machine::{MachineExit, MachineState, Rung};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const SIGKILL: i32 = 9;

/// How an operation ended.
enum Happened {
    /// An event that needs nothing more.
    Event(Event),
    /// The image is present, or why not.
    Resolved(Box<Result<Resolved, StartFailure>>),
    /// The process runs, or why not.
    Launched(Result<Running, StartFailure>),
    /// What became of a process of an earlier `roostd`.
    Adopted(Adoption),
    /// A snapshot is kept, or why not, for people.
    Suspended(Result<(), String>),
}

/// How the process that runs came to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Arrival {
    /// It was launched.
    Launched(Running),
    /// It was launched by an earlier `roostd`.
    Adopted,
    /// It could not be suspended and runs on.
    RunsOn,
}

/// What is being started.
struct Start {
    row: Row,
    /// Once they are known.
    resolved: Option<Resolved>,
}

/// What a start needs before it can launch.
struct Resolved {
    driver: Arc<dyn MachineDriver>,
    image: ResolvedImage,
}

/// Why a start failed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StartFailure {
    /// For people.
    reason: String,
    /// Whether trying again may help.
    is_transient: bool,
}

/// The worker is shutting down, or the record of the machine is gone.
#[derive(Debug)]
struct Stopped;

/// The owner of one machine.
pub(crate) struct Owner {
    inner: Arc<Inner>,
    id: MachineId,
    handle: Arc<Handle>,
    phase: Phase,
    /// The generation that is being started or runs.
    current_generation: u64,
    operation: Option<BoxFuture<'static, Happened>>,
    exit_watch: Option<BoxFuture<'static, MachineExit>>,
    /// Ends the checks of the process that runs.
    checks: Option<CancellationToken>,
    /// Resolves when one of them asks for a stop.
    unhealthy: Option<BoxFuture<'static, Unhealthy>>,
    /// What it said, to be recorded.
    ailment: Option<Unhealthy>,
    /// The rung that it was launched on last.
    rung: Option<Rung>,
    starting: Option<Box<Start>>,
    /// The host's id of the process that runs.
    pid: Option<u32>,
    arrival: Arrival,
    /// What is to be recorded of an end.
    ending: Option<Ending>,
    /// Why the suspend under way failed.
    suspend_failure: Option<String>,
    /// What is to be noted of the operation with the next record.
    notes: Vec<Note>,
    /// Told once the machine is no longer being adopted.
    adopted: Option<oneshot::Sender<()>>,
}

impl Owner {
    /// The owner of the machine of this row.
    pub(crate) fn new(
        inner: Arc<Inner>,
        row: &Row,
        handle: Arc<Handle>,
        adopted: Option<oneshot::Sender<()>>,
    ) -> Self {
        let phase = match row.state {
            _ if row.vm_live => Phase::Adopting,
            _ if row.has_snapshot => Phase::Resting(Rest::Suspended),
            MachineState::Created => Phase::Resting(Rest::Created),
            MachineState::Failed => Phase::Resting(Rest::Failed),
            MachineState::Starting => match row.restart_at {
                Some(at) => Phase::BackingOff(at),
                None => Phase::Resting(Rest::Stopped),
            },
            // The first kick leads on from here, to removal as well.
            MachineState::Started
            | MachineState::Stopping
            | MachineState::Stopped
            | MachineState::Suspending
            | MachineState::Suspended
            | MachineState::Destroying
            | MachineState::Destroyed => Phase::Resting(Rest::Stopped),
        };
        Self {
            inner,
            id: row.id.clone(),
            handle,
            phase,
            current_generation: row.launched_generation,
            operation: None,
            exit_watch: None,
            checks: None,
            unhealthy: None,
            ailment: None,
            rung: row.rung,
            starting: None,
            pid: None,
            arrival: Arrival::Adopted,
            ending: None,
            suspend_failure: None,
            // What an earlier `roostd` was about is taken up from here.
            notes: operations::step_of(phase)
                .map(Note::StepStarted)
                .into_iter()
                .collect(),
            adopted,
        }
    }

    /// Owns the machine until it is gone or the worker stops.
    pub(crate) async fn run(mut self) {
        if let Err(Stopped) = self.own().await {
            tracing::debug!(machine_id = %self.id, "owner stops");
        }
        self.cancel_checks();
    }

    async fn own(&mut self) -> Result<(), Stopped> {
        if self.phase == Phase::Adopting {
            self.begin_adoption();
        } else {
            // One that was never launched has left nothing, and a snapshot is kept.
            if self.current_generation > 0 && self.phase != Phase::Resting(Rest::Suspended) {
                self.clear_leftovers().await?;
            }
            if let Phase::BackingOff(at) = self.phase {
                self.arm_backoff(at);
            }
        }
        let stop = self.inner.tasks.stopping();
        loop {
            self.follow_wish().await?;
            if self.phase != Phase::Adopting
                && let Some(adopted) = self.adopted.take()
            {
                // A start that waits no longer does not care.
                let _ = adopted.send(());
            }
            if self.phase == Phase::Gone {
                return Ok(());
            }
            let (operation, exit_watch) = (&mut self.operation, &mut self.exit_watch);
            let unhealthy = &mut self.unhealthy;
            tokio::select! {
                biased;
                // Cancel-safe: the token remembers that it fired.
                () = stop.cancelled() => return Err(Stopped),
                // Cancel-safe: the future stays in its place until it is done.
                exit = poll_slot(exit_watch) => {
                    self.exit_watch = None;
                    self.on_exit(exit).await?;
                }
                // Cancel-safe: as above.
                happened = poll_slot(operation) => {
                    self.operation = None;
                    self.on_happened(happened).await?;
                }
                // Cancel-safe: as above.
                ailment = poll_slot(unhealthy) => {
                    self.unhealthy = None;
                    self.ailment = Some(ailment);
                    self.handle_event(Event::Unhealthy).await?;
                }
                // Cancel-safe: a kick that is not taken is kept.
                () = self.handle.kick.notified() => {}
            }
        }
    }

    /// Does what is wanted until nothing is left to do now.
    async fn follow_wish(&mut self) -> Result<(), Stopped> {
        loop {
            let row = self.load().await?;
            let wish = wish_of(&row, self.current_generation);
            let before = self.phase;
            self.handle_event(Event::Kick(wish)).await?;
            if self.phase == before {
                // A wish that was taken back before it was acted on.
                if matches!(self.phase, Phase::Resting(_)) && row.state != self.phase.state() {
                    self.record_rest().await?;
                }
                return self.end_operation().await;
            }
        }
    }

    async fn on_happened(&mut self, happened: Happened) -> Result<(), Stopped> {
        match happened {
            Happened::Event(event) => self.handle_event(event).await,
            Happened::Resolved(outcome) => match *outcome {
                Ok(resolved) => {
                    if let Some(start) = &mut self.starting {
                        start.resolved = Some(resolved);
                    }
                    self.handle_event(Event::Resolved).await
                }
                Err(failure) => self.on_start_failure(failure).await,
            },
            Happened::Launched(Ok(running)) => {
                self.pid = Some(running.pid);
                self.arrival = Arrival::Launched(running);
                self.handle_event(Event::Launched).await
            }
            Happened::Launched(Err(failure)) => self.on_start_failure(failure).await,
            Happened::Adopted(Adoption::Running { pid }) => {
                self.pid = Some(pid);
                self.handle_event(Event::AdoptedRunning).await
            }
            Happened::Adopted(Adoption::Exited(exit)) => self.on_exit(exit).await,
            Happened::Adopted(Adoption::Suspended) => {
                self.handle_event(Event::AdoptedSuspended).await
            }
            Happened::Adopted(Adoption::Gone) => {
                self.ending = Some(match self.arrival {
                    Arrival::RunsOn => Ending::gone_in_suspend(),
                    Arrival::Adopted | Arrival::Launched(_) => Ending::gone(),
                });
                self.handle_event(Event::AdoptedGone).await
            }
            Happened::Suspended(Ok(())) => self.handle_event(Event::Suspended).await,
            Happened::Suspended(Err(failure)) => {
                self.suspend_failure = Some(failure);
                self.handle_event(Event::SuspendFailed).await
            }
        }
    }

    async fn on_exit(&mut self, exit: MachineExit) -> Result<(), Stopped> {
        let row = self.load().await?;
        let now = self.inner.clock.now();
        let (after, ending) = outcome::after_exit(&row, self.current_generation, exit, now);
        self.ending = Some(ending);
        self.handle_event(Event::Exited(after)).await
    }

    async fn on_start_failure(&mut self, failure: StartFailure) -> Result<(), Stopped> {
        let row = self.load().await?;
        let now = self.inner.clock.now();
        let (after, ending) = outcome::after_failure(&row, &failure, now);
        self.ending = Some(ending);
        self.handle_event(Event::StartFailed(after)).await
    }

    async fn handle_event(&mut self, event: Event) -> Result<(), Stopped> {
        let (phase, actions) = on_event(self.phase, event);
        if phase != self.phase {
            tracing::debug!(machine_id = %self.id, from = ?self.phase, to = ?phase, "machine moves");
            let start_failure = self.ending.as_ref().and_then(|end| end.reason.as_deref());
            let reason = if matches!(event, Event::StartFailed(_)) {
                start_failure
            } else {
                self.suspend_failure.as_deref()
            };
            let notes = operations::notes_of(self.phase, phase, event, reason);
            self.notes.extend(notes);
        }
        self.phase = phase;
        for action in actions {
            self.act(action).await?;
        }
        // Most actions record something, and the notes with it.
        self.write_notes().await
    }

    /// Writes what no record took along.
    async fn write_notes(&mut self) -> Result<(), Stopped> {
        while !self.notes.is_empty() {
            let (notes, now) = (self.notes.clone(), self.inner.clock.now());
            match self.inner.store.note(&self.id, notes, now).await {
                Ok(()) => self.notes.clear(),
                Err(error) => self.pause(&error, "cannot note operation").await?,
            }
        }
        Ok(())
    }

    /// Ends the operation under way if nothing more is to be done for it.
    async fn end_operation(&mut self) -> Result<(), Stopped> {
        let (phase, generation) = (self.phase, self.current_generation);
        // Of the row as it is then: another request may have come meanwhile, whose
        // operation is not at its end because what was wanted before is so.
        let end = move |row: &Row, kind: &str| {
            let reason = row.state_reason.as_deref();
            operations::end_of(kind, phase, wish_of(row, generation), reason)
        };
        loop {
            let now = self.inner.clock.now();
            match self.inner.store.end_operation(&self.id, now, end).await {
                Ok(()) => return Ok(()),
                Err(error) => self.pause(&error, "cannot end operation").await?,
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), Stopped> {
        match action {
            Action::Resolve => self.resolve().await,
            Action::CancelResolve => {
                self.operation = None;
                Ok(())
            }
            Action::Launch => self.launch().await,
            Action::Announce => self.announce().await,
            Action::RecordUnhealthy => self.record_unhealthy().await,
            Action::Withdraw => self.withdraw().await,
            Action::Drain => {
                self.drain();
                Ok(())
            }
            Action::Suspend => self.suspend().await,
            Action::RecordSuspended => self.record_suspended().await,
            Action::RecordSuspendFailed => self.record_suspend_failed().await,
            Action::Adopt => {
                self.begin_adoption();
                Ok(())
            }
            Action::DiscardSnapshot => self.discard_snapshot().await,
            Action::SignalStop => self.signal_stop().await,
            Action::SignalKill => self.signal_kill().await,
            Action::ForceRemove => self.force_remove().await,
            Action::RecordEnd => self.record_end().await,
            Action::ArmBackoff(at) => {
                self.arm_backoff(at);
                Ok(())
            }
            Action::RecordRest => self.record_rest().await,
            Action::Remove => self.remove().await,
            Action::Forget => self.forget().await,
        }
    }

    /// The driver that looks after what was launched.
    fn driver(&self) -> Result<Arc<dyn MachineDriver>, DriverError> {
        self.inner.driver_of(&self.id, self.rung)
    }

    /// Reads the machine's row.
    async fn load(&mut self) -> Result<Row, Stopped> {
        loop {
            match self.inner.store.get(&self.id).await {
                Ok(Some(row)) => return Ok(row),
                Ok(None) => return Err(Stopped),
                Err(error) => self.pause(&error, "cannot read machine").await?,
            }
        }
    }

    /// Changes the machine's row, with the state of the phase, and tells the
    /// board and those who wait.
    async fn record<F>(&mut self, change: F) -> Result<Row, Stopped>
    where
        F: Fn(&mut Row) -> Vec<NewEvent> + Send + Sync + 'static,
    {
        let change = Arc::new(change);
        let state = self.phase.state();
        loop {
            let change = Arc::clone(&change);
            let now = self.inner.clock.now();
            let apply = move |row: &mut Row| {
                row.state = state;
                Ok::<_, std::convert::Infallible>(change(row))
            };
            let notes = self.notes.clone();
            let changed = self.inner.store.change(&self.id, now, notes, apply);
            match changed.await {
                Ok(Some(Ok(row))) => {
                    self.notes.clear();
                    self.inner.notify(&self.id);
                    return Ok(row);
                }
                Ok(None) => return Err(Stopped),
                Err(error) => self.pause(&error, "cannot record machine").await?,
            }
        }
    }

    /// Waits before the database is tried again.
    async fn pause(&mut self, error: &StoreError, what: &str) -> Result<(), Stopped> {
        tracing::error!(machine_id = %self.id, error = chain(error), "{what}; trying again");
        let stop = self.inner.tasks.stopping();
        match stop
            .run_until_cancelled(tokio::time::sleep(limits::RETRY_DELAY))
            .await
        {
            Some(()) => Ok(()),
            None => Err(Stopped),
        }
    }

    fn cancel_checks(&mut self) {
        self.unhealthy = None;
        if let Some(checks) = self.checks.take() {
            checks.cancel();
        }
    }
}

/// What is wanted of a machine of which this generation was launched last.
fn wish_of(row: &Row, current_generation: u64) -> Wish {
    match row.wanted {
        Wanted::Gone => Wish::Gone,
        Wanted::Rest => Wish::Rest,
        Wanted::Suspend => Wish::Suspend,
        Wanted::Run if row.generation == current_generation => Wish::Run,
        Wanted::Run => Wish::RunNewer,
    }
}

/// The value of the future in the slot; never, when the slot is empty.
async fn poll_slot<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
