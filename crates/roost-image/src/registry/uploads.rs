//! Uploads: whole, in one stream, or in chunks.
//!
//! A session holds a blob writer. Whoever works on it takes the writer out of
//! the table and puts it back; a request that is cut off takes it along into
//! nothing, and the client begins anew. So a session is never written by two
//! requests, and no half-written one is ever continued by mistake.

use super::error::{RegistryCode, RegistryError};
use super::{Answer, Query, Registry, content_length, empty, path};
use crate::limits::{LAYER_BYTES_MAX, UPLOAD_AGE_MAX, UPLOAD_STALL_TIMEOUT, UPLOADS_MAX};
use crate::store::BlobWriter;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use roost_model::digest::Digest;
use roost_runtime::clock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The open uploads.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    table: Arc<Mutex<HashMap<String, Session>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Session {
    repository: String,
    /// Absent while a request works on it.
    writer: Option<BlobWriter>,
    written: u64,
    used: Instant,
}

/// A session that one request works on. Dropped, the session ends.
struct Checkout {
    table: Arc<Mutex<HashMap<String, Session>>>,
    id: String,
    writer: Option<BlobWriter>,
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

impl Checkout {
    /// Puts the session back for the next request.
    fn give_back(mut self) {
        let Some(writer) = self.writer.take() else {
            return;
        };
        if let Some(session) = self.table.lock().get_mut(&self.id) {
            session.written = writer.written();
            session.used = Instant::now();
            session.writer = Some(writer);
        }
        // The session stays: its end is not ours any more.
        self.id = String::new();
    }
}

impl Uploads {
    fn add(&self, repository: &str, writer: BlobWriter) -> Result<String, RegistryError> {
        let mut table = self.table.lock();
        table.retain(|_, session| {
            session.writer.is_none() || session.used.elapsed() < UPLOAD_AGE_MAX
        });
        if table.len() >= UPLOADS_MAX {
            let message = format!("{UPLOADS_MAX} uploads are open already");
            return Err(RegistryError::new(RegistryCode::TooManyRequests, message)
                .with_header("retry-after", "5".to_owned()));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}-{number:x}", clock::now().as_ms());
        let session = Session {
            repository: repository.to_owned(),
            writer: Some(writer),
            written: 0,
            used: Instant::now(),
        };
        table.insert(id.clone(), session);
        Ok(id)
    }

    fn written(&self, repository: &str, id: &str) -> Result<u64, RegistryError> {
        let table = self.table.lock();
        let session = table
            .get(id)
            .filter(|session| session.repository == repository);
        session
            .map(|session| session.written)
            .ok_or_else(|| unknown(id))
    }

    fn check_out(&self, repository: &str, id: &str) -> Result<Checkout, RegistryError> {
        let mut table = self.table.lock();
        let session = table
            .get_mut(id)
            .filter(|session| session.repository == repository);
        let session = session.ok_or_else(|| unknown(id))?;
        let Some(writer) = session.writer.take() else {
            let message = "another request works on this upload";
            return Err(RegistryError::new(RegistryCode::BlobUploadInvalid, message));
        };
        Ok(Checkout {
            table: Arc::clone(&self.table),
            id: id.to_owned(),
            writer: Some(writer),
        })
    }
}

fn unknown(id: &str) -> RegistryError {
    let shown: String = id.chars().take(80).collect();
    let message = format!("there is no upload `{shown}` here; begin it again");
    RegistryError::new(RegistryCode::BlobUploadUnknown, message)
}

fn location(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// The range header of a session; the specification has no form for nothing but `0-0`.
fn range(written: u64) -> String {
    format!("0-{}", written.saturating_sub(1))
}

impl Registry {
    /// `POST`: a mount, a whole blob, or the start of a session.
    pub(super) async fn begin_upload(
        &self,
        name: &str,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer {
        if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) {
            let digest = path::digest(digest)?;
            let from = path::repository(from)?;
            let is_there = self
                .store
                .repository_blob_size(&from, &digest)
                .await?
                .is_some();
            if is_there && self.store.link_blob(name, &digest).await? {
                return Ok(created(name, &digest));
            }
        }
        let wanted = query.get("digest").map(path::digest).transpose()?;
        limit(content_length(headers), 0)?;
        let mut writer = self.store.begin_blob().await?;
        if let Some(digest) = wanted {
            let length = content_length(headers);
            copy(body, &mut writer, length).await?;
            writer.commit(&digest).await?;
            self.store.link_blob(name, &digest).await?;
            return Ok(created(name, &digest));
        }
        let id = self.uploads.add(name, writer)?;
        Ok(accepted(name, &id, 0))
    }

    /// `GET`: how far a session is.
    pub(super) fn upload_status(&self, name: &str, id: &str) -> Answer {
        let written = self.uploads.written(name, id)?;
        let (location, range) = (location(name, id), range(written));
        let fields = [
            ("location", location.as_str()),
            ("range", &range),
            ("docker-upload-uuid", id),
        ];
        Ok(empty(StatusCode::NO_CONTENT, &fields))
    }

    /// `PATCH`: the next chunk.
    pub(super) async fn append_upload(
        &self,
        name: &str,
        id: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer {
        let written = self.receive_chunk(name, id, headers, body).await?.finish();
        Ok(accepted(name, id, written))
    }

    /// `PUT`: the last chunk, which may be empty, and the digest of the whole.
    pub(super) async fn finish_upload(
        &self,
        name: &str,
        id: &str,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer {
        let Some(digest) = query.get("digest") else {
            let message = "the query needs `digest`, the digest of the whole blob";
            return Err(RegistryError::new(RegistryCode::DigestInvalid, message));
        };
        let digest = path::digest(digest)?;
        let mut received = self.receive_chunk(name, id, headers, body).await?;
        let writer = received.checkout.writer.take();
        // Committing ends the session, whatever comes of it.
        drop(received);
        writer.ok_or_else(|| unknown(id))?.commit(&digest).await?;
        self.store.link_blob(name, &digest).await?;
        Ok(created(name, &digest))
    }

    /// `DELETE`: gives a session up.
    pub(super) fn cancel_upload(&self, name: &str, id: &str) -> Answer {
        drop(self.uploads.check_out(name, id)?);
        Ok(empty(StatusCode::NO_CONTENT, &[]))
    }

    async fn receive_chunk(
        &self,
        name: &str,
        id: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Received, RegistryError> {
        let mut checkout = self.uploads.check_out(name, id)?;
        let Some(writer) = checkout.writer.as_mut() else {
            return Err(unknown(id));
        };
        let at = writer.written();
        let announced = match check_chunk(headers, at) {
            Ok(length) => length,
            Err(error) => {
                // Nothing was written: the session goes on where it was.
                checkout.give_back();
                return Err(error
                    .with_header("location", location(name, id))
                    .with_header("range", range(at)));
            }
        };
        match copy(body, writer, announced).await {
            Ok(()) => Ok(Received { checkout }),
            Err(error) => Err(error),
        }
    }
}

/// A session after its chunk arrived.
struct Received {
    checkout: Checkout,
}

impl Received {
    /// Leaves the session open; returns how far it is.
    fn finish(self) -> u64 {
        let written = self.checkout.writer.as_ref().map_or(0, BlobWriter::written);
        self.checkout.give_back();
        written
    }
}

fn created(name: &str, digest: &Digest) -> axum::response::Response {
    let location = format!("/v2/{name}/blobs/{digest}");
    let fields = [
        ("location", location.as_str()),
        ("docker-content-digest", digest.as_str()),
    ];
    empty(StatusCode::CREATED, &fields)
}

fn accepted(name: &str, id: &str, written: u64) -> axum::response::Response {
    let (location, range) = (location(name, id), range(written));
    let fields = [
        ("location", location.as_str()),
        ("range", &range),
        ("docker-upload-uuid", id),
    ];
    empty(StatusCode::ACCEPTED, &fields)
}

/// Refuses an upload that would pass the limit.
fn limit(length: Option<u64>, at: u64) -> Result<(), RegistryError> {
    let total = length.unwrap_or(0).saturating_add(at);
    if total > LAYER_BYTES_MAX {
        Err(RegistryError::too_large(total, LAYER_BYTES_MAX))
    } else {
        Ok(())
    }
}

/// Checks that a chunk follows what is there; returns its length, when announced.
pub(super) fn check_chunk(headers: &HeaderMap, at: u64) -> Result<Option<u64>, RegistryError> {
    let length = content_length(headers);
    limit(length, at)?;
    let Some(range) = headers.get(header::CONTENT_RANGE) else {
        return Ok(length);
    };
    let malformed = || {
        let message = "`content-range` is not FIRST-LAST";
        RegistryError::new(RegistryCode::RangeInvalid, message)
    };
    let text = range.to_str().map_err(|_| malformed())?;
    let text = text
        .strip_prefix("bytes")
        .map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
    let text = text.split('/').next().unwrap_or(text);
    let (first, last) = text.split_once('-').ok_or_else(malformed)?;
    let first: u64 = first.trim().parse().map_err(|_| malformed())?;
    let last: u64 = last.trim().parse().map_err(|_| malformed())?;
    if first != at {
        let message = format!("this chunk starts at byte {first}, and byte {at} is next");
        return Err(RegistryError::new(RegistryCode::RangeInvalid, message));
    }
    let announced = last
        .checked_sub(first)
        .and_then(|n| n.checked_add(1))
        .ok_or_else(malformed)?;
    limit(Some(announced), at)?;
    if length.is_some_and(|length| length != announced) {
        let message = "`content-length` and `content-range` contradict each other";
        return Err(RegistryError::new(RegistryCode::SizeInvalid, message));
    }
    Ok(Some(announced))
}

/// Writes a body, which must have the announced length.
async fn copy(
    body: Body,
    writer: &mut BlobWriter,
    announced: Option<u64>,
) -> Result<(), RegistryError> {
    let start = writer.written();
    let mut stream = body.into_data_stream();
    loop {
        let next = tokio::time::timeout(UPLOAD_STALL_TIMEOUT, stream.next()).await;
        let Ok(next) = next else {
            let message = format!("no byte came for {} s", UPLOAD_STALL_TIMEOUT.as_secs());
            return Err(RegistryError::new(RegistryCode::TimedOut, message));
        };
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|_| {
            RegistryError::new(RegistryCode::BlobUploadInvalid, "the connection broke off")
        })?;
        limit(Some(chunk.len() as u64), writer.written())?;
        writer.write(&chunk).await?;
    }
    let received = writer.written() - start;
    match announced {
        Some(announced) if announced != received => {
            let message = format!("{received} bytes came, and {announced} were announced");
            Err(RegistryError::new(RegistryCode::SizeInvalid, message))
        }
        _ => Ok(()),
    }
}
