//! The product as a user meets it: real programs, real images, real kernel.
//!
//! One file per story. Each test has its own platform on ports and folders of
//! its own and leaves nothing behind. Without root or a needed program a test
//! prints `skipped:` with the reason.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]
#![expect(clippy::too_many_lines, reason = "a story is told in one piece")]

#[path = "e2e/addresses.rs"]
mod addresses;
#[path = "e2e/bad_input.rs"]
mod bad_input;
#[path = "e2e/canary.rs"]
mod canary;
#[path = "e2e/capacity.rs"]
mod capacity;
#[path = "e2e/certificates.rs"]
mod certificates;
#[path = "e2e/checks.rs"]
mod checks;
#[path = "e2e/crash.rs"]
mod crash;
#[path = "e2e/deploy.rs"]
mod deploy;
#[path = "e2e/first_run.rs"]
mod first_run;
#[path = "e2e/isolation.rs"]
mod isolation;
#[path = "e2e/operations.rs"]
mod operations;
#[path = "e2e/relay.rs"]
mod relay;
#[path = "e2e/restart.rs"]
mod restart;
#[path = "e2e/schedule.rs"]
mod schedule;
#[path = "e2e/seeing.rs"]
mod seeing;
#[path = "e2e/services.rs"]
mod services;
#[path = "e2e/statics.rs"]
mod statics;
#[path = "e2e/udp.rs"]
mod udp;
#[path = "e2e/vm.rs"]
mod vm;
#[path = "e2e/wake.rs"]
mod wake;
