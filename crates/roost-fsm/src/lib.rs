//! Durable workflows.
//!
//! A [`Workflow`] is a list of named steps, each with an undo where there is something to undo.
//! A *run* is one execution of it, recorded in a [`Journal`]: killed at any instruction, it goes
//! on from the first step whose end is not recorded, or undoes what it began.
//!
//! ```text
//!   Engine ──▶ decide::next(outline, story) ──▶ attempt, turn back, or end
//!     │  ▲              pure                         │
//!     │  └───────────── story ◀── Journal::record ◀──┘   one transaction, fenced by the lease
//!     └─ leases: claim, heartbeat, lose
//! ```
//!
//! - [`workflow`]: how a workflow is declared, and what its steps must keep.
//! - [`record`]: what is recorded. [`journal`]: where, and what is decided in a transaction.
//! - [`decide`], [`retry`], [`outline`]: every other decision, pure.
//! - [`engine`]: executes runs; [`context`]: what a step sees of its run.
//! - [`sql`]: the journal's tables and what is written to them, on a transaction of the caller;
//!   [`sqlite`]: the same over a blocking connection.
//! - [`view`]: what users see of a run, as an operation.
//! - `testing` (feature): the checker that every workflow's tests call, and the contract of
//!   journals.
//!
//! This crate does not know what any workflow is about, and no clock, random number or task of
//! its own: all three are given to it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod context;
pub mod decide;
pub mod engine;
pub mod journal;
pub mod limits;
pub mod outline;
pub mod record;
pub mod retry;
pub mod sql;
pub mod sqlite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod view;
pub mod workflow;

pub use context::{Cx, Outputs};
pub use engine::start::{StartError, StartRequest};
pub use engine::{Engine, EngineConfig};
pub use journal::{Journal, JournalError};
pub use record::{Run, Status, Story, Subject};
pub use retry::RetryPolicy;
pub use workflow::{OnBusy, Step, StepError, Steps, Workflow};
