//! The control database: tokens, apps, releases, deployments and their
//! journal, sealed secrets, idempotency keys.
//!
//! SQLite today. Nothing of SQL or SQLite is in the public interface, and the
//! SQL keeps to what PostgreSQL reads too.

#![forbid(unsafe_code)]

mod apps;
mod database;
mod deployments;
mod error;
mod idempotency;
pub mod limits;
pub mod placements;
pub mod records;
mod releases;
mod secrets;
#[cfg(test)]
mod tests;
mod tokens;

pub use database::Store;
pub use error::StoreError;
pub use idempotency::{Answer, Claim};
