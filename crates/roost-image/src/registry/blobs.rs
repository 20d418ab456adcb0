//! Blobs: look up, read with ranges, delete.

use super::error::{RegistryCode, RegistryError};
use super::{Answer, Registry, empty};
use crate::limits::BLOB_READ_BYTES;
use axum::body::Body;
use axum::http::header::{self, HeaderMap};
use axum::http::{Method, StatusCode};
use roost_model::digest::Digest;
use roost_runtime::fs::IoContext as _;
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

impl Registry {
    /// `GET` and `HEAD` of a blob.
    pub(super) async fn blob(
        &self,
        name: &str,
        digest: &Digest,
        method: &Method,
        headers: &HeaderMap,
    ) -> Answer {
        let unknown = || {
            let message = format!("repository `{name}` has no blob {digest}");
            RegistryError::new(RegistryCode::BlobUnknown, message)
        };
        if self
            .store
            .repository_blob_size(name, digest)
            .await?
            .is_none()
        {
            return Err(unknown());
        }
        let (mut file, size) = self.store.open_blob(digest).await?.ok_or_else(unknown)?;
        let range = headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok());
        let (start, length) = match range.map(|range| slice(range, size)) {
            None | Some(Slice::Whole) => (0, size),
            Some(Slice::Part { start, length }) => (start, length),
            Some(Slice::Unsatisfiable) => {
                let message = format!("the blob has {size} bytes");
                return Err(RegistryError::new(RegistryCode::RangeInvalid, message)
                    .with_header("content-range", format!("bytes */{size}")));
            }
        };
        let is_part = length != size;
        let status = if is_part {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        let length_text = length.to_string();
        let etag = format!("\"{digest}\"");
        let content_range = format!(
            "bytes {start}-{}/{size}",
            (start + length).saturating_sub(1)
        );
        let mut fields = vec![
            ("content-type", "application/octet-stream"),
            ("content-length", length_text.as_str()),
            ("docker-content-digest", digest.as_str()),
            ("etag", etag.as_str()),
            ("accept-ranges", "bytes"),
        ];
        if is_part {
            fields.push(("content-range", content_range.as_str()));
        }
        let mut response = empty(status, &fields);
        if method == Method::GET {
            if start > 0 {
                let path = self.store.blob_path(digest);
                let sought = file.seek(SeekFrom::Start(start)).await;
                sought
                    .on("seek in", path)
                    .map_err(crate::store::StoreError::from)?;
            }
            let stream = ReaderStream::with_capacity(file.take(length), BLOB_READ_BYTES);
            *response.body_mut() = Body::from_stream(stream);
        }
        Ok(response)
    }

    /// `DELETE` of a blob: out of this repository; the content goes when nothing needs it.
    pub(super) async fn delete_blob(&self, name: &str, digest: &Digest) -> Answer {
        if self.store.unlink_blob(name, digest).await? {
            return Ok(empty(StatusCode::ACCEPTED, &[]));
        }
        let message = format!("repository `{name}` has no blob {digest}");
        Err(RegistryError::new(RegistryCode::BlobUnknown, message))
    }
}

/// What a range means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slice {
    Whole,
    Part { start: u64, length: u64 },
    Unsatisfiable,
}

/// One range of a blob; anything else means all of it (RFC 9110, 14.2).
pub(super) fn slice(range: &str, size: u64) -> Slice {
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|spec| spec.split_once('-'))
    else {
        return Slice::Whole;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last),
        (Ok(first), Err(_)) if last.is_empty() => (first, u64::MAX),
        (Err(_), Ok(length)) if first.is_empty() => (size.saturating_sub(length), u64::MAX),
        _ => return Slice::Whole,
    };
    if first >= size {
        return Slice::Unsatisfiable;
    }
    Slice::Part {
        start: first,
        length: last.min(size - 1) - first + 1,
    }
}
