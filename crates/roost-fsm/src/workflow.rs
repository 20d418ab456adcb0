//! How a workflow is declared.
//!
//! ```
//! use roost_fsm::{Cx, OnBusy, Step, StepError, Steps, Workflow};
//! use std::sync::Arc;
//!
//! /// Gives an app an address and tells the edges.
//! struct Publish { /* what it acts on: clients, stores */ }
//!
//! const RESERVE: Step<u32> = Step::new("reserve");
//! const ANNOUNCE: Step<()> = Step::new("announce");
//!
//! impl Workflow for Publish {
//!     const NAME: &'static str = "publish";
//!     const VERSION: u32 = 1;
//!     const ON_BUSY: OnBusy = OnBusy::Queue;
//!     type Params = String;
//!
//!     fn steps() -> Steps<Self> {
//!         Steps::new()
//!             .step(RESERVE, Self::reserve).undo(Self::release)
//!             .point_of_no_return()
//!             .step(ANNOUNCE, Self::announce)
//!     }
//! }
//!
//! impl Publish {
//!     async fn reserve(self: Arc<Self>, cx: Cx<String>) -> Result<u32, StepError> {
//!         Ok(u32::try_from(cx.params().len()).unwrap_or(0))
//!     }
//!     async fn release(self: Arc<Self>, _: Cx<String>) -> Result<(), StepError> {
//!         Ok(())
//!     }
//!     async fn announce(self: Arc<Self>, cx: Cx<String>) -> Result<(), StepError> {
//!         let address = cx.output_of(RESERVE)?;
//!         tracing::info!(address, "announced");
//!         Ok(())
//!     }
//! }
//! ```
//!
//! What a step has to keep:
//!
//! - It is idempotent: it may be cut off anywhere and begun again, also by another process.
//! - Of earlier steps it knows what is recorded, [`Cx::output_of`], and nothing else: a field of
//!   the workflow that an earlier step set is empty after a restart.
//! - Ids of outside things are made in a step of their own, before the step that uses them;
//!   or made of [`Cx::request_id`]. Otherwise an undo cannot name what it undoes.
//! - An undo is called for each step that was begun, also if it never ended.
//! - It may be dropped at any await: when the run is cancelled (see [`Steps::winds_down`]), times
//!   out, or loses its lease.
//!
//! Names of steps are stored. A list that changed is a new [`Workflow::VERSION`], a type
//! registered beside the old one until no unfinished run has the old version.

use crate::context::Cx;
use crate::outline::{Outline, OutlineError, StepOutline};
use crate::record::{Direction, Kind};
use crate::retry::RetryPolicy;
use crate::{limits, record};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use roost_model::error::{Classify, Retry, chain};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// Why a step did not get to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It may succeed later.
    #[error("{0}")]
    Retry(String),
    /// It will not succeed, and the run turns back.
    #[error("{0}")]
    Fail(String),
}

impl StepError {
    /// The class that an error of a service gives itself.
    pub fn of(error: &(impl Classify + 'static)) -> Self {
        match error.retry() {
            Retry::Never => Self::Fail(chain(error)),
            Retry::Backoff | Retry::ElsewhereNow => Self::Retry(chain(error)),
        }
    }
}

/// What a new run does while an earlier one of its subject has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBusy {
    /// It waits for its turn.
    Queue,
    /// It is refused.
    Refuse,
    /// It waits, and the others turn back, unless they are past their point of no return.
    Supersede,
}

/// Several steps that lead from one state to another, or back.
pub trait Workflow: Send + Sync + Sized + 'static {
    /// Its name, which is stored.
    const NAME: &'static str;
    /// Its version, which is stored: a list of steps that changed is another one.
    const VERSION: u32;
    /// What happens if the subject is busy.
    const ON_BUSY: OnBusy;
    /// What each run is told. Stored as JSON: fields are only added, with a default.
    type Params: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The steps in order: the whole story.
    fn steps() -> Steps<Self>;
}

/// The kind of a workflow.
pub fn kind_of<W: Workflow>() -> Kind {
    Kind {
        name: W::NAME.to_owned(),
        version: W::VERSION,
    }
}

/// The name of a step and the type of its output, which is stored as JSON.
pub struct Step<O> {
    name: &'static str,
    output: PhantomData<fn() -> O>,
}

impl<O> Step<O> {
    /// A step with this name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            output: PhantomData,
        }
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl<O> Clone for Step<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for Step<O> {}

impl<O> std::fmt::Debug for Step<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Step").field(&self.name).finish()
    }
}

/// The future of one attempt; its output is JSON.
pub(crate) type AttemptFuture = BoxFuture<'static, Result<String, StepError>>;
type Act<W> =
    Box<dyn Fn(Arc<W>, Cx<<W as Workflow>::Params>) -> AttemptFuture + Send + Sync + 'static>;

struct Acts<W: Workflow> {
    forward: Act<W>,
    back: Option<Act<W>>,
}

/// The list of a workflow's steps.
pub struct Steps<W: Workflow> {
    outline: Outline,
    acts: Vec<Acts<W>>,
    /// The first mistake; told when the workflow is registered.
    mistake: Option<OutlineError>,
}

impl<W: Workflow> std::fmt::Debug for Steps<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.outline.fmt(f)
    }
}

impl<W: Workflow> Default for Steps<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Workflow> Steps<W> {
    /// No steps yet.
    pub fn new() -> Self {
        Self {
            outline: Outline::default(),
            acts: vec![],
            mistake: None,
        }
    }

    /// The next step.
    pub fn step<O, F, Fut>(mut self, step: Step<O>, act: F) -> Self
    where
        O: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Arc<W>, Cx<W::Params>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, StepError>> + Send + 'static,
    {
        self.outline.steps.push(StepOutline {
            name: step.name,
            timeout: limits::STEP_TIMEOUT,
            retry: None,
            has_undo: false,
            winds_down: false,
        });
        self.acts.push(Acts {
            forward: erase(act),
            back: None,
        });
        self
    }

    /// What undoes the step above. It is called if the step was begun, whatever came of it.
    pub fn undo<F, Fut>(mut self, act: F) -> Self
    where
        F: Fn(Arc<W>, Cx<W::Params>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        match (self.outline.steps.last_mut(), self.acts.last_mut()) {
            (Some(step), Some(acts)) if !step.has_undo => {
                step.has_undo = true;
                acts.back = Some(erase(act));
                self
            }
            _ => self.mistaken("an undo belongs to one step, above it"),
        }
    }

    /// Time that each attempt of the step above has, done or undone.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        match self.outline.steps.last_mut() {
            Some(step) => step.timeout = timeout,
            None => return self.mistaken("a time-out belongs to the step above it"),
        }
        self
    }

    /// How often the step above is tried.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        match self.outline.steps.last_mut() {
            Some(step) => step.retry = Some(policy),
            None => return self.mistaken("a retry policy belongs to the step above it"),
        }
        self
    }

    /// When the run is asked to turn back the step above is not dropped: it hears of it by
    /// [`Cx::asked_to_turn_back`], and comes to an end soon. For what is easier to undo when it
    /// is not cut off in the middle.
    pub fn winds_down(mut self) -> Self {
        match self.outline.steps.last_mut() {
            Some(step) => step.winds_down = true,
            None => return self.mistaken("what winds down is the step above"),
        }
        self
    }

    /// The steps below are never undone, but tried for long; a run that began the first of them
    /// cannot be cancelled any more.
    pub fn point_of_no_return(mut self) -> Self {
        if self.outline.point_of_no_return.is_some() {
            return self.mistaken("there are two points of no return");
        }
        self.outline.point_of_no_return = Some(self.outline.steps.len());
        self
    }

    /// The list without the code.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn into_outline(self) -> Outline {
        self.outline
    }

    fn mistaken(mut self, what: &'static str) -> Self {
        self.mistake.get_or_insert(OutlineError::Order(what));
        self
    }
}

fn erase<W, O, F, Fut>(act: F) -> Act<W>
where
    W: Workflow,
    O: Serialize,
    F: Fn(Arc<W>, Cx<W::Params>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, StepError>> + Send + 'static,
{
    Box::new(move |workflow, cx| {
        let attempt = act(workflow, cx);
        async move { to_json(&attempt.await?) }.boxed()
    })
}

fn to_json(output: &impl Serialize) -> Result<String, StepError> {
    let json = serde_json::to_string(output)
        .map_err(|error| StepError::Fail(format!("its output cannot be recorded: {error}")))?;
    if json.len() > limits::OUTPUT_BYTES_MAX {
        let max = limits::OUTPUT_BYTES_MAX;
        let text = format!("its output has {} bytes; {max} are the most", json.len());
        return Err(StepError::Fail(text));
    }
    Ok(json)
}

/// A workflow whose types are forgotten.
pub(crate) trait Registered: Send + Sync {
    /// What the journal calls it.
    fn kind(&self) -> Kind;
    /// Its steps.
    fn outline(&self) -> &Outline;
    /// One attempt.
    fn attempt(&self, step_idx: usize, direction: Direction, cx: Cx<()>) -> AttemptFuture;
}

/// A workflow with its steps.
pub(crate) struct Definition<W: Workflow> {
    workflow: Arc<W>,
    steps: Steps<W>,
}

impl<W: Workflow> Definition<W> {
    pub(crate) fn new(workflow: W) -> Result<Self, OutlineError> {
        let steps = W::steps();
        match &steps.mistake {
            Some(mistake) => return Err(mistake.clone()),
            None => steps.outline.check()?,
        }
        Ok(Self {
            workflow: Arc::new(workflow),
            steps,
        })
    }
}

impl<W: Workflow> Registered for Definition<W> {
    fn kind(&self) -> Kind {
        kind_of::<W>()
    }

    fn outline(&self) -> &Outline {
        &self.steps.outline
    }

    fn attempt(&self, step_idx: usize, direction: Direction, cx: Cx<()>) -> AttemptFuture {
        let acts = &self.steps.acts[step_idx];
        let act = match direction {
            Direction::Do => Some(&acts.forward),
            Direction::Undo => acts.back.as_ref(),
        };
        match (act, cx.typed::<W::Params>()) {
            (Some(act), Ok(cx)) => act(Arc::clone(&self.workflow), cx),
            (_, Err(error)) => std::future::ready(Err(error)).boxed(),
            (None, Ok(_)) => {
                let name = self.steps.outline.steps[step_idx].name;
                let text = format!("{} does not exist", record::attempt_of(name, direction));
                std::future::ready(Err(StepError::Fail(text))).boxed()
            }
        }
    }
}
