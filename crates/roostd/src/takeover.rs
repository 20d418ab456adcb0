//! A new `roostd` takes over from the one that runs, and no request fails.
//!
//! ```text
//! old                          new
//!  │ ◀──────────── Hello ────── │  its configuration and the databases are fit
//!  │ gives up worker and API,   │
//!  │ its edge serves on         │
//!  │ ── Yours + lock ─────────▶ │
//!  │ ── Sockets + descriptors ▶ │  200 at a time, each acknowledged
//!  │ ── All ──────────────────▶ │  adopts the machines, has a table,
//!  │                            │  accepts as well, answers the API
//!  │ ◀──────────── Ready ────── │
//!  │ ── Flows ────────────────▶ │  which machine each flow of datagrams is with
//!  │ ── Leaving ──────────────▶ │  takes datagrams
//!  │ accepts no more            │
//!  │ ── InFlight ─────────────▶ │  at each change, until its connections have ended
//! ```
//!
//! The end of the connection is the end of the other process. An old one that
//! sees it before `Ready` takes worker and API up again, as at a start; a new
//! one that sees it goes on with what it was given.
//!
//! The lock of the data directory goes along: it is held for as long as either
//! has it open. Who serves on but has left holds another one, so that there are
//! never three.

mod channel;
mod gauge;
mod give;
mod take;

pub(crate) use gauge::BothEdges;
pub(crate) use give::{Door, Successor};
pub(crate) use take::{Given, begin};

use roost_model::id::MachineId;
use roost_proto::traffic::FlowPlace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Descriptors in one message.
const DESCRIPTORS_MAX: usize = 200;
/// Bytes of one message: what is on the way to a hundred thousand machines.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest wait for a message that takes the other side no work.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time from all that is given until the new one is ready: what a start may take.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// How often the old one looks whether what is on the way has changed.
const IN_FLIGHT_INTERVAL: Duration = Duration::from_millis(20);

/// What the two say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// New: I am fit to take over.
    Hello {
        version: String,
        /// Whether it knows what [`Message::Flows`] is.
        #[serde(default)]
        takes_flows: bool,
    },
    /// Old: not now.
    Refused { reason: String },
    /// Old: the machines and the databases are yours. With the lock.
    Yours { version: String },
    /// Old: listening sockets, one descriptor for each.
    Sockets(Vec<SocketLabel>),
    /// New: I have them.
    Taken,
    /// Old: that was all.
    All,
    /// New: I serve.
    Ready,
    /// Old: these flows of datagrams are with these machines. 8,192 at most, so that they fit.
    Flows(Vec<FlowPlace>),
    /// Old: I accept no more.
    Leaving,
    /// Old: so many requests are on the way to these machines.
    InFlight(BTreeMap<MachineId, usize>),
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SocketLabel {
    of: SocketOwner,
    protocol: Protocol,
    address: SocketAddr,
}

/// Whose socket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SocketOwner {
    Api,
    Edge,
}

/// What is spoken at a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Protocol {
    Tcp,
    Udp,
}
