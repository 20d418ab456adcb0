//! What a step sees of its run.

use crate::engine::Engine;
use crate::engine::leases::{self, Hold};
use crate::engine::start::{StartError, StartRequest};
use crate::record::{Direction, Outcome, Run, Status, Story, Subject, Turn};
use crate::workflow::{Step, StepError, Workflow};
use roost_model::error::chain;
use roost_model::id::RunId;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The recorded outputs of a run's steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outputs {
    json: BTreeMap<String, String>,
}

impl Outputs {
    /// The outputs that a story has.
    pub fn of(story: &Story) -> Self {
        let done = story.steps.iter().filter(|record| {
            record.direction == Direction::Do && record.outcome == Some(Outcome::Done)
        });
        let json = done
            .filter_map(|record| Some((record.step.clone(), record.output.clone()?)))
            .collect();
        Self { json }
    }

    /// What a step came to; `None` when it did not get to its end.
    ///
    /// Fails when the record does not have the form of `O`: the type changed without a new
    /// version of the workflow.
    pub fn find<O: DeserializeOwned>(&self, step: Step<O>) -> Result<Option<O>, StepError> {
        let name = step.name();
        let Some(json) = self.json.get(name) else {
            return Ok(None);
        };
        let output = serde_json::from_str(json).map_err(|error| {
            StepError::Fail(format!("the output of step {name} is unreadable: {error}"))
        })?;
        Ok(Some(output))
    }

    /// What a step came to that must have ended.
    pub fn get<O: DeserializeOwned>(&self, step: Step<O>) -> Result<O, StepError> {
        let missing = || StepError::Fail(format!("step {} has no output yet", step.name()));
        self.find(step)?.ok_or_else(missing)
    }
}

/// What a step sees of its run. Cheap to clone.
#[derive(Debug)]
pub struct Cx<P> {
    inner: Arc<Inner>,
    params: Arc<P>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    run: Run,
    step: &'static str,
    outputs: Outputs,
    hold: watch::Receiver<Hold>,
}

impl<P> Clone for Cx<P> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            params: Arc::clone(&self.params),
        }
    }
}

impl Cx<()> {
    /// What one attempt of `step` sees.
    pub(crate) fn new(
        engine: Engine,
        story: &Story,
        step: &'static str,
        hold: watch::Receiver<Hold>,
    ) -> Self {
        let inner = Inner {
            engine,
            run: story.run.clone(),
            step,
            outputs: Outputs::of(story),
            hold,
        };
        Self {
            inner: Arc::new(inner),
            params: Arc::new(()),
        }
    }

    /// The same with the run's parameters.
    pub(crate) fn typed<P: DeserializeOwned>(self) -> Result<Cx<P>, StepError> {
        let params = serde_json::from_str(&self.inner.run.params)
            .map_err(|error| StepError::Fail(format!("the parameters are unreadable: {error}")))?;
        Ok(Cx {
            inner: self.inner,
            params: Arc::new(params),
        })
    }
}

impl<P> Cx<P> {
    /// What the run was told.
    pub fn params(&self) -> &P {
        &self.params
    }

    /// The run's id.
    pub fn run_id(&self) -> &RunId {
        &self.inner.run.id
    }

    /// What the run acts on.
    pub fn subject(&self) -> &Subject {
        &self.inner.run.subject
    }

    /// Why the run turns back, and in words; in an undo only.
    pub fn turned_back(&self) -> Option<(Turn, &str)> {
        let run = &self.inner.run;
        Some((run.turn?, run.reason.as_deref().unwrap_or_default()))
    }

    /// Whether the run is asked to turn back, for a step that
    /// [winds down](crate::Steps::winds_down).
    pub fn is_asked_to_turn_back(&self) -> bool {
        self.inner.hold.borrow().turns_back
    }

    /// Ends when the run is asked to turn back. Cancel-safe: it only waits.
    pub async fn asked_to_turn_back(&self) {
        leases::asked_to_turn_back(self.inner.hold.clone()).await;
    }

    /// The recorded output of an earlier step; in an undo also of its own step.
    ///
    /// Fails for good when that step did not get to its end. In an undo that can be, see
    /// [`Self::output_if_done`].
    pub fn output_of<O: DeserializeOwned>(&self, step: Step<O>) -> Result<O, StepError> {
        self.inner.outputs.get(step)
    }

    /// The recorded output of a step, or `None` when it did not get to its end.
    pub fn output_if_done<O: DeserializeOwned>(
        &self,
        step: Step<O>,
    ) -> Result<Option<O>, StepError> {
        self.inner.outputs.find(step)
    }

    /// A request id that is the same in each attempt of this step, and no other step's: whoever
    /// is asked twice under it does one thing.
    pub fn request_id(&self, what: &str) -> String {
        format!("{}-{}-{what}", self.inner.run.id, self.inner.step)
    }

    /// Runs another workflow to its end and returns the outputs of its steps.
    ///
    /// Repeated attempts of the step find the same child by its name. The child turns back when
    /// this run does. A child that does not succeed is a [`StepError::Fail`].
    pub async fn run_child<W: Workflow>(
        &self,
        name: &str,
        subject: Subject,
        params: &W::Params,
    ) -> Result<Outputs, StepError> {
        let inner = &self.inner;
        let request = StartRequest {
            subject,
            params,
            cause: format!("step {} of run {}", inner.step, inner.run.id),
            key: Some(self.request_id(name)),
        };
        let started = inner
            .engine
            .start_child::<W>(request, inner.run.id.clone())
            .await;
        let id = match started {
            Ok(id) => id,
            Err(error @ (StartError::Busy { .. } | StartError::QueueFull { .. })) => {
                return Err(StepError::Retry(format!("child {name}: {error}")));
            }
            Err(StartError::Journal(error)) => return Err(StepError::Retry(chain(&error))),
            Err(error) => return Err(StepError::Fail(format!("child {name}: {error}"))),
        };
        let story = match inner.engine.wait_ended(&id).await {
            Ok(story) => story,
            Err(error) => return Err(StepError::Retry(chain(&error))),
        };
        if story.run.status == Status::Succeeded {
            return Ok(Outputs::of(&story));
        }
        let reason = story.run.reason.as_deref().unwrap_or("no reason recorded");
        let status = story.run.status;
        Err(StepError::Fail(format!(
            "child {name} ({id}) is {status}: {reason}"
        )))
    }
}
