//! What every rung's driver has to do, over the real drivers.
//!
//! One suite, [`contract`], runs over containers and over emulated VMs always,
//! and over VMs on KVM where the environment says that it can be used
//! (`ROOST_TEST_KVM=1`, set by `make test-kvm` in its outer machine;
//! `ROOST_FIRECRACKER=PATH` adds Firecracker). What only VMs have is in [`vm`].

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

mod contract;
mod host;
mod vm;
