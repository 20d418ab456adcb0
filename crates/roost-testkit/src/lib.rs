//! What tests share: a whole platform from the real programs, images made on
//! the spot, logs of machines, waiting for conditions, a simulated worker and
//! what every worker does.
//!
//! A dev-dependency only; nothing of it ships.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

pub mod faults;
pub mod images;
pub mod logs;
pub mod outside;
pub mod pebble;
pub mod platform;
pub mod program;
pub mod sim_worker;
pub mod takeover;
pub mod wait;
pub mod worker_contract;
