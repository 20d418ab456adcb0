//! The edge against real sockets: clients on one side, small servers as
//! machines on the other.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bad_input;
mod hardening;
mod hostile;
mod protocols;
mod routing;
mod world;
