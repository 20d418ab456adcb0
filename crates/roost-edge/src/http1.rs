//! HTTP/1 as bytes, where a codec for every case costs more than the work: requests without a
//! body to machines, and their answers.
//!
//! hyper has the clients' side, and requests with a body or an upgrade.

pub(crate) mod answer;
pub(crate) mod chunks;
pub(crate) mod machine;
