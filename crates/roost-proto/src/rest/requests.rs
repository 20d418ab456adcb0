//! Requests that an edge has served, as it saw them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request that an edge has served: `GET /v1/requests/{id}`, and a line of the access log.
///
/// Times are in microseconds; those of spans and attempts count from the moment when the
/// request's header had come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestRecord {
    /// Its id, as the headers `roost-request-id` and `fly-request-id` tell app and client.
    pub request_id: String,
    /// The trace that it is part of (W3C Trace Context).
    pub trace_id: String,
    /// When its header had come, in milliseconds since the epoch.
    pub at: u64,
    /// The node of the edge.
    pub edge: String,
    /// The region of the edge.
    pub region: String,
    /// Which table of machines it was routed by; counted from the start of the edge.
    pub table_version: u64,
    /// The client's address.
    pub client: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub protocol: String,
    /// Whether it came by TLS.
    pub tls: bool,
    /// The method.
    pub method: String,
    /// The host name that was asked for.
    pub host: String,
    /// The path without the query; of a very long one the beginning.
    pub path: String,
    /// The app, when the host name is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The machine that answered, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The status that was sent; 499 when the client left before.
    pub status: u16,
    /// Why the edge itself answered: a code with a page in `docs/errors/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// Whether the response went to its end.
    pub complete: bool,
    /// Until the response's header.
    pub first_byte_us: u64,
    /// Until the response's end.
    pub total_us: u64,
    /// The attempts to have a machine answer, in order.
    pub attempts: Vec<RequestAttempt>,
    /// What the time went to, in order of beginning.
    pub spans: Vec<RequestSpan>,
}

/// One attempt to have a machine answer a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestAttempt {
    /// The machine that was picked, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The node whose edge it was handed to, when the machine is not on the edge's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How long a round trip to that node took of late; of those attempts of which it was noted
    /// why the others did not get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// The status of the machine's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it was noted why the other machines did not get it: of failures, of requests
    /// that waited, and of a share of the others.
    pub followed: bool,
    /// The other machines of the service, and why they did not get it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedMachine>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_more: u64,
}

/// A machine that a request did not go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkippedMachine {
    /// Its id.
    pub machine: String,
    /// Its region.
    pub region: String,
    /// Its node, when that is not the edge's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How long a round trip to that node took of late, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// A word for programs: `unhealthy`, `draining`, `asleep`, `down`, `not-asked-for`, `refused`,
    /// `ejected`, `hard-limit`, `split`, `session`, `farther`, or `other-chosen`.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// Requests that its service was serving.
    pub load: u64,
}

/// A part of the time that a request took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestSpan {
    /// `tls` (the handshake of its connection, before the request), `route`, `queue`,
    /// `connect`, `first_byte` (from the request sent to the answer's header), `body`.
    pub name: String,
    /// The number of the attempt that it is part of, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// When it began.
    pub start_us: u64,
    /// How long it took.
    pub duration_us: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
