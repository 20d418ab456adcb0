//! Certificates of custom host names: what makes an uploaded one usable, and how one is issued
//! by an authority that speaks ACME (RFC 8555).
//!
//! Nothing here keeps anything. To issue is a row of bounded pieces of work ([`issue::advance`])
//! over an [`issue::Order`] that the caller records between them, so that a kill at any point
//! costs one piece.

#![forbid(unsafe_code)]

pub mod acme;
pub mod chain;
pub mod challenge;
mod http_client;
pub mod issue;
pub mod limits;
pub mod times;
