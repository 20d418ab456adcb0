//! Calls between nodes: the worker's interface as gRPC over mutual TLS.
//!
//! ```text
//!  Arc<dyn WorkerApi>                                   Arc<dyn WorkerApi>
//!   RemoteWorker ── convert ── gRPC ═ TLS ═ Listener ── WorkerService ── the worker
//!                                                        (asks for the role `api`)
//! ```
//!
//! - [`RemoteWorker`] is a worker on another node, for who asks; [`serve`] puts
//!   any worker on a socket. Both sides together are the identity: the contract
//!   of workers (`roost_testkit::worker_contract`) holds through them.
//! - [`convert`] is the one place where messages become domain values. It has
//!   no wildcards: what is added to the domain does not compile until it is
//!   carried.
//! - [`keep_renewed`] renews this process's identity while calls go on.
//!
//! Refusals arrive as they were made. What the network does is
//! `WorkerError::Unreachable`: the call may have been done, and may be sent
//! again, since every call of a worker may. Every message, list, call and
//! connection is bounded by [`limits`].
//!
//! A crate of its own, and not part of `roost-proto`, so that the command line
//! and other users of the wire types do not carry gRPC and its generated code.

#![forbid(unsafe_code)]

mod client;
pub mod convert;
pub mod limits;
mod listener;
mod renew;
mod server;

pub use client::{RemoteWorker, RemoteWorkerError};
pub use renew::keep_renewed;
pub use server::{ServeError, serve};

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
    tonic::include_proto!("roost.worker.v1");
}
