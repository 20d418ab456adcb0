//! Manifests, and the repositories of the built-in registry.

use super::metadata::{DigestColumn, SizeColumn, now_column, to_column};
use super::{ContentStore, StoreError};
use crate::limits::{LIST_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Manifest, ParseManifestError, parse_manifest};
use bytes::Bytes;
use roost_model::digest::Digest;
use rusqlite::{OptionalExtension as _, Transaction, params};
use std::collections::BTreeMap;

/// A manifest could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum PutManifestError {
    /// The content is not a manifest.
    #[error("manifest is not valid")]
    Invalid(#[source] ParseManifestError),
    /// The content says another media type than the sender.
    #[error("manifest says media type `{inner}`, but was sent as `{outer}`")]
    MediaType {
        /// What the content says.
        inner: String,
        /// What the sender says.
        outer: String,
    },
    /// Something that the manifest needs is not in the repository.
    #[error("manifest needs {digest}, which is not in repository `{repository}`")]
    Missing {
        /// What is missing.
        digest: Digest,
        /// Where it was looked for.
        repository: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a client names a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestReference {
    /// By tag.
    Tag(String),
    /// By digest.
    Digest(Digest),
}

/// A manifest as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// The media type it came with.
    pub media_type: String,
    /// The exact bytes.
    pub bytes: Bytes,
}

/// A manifest that refers to another one as its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl ContentStore {
    /// Takes a manifest into a repository, and points `tag` to it.
    ///
    /// Everything that it needs must be in the repository already; its subject
    /// need not.
    pub async fn put_manifest(
        &self,
        repository: &str,
        bytes: Bytes,
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest, PutManifestError> {
        let manifest = parse_manifest(&bytes).map_err(PutManifestError::Invalid)?;
        if manifest.media_type() != media_type {
            let inner = manifest.media_type().to_owned();
            return Err(PutManifestError::MediaType {
                inner,
                outer: media_type.to_owned(),
            });
        }
        self.check_present(repository, &manifest).await?;
        let digest = self.put_detached_manifest(bytes, &manifest).await?;
        let (repository, tag) = (repository.to_owned(), tag.map(str::to_owned));
        let column = DigestColumn(digest.clone());
        self.inner
            .metadata
            .run("link manifest", move |tx| {
                tx.execute(
                    "INSERT OR IGNORE INTO repository_manifests (repository, digest) VALUES (?1, ?2)",
                    params![repository, column],
                )?;
                if let Some(tag) = tag {
                    tx.execute(
                        "INSERT INTO tags (repository, tag, digest) VALUES (?1, ?2, ?3)
                         ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest",
                        params![repository, tag, column],
                    )?;
                }
                Ok(())
            })
            .await?;
        Ok(digest)
    }

    /// Stores a manifest that belongs to no repository, such as a pulled one.
    pub(crate) async fn put_detached_manifest(
        &self,
        bytes: Bytes,
        manifest: &Manifest,
    ) -> Result<Digest, StoreError> {
        let digest = self.put_bytes(bytes).await?;
        let column = DigestColumn(digest.clone());
        let children: Vec<DigestColumn> = manifest
            .children()
            .map(|child| DigestColumn(child.digest.clone()))
            .collect();
        let media_type = manifest.media_type().to_owned();
        let artifact_type = manifest.artifact_type();
        let subject = manifest
            .subject()
            .map(|subject| DigestColumn(subject.digest.clone()));
        let annotations = serde_json::to_string(manifest.annotations()).unwrap_or_default();
        self.inner
            .metadata
            .run("record manifest", move |tx| {
                tx.execute(
                    "INSERT INTO manifests (digest, media_type, artifact_type, subject, annotations)
                     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (digest) DO NOTHING",
                    params![column, media_type, artifact_type, subject, annotations],
                )?;
                let mut edge = tx.prepare_cached(
                    "INSERT OR IGNORE INTO edges (parent, child) VALUES (?1, ?2)",
                )?;
                for child in &children {
                    edge.execute(params![column, child])?;
                }
                Ok(())
            })
            .await?;
        Ok(digest)
    }

    async fn check_present(
        &self,
        repository: &str,
        manifest: &Manifest,
    ) -> Result<(), PutManifestError> {
        let (table, media_types_of_layers) = match manifest {
            Manifest::Index(_) => ("repository_manifests", false),
            Manifest::Image(_) => ("repository_blobs", true),
        };
        let wanted: Vec<DigestColumn> = manifest
            .children()
            .filter(|child| !(media_types_of_layers && child.is_foreign()))
            .map(|child| DigestColumn(child.digest.clone()))
            .collect();
        let name = repository.to_owned();
        let missing = self
            .inner
            .metadata
            .run("check manifest", move |tx| {
                let query = format!("SELECT 1 FROM {table} WHERE repository = ?1 AND digest = ?2");
                let mut statement = tx.prepare_cached(&query)?;
                let mut touch =
                    tx.prepare_cached("UPDATE blobs SET used_ms = ?2 WHERE digest = ?1")?;
                for digest in wanted {
                    if !statement.exists(params![name, digest])? {
                        return Ok(Some(digest.0));
                    }
                    touch.execute(params![digest, now_column()])?;
                }
                Ok(None)
            })
            .await?;
        match missing {
            Some(digest) => Err(PutManifestError::Missing {
                digest,
                repository: repository.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// A manifest of a repository, by tag or digest.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &ManifestReference,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let (name, reference) = (repository.to_owned(), reference.clone());
        let found = self
            .inner
            .metadata
            .run("look up manifest", move |tx| {
                let Some(digest) = resolve(tx, &name, &reference)? else {
                    return Ok(None);
                };
                tx.prepare_cached("SELECT digest, media_type FROM manifests WHERE digest = ?1")?
                    .query_row([digest], |row| {
                        Ok((row.get::<_, DigestColumn>(0)?.0, row.get::<_, String>(1)?))
                    })
                    .optional()
            })
            .await?;
        let Some((digest, media_type)) = found else {
            return Ok(None);
        };
        let bytes = self.read_blob(&digest, MANIFEST_BYTES_MAX).await?;
        Ok(bytes.map(|bytes| StoredManifest {
            digest,
            media_type,
            bytes,
        }))
    }

    /// The tags of a repository after `after`, in order.
    pub async fn tags(
        &self,
        repository: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let (repository, after) = (repository.to_owned(), after.unwrap_or_default().to_owned());
        let limit = to_column(limit.min(LIST_MAX) as u64);
        self.inner
            .metadata
            .run("list tags", move |tx| {
                let mut statement = tx.prepare_cached(
                    "SELECT tag FROM tags WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3",
                )?;
                let rows =
                    statement.query_map(params![repository, after, limit], |row| row.get(0))?;
                rows.collect()
            })
            .await
    }

    /// The repositories with a manifest after `after`, in order.
    pub async fn repositories(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let after = after.unwrap_or_default().to_owned();
        let limit = to_column(limit.min(LIST_MAX) as u64);
        self.inner
            .metadata
            .run("list repositories", move |tx| {
                let mut statement = tx.prepare_cached(
                    "SELECT DISTINCT repository FROM repository_manifests
                     WHERE repository > ?1 ORDER BY repository LIMIT ?2",
                )?;
                let rows = statement.query_map(params![after, limit], |row| row.get(0))?;
                rows.collect()
            })
            .await
    }

    /// Removes a tag; whether there was one.
    pub async fn delete_tag(&self, repository: &str, tag: &str) -> Result<bool, StoreError> {
        let (repository, tag) = (repository.to_owned(), tag.to_owned());
        self.inner
            .metadata
            .run("delete tag", move |tx| {
                let n_rows = tx.execute(
                    "DELETE FROM tags WHERE repository = ?1 AND tag = ?2",
                    params![repository, tag],
                )?;
                Ok(n_rows > 0)
            })
            .await
    }

    /// Removes a manifest and its tags from a repository; whether it was there.
    ///
    /// Its content goes at a later collection, unless something else needs it.
    pub async fn delete_manifest(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let (repository, digest) = (repository.to_owned(), DigestColumn(digest.clone()));
        self.inner
            .metadata
            .run("delete manifest", move |tx| {
                tx.execute(
                    "DELETE FROM tags WHERE repository = ?1 AND digest = ?2",
                    params![repository, digest],
                )?;
                let n_rows = tx.execute(
                    "DELETE FROM repository_manifests WHERE repository = ?1 AND digest = ?2",
                    params![repository, digest],
                )?;
                Ok(n_rows > 0)
            })
            .await
    }

    /// The manifests of a repository whose subject is `subject`.
    pub async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, StoreError> {
        let (repository, subject) = (repository.to_owned(), DigestColumn(subject.clone()));
        self.inner
            .metadata
            .run("list referrers", move |tx| {
                let mut statement = tx.prepare_cached(
                    "SELECT m.digest, m.media_type, b.size, m.artifact_type, m.annotations
                     FROM manifests m JOIN blobs b ON b.digest = m.digest
                     JOIN repository_manifests r ON r.digest = m.digest
                     WHERE r.repository = ?1 AND m.subject = ?2 ORDER BY m.digest LIMIT ?3",
                )?;
                let rows = statement.query_map(
                    params![repository, subject, to_column(LIST_MAX as u64)],
                    |row| {
                        let annotations: String = row.get(4)?;
                        Ok(Referrer {
                            digest: row.get::<_, DigestColumn>(0)?.0,
                            media_type: row.get(1)?,
                            size: row.get::<_, SizeColumn>(2)?.0,
                            artifact_type: row.get(3)?,
                            annotations: serde_json::from_str(&annotations).unwrap_or_default(),
                        })
                    },
                )?;
                rows.collect()
            })
            .await
    }

    /// Makes a blob of the store part of a repository; `false` when the store has no such blob.
    pub async fn link_blob(&self, repository: &str, digest: &Digest) -> Result<bool, StoreError> {
        let (repository, digest) = (repository.to_owned(), DigestColumn(digest.clone()));
        self.inner
            .metadata
            .run("link blob", move |tx| {
                let n_rows = tx.execute(
                    "UPDATE blobs SET used_ms = ?2 WHERE digest = ?1",
                    params![digest, now_column()],
                )?;
                if n_rows > 0 {
                    tx.execute(
                        "INSERT OR IGNORE INTO repository_blobs (repository, digest) VALUES (?1, ?2)",
                        params![repository, digest],
                    )?;
                }
                Ok(n_rows > 0)
            })
            .await
    }

    /// Removes a blob from a repository; whether it was there.
    pub async fn unlink_blob(&self, repository: &str, digest: &Digest) -> Result<bool, StoreError> {
        let (repository, digest) = (repository.to_owned(), DigestColumn(digest.clone()));
        self.inner
            .metadata
            .run("unlink blob", move |tx| {
                let n_rows = tx.execute(
                    "DELETE FROM repository_blobs WHERE repository = ?1 AND digest = ?2",
                    params![repository, digest],
                )?;
                Ok(n_rows > 0)
            })
            .await
    }

    /// The size of a blob of a repository; `None` when it is not part of it.
    pub async fn repository_blob_size(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<u64>, StoreError> {
        let (repository, digest) = (repository.to_owned(), DigestColumn(digest.clone()));
        self.inner
            .metadata
            .run("look up blob", move |tx| {
                tx.prepare_cached(
                    "SELECT b.size FROM blobs b JOIN repository_blobs r ON r.digest = b.digest
                     WHERE r.repository = ?1 AND r.digest = ?2",
                )?
                .query_row(params![repository, digest], |row| {
                    row.get::<_, SizeColumn>(0)
                })
                .map(|size| size.0)
                .optional()
            })
            .await
    }
}

/// The digest that a reference means in a repository.
fn resolve(
    tx: &Transaction<'_>,
    repository: &str,
    reference: &ManifestReference,
) -> rusqlite::Result<Option<DigestColumn>> {
    match reference {
        ManifestReference::Tag(tag) => tx
            .prepare_cached("SELECT digest FROM tags WHERE repository = ?1 AND tag = ?2")?
            .query_row(params![repository, tag], |row| row.get(0))
            .optional(),
        ManifestReference::Digest(digest) => tx
            .prepare_cached(
                "SELECT digest FROM repository_manifests WHERE repository = ?1 AND digest = ?2",
            )?
            .query_row(params![repository, DigestColumn(digest.clone())], |row| {
                row.get(0)
            })
            .optional(),
    }
}
