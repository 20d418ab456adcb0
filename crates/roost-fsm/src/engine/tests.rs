//! Tests of the engine: two processes on one journal, on paused time.

mod children;
mod leases;
mod runs;
mod simulation;

use crate::engine::start::StartRequest;
use crate::engine::{Engine, EngineConfig, Timing};
use crate::journal::Journal;
use crate::record::{Direction, Outcome, Status, Story, Subject};
use crate::sqlite::SqliteJournal;
use crate::testing::TokioClock;
use crate::workflow::{OnBusy, Step, StepError, Steps, Workflow};
use crate::{Cx, RetryPolicy};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use roost_model::id::RunId;
use roost_runtime::tasks::Tasks;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// What a step of [`Scripted`] does at its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Fail(StepError),
    Hang,
    Panic,
}

/// Steps that do what a test says, and say what they did.
#[derive(Debug, Default)]
struct Stage {
    script: Mutex<VecDeque<(&'static str, Act)>>,
    played: Mutex<Vec<String>>,
    hangs: Notify,
}

impl Stage {
    fn new(script: impl IntoIterator<Item = (&'static str, Act)>) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            ..Self::default()
        })
    }

    /// One attempt: the first line of the script for this step, or success.
    async fn play(&self, run: &RunId, what: &'static str) -> Result<(), StepError> {
        let act = {
            let mut script = self.script.lock();
            let idx = script.iter().position(|(step, _)| *step == what);
            idx.and_then(|idx| script.remove(idx))
        };
        self.played.lock().push(what.to_owned());
        match act.map(|(_, act)| act) {
            None => Ok(()),
            Some(Act::Fail(error)) => Err(error),
            Some(Act::Hang) => {
                tracing::debug!(%run, what, "hangs");
                self.hangs.notify_one();
                std::future::pending().await
            }
            Some(Act::Panic) => panic!("as the script says"),
        }
    }

    fn played(&self) -> Vec<String> {
        self.played.lock().clone()
    }
}

/// Two steps with undo, a point of no return, and one more step.
struct Scripted {
    stage: Arc<Stage>,
}

const ONE: Step<()> = Step::new("one");
const TWO: Step<u64> = Step::new("two");
const LAST: Step<()> = Step::new("last");
/// Time that an attempt of step two has.
const TWO_TIMEOUT: Duration = Duration::from_secs(7);

impl Workflow for Scripted {
    const NAME: &'static str = "scripted";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new()
            .step(ONE, async |this: Arc<Self>, cx| {
                this.stage.play(cx.run_id(), "one").await
            })
            .undo(async |this: Arc<Self>, cx| this.stage.play(cx.run_id(), "undo one").await)
            .step(TWO, Self::two)
            .undo(async |this: Arc<Self>, cx| this.stage.play(cx.run_id(), "undo two").await)
            .timeout(TWO_TIMEOUT)
            .retry(RetryPolicy {
                attempts_max: 3,
                ..RetryPolicy::STEP
            })
            .point_of_no_return()
            .step(LAST, Self::last)
    }
}

impl Scripted {
    async fn two(self: Arc<Self>, cx: Cx<u64>) -> Result<u64, StepError> {
        self.stage.play(cx.run_id(), "two").await?;
        Ok(cx.params() * 2)
    }

    async fn last(self: Arc<Self>, cx: Cx<u64>) -> Result<(), StepError> {
        assert_eq!(cx.output_of(TWO)?, cx.params() * 2);
        self.stage.play(cx.run_id(), "last").await
    }
}

/// A journal and the clock of those who use it.
struct Bench {
    journal: Arc<dyn Journal>,
    clock: TokioClock,
    timing: Timing,
    /// Each process draws other random numbers.
    n_processes: Mutex<u64>,
}

/// An engine in a process of its own.
struct Process {
    engine: Engine,
    tasks: Tasks,
}

impl Bench {
    fn new() -> Self {
        Self {
            journal: Arc::new(SqliteJournal::in_memory().unwrap()),
            clock: TokioClock::new(),
            timing: Timing::default(),
            n_processes: Mutex::new(0),
        }
    }

    /// For days of paused time: an engine that hardly ever looks.
    fn calm() -> Self {
        let interval = Duration::from_secs(6 * 3_600);
        let timing = Timing {
            lease: interval * 3,
            heartbeat_interval: interval,
            look_interval: interval,
        };
        Self {
            timing,
            ..Self::new()
        }
    }

    fn config(&self, holder: &str, tasks: &Tasks) -> EngineConfig {
        let mut n_processes = self.n_processes.lock();
        *n_processes += 1;
        EngineConfig {
            holder: holder.into(),
            journal: Arc::clone(&self.journal),
            clock: Arc::new(self.clock),
            rng: Box::new(StdRng::seed_from_u64(*n_processes)),
            tasks: tasks.clone(),
            timing: self.timing,
        }
    }

    fn process(&self, holder: &str, stage: &Arc<Stage>) -> Process {
        let tasks = Tasks::new();
        let workflow = Scripted {
            stage: Arc::clone(stage),
        };
        let builder = Engine::builder(self.config(holder, &tasks));
        let engine = builder.register(workflow).unwrap().start();
        Process { engine, tasks }
    }
}

impl Process {
    async fn start(&self, subject: &str, params: u64) -> RunId {
        self.engine
            .start::<Scripted>(request(subject, &params))
            .await
            .unwrap()
    }

    async fn ended(&self, id: &RunId) -> Story {
        let limit = Duration::from_secs(100_000);
        let ended = tokio::time::timeout(limit, self.engine.wait_ended(id)).await;
        ended.expect("the run ends").unwrap()
    }

    /// Starts a run and waits for its end.
    async fn run(&self, params: u64) -> Story {
        let id = self.start("thing/1", params).await;
        self.ended(&id).await
    }

    async fn shutdown(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(60)).await);
    }
}

fn request<'a>(subject: &str, params: &'a u64) -> StartRequest<'a, u64> {
    StartRequest {
        subject: Subject::new(subject).unwrap(),
        params,
        cause: "a test".into(),
        key: None,
    }
}

fn outcomes(story: &Story, step: &str, direction: Direction) -> Vec<Option<Outcome>> {
    let attempts = story.attempts(step, direction);
    attempts.iter().map(|record| record.outcome).collect()
}

fn reason(story: &Story) -> &str {
    story.run.reason.as_deref().unwrap_or("")
}

fn retry(reason: &str) -> Act {
    Act::Fail(StepError::Retry(reason.into()))
}

fn fail(reason: &str) -> Act {
    Act::Fail(StepError::Fail(reason.into()))
}

fn is_running(story: &Story) -> bool {
    story.run.status == Status::Running
}
