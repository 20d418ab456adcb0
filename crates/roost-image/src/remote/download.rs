//! Downloading one blob: resumed after a break, verified as a whole.

use super::{Remote, RemoteError, Repository};
use crate::limits::{ATTEMPTS_MAX, ATTEMPTS_TOTAL_MAX, BACKOFF_MAX};
use crate::manifest::Descriptor;
use crate::store::{BlobWriter, CommitBlobError, ContentStore};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

/// How one attempt ended, when not by an error that ends the download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Complete,
    BrokenOff,
}

impl Remote {
    /// Downloads a blob into the store. `advanced` gets the number of new bytes.
    ///
    /// The caller sees to it that nobody else downloads the same blob.
    pub(crate) async fn blob(
        &self,
        store: &ContentStore,
        repository: &Repository,
        blob: &Descriptor,
        advanced: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RemoteError> {
        let mut writer = store.resume_blob(&blob.digest).await?;
        let was_resumed = writer.written() > 0;
        if writer.written() > blob.size {
            writer.restart().await?;
        }
        advanced(writer.written());
        self.fill(repository, blob, &mut writer, advanced).await?;
        match writer.commit(&blob.digest).await {
            Ok(_size) => return Ok(()),
            Err(CommitBlobError::Store(error)) => return Err(error.into()),
            Err(CommitBlobError::Mismatch { actual, .. }) if !was_resumed => {
                return Err(self.wrong_digest(repository, blob, actual));
            }
            // What lay on the disk from before may be to blame: once more from the start.
            Err(CommitBlobError::Mismatch { .. }) => {}
        }
        let mut writer = store.resume_blob(&blob.digest).await?;
        self.fill(repository, blob, &mut writer, &|_again| {})
            .await?;
        match writer.commit(&blob.digest).await {
            Ok(_size) => Ok(()),
            Err(CommitBlobError::Store(error)) => Err(error.into()),
            Err(CommitBlobError::Mismatch { actual, .. }) => {
                Err(self.wrong_digest(repository, blob, actual))
            }
        }
    }

    #[expect(clippy::unused_self, reason = "reads as the others")]
    fn wrong_digest(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        actual: roost_model::digest::Digest,
    ) -> RemoteError {
        let what = format!("blob {}", blob.digest);
        RemoteError::Digest {
            registry: repository.registry.clone(),
            what,
            actual,
        }
    }

    /// Attempts until the writer has all bytes.
    async fn fill(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        advanced: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RemoteError> {
        let mut n_attempts = 0;
        let mut n_fruitless = 0;
        let mut backoff = self.waits.backoff;
        while writer.written() < blob.size {
            n_attempts += 1;
            let before = writer.written();
            let error = match self.attempt(repository, blob, writer, advanced).await {
                Ok(Attempt::Complete) => break,
                Ok(Attempt::BrokenOff) => None,
                Err(error) if is_passing(&error) => Some(error),
                Err(error) => {
                    // The first error is the one to tell.
                    drop(writer.flush().await);
                    return Err(error);
                }
            };
            if writer.written() > before {
                n_fruitless = 0;
                backoff = self.waits.backoff;
            } else {
                n_fruitless += 1;
            }
            if n_fruitless >= ATTEMPTS_MAX || n_attempts >= ATTEMPTS_TOTAL_MAX {
                // A later pull goes on from here.
                writer.flush().await?;
                return Err(error.unwrap_or_else(|| RemoteError::Stalled {
                    registry: repository.registry.clone(),
                    what: format!("blob {}", blob.digest),
                    n_bytes: writer.written(),
                    n_attempts,
                }));
            }
            tracing::debug!(digest = %blob.digest, n_attempts, "download broke off, resuming");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        Ok(())
    }

    async fn attempt(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        advanced: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Attempt, RemoteError> {
        let what = format!("blob {}", blob.digest);
        let url = format!(
            "{}/v2/{}/blobs/{}",
            repository.base, repository.name, blob.digest
        );
        let offset = Some(writer.written()).filter(|offset| *offset > 0);
        let mut response = self.get(repository, &url, &what, offset).await?;
        if let Some(offset) = offset {
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                writer.restart().await?;
                return Ok(Attempt::BrokenOff);
            }
            // A registry that ignores the range sends all of it.
            if !continues_at(&response, offset) {
                writer.restart().await?;
            }
        }
        loop {
            match tokio::time::timeout(self.waits.stall, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    if writer.written() + chunk.len() as u64 > blob.size {
                        let problem = format!("has more than its {} bytes", blob.size);
                        let registry = repository.registry.clone();
                        writer.restart().await?;
                        return Err(RemoteError::Answer {
                            registry,
                            what,
                            problem,
                        });
                    }
                    writer.write(&chunk).await?;
                    advanced(chunk.len() as u64);
                }
                Ok(Ok(None)) if writer.written() == blob.size => return Ok(Attempt::Complete),
                Ok(Ok(None) | Err(_)) | Err(_) => return Ok(Attempt::BrokenOff),
            }
        }
    }
}

/// Whether the answer begins at this byte.
fn continues_at(response: &Response, offset: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| {
        range
            .strip_prefix("bytes ")?
            .split('-')
            .next()?
            .parse()
            .ok()
    });
    response.status() == StatusCode::PARTIAL_CONTENT && start == Some(offset)
}

/// Whether another attempt may help.
fn is_passing(error: &RemoteError) -> bool {
    match error {
        RemoteError::Connect { .. } | RemoteError::Stalled { .. } => true,
        RemoteError::Status { status, .. } => {
            status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
        }
        RemoteError::Client(_)
        | RemoteError::NotFound { .. }
        | RemoteError::Denied { .. }
        | RemoteError::Answer { .. }
        | RemoteError::Digest { .. }
        | RemoteError::Store(_) => false,
    }
}
