//! What the worker needs of images: a root file system on disk and what the image says.

mod store;

use async_trait::async_trait;
use roost_host::driver::{RootFs, RootFsKind};
use roost_model::digest::Digest;
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_proto::worker::WorkerError;

/// An image whose root file system is on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
    /// Its command.
    pub cmd: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its user, `user[:group]`; empty for root.
    pub user: String,
    /// Its working directory; empty for `/`.
    pub workdir: String,
    /// Its stop signal, as the image writes it.
    pub stop_signal: Option<String>,
    /// Its root file system, of the kind that was asked for.
    pub root_fs: RootFs,
}

/// Where images come from.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// Makes an image present on this node, in the form that the machine's
    /// driver starts from, and keeps it for `machine` until
    /// `release`. A reference with a digest that is present needs no network.
    /// Cancel-safe: a pull that was dropped leaves nothing half-made.
    async fn resolve(
        &self,
        machine: &MachineId,
        image: &ImageRef,
        kind: RootFsKind,
    ) -> Result<ResolvedImage, WorkerError>;
    /// Lets go of what `machine` holds; nothing to let go of is fine.
    async fn release(&self, machine: &MachineId) -> Result<(), WorkerError>;
}
