//! Operations of simulated machines. All is done at once and nothing is kept of it, but for
//! machines that are on their way to start and stay there.

use super::{Inner, SimMachine};
use roost_model::id::RunId;
use roost_model::machine::MachineState;
use roost_proto::worker::{Operation, OperationFilter};

impl Inner {
    /// The operations under way.
    pub(super) fn operations(&self, filter: &OperationFilter) -> Vec<Operation> {
        let is_asked_for = |machine: &&SimMachine| {
            let status = &machine.status;
            status.state == MachineState::Starting
                && filter
                    .app
                    .as_ref()
                    .is_none_or(|app| *app == status.spec.app)
                && filter.machine.as_ref().is_none_or(|id| *id == status.id)
        };
        let starting = self.machines.values().filter(is_asked_for);
        starting.map(operation).collect()
    }

    pub(super) fn operation(&self, id: &RunId) -> Option<Operation> {
        let all = self.operations(&OperationFilter::default());
        all.into_iter().find(|one| one.id == id.as_str())
    }
}

fn operation(machine: &SimMachine) -> Operation {
    let status = &machine.status;
    let number = u128::from_str_radix(status.id.as_str(), 16).expect("ids are hex digits");
    let id = RunId::from_ulid(ulid::Ulid::from_parts(status.created_at.as_ms(), number));
    Operation {
        id: id.to_string(),
        kind: "create".to_owned(),
        subject: format!("machine/{}", status.id),
        cause: serde_json::Value::Null,
        status: "running".to_owned(),
        reason: None,
        created_at: status.created_at.as_ms(),
        ended_at: None,
        steps: vec![],
    }
}
