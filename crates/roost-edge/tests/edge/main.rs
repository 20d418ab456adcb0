//! The edge against real sockets: clients on one side, small servers as
//! machines on the other.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod asking;
mod bad_input;
mod hardening;
mod hostile;
mod limits;
mod names;
mod patience;
mod protocols;
mod rates;
mod replay;
mod restart;
mod routing;
mod tcp;
mod wake;
mod world;
