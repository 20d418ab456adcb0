//! The words and decisions of roost.
//!
//! Ids, validated names, domain types, limits and every decision that can be
//! taken without looking at the outside world. Nothing here is async, does
//! I/O, reads a clock, draws a random number or logs; a caller passes `now`
//! and gets a value back. Only ids and names know serde: what goes over a wire
//! or to disk lives in `roost-proto`.

#![forbid(unsafe_code)]

pub mod account;
pub mod app_config;
pub mod app_map;
pub mod canary;
pub mod client_header;
pub mod digest;
pub mod duration;
pub mod error;
pub mod host_name;
pub mod id;
pub mod image_ref;
pub mod limits;
pub mod machine;
pub mod name;
pub mod nearest;
pub mod placement;
pub mod procfs;
pub mod program;
pub mod rates;
pub mod restart;
pub mod rollout;
pub mod schedule;
pub mod size;
pub mod sleep;
pub mod split;
pub mod time;
pub mod web;
