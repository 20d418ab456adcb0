//! OCI images: pull, verify, store, unpack, serve and build.
//!
//! [`store::ContentStore`] holds verified content. This crate knows nothing of
//! machines: an unpacked layer is a directory, and who mounts it how is not
//! its business.
#![forbid(unsafe_code)]

mod beneath;
pub mod build;
mod erofs;
mod flight;
#[doc(hidden)]
pub mod fuzzing;
mod images;
mod import;
pub mod limits;
pub mod manifest;
mod no_space;
pub mod platform;
mod pull;
pub mod registry;
mod remote;
pub mod store;
pub mod unpack;

pub use erofs::WriteErofsError;
pub use images::{
    BuildRootImageError, Image, Images, ImagesConfig, LayerDescriptor, OpenImagesError,
    ReadImageError,
};
pub use import::ImportError;
pub use manifest::{ImageConfig, Manifest, parse_manifest};
pub use no_space::is_no_space;
pub use platform::Platform;
pub use pull::{NoProgress, PullError, PullProgress};
pub use remote::{Credentials, RemoteError};
pub use store::{BlobWriter, ContentStore, GcReport, StoreError};
pub use unpack::UnpackError;
