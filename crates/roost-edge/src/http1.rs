//! HTTP/1 as bytes, where a codec for every case costs more than the work: clients that send
//! plain requests ([`request`]), and machines that get them.
//!
//! Whatever is not plain goes to hyper as it came: requests with a body, upgrades, old versions,
//! headers in pieces, and all that has to be refused.

pub(crate) mod answer;
pub(crate) mod chunks;
pub(crate) mod client;
pub(crate) mod machine;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod spare;
