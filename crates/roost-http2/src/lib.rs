//! HTTP/2 (RFC 9113) as the edge needs it: written for many small messages on few connections.
//!
//! - [`frame`]: reads and writes frames, settings and windows;
#![forbid(unsafe_code)]

pub mod frame;
