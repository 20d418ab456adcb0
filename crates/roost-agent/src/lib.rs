//! The contract between a node and the agent in a guest.
//!
//! - [`proto`]: the messages and the gRPC service, generated from `proto/agent.proto`;
//! - [`session`]: a fresh, ordered connection out of a stream that outlives its users;
//! - [`host`] and [`guest`]: the two ends of that connection;
//! - [`limits`]: what either side bears of the other.
#![forbid(unsafe_code)]

pub mod guest;
pub mod host;
pub mod limits;
pub mod session;

/// The messages and the service.
pub mod proto {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::large_futures,
        clippy::too_many_lines,
        clippy::unwrap_used,
        reason = "generated code"
    )]
    tonic::include_proto!("roost.agent.v1");
}

/// Name of the virtio-serial port of the agent's stream.
pub const SERIAL_PORT: &str = "roost.agent";

/// Vsock port on which the agent listens where there is no serial port.
pub const VSOCK_PORT: u32 = 1024;
