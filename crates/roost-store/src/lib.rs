//! The control database: tokens, apps, releases, deployments, the runs of
//! workflows, sealed secrets, host names and their certificates, dedicated addresses, idempotency
//! keys.
//!
//! SQLite today. Nothing of SQL or SQLite is in the public interface, and the
//! SQL keeps to what PostgreSQL reads too, but for the tables of runs.

#![forbid(unsafe_code)]

pub mod addresses;
mod apps;
mod database;
mod deployments;
mod error;
pub mod host_names;
mod idempotency;
pub mod limits;
pub mod placements;
pub mod records;
mod releases;
mod runs;
mod secrets;
#[cfg(test)]
mod tests;
mod tokens;

pub use apps::subject_of_app;
pub use database::Store;
pub use error::StoreError;
pub use idempotency::{Answer, Claim};
pub use runs::RunJournal;
