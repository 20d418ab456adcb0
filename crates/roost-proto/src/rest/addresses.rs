//! Dedicated addresses.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/apps/{app}/ip_assignments`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignIpRequest {
    /// `v4`, `v6`, or `private_v6` for the machines of the node.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An address that is one app's alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpAssignment {
    /// The address.
    pub ip: String,
    /// `v4`, `v6` or `private_v6`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is.
    pub region: String,
    /// Whether other apps have it as well: never.
    #[serde(default)]
    pub shared: bool,
    /// `active`, or `not-served`: the platform no longer has it to give, so nothing that comes
    /// there is for the app until it has again.
    #[serde(default)]
    pub state: String,
    /// Since when the app has it, milliseconds since the epoch.
    pub created_at: u64,
}

/// `GET /v1/apps/{app}/ip_assignments`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IpAssignmentList {
    /// The oldest first.
    pub ips: Vec<IpAssignment>,
}
