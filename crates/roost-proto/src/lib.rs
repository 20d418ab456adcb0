//! What crosses a boundary: JSON of the REST API, log records, the shim's
//! control messages, and the traits by which services call each other.
//!
//! Wire types are not domain types: each has an explicit conversion to
//! `roost-model`, which is where validation happens. Fields are only added;
//! their meaning never changes in place.

#![forbid(unsafe_code)]

pub mod dockerfile;
pub mod duration;
pub mod latencies;
pub mod logs;
pub mod machine_config;
pub mod names;
pub mod peer_loads;
pub mod peer_table;
pub mod peer_tallies;
pub mod release_traffic;
pub mod rest;
pub mod shim;
pub mod traffic;
pub mod vm;
pub mod worker;
