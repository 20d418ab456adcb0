//! The plumbing that every service uses: supervised tasks, the clock, files
//! whose errors name the path, log set-up, points for crash tests, shutdown.

#![forbid(unsafe_code)]

pub mod clock;
pub mod fs;
pub mod points;
pub mod tasks;
pub mod telemetry;
