//! Runs that run others.

use super::{Act, Bench, Engine, Scripted, Stage, Status, StepError, TWO, fail, reason};
use crate::Cx;
use crate::engine::start::StartRequest;
use crate::journal::Filter;
use crate::record::{Run, Subject};
use crate::testing::{Scenario, check_all};
use crate::workflow::{OnBusy, Step, Steps, Workflow};
use async_trait::async_trait;
use parking_lot::Mutex;
use roost_model::id::RunId;
use roost_runtime::tasks::Tasks;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Runs two children at once.
struct Parent;

const SUM: Step<u64> = Step::new("sum");

impl Workflow for Parent {
    const NAME: &'static str = "parent";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new().step(SUM, Self::sum)
    }
}

impl Parent {
    async fn sum(self: Arc<Self>, cx: Cx<u64>) -> Result<u64, StepError> {
        let child = async |name: &str| {
            let subject = Subject::new(name).map_err(|error| StepError::Fail(error.to_string()))?;
            let outputs = cx.run_child::<Scripted>(name, subject, cx.params()).await?;
            outputs.get(TWO)
        };
        let (left, right) = futures_util::join!(child("left"), child("right"));
        Ok(left? + right?)
    }
}

struct Family {
    engine: Engine,
    tasks: Tasks,
}

impl Family {
    fn new(bench: &Bench, stage: &Arc<Stage>) -> Self {
        let tasks = Tasks::new();
        let scripted = Scripted {
            stage: Arc::clone(stage),
        };
        let builder = Engine::builder(bench.config("a", &tasks));
        let engine = builder
            .register(scripted)
            .unwrap()
            .register(Parent)
            .unwrap();
        let engine = engine.start();
        Self { engine, tasks }
    }

    async fn start(&self) -> RunId {
        let request = StartRequest {
            subject: Subject::new("parent").unwrap(),
            params: &3,
            cause: "a test".into(),
            key: None,
        };
        self.engine.start::<Parent>(request).await.unwrap()
    }

    async fn children(&self, parent: &RunId) -> Vec<Run> {
        let filter = Filter {
            parent: Some(parent.clone()),
            ..Filter::default()
        };
        self.engine.list(filter).await.unwrap()
    }

    async fn shutdown(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(60)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_parent_goes_on_with_what_its_children_came_to() {
    let stage = Stage::new([]);
    let family = Family::new(&Bench::new(), &stage);
    let parent = family.start().await;
    let story = family.engine.wait_ended(&parent).await.unwrap();
    assert_eq!(story.run.status, Status::Succeeded, "{}", reason(&story));
    assert_eq!(story.steps[0].output.as_deref(), Some("12"));
    let children = family.children(&parent).await;
    assert_eq!(children.len(), 2);
    assert!(
        children[0].cause.contains("step sum"),
        "{}",
        children[0].cause
    );
    family.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_fails_fails_its_step_with_its_reason() {
    let stage = Stage::new([("two", fail("no room"))]);
    let family = Family::new(&Bench::new(), &stage);
    let parent = family.start().await;
    let story = family.engine.wait_ended(&parent).await.unwrap();
    assert_eq!(story.run.status, Status::Failed);
    assert!(
        reason(&story).ends_with("is failed: no room"),
        "{}",
        reason(&story)
    );
    family.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn children_are_cancelled_with_their_parent_and_end_before_it() {
    let stage = Stage::new([("two", Act::Hang), ("two", Act::Hang)]);
    let family = Family::new(&Bench::new(), &stage);
    let parent = family.start().await;
    while stage.played().iter().filter(|what| *what == "two").count() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    family.engine.cancel(&parent, "enough").await.unwrap();
    let story = family.engine.wait_ended(&parent).await.unwrap();
    assert_eq!(story.run.status, Status::Cancelled);
    for child in family.children(&parent).await {
        assert_eq!(child.status, Status::Cancelled);
        assert!(child.ended_at <= story.run.ended_at);
    }
    let undone = stage
        .played()
        .iter()
        .filter(|what| what.starts_with("undo"))
        .count();
    assert_eq!(undone, 4);
    family.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_parent_finds_the_children_that_it_began() {
    let bench = Bench::new();
    let stage = Stage::new([("two", Act::Hang), ("two", Act::Hang)]);
    let family = Family::new(&bench, &stage);
    let parent = family.start().await;
    stage.hangs.notified().await;
    family.shutdown().await;
    let family = Family::new(&bench, &stage);
    let story = family.engine.wait_ended(&parent).await.unwrap();
    assert_eq!(story.run.status, Status::Succeeded, "{}", reason(&story));
    assert_eq!(family.children(&parent).await.len(), 2);
    family.shutdown().await;
}

/// A parent whose step is undone: it undoes what its child did.
struct Adopt(Things);
struct Make(Things);

/// What both act on.
#[derive(Clone, Default)]
struct Things(Arc<Mutex<BTreeSet<u64>>>);

const MAKE: Step<()> = Step::new("make");
const ADOPT: Step<()> = Step::new("adopt");
const CHECK: Step<()> = Step::new("check");

impl Workflow for Make {
    const NAME: &'static str = "make";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new()
            .step(MAKE, async |this: Arc<Self>, cx: Cx<u64>| {
                this.0.0.lock().insert(*cx.params());
                Ok(())
            })
            .undo(async |this: Arc<Self>, cx: Cx<u64>| {
                this.0.0.lock().remove(cx.params());
                Ok(())
            })
    }
}

impl Workflow for Adopt {
    const NAME: &'static str = "adopt";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new()
            .step(ADOPT, Self::adopt)
            .undo(async |this: Arc<Self>, cx: Cx<u64>| {
                this.0.0.lock().remove(cx.params());
                Ok(())
            })
            .step(CHECK, async |this: Arc<Self>, cx: Cx<u64>| {
                match this.0.0.lock().contains(cx.params()) {
                    true => Ok(()),
                    false => Err(StepError::Fail("the child made nothing".into())),
                }
            })
    }
}

impl Adopt {
    async fn adopt(self: Arc<Self>, cx: Cx<u64>) -> Result<(), StepError> {
        let subject = Subject::new("child").map_err(|error| StepError::Fail(error.to_string()))?;
        cx.run_child::<Make>("thing", subject, cx.params()).await?;
        Ok(())
    }
}

#[async_trait]
impl Scenario for Things {
    type Workflow = Adopt;

    fn workflow(&self) -> Adopt {
        Adopt(self.clone())
    }

    fn params(&self) -> u64 {
        7
    }

    fn register_children(
        &self,
        builder: crate::engine::EngineBuilder,
    ) -> Result<crate::engine::EngineBuilder, crate::engine::RegisterError> {
        builder.register(Make(self.clone()))
    }

    async fn check(&self, end: Status) -> Result<(), String> {
        let is_there = self.0.lock().contains(&7);
        match is_there == (end == Status::Succeeded) {
            true => Ok(()),
            false => Err(format!("it left {:?}", self.0.lock())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_workflow_with_a_child_survives_everything_that_the_checker_does() {
    let checked = check_all(async || Things::default()).await.unwrap();
    assert!(checked.n_runs > 40, "{checked:?}");
}
