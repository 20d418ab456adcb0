//! Executes runs.
//!
//! An [`Engine`] has two long-lived tasks: one takes runs that nobody executes and renews the
//! leases of those that it has (`engine/leases.rs`), one forgets old ones. Each run has a task
//! of its own (`engine/drive.rs`), which alone writes what happens in it.
//!
//! ```text
//! start, cancel ──▶ Journal ◀── record, fenced ── drive (one per run)
//!       │ kick         ▲                            │  ▲
//!       ▼              │ claim, renew               │  │ until when it holds; turn back
//!     keep_leases ─────┘──────── spawns ────────────┘──┘
//! ```
//!
//! A run whose lease could not be renewed in time is dropped at its next await, before anybody
//! else may take it; what it would still write is refused by the journal.

mod drive;
pub(crate) mod leases;
pub mod start;

use crate::journal::{CancelAnswer, Filter, Journal, JournalError, PruneRule};
use crate::limits;
use crate::outline::OutlineError;
use crate::record::{Cancel, Kind, Run, Story, Turn};
use crate::workflow::{Definition, Registered, Workflow};
use leases::Held;
use parking_lot::Mutex;
use rand::RngCore;
use roost_model::error::chain;
use roost_model::id::RunId;
use roost_runtime::clock::Clock;
use roost_runtime::tasks::Tasks;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How often an engine looks and shows that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease lasts without a heartbeat. All engines of a journal agree on it.
    pub lease: Duration,
    /// Pause between two heartbeats.
    pub heartbeat_interval: Duration,
    /// Pause between two looks for runs that nobody executes.
    pub look_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: limits::LEASE,
            heartbeat_interval: limits::HEARTBEAT_INTERVAL,
            look_interval: limits::LOOK_INTERVAL,
        }
    }
}

/// What an engine works with.
pub struct EngineConfig {
    /// Its name: one process at a time has it, and a restarted one has it again.
    pub holder: String,
    /// Where runs are recorded.
    pub journal: Arc<dyn Journal>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where ids and jitter come from.
    pub rng: Box<dyn RngCore + Send>,
    /// What its tasks belong to.
    pub tasks: Tasks,
    /// How often it looks and shows that it lives.
    pub timing: Timing,
}

impl std::fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig")
            .field("holder", &self.holder)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

/// A workflow cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Its declaration contradicts itself.
    #[error("workflow {kind}")]
    Outline {
        /// Which workflow.
        kind: Kind,
        /// What is wrong with it.
        #[source]
        source: OutlineError,
    },
    /// The name and version are taken.
    #[error("workflow {0} is registered twice")]
    Twice(Kind),
}

/// An engine that is told its workflows.
pub struct EngineBuilder {
    config: EngineConfig,
    workflows: BTreeMap<Kind, Arc<dyn Registered>>,
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EngineBuilder").field(&self.config).finish()
    }
}

impl EngineBuilder {
    /// Adds a workflow. Versions of one name are added side by side.
    pub fn register<W: Workflow>(self, workflow: W) -> Result<Self, RegisterError> {
        let definition = Definition::new(workflow).map_err(|source| RegisterError::Outline {
            kind: crate::workflow::kind_of::<W>(),
            source,
        })?;
        self.register_erased(Arc::new(definition))
    }

    pub(crate) fn register_erased(
        mut self,
        workflow: Arc<dyn Registered>,
    ) -> Result<Self, RegisterError> {
        let kind = workflow.kind();
        match self.workflows.insert(kind.clone(), workflow) {
            None => Ok(self),
            Some(_) => Err(RegisterError::Twice(kind)),
        }
    }

    /// Takes up what the journal has, and executes what is started from now on.
    pub fn start(self) -> Engine {
        let (changes, _) = watch::channel(0);
        let engine = Engine {
            inner: Arc::new(Inner {
                rng: Mutex::new(self.config.rng),
                holder: self.config.holder,
                journal: self.config.journal,
                clock: self.config.clock,
                tasks: self.config.tasks,
                timing: self.config.timing,
                workflows: self.workflows,
                held: Mutex::default(),
                kick: Notify::new(),
                changes,
            }),
        };
        let tasks = &engine.inner.tasks;
        tasks.spawn("workflow leases", leases::keep(engine.clone()));
        tasks.spawn("workflow history", engine.clone().forget_old());
        engine
    }
}

/// Executes runs, and answers for them. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    holder: String,
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    rng: Mutex<Box<dyn RngCore + Send>>,
    tasks: Tasks,
    timing: Timing,
    workflows: BTreeMap<Kind, Arc<dyn Registered>>,
    /// The runs that this engine executes: their tasks end when they are taken out of here.
    held: Mutex<BTreeMap<RunId, Held>>,
    /// Something may be there to be taken.
    kick: Notify,
    /// Counts the changes that this engine knows of.
    changes: watch::Sender<u64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("holder", &self.inner.holder)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine without workflows yet.
    pub fn builder(config: EngineConfig) -> EngineBuilder {
        EngineBuilder {
            config,
            workflows: BTreeMap::new(),
        }
    }

    /// Asks a run to turn back; `reason` says who asked, and why.
    pub async fn cancel(&self, id: &RunId, reason: &str) -> Result<CancelAnswer, JournalError> {
        let cancel = Cancel {
            at: self.inner.clock.now(),
            turn: Turn::Cancelled,
            reason: reason.to_owned(),
        };
        let answer = self.inner.journal.ask_cancel(id.clone(), cancel).await?;
        match answer {
            CancelAnswer::Asked => self.tell_to_turn_back(id),
            // The next run of its subject may begin.
            CancelAnswer::Ended => self.kick(),
            CancelAnswer::TurnsBackAlready
            | CancelAnswer::PastPoint
            | CancelAnswer::EndedBefore(_) => {}
        }
        self.changed();
        Ok(answer)
    }

    /// One run with all that happened in it.
    pub async fn story(&self, id: &RunId) -> Result<Story, JournalError> {
        let story = self.inner.journal.load(id.clone()).await?;
        story.ok_or_else(|| JournalError::NotFound(id.clone()))
    }

    /// Runs without their steps.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Run>, JournalError> {
        self.inner.journal.list(filter).await
    }

    /// Waits until a run has ended, also one that another process executes.
    pub async fn wait_ended(&self, id: &RunId) -> Result<Story, JournalError> {
        let mut changes = self.changes();
        loop {
            let story = self.story(id).await?;
            if story.run.status.is_ended() {
                return Ok(story);
            }
            self.wait_changed(&mut changes).await;
        }
    }

    /// Changes whenever this engine changed a run.
    ///
    /// To follow runs: list those changed after the newest [`Run::revision`] seen, wait for a
    /// change or [`limits::WAIT_POLL`] (other processes change runs too), and again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Waits for a change by this engine, or as long as one by another may go unseen.
    pub async fn wait_changed(&self, changes: &mut watch::Receiver<u64>) {
        // Either way the caller looks again; the sender lives as long as `self`.
        let _ = tokio::time::timeout(limits::WAIT_POLL, changes.changed()).await;
    }

    /// Looks now for runs to execute: somebody else recorded one.
    pub fn kick(&self) {
        self.inner.kick.notify_one();
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn dice(&self) -> u64 {
        self.inner.rng.lock().next_u64()
    }

    async fn forget_old(self) {
        let rule = PruneRule {
            keep_for: limits::KEEP_FOR,
            keep_per_subject: limits::KEEP_PER_SUBJECT,
            batch: limits::PRUNE_BATCH,
        };
        let stop = self.inner.tasks.stopping();
        let mut ticks = tokio::time::interval(limits::PRUNE_INTERVAL);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: the token remembers that it fired.
                () = stop.cancelled() => return,
                // Cancel-safe: a tick not taken comes again.
                _ = ticks.tick() => {}
            }
            match self.inner.journal.prune(rule, self.inner.clock.now()).await {
                Ok(0) => {}
                Ok(n_runs) => tracing::debug!(n_runs, "old runs forgotten"),
                Err(error) => tracing::warn!(error = chain(&error), "old runs not forgotten"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
