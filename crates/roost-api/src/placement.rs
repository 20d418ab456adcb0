//! Which node gets a machine: the pure choice over what the workers say.
//!
//! There is one worker today. Its word is the last: what it refuses after it
//! was chosen is its answer.

use crate::error::ApiError;
use crate::state::ApiState;
use roost_model::error::{Blame, Classify, ErrorCode, Retry};
use roost_model::machine::{MachineSpec, Rung};
use roost_model::placement::{self, ClusterView, PlacementRequest, Refusal};
use roost_proto::rest::PlacementRefusal;
use roost_proto::worker::{Asker, CreateMachine, MachineStatus, WorkerError};
use std::collections::BTreeMap;

/// Why there is no new machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// No node takes it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The worker did not make it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl CreateError {
    fn inner(&self) -> &dyn Classify {
        match self {
            Self::Refused(error) => error,
            Self::Worker(error) => error,
        }
    }
}

impl Classify for CreateError {
    fn blame(&self) -> Blame {
        self.inner().blame()
    }

    fn retry(&self) -> Retry {
        self.inner().retry()
    }

    fn code(&self) -> ErrorCode {
        self.inner().code()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let refusals = match &error {
            CreateError::Refused(refusal) => refusals(refusal),
            CreateError::Worker(_) => Vec::new(),
        };
        Self {
            refusals,
            ..Self::of(&error)
        }
    }
}

fn refusals(refusal: &Refusal) -> Vec<PlacementRefusal> {
    let nodes = refusal.nodes.iter();
    nodes
        .map(|refused| PlacementRefusal {
            node: refused.node.to_string(),
            reason: refused.reason.as_str().to_owned(),
            message: refused.reason.to_string(),
            advice: refused.reason.advice().to_owned(),
        })
        .collect()
}

/// Chooses a node for a machine and creates it there. May be repeated.
pub(crate) async fn create(
    state: &ApiState,
    request: CreateMachine,
    asker: &Asker,
) -> Result<MachineStatus, CreateError> {
    let view = ClusterView {
        nodes: vec![state.worker.capacity().await?],
    };
    match placement::choose(&view, &wanted(&request.spec)) {
        Ok(choice) => tracing::debug!(
            machine = %request.spec.name,
            node = %choice.node,
            why = %choice.why,
            "node chosen"
        ),
        // What takes the room may be the machine that an earlier try of this request made.
        Err(refusal) if !is_made(state, &request.spec).await? => return Err(refusal.into()),
        Err(_) => {}
    }
    Ok(state.worker.create_machine(request, asker).await?)
}

fn wanted(spec: &MachineSpec) -> PlacementRequest {
    PlacementRequest {
        app: spec.app.clone(),
        group: spec.process_group().to_owned(),
        regions: vec![spec.region.clone()],
        guest: spec.guest,
        isolation: spec.isolation,
        isolation_floor: Rung::Container,
        labels: BTreeMap::new(),
        volume_node: None,
        alone: false,
        image: spec.image.digest.as_ref().map(ToString::to_string),
        spread_slack: 0,
        excluded: BTreeMap::new(),
    }
}

/// Whether the app has a machine of this name.
async fn is_made(state: &ApiState, spec: &MachineSpec) -> Result<bool, WorkerError> {
    let machines = state.worker.machines(Some(&spec.app)).await?;
    Ok(machines
        .iter()
        .any(|machine| machine.spec.name == spec.name))
}
