//! The REST API: apps, machines, releases, deployments, secrets, logs, builds.
//!
//! `http/` reads requests and writes answers; `app/` decides and acts, with a
//! [`ctx::RequestCtx`] as its first parameter; `workflows/` is work that goes
//! on after the answer and survives a crash; `ports` is what the API needs from
//! other crates; `testing` (feature) is what tests put in their place.

#![forbid(unsafe_code)]

mod adapters;
mod app;
mod ctx;
mod error;
mod fleet;
mod host_names;
mod http;
pub mod limits;
mod placement;
pub mod ports;
mod reconcile;
mod retention;
mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod view;
mod workflows;

pub use adapters::FolderBuilder;
pub use host_names::HostNameParts;
pub use http::{openapi, router};
pub use retention::{RetainImagesError, RetentionReport};
pub use state::{ApiParts, ApiState, MintTokenError, NodeFacts, ResumeError};
