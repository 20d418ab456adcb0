//! All privileged work on one host: machine drivers, networks, cgroups, host
//! checks, outside programs.
//!
//! On a server only this crate, `roost-shim` and `roost-init` make privileged
//! system calls or start processes.

pub mod buildah;
pub mod cgroup;
pub mod container;
pub mod doctor;
pub mod driver;
#[cfg(feature = "testing")]
pub mod fake;
pub mod instance;
pub mod net;
pub mod process;
mod quota;
pub mod room;
pub mod shim;
pub mod teardown;
pub mod tree;
pub mod vm;
pub mod vmm;
