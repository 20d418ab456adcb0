//! Logs of machines: written as segments of JSON lines, queried, followed.
//!
//! Each machine has a directory of numbered segment files,
//! `<root>/<app>/<machine id>/<number>.log`; a line of a segment is one
//! [`roost_proto::logs::LogRecord`] as JSON. The shim of a machine writes
//! ([`writer::LogWriter`]), anybody on the node reads ([`store::LogStore`]):
//! there is no index, no daemon and no shared memory between them, so that
//! logs go on while `roostd` is down.
//!
//! Beside them is the access log of the node's edge ([`access`]), in segments as well.

#![forbid(unsafe_code)]

pub mod access;
pub mod cutter;
pub mod limits;
pub mod retention;
pub mod store;
pub mod writer;

mod bucket;
mod follow;
mod line;
mod segment;
mod segment_writer;
