//! Images of the node's own store, pulled when they are missing.

use super::{ImageSource, ResolvedImage};
use async_trait::async_trait;
use roost_host::driver::{RootFs, RootFsKind};
use roost_image::{Image, Images, NoProgress, PullError, is_no_space};
use roost_model::error::{ErrorCode, Retry, chain};
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_proto::worker::WorkerError;
use roost_runtime::points;

fn owner_of(machine: &MachineId) -> String {
    format!("machine:{machine}")
}

fn failure(
    error: &(dyn std::error::Error + 'static),
    code: &'static str,
    retry: Retry,
) -> WorkerError {
    // Room may come back whatever the work was.
    let (code, retry) = if is_no_space(error) {
        ("disk-full", Retry::Backoff)
    } else {
        (code, retry)
    };
    WorkerError::Image {
        message: chain(error),
        code: ErrorCode(code),
        retry,
    }
}

/// Whether trying again may help: the pull itself has tried the network again.
fn pull_failure(error: &PullError) -> WorkerError {
    match error {
        PullError::NotFound { .. } => failure(error, "image-not-found", Retry::Never),
        PullError::Remote { .. } => failure(error, "image-pull-failed", Retry::Never),
        PullError::Unusable { .. } => failure(error, "image-unusable", Retry::Never),
        PullError::Store { .. } => failure(error, "image-store-failed", Retry::Backoff),
    }
}

async fn find(images: &Images, reference: &ImageRef) -> Result<Image, WorkerError> {
    // Pinned and whole here: no network, whatever the registry says now.
    if let Some(digest) = &reference.digest {
        match images.image(digest).await {
            Ok(Some(image)) => return Ok(image),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%reference, error = chain(&error), "stored image is not usable; pulling it")
            }
        }
    }
    images
        .pull(reference, &NoProgress)
        .await
        .map_err(|error| pull_failure(&error))
}

async fn root_fs(images: &Images, image: &Image, kind: RootFsKind) -> Result<RootFs, WorkerError> {
    match kind {
        RootFsKind::Layers => {
            let layers = images.rootfs_layers(image).await;
            let refused = |error| failure(&error, "image-unpack-failed", Retry::Never);
            layers.map(RootFs::Layers).map_err(refused)
        }
        RootFsKind::Image => {
            let file = images.root_image(image).await;
            let refused = |error| failure(&error, "image-unpack-failed", Retry::Never);
            file.map(RootFs::Image).map_err(refused)
        }
    }
}

#[async_trait]
impl ImageSource for Images {
    async fn resolve(
        &self,
        machine: &MachineId,
        reference: &ImageRef,
        kind: RootFsKind,
    ) -> Result<ResolvedImage, WorkerError> {
        let image = find(self, reference).await?;
        // Held before it is unpacked, so that the collector leaves it alone.
        self.retain(&owner_of(machine), &image.digest)
            .await
            .map_err(|error| failure(&error, "image-store-failed", Retry::Backoff))?;
        points::pass("image-retained");
        let root_fs = root_fs(self, &image, kind).await?;
        points::pass("image-unpacked");
        let split = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        Ok(ResolvedImage {
            digest: image.digest,
            env: image.config.env.iter().map(split).collect(),
            entrypoint: image.config.entrypoint,
            cmd: image.config.cmd,
            user: image.config.user,
            workdir: image.config.workdir,
            stop_signal: image.config.stop_signal,
            root_fs,
        })
    }

    async fn release(&self, machine: &MachineId) -> Result<(), WorkerError> {
        // The inherent method, not this one.
        Images::release(self, &owner_of(machine))
            .await
            .map_err(|error| failure(&error, "image-store-failed", Retry::Backoff))?;
        points::pass("image-released");
        Ok(())
    }
}
