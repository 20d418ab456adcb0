//! OCI images: pull, verify, store, unpack, serve and build.
//!
//! [`store::ContentStore`] holds verified content. This crate knows nothing of
//! machines: an unpacked layer is a directory, and who mounts it how is not
//! its business.
#![forbid(unsafe_code)]

pub mod build;
pub mod limits;
pub mod manifest;
pub mod platform;
pub mod registry;
pub mod store;

pub use manifest::{ImageConfig, Manifest, parse_manifest};
pub use platform::Platform;
pub use store::{BlobWriter, ContentStore, GcReport, StoreError};
