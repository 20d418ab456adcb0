//! A door for the fuzz targets to what the crate keeps to itself.

use crate::build::receive_context;
use crate::registry;
use crate::unpack::{LayerSource, UnpackError, unpack_layer};
use bytes::Bytes;
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

/// Receives these bytes as the upload of a folder below `dir`, and panics when
/// something escapes from that folder or is left of a refused upload.
///
/// # Panics
///
/// See above.
pub fn receive(bytes: &[u8], dir: &Path) {
    let folder = dir.join("folder");
    // Pieces of odd sizes, as they come from a network.
    let pieces = bytes.chunks(1_000).map(Bytes::copy_from_slice);
    let stream = futures_util::stream::iter(pieces.map(Ok::<_, std::io::Error>));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return;
    };
    let result = runtime.block_on(receive_context(stream, &folder));
    assert_eq!(result.is_ok(), folder.exists(), "{result:?}");
    let n_left = std::fs::read_dir(dir).map_or(0, Iterator::count);
    assert_eq!(n_left, usize::from(result.is_ok()), "{result:?}");
    if result.is_ok()
        && let Ok(folder) = folder.canonicalize()
    {
        assert_links_stay(&folder, &folder);
    }
}

/// Panics when a link in `dir` leads out of `root`, with all links followed.
fn assert_links_stay(root: &Path, dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            assert_links_stay(root, &path);
        } else if let Ok(end) = path.canonicalize() {
            let path = path.display();
            assert!(end.starts_with(root), "{path} leads to {}", end.display());
        }
    }
}

/// Reads a request to the registry from its lines: path, query, `range`, `content-range`.
///
/// # Panics
///
/// When something that was accepted breaks its own bounds.
pub fn registry_request(text: &str) {
    let mut lines = text.splitn(4, '\n');
    let mut next = || lines.next().unwrap_or_default();
    registry::read_request_parts(next(), next(), next(), next());
}
