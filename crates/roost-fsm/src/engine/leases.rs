//! Which runs this engine executes, and until when.

use super::{Engine, drive};
use crate::journal::{Claim, Fence, JournalError, Renewal};
use crate::limits;
use crate::record::Run;
use roost_model::error::chain;
use roost_model::id::RunId;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// A run that this engine executes.
pub(super) struct Held {
    epoch: u64,
    parent: Option<RunId>,
    /// What its task goes by. Dropped, it ends.
    hold: watch::Sender<Hold>,
}

/// What the task of a run goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    /// Until then nobody else executes the run; on the clock that does not jump.
    pub(super) until: Instant,
    /// Whether the run is asked to turn back.
    pub(crate) turns_back: bool,
}

/// Takes runs that nobody executes and keeps the leases, until the engine stops.
pub(super) async fn keep(engine: Engine) {
    let stop = engine.inner.tasks.stopping();
    tokio::select! {
        biased;
        // Cancel-safe: the token remembers that it fired.
        () = stop.cancelled() => {}
        // Cancel-safe: neither keeps anything. Beside each other: a look that waits for the
        // journal must not let leases end.
        _ = async { tokio::join!(renew(&engine), look(&engine)) } => {}
    }
}

async fn renew(engine: &Engine) {
    let mut heartbeats = interval(engine.inner.timing.heartbeat_interval);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        heartbeats.tick().await;
        report(engine.renew_leases().await);
    }
}

async fn look(engine: &Engine) {
    let mut looks = interval(engine.inner.timing.look_interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Cancel-safe: a kick not taken is kept.
            () = engine.inner.kick.notified() => {}
            // Cancel-safe: a tick not taken comes again.
            _ = looks.tick() => {}
        }
        report(engine.take_runs().await);
    }
}

fn report(done: Result<(), JournalError>) {
    if let Err(error) = done {
        tracing::warn!(error = chain(&error), "the journal of runs cannot be used");
    }
}

impl Engine {
    /// Executes what nobody else does.
    async fn take_runs(&self) -> Result<(), JournalError> {
        let inner = &self.inner;
        let (held, n_roots) = {
            let held = inner.held.lock();
            let n_roots = held.values().filter(|held| held.parent.is_none()).count();
            (held.keys().cloned().collect(), n_roots)
        };
        let claim = Claim {
            holder: inner.holder.clone(),
            kinds: inner.workflows.keys().cloned().collect(),
            held,
            n_roots_max: limits::RUNS_UNDER_WAY_MAX.saturating_sub(n_roots),
            now: inner.clock.now(),
            lease: inner.timing.lease,
        };
        // From before the journal is asked: the lease begins during that.
        let until = Instant::now() + inner.timing.lease;
        for run in inner.journal.claim(claim).await? {
            self.execute(run, until);
        }
        Ok(())
    }

    fn execute(&self, run: Run, until: Instant) {
        let Some(workflow) = self.inner.workflows.get(&run.kind) else {
            // Only registered kinds are claimed; another holder may have it when the lease ends.
            tracing::error!(run = %run.id, workflow = %run.kind, "claimed an unknown workflow");
            return;
        };
        let hold = Hold {
            until,
            turns_back: run.cancel.is_some(),
        };
        let (sender, receiver) = watch::channel(hold);
        let held = Held {
            epoch: run.epoch,
            parent: run.parent.clone(),
            hold: sender,
        };
        self.inner.held.lock().insert(run.id.clone(), held);
        self.changed();
        let walk = drive::drive(self.clone(), run, workflow.clone(), receiver);
        self.inner.tasks.spawn("workflow run", walk);
    }

    async fn renew_leases(&self) -> Result<(), JournalError> {
        let fences: Vec<Fence> = {
            let held = self.inner.held.lock();
            let fences = held.iter().map(|(run, held)| Fence {
                run: run.clone(),
                epoch: held.epoch,
            });
            fences.collect()
        };
        if fences.is_empty() {
            return Ok(());
        }
        let lease = self.inner.timing.lease;
        let until = Instant::now() + lease;
        let until_stored = self.inner.clock.now().after(lease);
        let answers = self
            .inner
            .journal
            .renew(fences.clone(), until_stored)
            .await?;
        for (fence, answer) in fences.into_iter().zip(answers) {
            match answer {
                Renewal::Held => self.prolong(&fence, until, false),
                Renewal::AskedToTurnBack => self.prolong(&fence, until, true),
                Renewal::Lost => self.leave(&fence),
            }
        }
        Ok(())
    }

    fn prolong(&self, fence: &Fence, until: Instant, turns_back: bool) {
        if let Some(held) = self.inner.held.lock().get(&fence.run)
            && held.epoch == fence.epoch
        {
            held.hold.send_modify(|hold| {
                hold.until = until;
                hold.turns_back |= turns_back;
            });
        }
    }

    /// Executes a run no more; its task ends.
    pub(super) fn leave(&self, fence: &Fence) {
        let mut held = self.inner.held.lock();
        let is_this = held
            .get(&fence.run)
            .is_some_and(|held| held.epoch == fence.epoch);
        if is_this {
            held.remove(&fence.run);
        }
    }

    /// Tells a run, if it is executed here, that it is asked to turn back.
    pub(super) fn tell_to_turn_back(&self, id: &RunId) {
        if let Some(held) = self.inner.held.lock().get(id) {
            held.hold.send_modify(|hold| hold.turns_back = true);
        }
    }

    /// Tells the children of a run that they are asked to turn back.
    pub(super) fn tell_children_to_turn_back(&self, parent: &RunId) {
        let held = self.inner.held.lock();
        for child in held
            .values()
            .filter(|held| held.parent.as_ref() == Some(parent))
        {
            child.hold.send_modify(|hold| hold.turns_back = true);
        }
    }
}

/// Ends when the lease does.
pub(super) async fn lost(mut hold: watch::Receiver<Hold>) {
    loop {
        let until = hold.borrow_and_update().until;
        tokio::select! {
            biased;
            // Cancel-safe: a change is seen whenever it is looked for.
            changed = hold.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            // Cancel-safe: it only waits.
            () = tokio::time::sleep_until(until) => return,
        }
    }
}

/// Ends when the run is asked to turn back.
pub(crate) async fn asked_to_turn_back(mut hold: watch::Receiver<Hold>) {
    if hold.wait_for(|hold| hold.turns_back).await.is_err() {
        // The lease is lost, and that ends the task.
        std::future::pending::<()>().await;
    }
}
