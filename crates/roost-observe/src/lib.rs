//! Logs of machines: written as segments of JSON lines, queried, followed.
//!
//! Each machine has a directory of numbered segment files,
//! `<root>/<app>/<machine id>/<number>.log`; a line of a segment is one
//! [`roost_proto::logs::LogRecord`] as JSON. The shim of a machine writes
//! ([`writer::LogWriter`]), anybody on the node reads ([`store::LogStore`]):
//! there is no index, no daemon and no shared memory between them, so that
//! logs go on while `roostd` is down.

#![forbid(unsafe_code)]

pub mod cutter;
pub mod limits;
pub mod retention;
pub mod store;
pub mod writer;

mod bucket;
mod follow;
mod line;
mod segment;
