//! A door for the fuzz targets to what the crate keeps to itself.

use crate::unpack::{LayerSource, UnpackError, unpack_layer};
use roost_model::digest::Digest;
use std::path::Path;

/// Unpacks a layer of these bytes in `dir`, and panics when something escapes from it.
///
/// # Panics
///
/// When the folder holds anything but the layer itself afterwards, or the
/// layer passes for one with another digest.
pub fn unpack(bytes: &[u8], dir: &Path) {
    let (blob, temporary, target) = (dir.join("blob"), dir.join("tmp"), dir.join("layer"));
    if std::fs::write(&blob, bytes).is_err() {
        return;
    }
    let diff_id = Digest::from_sha256([0; 32]);
    let source = LayerSource {
        blob,
        blob_bytes: bytes.len() as u64,
        diff_id,
    };
    let result = unpack_layer(&source, &temporary, &target);
    assert!(result.is_err(), "no content has this digest");
    if let Err(UnpackError::DiffId { .. }) = &result {
        tracing::debug!("the layer was read to its end");
    }
    let n_left = std::fs::read_dir(dir).map_or(0, Iterator::count);
    assert!(
        n_left <= 1,
        "something escaped or was left: {n_left} entries"
    );
}
