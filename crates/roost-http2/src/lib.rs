//! HTTP/2 (RFC 9113) as the edge needs it: written for many small messages on few connections.
//!
//! - [`client`]: a connection to a server, for many requests;
//! - [`frame`]: reads and writes frames, settings and windows;
//! - [`hpack`]: header compression (RFC 7541);
//! - [`fields`]: a block of fields, and what no message may have;
//! - [`server`]: a connection of a client.
//!
//! This crate does not know what the messages are about. It makes no connection and no task:
//! whoever has a connection drives it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod fields;
pub mod frame;
pub mod hpack;
mod ready;
pub mod server;
mod spare;
