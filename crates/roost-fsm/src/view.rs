//! Runs as callers of the API see them: operations.

use crate::record::{Run, StepRecord, Story};
use roost_model::time::Timestamp;
use roost_proto::worker::{Operation, OperationStep};

/// A run without its steps. Its cause is JSON, see [`roost_proto::worker::Cause`].
pub fn operation(run: &Run) -> Operation {
    Operation {
        id: run.id.to_string(),
        kind: run.kind.name.clone(),
        subject: run.subject.to_string(),
        cause: serde_json::from_str(&run.cause).unwrap_or_default(),
        status: run.status.as_str().to_owned(),
        reason: run.reason.clone(),
        created_at: run.created_at.as_ms(),
        ended_at: run.ended_at.map(Timestamp::as_ms),
        steps: vec![],
    }
}

/// A run with its steps.
pub fn operation_with_steps(story: &Story) -> Operation {
    Operation {
        steps: story.steps.iter().map(step).collect(),
        ..operation(&story.run)
    }
}

fn step(record: &StepRecord) -> OperationStep {
    OperationStep {
        name: record.step.clone(),
        direction: record.direction.as_str().to_owned(),
        attempt: record.attempt,
        started_at: record.started_at.as_ms(),
        ended_at: record.ended_at.map(Timestamp::as_ms),
        outcome: record.outcome.map(|outcome| outcome.as_str().to_owned()),
        reason: record.reason.clone(),
    }
}
