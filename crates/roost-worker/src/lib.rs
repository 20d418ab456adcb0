//! The owner of the machines of one node.
//!
//! The worker keeps its machines in its own SQLite database and has the last
//! word on them. It knows machines, versions and specs; it has never heard of
//! releases, deployments or users.
//!
//! ```text
//!  WorkerApi ──▶ api ──writes what is wanted──▶ store (worker.db)
//!                 │ kick                          ▲ reads what is wanted,
//!                 ▼                               │ writes what is
//!               owner (one task per machine) ─────┘
//!                 │  lifecycle::on_event (pure) says what to do next
//!                 ├──▶ drivers, the one of the machine's rung: launch, watch, suspend,
//!                 │      signal, remove, adopt
//!                 ├──▶ health: checks while the machine runs
//!                 └──▶ board: state and health of all machines
//!                        └──▶ TrafficTable, on a watch channel, for the edge
//! ```
//!
//! Invariants:
//! 1. What is wanted is on disk before anything is done about it, so a kill
//!    at any instruction is resumed at the next start.
//! 2. Only a machine's owner task calls its driver to launch, stop or remove.
//! 3. A process is launched only after a row says that one may exist
//!    (`vm_live`), and that row is cleared only after its end is recorded.
//!    So no process is lost and no end is counted twice.
//! 4. A machine's rung is on disk before it is launched, and what looks after it
//!    until it is launched again is the driver of that rung.
//! 5. Machines outlive this process: shutdown stops owner tasks, not machines.

#![forbid(unsafe_code)]

mod api;
mod board;
mod capacity;
mod config;
mod drivers;
mod files;
mod health;
mod housekeeping;
mod images;
mod launch;
mod lifecycle;
mod limits;
mod operations;
mod owner;
mod schedule;
mod sleep;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;

pub use capacity::NodeProfile;
pub use config::{AddressAllocator, StartWorkerError, WorkerConfig};
pub use drivers::{Drivers, IsolationRefused, Standing};
pub use housekeeping::{Housekeeper, NoHousekeeper};
pub use images::{ImageSource, ResolvedImage};
pub use worker::{Worker, WorkerParts};

#[cfg(test)]
mod tests;
