//! A door for the fuzz targets to what the crate keeps to itself.

mod http1;
mod lines;

pub use http1::{http1_request, http1_response};
pub use lines::{relay_lines, request_headers, sni};
