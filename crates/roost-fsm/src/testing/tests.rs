//! The checker finds nothing in a workflow that is right, and what is wrong in those that are.

use super::{Scenario, cancel_at_each_step, check_all, fail_each_step};
use super::{kill_at_each_journal_write, run_each_step_twice};
use crate::context::Cx;
use crate::record::Status;
use crate::workflow::{OnBusy, Step, StepError, Steps, Workflow};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How a workflow can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// `create` makes a second machine when it runs again.
    NotIdempotent,
    /// `release` leaves the address where it is.
    UndoForgets,
    /// `destroy` fails when there is nothing to destroy.
    UndoNotIdempotent,
    /// `destroy` wants the output of a step that may not have ended.
    UndoWantsOutput,
    /// `create` takes the id from memory instead of the journal.
    UsesWhatWasNotRecorded,
    /// `create` makes the id itself, so that nobody knows it when it fails.
    MakesIdTooLate,
    /// `create` also routes, and nothing undoes that.
    MissingUndo,
}

/// What the workflow acts on.
#[derive(Debug, Default)]
struct Outside {
    n_ids: u32,
    addresses: BTreeSet<String>,
    machines: Vec<String>,
    routes: BTreeSet<String>,
}

impl Outside {
    fn new_id(&mut self) -> String {
        self.n_ids += 1;
        format!("machine-{}", self.n_ids)
    }
}

#[derive(Clone)]
struct World {
    fault: Fault,
    outside: Arc<Mutex<Outside>>,
}

struct Publish {
    world: World,
    remembered: Mutex<Option<String>>,
}

const NAME_IT: Step<String> = Step::new("name_it");
const RESERVE: Step<()> = Step::new("reserve");
const CREATE: Step<String> = Step::new("create");
const ROUTE: Step<()> = Step::new("route");
const TELL: Step<()> = Step::new("tell");

impl Workflow for Publish {
    const NAME: &'static str = "publish";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = String;

    fn steps() -> Steps<Self> {
        Steps::new()
            .step(NAME_IT, Self::name_it)
            .step(RESERVE, Self::reserve)
            .undo(Self::release)
            .step(CREATE, Self::create)
            .undo(Self::destroy)
            .point_of_no_return()
            .step(ROUTE, Self::route)
            .step(TELL, Self::tell)
    }
}

impl Publish {
    async fn name_it(self: Arc<Self>, _: Cx<String>) -> Result<String, StepError> {
        let id = self.world.outside.lock().new_id();
        *self.remembered.lock() = Some(id.clone());
        Ok(id)
    }

    async fn reserve(self: Arc<Self>, cx: Cx<String>) -> Result<(), StepError> {
        let address = format!("{}/{}", cx.params(), cx.output_of(NAME_IT)?);
        self.world.outside.lock().addresses.insert(address);
        Ok(())
    }

    async fn release(self: Arc<Self>, cx: Cx<String>) -> Result<(), StepError> {
        let address = format!("{}/{}", cx.params(), cx.output_of(NAME_IT)?);
        if self.world.fault != Fault::UndoForgets {
            self.world.outside.lock().addresses.remove(&address);
        }
        Ok(())
    }

    async fn create(self: Arc<Self>, cx: Cx<String>) -> Result<String, StepError> {
        let recorded = cx.output_of(NAME_IT)?;
        let fault = self.world.fault;
        let mut outside = self.world.outside.lock();
        let id = match fault {
            Fault::MakesIdTooLate => outside.new_id(),
            Fault::UsesWhatWasNotRecorded => {
                let remembered = self.remembered.lock().clone();
                remembered.ok_or_else(|| StepError::Fail("forgotten".into()))?
            }
            _ => recorded,
        };
        if fault == Fault::NotIdempotent || !outside.machines.contains(&id) {
            outside.machines.push(id.clone());
        }
        if fault == Fault::MissingUndo {
            outside.routes.insert(id.clone());
        }
        Ok(id)
    }

    async fn destroy(self: Arc<Self>, cx: Cx<String>) -> Result<(), StepError> {
        let id = match self.world.fault {
            Fault::UndoWantsOutput => cx.output_of(CREATE)?,
            Fault::MakesIdTooLate => cx.output_if_done(CREATE)?.unwrap_or_default(),
            _ => cx.output_of(NAME_IT)?,
        };
        let mut outside = self.world.outside.lock();
        let n_before = outside.machines.len();
        outside.machines.retain(|machine| *machine != id);
        if self.world.fault == Fault::UndoNotIdempotent && outside.machines.len() == n_before {
            return Err(StepError::Fail(format!("no machine {id}")));
        }
        Ok(())
    }

    async fn route(self: Arc<Self>, cx: Cx<String>) -> Result<(), StepError> {
        let id = cx.output_of(CREATE)?;
        self.world.outside.lock().routes.insert(id);
        Ok(())
    }

    async fn tell(self: Arc<Self>, _: Cx<String>) -> Result<(), StepError> {
        Ok(())
    }
}

#[async_trait]
impl Scenario for World {
    type Workflow = Publish;

    fn workflow(&self) -> Publish {
        Publish {
            world: self.clone(),
            remembered: Mutex::new(None),
        }
    }

    fn params(&self) -> String {
        "shop".into()
    }

    async fn check(&self, end: Status) -> Result<(), String> {
        let outside = self.outside.lock();
        let n_expected = usize::from(end == Status::Succeeded);
        let n_found = [
            outside.addresses.len(),
            outside.machines.len(),
            outside.routes.len(),
        ];
        if n_found == [n_expected; 3] {
            Ok(())
        } else {
            Err(format!("it left {outside:?}"))
        }
    }
}

fn world(fault: Fault) -> World {
    World {
        fault,
        outside: Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_workflow_that_is_right_passes_and_was_really_tried() {
    let make = async || world(Fault::None);
    assert_eq!(
        fail_each_step(make).await.unwrap().n_runs,
        1 + 5 * 3 + 2 * 2
    );
    assert_eq!(run_each_step_twice(make).await.unwrap().n_runs, 5 + 2);
    assert_eq!(cancel_at_each_step(make).await.unwrap().n_runs, 3 * 2);
    // Forward: a claim, start and end of five steps, the end. Back: three steps, the turn, two
    // undos, the end. Each once without a kill, and on both sides.
    let n_writes = (1 + 5 * 2 + 1) + (1 + 3 * 2 + 1 + 2 * 2 + 1);
    let checked = kill_at_each_journal_write(make).await.unwrap();
    assert_eq!(checked.n_runs, 2 * (n_writes + 2));
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_found_and_the_case_is_named() {
    for (fault, case) in [
        (Fault::NotIdempotent, "step create is tried again"),
        (Fault::UndoForgets, "step reserve fails after"),
        (Fault::UndoNotIdempotent, "step create fails before"),
        (Fault::UndoWantsOutput, "step create fails before"),
        (Fault::MakesIdTooLate, "step create fails after"),
        (Fault::MissingUndo, "step create fails after"),
        (Fault::UsesWhatWasNotRecorded, "killed"),
    ] {
        let flaw = check_all(async || world(fault)).await.unwrap_err();
        assert!(flaw.case.contains(case), "{fault:?}: {flaw}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_check_finds_faults_by_itself() {
    let not_idempotent = async || world(Fault::NotIdempotent);
    assert!(run_each_step_twice(not_idempotent).await.is_err());
    assert!(kill_at_each_journal_write(not_idempotent).await.is_err());
    let undo_not_idempotent = async || world(Fault::UndoNotIdempotent);
    assert!(run_each_step_twice(undo_not_idempotent).await.is_err());
    assert!(cancel_at_each_step(undo_not_idempotent).await.is_err());
    assert!(
        kill_at_each_journal_write(undo_not_idempotent)
            .await
            .is_err()
    );
    let makes_id_too_late = async || world(Fault::MakesIdTooLate);
    assert!(cancel_at_each_step(makes_id_too_late).await.is_err());
    let uses_memory = async || world(Fault::UsesWhatWasNotRecorded);
    assert!(fail_each_step(uses_memory).await.is_ok());
    assert!(kill_at_each_journal_write(uses_memory).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_flaw_shows_what_had_happened() {
    let flaw = fail_each_step(async || world(Fault::UndoWantsOutput)).await;
    let text = flaw.unwrap_err().to_string();
    for part in [
        "when step create fails before it does anything: it should have failed",
        "the run is stuck",
        "do name_it #1: done",
        "undo create #1: failed step create has no output yet",
    ] {
        assert!(text.contains(part), "{text}");
    }
}
