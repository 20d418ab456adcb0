//! Manifests: look up, push, delete.

use super::error::{RegistryCode, RegistryError};
use super::{Answer, Registry, empty};
use crate::limits::{MANIFEST_BYTES_MAX, UPLOAD_STALL_TIMEOUT};
use crate::manifest::{Manifest, parse_manifest};
use crate::store::ManifestReference;
use axum::body::Body;
use axum::http::header::{self, HeaderMap};
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use roost_model::digest::Digest;
use sha2::{Digest as _, Sha256};

impl Registry {
    /// `GET` and `HEAD` of a manifest.
    pub(super) async fn manifest(
        &self,
        name: &str,
        reference: &ManifestReference,
        method: &Method,
    ) -> Answer {
        let Some(found) = self.store.manifest(name, reference).await? else {
            return Err(unknown(name, reference));
        };
        let length = found.bytes.len().to_string();
        let etag = format!("\"{}\"", found.digest);
        let fields = [
            ("content-type", found.media_type.as_str()),
            ("content-length", length.as_str()),
            ("docker-content-digest", found.digest.as_str()),
            ("etag", etag.as_str()),
        ];
        let mut response = empty(StatusCode::OK, &fields);
        if method == Method::GET {
            *response.body_mut() = Body::from(found.bytes);
        }
        Ok(response)
    }

    /// `PUT` of a manifest, by tag or by its digest.
    pub(super) async fn put_manifest(
        &self,
        name: &str,
        reference: &ManifestReference,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer {
        let bytes = collect(body).await?;
        let actual = Digest::from_sha256(Sha256::digest(&bytes).into());
        let tag = match reference {
            ManifestReference::Tag(tag) => Some(tag.as_str()),
            ManifestReference::Digest(digest) if *digest != actual => {
                let message = format!("the manifest has digest {actual}, not {digest}");
                return Err(RegistryError::new(RegistryCode::DigestInvalid, message));
            }
            ManifestReference::Digest(_) => None,
        };
        let manifest = parse_manifest(&bytes).map_err(|error| {
            let message = roost_model::error::chain(&error);
            RegistryError::new(RegistryCode::ManifestInvalid, message)
        })?;
        let media_type = media_type(headers).unwrap_or_else(|| manifest.media_type().to_owned());
        let subject = subject(&manifest);
        let digest = self
            .store
            .put_manifest(name, bytes, &media_type, tag)
            .await?;
        let location = format!("/v2/{name}/manifests/{digest}");
        let mut fields = vec![
            ("location", location.as_str()),
            ("docker-content-digest", digest.as_str()),
        ];
        if let Some(subject) = &subject {
            // Says that the referrers list knows about it: no fallback tag is needed.
            fields.push(("oci-subject", subject.as_str()));
        }
        Ok(empty(StatusCode::CREATED, &fields))
    }

    /// `DELETE` of a tag, or of a manifest with all its tags.
    pub(super) async fn delete_manifest(
        &self,
        name: &str,
        reference: &ManifestReference,
    ) -> Answer {
        let was_there = match reference {
            ManifestReference::Tag(tag) => self.store.delete_tag(name, tag).await?,
            ManifestReference::Digest(digest) => self.store.delete_manifest(name, digest).await?,
        };
        match was_there {
            true => Ok(empty(StatusCode::ACCEPTED, &[])),
            false => Err(unknown(name, reference)),
        }
    }
}

fn unknown(name: &str, reference: &ManifestReference) -> RegistryError {
    let reference = match reference {
        ManifestReference::Tag(tag) => tag.as_str(),
        ManifestReference::Digest(digest) => digest.as_str(),
    };
    let message = format!("repository `{name}` has no manifest {reference}");
    RegistryError::new(RegistryCode::ManifestUnknown, message)
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(|value| value.trim().to_owned())
}

fn subject(manifest: &Manifest) -> Option<Digest> {
    manifest.subject().map(|subject| subject.digest.clone())
}

/// The whole body, bounded in size and time.
async fn collect(body: Body) -> Result<Bytes, RegistryError> {
    let bytes_max = usize::try_from(MANIFEST_BYTES_MAX).unwrap_or(usize::MAX);
    let collected = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(UPLOAD_STALL_TIMEOUT, collected).await {
        Err(_) => Err(RegistryError::new(
            RegistryCode::TimedOut,
            "the manifest did not arrive in time",
        )),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("the manifest has more than {MANIFEST_BYTES_MAX} bytes");
            Err(RegistryError::new(RegistryCode::TooLarge, message))
        }
        Ok(Err(_)) => {
            let message = "the manifest did not arrive whole";
            Err(RegistryError::new(RegistryCode::ManifestInvalid, message))
        }
    }
}
