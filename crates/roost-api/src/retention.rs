//! Which images releases need, and which builds nobody will deploy any more.
//!
//! Level-triggered: a pass compares what the control database says with what
//! the image store holds, and closes the gap. It makes nothing free by itself;
//! the store's collector does, by size.

use crate::limits;
use crate::state::ApiState;
use roost_image::store::ManifestReference;
use roost_image::{ContentStore, StoreError as ImageStoreError};
use roost_model::digest::Digest;
use roost_model::time::Timestamp;
use roost_store::StoreError;
use roost_store::records::{AppRecord, ReleaseRecord};
use std::collections::{BTreeMap, BTreeSet};

/// Owner names in the image store: this and the release's id.
const OWNER_PREFIX: &str = "release:";
/// Names read from the image store at once.
const PAGE: usize = 500;

/// A pass could not be completed; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum RetainImagesError {
    /// The control database failed.
    #[error("read apps and releases")]
    Releases(#[source] StoreError),
    /// The image store failed.
    #[error("keep the images of releases")]
    Images(#[source] ImageStoreError),
}

/// What one pass changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionReport {
    /// Releases whose image is held from now on.
    pub n_kept: usize,
    /// Releases whose image is not held any more.
    pub n_let_go: usize,
    /// Tags of old builds that were removed.
    pub n_builds: usize,
}

impl ApiState {
    /// One pass: the images of each app's newest releases are held, others are not.
    pub async fn retain_images_once(
        &self,
        images: &ContentStore,
        now: Timestamp,
    ) -> Result<RetentionReport, RetainImagesError> {
        let wanted = self
            .wanted_images()
            .await
            .map_err(RetainImagesError::Releases)?;
        close_the_gap(images, &wanted, now)
            .await
            .map_err(RetainImagesError::Images)
    }

    /// Digests by owner name.
    async fn wanted_images(&self) -> Result<BTreeMap<String, Digest>, StoreError> {
        let mut wanted = BTreeMap::new();
        for app in self.store.apps().await? {
            let releases = self.store.releases(&app.id).await?;
            wanted.extend(kept_releases(&app, releases));
        }
        Ok(wanted)
    }
}

/// The newest releases and the one that serves.
fn kept_releases(app: &AppRecord, mut releases: Vec<ReleaseRecord>) -> BTreeMap<String, Digest> {
    releases.sort_by_key(|release| std::cmp::Reverse(release.version));
    let kept = releases.into_iter().enumerate().filter(|(idx, release)| {
        *idx < limits::RELEASES_KEPT || Some(release.version) == app.current_release
    });
    kept.filter_map(|(_, release)| {
        let digest = Digest::parse(release.image_digest.as_deref()?).ok()?;
        Some((format!("{OWNER_PREFIX}{}", release.id), digest))
    })
    .collect()
}

async fn close_the_gap(
    images: &ContentStore,
    wanted: &BTreeMap<String, Digest>,
    now: Timestamp,
) -> Result<RetentionReport, ImageStoreError> {
    let mut report = RetentionReport::default();
    let held: BTreeSet<String> = images.owners(OWNER_PREFIX).await?.into_iter().collect();
    for (owner, digest) in wanted {
        if !held.contains(owner) {
            images.retain(owner, digest).await?;
            report.n_kept += 1;
        }
    }
    for owner in held.iter().filter(|owner| !wanted.contains_key(*owner)) {
        images.release(owner).await?;
        report.n_let_go += 1;
    }
    let digests: BTreeSet<&Digest> = wanted.values().collect();
    report.n_builds = drop_old_builds(images, &digests, now).await?;
    Ok(report)
}

/// Removes the tags of builds that no kept release uses. What users tagged stays.
async fn drop_old_builds(
    images: &ContentStore,
    kept: &BTreeSet<&Digest>,
    now: Timestamp,
) -> Result<usize, ImageStoreError> {
    let mut n_dropped = 0;
    let mut last_repository = None;
    loop {
        let repositories = images
            .repositories(last_repository.as_deref(), PAGE)
            .await?;
        for repository in &repositories {
            let mut last_tag = None;
            loop {
                let tags = images.tags(repository, last_tag.as_deref(), PAGE).await?;
                for tag in tags.iter().filter(|tag| is_old_build(tag, now)) {
                    let reference = ManifestReference::Tag(tag.clone());
                    let manifest = images.manifest(repository, &reference).await?;
                    if manifest.is_some_and(|manifest| !kept.contains(&manifest.digest)) {
                        images.delete_tag(repository, tag).await?;
                        n_dropped += 1;
                    }
                }
                if tags.len() < PAGE {
                    break;
                }
                last_tag = tags.last().cloned();
            }
        }
        if repositories.len() < PAGE {
            return Ok(n_dropped);
        }
        last_repository = repositories.last().cloned();
    }
}

/// Tags of builds are ULIDs, which say when they were made.
fn is_old_build(tag: &str, now: Timestamp) -> bool {
    ulid::Ulid::from_string(tag)
        .is_ok_and(|id| now.since(Timestamp::from_ms(id.timestamp_ms())) > limits::UNUSED_BUILD_AGE)
}

#[cfg(test)]
mod tests {
    use super::close_the_gap;
    use crate::limits::UNUSED_BUILD_AGE;
    use roost_image::ContentStore;
    use roost_image::store::ManifestReference;
    use roost_model::digest::Digest;
    use roost_model::time::Timestamp;
    use std::collections::BTreeMap;
    use std::time::Duration;

    const MADE: Timestamp = Timestamp::from_ms(1_000_000);

    /// An image without content: its manifest is an empty index that `name` makes unique.
    async fn image(store: &ContentStore, name: &str, tag: &str) -> Digest {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "manifests": [],
            "annotations": {"name": name},
        });
        let bytes = bytes::Bytes::from(manifest.to_string());
        store
            .put_manifest("web", bytes, media_type, Some(tag))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn images_of_kept_releases_are_held_and_old_builds_are_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).await.unwrap();
        let tag = |number| ulid::Ulid::from_parts(MADE.as_ms(), number).to_string();
        let used = image(&store, "used", &tag(1)).await;
        image(&store, "unused", &tag(2)).await;
        image(&store, "pushed", "v1").await;
        store.retain("release:gone", &used).await.unwrap();
        store.retain("machine:other", &used).await.unwrap();
        let wanted = BTreeMap::from([("release:one".to_owned(), used)]);

        let soon = MADE.after(UNUSED_BUILD_AGE);
        let report = close_the_gap(&store, &wanted, soon).await.unwrap();
        assert_eq!((report.n_kept, report.n_let_go, report.n_builds), (1, 1, 0));
        let later = soon.after(Duration::from_millis(1));
        let report = close_the_gap(&store, &wanted, later).await.unwrap();
        assert_eq!((report.n_kept, report.n_let_go, report.n_builds), (0, 0, 1));
        assert_eq!(
            store.tags("web", None, 10).await.unwrap(),
            [tag(1), "v1".to_owned()]
        );
        assert_eq!(store.owners("release:").await.unwrap(), ["release:one"]);
        assert_eq!(store.owners("machine:").await.unwrap(), ["machine:other"]);
        let gone = ManifestReference::Tag(tag(2));
        assert_eq!(store.manifest("web", &gone).await.unwrap(), None);
    }
}
