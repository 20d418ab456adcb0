//! Claims about calls between nodes, over real sockets and certificates.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

#[path = "rpc/calls.rs"]
mod calls;
#[path = "rpc/cluster.rs"]
mod cluster;
#[path = "rpc/contract.rs"]
mod contract;
#[path = "rpc/deploy.rs"]
mod deploy;
#[path = "rpc/identities.rs"]
mod identities;
#[path = "rpc/real.rs"]
mod real;
