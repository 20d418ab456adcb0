//! What a path under `/v2` names.

use super::error::{RegistryCode, RegistryError};
use crate::store::ManifestReference;
use roost_model::digest::Digest;
use roost_model::image_ref::{is_repository, is_tag};
use roost_model::web::path::decode;

/// A thing in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`.
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/NAME/tags/list`.
    Tags { name: String },
    /// `/v2/NAME/referrers/DIGEST`.
    Referrers { name: String, digest: Digest },
    /// `/v2/NAME/blobs/DIGEST`.
    Blob { name: String, digest: Digest },
    /// `/v2/NAME/manifests/REFERENCE`.
    Manifest {
        name: String,
        reference: ManifestReference,
    },
    /// `/v2/NAME/blobs/uploads/`.
    Uploads { name: String },
    /// `/v2/NAME/blobs/uploads/ID`.
    Upload { name: String, id: String },
}

impl Route {
    /// Reads a path, from the right: the name in front may hold anything.
    pub(super) fn parse(path: &str) -> Result<Self, RegistryError> {
        let unknown =
            || RegistryError::new(RegistryCode::NameUnknown, "no such path in a registry");
        let path = decode(path).ok_or_else(unknown)?;
        let path = path.strip_prefix("/v2").ok_or_else(unknown)?;
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let name = |segments: &[&str]| repository(&segments.join("/"));
        match segments.as_slice() {
            [] | [""] => Ok(Self::Base),
            ["_catalog"] => Ok(Self::Catalog),
            [front @ .., "tags", "list"] => Ok(Self::Tags { name: name(front)? }),
            [front @ .., "blobs", "uploads", ""] | [front @ .., "blobs", "uploads"] => {
                Ok(Self::Uploads { name: name(front)? })
            }
            [front @ .., "blobs", "uploads", id] => Ok(Self::Upload {
                name: name(front)?,
                id: (*id).to_owned(),
            }),
            [front @ .., "blobs", digest] => Ok(Self::Blob {
                name: name(front)?,
                digest: self::digest(digest)?,
            }),
            [front @ .., "manifests", text] => Ok(Self::Manifest {
                name: name(front)?,
                reference: reference(text)?,
            }),
            [front @ .., "referrers", digest] => Ok(Self::Referrers {
                name: name(front)?,
                digest: self::digest(digest)?,
            }),
            _ => Err(unknown()),
        }
    }
}

/// Checks the name of a repository.
pub(super) fn repository(text: &str) -> Result<String, RegistryError> {
    if is_repository(text) {
        return Ok(text.to_owned());
    }
    let shown: String = text.chars().take(80).collect();
    Err(RegistryError::new(
        RegistryCode::NameInvalid,
        format!("`{shown}` is not a repository name"),
    ))
}

/// Checks a digest.
pub(super) fn digest(text: &str) -> Result<Digest, RegistryError> {
    let invalid = |error: roost_model::digest::ParseDigestError| {
        RegistryError::new(RegistryCode::DigestInvalid, error.to_string())
    };
    Digest::parse(text).map_err(invalid)
}

fn reference(text: &str) -> Result<ManifestReference, RegistryError> {
    if text.contains(':') {
        return digest(text).map(ManifestReference::Digest);
    }
    if is_tag(text) {
        return Ok(ManifestReference::Tag(text.to_owned()));
    }
    let shown: String = text.chars().take(80).collect();
    let message = format!("`{shown}` is neither a tag nor a digest");
    Err(RegistryError::new(RegistryCode::ManifestInvalid, message))
}

#[cfg(test)]
mod tests {
    use super::Route;
    use crate::store::ManifestReference;
    use roost_model::digest::Digest;

    #[test]
    fn names_with_slashes_are_told_from_what_follows_them() {
        let tags = |name: &str| Route::Tags {
            name: name.to_owned(),
        };
        assert_eq!(Route::parse("/v2/a/tags/list").unwrap(), tags("a"));
        assert_eq!(
            Route::parse("/v2/a/tags/list/tags/list").unwrap(),
            tags("a/tags/list")
        );
        let upload = Route::Upload {
            name: "blobs/uploads".into(),
            id: "7".into(),
        };
        assert_eq!(
            Route::parse("/v2/blobs/uploads/blobs/uploads/7").unwrap(),
            upload
        );
        let digest = Digest::from_sha256([7; 32]);
        let blob = Route::Blob {
            name: "x/y".into(),
            digest: digest.clone(),
        };
        assert_eq!(
            Route::parse(&format!("/v2/x/y/blobs/{digest}")).unwrap(),
            blob
        );
        let encoded = digest.as_str().replace(':', "%3A");
        assert_eq!(
            Route::parse(&format!("/v2/x/y/blobs/{encoded}")).unwrap(),
            blob
        );
        let reference = ManifestReference::Tag("1.0".into());
        let manifest = Route::Manifest {
            name: "x".into(),
            reference,
        };
        assert_eq!(Route::parse("/v2/x/manifests/1.0").unwrap(), manifest);
    }

    #[test]
    fn what_is_not_a_name_tag_or_digest_is_refused_with_its_own_code() {
        let long = format!("/v2/{}/tags/list", "a".repeat(300));
        let cases = [
            ("/v2/../tags/list", 400),
            ("/v2/UPPER/tags/list", 400),
            (long.as_str(), 400),
            ("/v2/a/manifests/sha256:12", 400),
            ("/v2/a/manifests/-x", 400),
            ("/v2/a/blobs/latest", 400),
            ("/v2/a/b", 404),
            ("/v2/a%ff/tags/list", 404),
        ];
        for (path, status) in cases {
            assert_eq!(
                Route::parse(path).unwrap_err().status().as_u16(),
                status,
                "{path}"
            );
        }
    }
}
