//! The packet plumbing of one node: links, addresses, routes, firewall.
//!
//! Each machine has a veth pair: one end on the host, the other, `eth0`, in
//! the machine's own network namespace. There is no bridge: the host routes
//! to each machine, so two machines share no Ethernet segment and every
//! packet passes the host's firewall.
//!
//! ```text
//!   machine                    host
//!   eth0  10.a.b.9/32  ───  r1a2b-04050607  10.a.b.1/32, fdaa:…::1/128, fe80::1/64
//!         fdaa:…::9/128        routes: 10.a.b.9/32, fdaa:…::9/128
//!   default via 10.a.b.1 (on link), via fe80::1
//! ```
//!
//! What may pass is the business of [`firewall`].

use async_trait::async_trait;
use roost_model::id::MachineId;

use crate::driver::MachineAddresses;
use crate::process::RunProgramError;
use roost_runtime::fs::FileError;

pub mod addresses;
pub mod firewall;
pub mod linux;
pub mod sysctl;
pub mod tap;

mod app_routes;
mod edge_routes;
mod netlink;
#[cfg(test)]
mod testing;

/// Of all links to machines, in bytes.
pub const MTU: u32 = 1500;

/// The network of a node or machine could not be set up or taken down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlumbError {
    /// The kernel refused a change of links, addresses or routes.
    #[error("{operation}")]
    Netlink {
        /// What was attempted, on what.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The firewall could not be changed.
    #[error("{operation}")]
    Firewall {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: RunProgramError,
    },
    /// A kernel setting could not be read or written.
    #[error("change kernel network settings")]
    Sysctl(#[source] FileError),
    /// The machine's network namespace is not one of its own.
    #[error("process {0} shares the host's network namespace")]
    NotIsolated(u32),
    /// Two machines' ids give one interface name.
    #[error("interface {name} belongs to machine {owner}")]
    NameTaken {
        /// The interface.
        name: String,
        /// The machine that has it.
        owner: String,
    },
}

/// Connects machines to the node's network.
///
/// The caller keeps calls about one machine in order. No method blocks the
/// runtime. All but `attach` are idempotent; a failed `attach` leaves nothing.
#[async_trait]
pub trait PacketPlumber: Send + Sync + std::fmt::Debug + 'static {
    /// Prepares the host: forwarding, firewall. Machines that are attached stay attached.
    async fn ensure_node(&self) -> Result<(), PlumbError>;
    /// Lets a machine that is about to be attached send from its addresses.
    ///
    /// Only a head start: the firewall takes as long as a machine takes to be
    /// created, and both can be done at once. `attach` does it when this was not
    /// called, and `detach` undoes it.
    async fn admit(&self, id: &MachineId, addresses: MachineAddresses) -> Result<(), PlumbError>;
    /// Gives the network namespace of a process an `eth0` with these addresses.
    async fn attach(
        &self,
        id: &MachineId,
        addresses: MachineAddresses,
        netns_pid: u32,
    ) -> Result<(), PlumbError>;
    /// Takes a machine's link away; none is fine.
    async fn detach(&self, id: &MachineId) -> Result<(), PlumbError>;
    /// The machines that have a link.
    async fn attached(&self) -> Result<Vec<MachineId>, PlumbError>;
    /// Removes all that this instance has put on the host.
    async fn remove_node(&self) -> Result<(), PlumbError>;
}
