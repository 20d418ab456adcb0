//! One case of the checker: a run in a world of its own, from its start to the verdict.

use super::{Flaw, Scenario};
use crate::engine::start::StartRequest;
use crate::engine::{Engine, EngineConfig, RegisterError};
use crate::journal::Journal;
use crate::record::{Status, Story};
use crate::sqlite::SqliteJournal;
use crate::testing::TokioClock;
use crate::testing::meddle::{Meddled, Meddling, Plot};
use crate::testing::mortal::{MortalJournal, Side};
use crate::workflow::{Definition, kind_of};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use roost_model::error::chain;
use roost_model::id::RunId;
use roost_runtime::tasks::Tasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A run ends within this, or not at all. Long pauses are paused time, as a rule.
const RUN_LIMIT: Duration = Duration::from_secs(1_800);
/// The tasks of an engine end within this.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at a run whose process was killed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// One run, what is done to it, and how it must end.
pub(super) struct Case {
    pub(super) what: String,
    pub(super) meddlings: Vec<Meddling>,
    /// Whether it is cancelled when a step hangs.
    pub(super) cancels: bool,
    /// Killed after so many writes.
    pub(super) kill: Option<(usize, Side)>,
    pub(super) expected: Status,
}

impl Case {
    pub(super) fn plain(
        what: impl Into<String>,
        meddlings: Vec<Meddling>,
        expected: Status,
    ) -> Self {
        Self {
            what: what.into(),
            meddlings,
            cancels: false,
            kill: None,
            expected,
        }
    }

    pub(super) fn flaw(&self, problem: impl Into<String>, story: Option<Story>) -> Flaw {
        Flaw {
            case: self.what.clone(),
            problem: problem.into(),
            story,
        }
    }

    /// Plays the case in a new world and says whether the kill struck.
    pub(super) async fn play<S: Scenario>(&self, world: &S) -> Result<bool, Flaw> {
        let broken = |error: &(dyn std::error::Error + 'static)| self.flaw(chain(error), None);
        let journal = SqliteJournal::in_memory().map_err(|error| broken(&error))?;
        let journal: Arc<dyn Journal> = Arc::new(journal);
        let (n_writes, side) = self.kill.unwrap_or((usize::MAX, Side::Before));
        let mortal = Arc::new(MortalJournal::new(Arc::clone(&journal), n_writes, side));
        let clock = TokioClock::new();
        let plot = Plot::new(self.meddlings.clone());
        let first = Process::start(world, "first", mortal.clone(), clock, &plot)
            .map_err(|error| broken(&error))?;
        let request = StartRequest {
            subject: world.subject(),
            params: &world.params(),
            cause: "the checker".into(),
            key: None,
        };
        let id = first.engine.start::<S::Workflow>(request).await;
        let id = id.map_err(|error| broken(&error))?;
        let was_killed = tokio::select! {
            biased;
            // Cancel-safe: the notification is kept.
            () = mortal.died.notified() => true,
            // Cancel-safe: it only waits.
            ended = self.wait(&first.engine, &id, &plot) => {
                ended?;
                // A look that was under way may see the write that kills.
                mortal.is_killed()
            }
        };
        let mut last = first;
        if was_killed {
            last.end(self).await?;
            // Before a write it is started again; after it, another one takes over.
            let holder = match side {
                Side::Before => "first",
                Side::After => "second",
            };
            last = Process::start(world, holder, Arc::clone(&journal), clock, &plot)
                .map_err(|error| broken(&error))?;
            self.wait(&last.engine, &id, &plot).await?;
        }
        let story = last.engine.story(&id).await;
        last.end(self).await?;
        let story = story.map_err(|error| broken(&error))?;
        self.judge(world, story, &plot).await?;
        Ok(was_killed)
    }

    /// Waits for the end; cancels the run when it hangs, if that is the case.
    async fn wait(&self, engine: &Engine, id: &RunId, plot: &Plot) -> Result<(), Flaw> {
        let to_the_end = async {
            if self.cancels {
                plot.hangs.notified().await;
                let cancelled = engine.cancel(id, "the checker cancels it").await;
                cancelled.map_err(|error| self.flaw(chain(&error), None))?;
            }
            // The journal of a process that was killed answers no more.
            while engine.wait_ended(id).await.is_err() {
                sleep(LOOK_INTERVAL).await;
            }
            Ok(())
        };
        match timeout(RUN_LIMIT, to_the_end).await {
            Ok(ended) => ended,
            Err(_) => {
                let story = engine.story(id).await.ok();
                Err(self.flaw("it does not end", story))
            }
        }
    }

    async fn judge<S: Scenario>(&self, world: &S, story: Story, plot: &Plot) -> Result<(), Flaw> {
        let end = story.run.status;
        if end != self.expected {
            let expected = self.expected;
            return Err(self.flaw(format!("it should have {expected}"), Some(story)));
        }
        // A failure for good stays in the plot; all else must have happened.
        if self.kill.is_none() && end == Status::Succeeded && !plot.is_over() {
            return Err(self.flaw("a step was not run", Some(story)));
        }
        match world.check(end).await {
            Ok(()) => Ok(()),
            Err(problem) => Err(self.flaw(problem, Some(story))),
        }
    }
}

/// A process with an engine.
struct Process {
    engine: Engine,
    tasks: Tasks,
}

impl Process {
    fn start<S: Scenario>(
        world: &S,
        holder: &str,
        journal: Arc<dyn Journal>,
        clock: TokioClock,
        plot: &Arc<Plot>,
    ) -> Result<Self, RegisterError> {
        let tasks = Tasks::new();
        let builder = Engine::builder(EngineConfig {
            holder: holder.to_owned(),
            journal,
            clock: Arc::new(clock),
            rng: Box::new(StdRng::seed_from_u64(1)),
            tasks: tasks.clone(),
            timing: world.timing(),
        });
        let definition = Definition::new(world.workflow());
        let definition = definition.map_err(|source| RegisterError::Outline {
            kind: kind_of::<S::Workflow>(),
            source,
        })?;
        let meddled = Meddled {
            inner: Arc::new(definition),
            plot: Arc::clone(plot),
        };
        let builder = builder.register_erased(Arc::new(meddled))?;
        let engine = world.register_children(builder)?.start();
        Ok(Self { engine, tasks })
    }

    /// Ends all tasks where they are.
    async fn end(self, case: &Case) -> Result<(), Flaw> {
        if self.tasks.shutdown(SHUTDOWN_LIMIT).await {
            Ok(())
        } else {
            Err(case.flaw("a task of the engine does not end", None))
        }
    }
}
