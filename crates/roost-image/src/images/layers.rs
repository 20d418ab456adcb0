//! The unpacked layers of images: each unpacked once, trusted only after a sync.

use super::{Image, Images, LayerDescriptor};
use crate::flight::Turn;
use crate::store::Pin;
use crate::unpack::{LayerSource, UnpackError, unpack_layer};
use roost_model::digest::Digest;
use roost_runtime::fs::IoContext as _;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A layer that lies unpacked under its name and is not yet on record.
///
/// Nobody else unpacks it while this lives.
#[derive(Debug)]
pub(crate) struct UnpackedLayer {
    diff_id: Digest,
    n_bytes: u64,
    _turn: Turn,
    _pins: [Pin; 2],
}

impl Images {
    /// The unpacked layers of an image, lowest first; unpacks those that are not yet.
    ///
    /// Directories are shared by all images with the same layer and must not
    /// be written to. Callers that come at the same time share the work.
    pub async fn rootfs_layers(&self, image: &Image) -> Result<Vec<PathBuf>, UnpackError> {
        let store = &self.inner.store;
        let layers = &image.layers;
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let _pins: Vec<Pin> = layers
            .iter()
            .flat_map(|layer| [store.pin(&layer.digest), store.pin(&layer.diff_id)])
            .collect();
        let absent = store.use_image_layers(&image.digest, &diff_ids).await?;
        let missing: BTreeMap<&Digest, &LayerDescriptor> = layers
            .iter()
            .filter(|layer| absent.contains(&layer.diff_id))
            .map(|layer| (&layer.diff_id, layer))
            .collect();
        // In the order of diff ids, so that two images never wait for each other's layers.
        let mut turns = Vec::new();
        for (diff_id, layer) in missing {
            let turn = self.inner.layer_flights.turn(diff_id).await;
            if !store.has_layer(diff_id).await? {
                turns.push((layer, turn));
            }
        }
        self.unpack_all(turns).await?;
        Ok(diff_ids
            .iter()
            .map(|diff_id| store.layer_path(diff_id))
            .collect())
    }

    async fn unpack_all(&self, turns: Vec<(&LayerDescriptor, Turn)>) -> Result<(), UnpackError> {
        let work = turns
            .into_iter()
            .map(|(layer, turn)| self.unpack_one(layer, turn));
        let (mut unpacked, mut first_error) = (Vec::new(), None);
        for result in futures_util::future::join_all(work).await {
            match result {
                Ok(layer) => unpacked.push(layer),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        self.record_unpacked(unpacked).await?;
        first_error.map_or(Ok(()), Err)
    }

    /// Unpacks a layer that has just been downloaded, while others still are;
    /// `None` when that is done, or somebody else is at it.
    ///
    /// Waits for nobody's turn: who does that while it holds one of another
    /// layer must follow the order of diff ids, and downloads end in any order.
    pub(crate) async fn unpack_ahead(
        &self,
        layer: &LayerDescriptor,
    ) -> Result<Option<UnpackedLayer>, UnpackError> {
        let Some(turn) = self.inner.layer_flights.try_turn(&layer.diff_id) else {
            return Ok(None);
        };
        if self.inner.store.has_layer(&layer.diff_id).await? {
            return Ok(None);
        }
        self.unpack_one(layer, turn).await.map(Some)
    }

    async fn unpack_one(
        &self,
        layer: &LayerDescriptor,
        turn: Turn,
    ) -> Result<UnpackedLayer, UnpackError> {
        let store = &self.inner.store;
        let pins = [store.pin(&layer.digest), store.pin(&layer.diff_id)];
        let digest = layer.digest.clone();
        let Some(blob_bytes) = store.blob_size(&digest).await? else {
            return Err(UnpackError::Missing { digest });
        };
        let source = LayerSource {
            blob: store.blob_path(&digest),
            blob_bytes,
            diff_id: layer.diff_id.clone(),
        };
        let temporary = store.layer_temporary_path();
        let target = store.layer_path(&layer.diff_id);
        let slot = Arc::clone(&self.inner.unpacks).acquire_owned().await;
        // The turn goes along: nobody else starts while a call that was dropped still unpacks.
        let done = tokio::task::spawn_blocking(move || {
            let unpacked = unpack_layer(&source, &temporary, &target);
            drop(slot);
            (unpacked, source.diff_id, turn, pins)
        });
        let (unpacked, diff_id, turn, pins) = done.await.map_err(|_| UnpackError::Interrupted)?;
        Ok(UnpackedLayer {
            diff_id,
            n_bytes: unpacked?.n_bytes,
            _turn: turn,
            _pins: pins,
        })
    }

    /// Makes unpacked layers durable and puts them on record.
    pub(crate) async fn record_unpacked(
        &self,
        layers: Vec<UnpackedLayer>,
    ) -> Result<(), UnpackError> {
        if layers.is_empty() {
            return Ok(());
        }
        let store = &self.inner.store;
        // Synced once for all layers; only then are they recorded and trusted.
        let root = store.root().to_owned();
        let synced = tokio::task::spawn_blocking(move || {
            let dir = std::fs::File::open(&root).on("open", &root)?;
            rustix::fs::syncfs(&dir)
                .map_err(std::io::Error::from)
                .on("sync", &root)
        });
        synced.await.map_err(|_| UnpackError::Interrupted)??;
        let sizes = layers
            .iter()
            .map(|layer| (layer.diff_id.clone(), layer.n_bytes));
        Ok(store.add_layers(sizes.collect()).await?)
    }
}
