//! Operations as people see them.

use roost_model::id::MachineId;
use roost_model::name::AppName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is or was done to something, step by step: a start of a machine, a
/// deployment, …
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What it is: `create`, `start`, `stop`, `suspend`, `restart`, `update`,
    /// `destroy` of a machine, or `deploy`.
    pub kind: String,
    /// What it acts on: `machine/ID` or `app/NAME`.
    pub subject: String,
    /// Who or what asked for it.
    pub cause: serde_json::Value,
    /// `queued`, `running`, `undoing`, `succeeded`, `failed`, `cancelled`,
    /// `superseded` or `stuck`.
    pub status: String,
    /// Why it failed, was cancelled, gave way or is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for, in milliseconds since the epoch.
    pub created_at: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// Its steps, oldest first; left out of lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<OperationStep>,
}

/// One attempt of a step of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationStep {
    /// Its name.
    pub name: String,
    /// `do` or `undo`.
    pub direction: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// When it began, in milliseconds since the epoch.
    pub started_at: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// `done`, `retry`, `failed`, `dropped`, `cut off`; none while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which operations to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationFilter {
    /// Of machines of this app.
    pub app: Option<AppName>,
    /// Of this machine.
    pub machine: Option<MachineId>,
    /// Only those that have not ended.
    pub only_unfinished: bool,
    /// The newest this many.
    pub limit: u32,
}

impl Operation {
    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        self.ended_at.is_some()
    }
}
