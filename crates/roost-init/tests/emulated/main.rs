//! The first process of a guest, in a guest: emulated, with Debian's kernel.
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod commands;
mod guest;
mod hardship;
mod life;
mod refusals;
