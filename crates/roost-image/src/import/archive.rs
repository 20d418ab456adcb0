//! Archives: each member goes into the store, and the wanted image is put together from them.

use super::{Blobs, COPY_BYTES, ImportError, Named, candidates, form, shown, unclear};
use crate::images::Images;
use crate::limits::{
    ARCHIVE_BYTES_MAX, ARCHIVE_MEMBERS_MAX, CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX, PATH_BYTES_MAX,
};
use crate::manifest::{
    DOCKER_CONFIG, Descriptor, Manifest, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::store::{BlobWriter, ContentStore};
use crate::unpack::stream::{Compression, decompress};
use crate::unpack::{EntryKind, next_entry, padding};
use bytes::Bytes;
use roost_model::digest::Digest;
use roost_runtime::fs::IoContext as _;
use rustix::fs::OFlags;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use tokio::runtime::Handle;

/// One entry of `manifest.json` in what `docker save` writes.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    /// `null` when the image was saved by its id.
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A file of an archive, in the store.
#[derive(Debug)]
struct Member {
    digest: Digest,
    size: u64,
    compression: Compression,
}

/// What an archive's members became.
#[derive(Debug, Default)]
struct Members {
    blobs: HashMap<String, Member>,
    links: HashMap<String, String>,
}

impl Members {
    fn find(&self, name: &str) -> Option<&Member> {
        // Old writers store a layer once and link to it.
        let name = self.links.get(name).map_or(name, String::as_str);
        self.blobs.get(name)
    }
}

impl Images {
    /// The manifest of the wanted image of an archive, whose blobs are in the store then.
    pub(super) async fn find_in_archive(
        &self,
        path: &Path,
        wanted: Option<&str>,
    ) -> Result<(Manifest, Bytes), ImportError> {
        let members = {
            let (path, store) = (path.to_owned(), self.store().clone());
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || take_members(&path, &store, &runtime))
        };
        let members = members.await.map_err(|_| ImportError::Interrupted)??;
        // Newer versions of `docker save` write both; the index says more.
        if let Some(index) = members.find("index.json") {
            let index = self.document(index).await?;
            return self.find_in_layout(&index, wanted, Blobs::Store).await;
        }
        let Some(list) = members.find("manifest.json") else {
            let problem = "has neither index.json nor manifest.json, so it is no image archive";
            return Err(form(problem));
        };
        let saved: Vec<SavedImage> = serde_json::from_slice(&self.document(list).await?)
            .map_err(|error| form(format!("has a bad manifest.json: {error}")))?;
        let saved: Vec<Named<SavedImage>> = saved
            .into_iter()
            .map(|mut image| Named {
                names: image.repo_tags.take().unwrap_or_default(),
                image,
            })
            .collect();
        match candidates(&saved, wanted).as_slice() {
            [one] => self.describe_saved(&one.image, &members).await,
            _ => Err(unclear(&saved, wanted)),
        }
    }

    /// The content of a small member.
    async fn document(&self, member: &Member) -> Result<Bytes, ImportError> {
        if member.size > MANIFEST_BYTES_MAX {
            return Err(form(format!("has an index of {} bytes", member.size)));
        }
        let content = self.store().read_blob(&member.digest, member.size).await?;
        content.ok_or(ImportError::Interrupted)
    }

    /// Makes a manifest for an image that came without one.
    async fn describe_saved(
        &self,
        saved: &SavedImage,
        members: &Members,
    ) -> Result<(Manifest, Bytes), ImportError> {
        let find = |name: &str| {
            members
                .find(name)
                .ok_or_else(|| form(format!("lacks `{}`", shown(name))))
        };
        let config = find(&saved.config)?;
        if config.size > CONFIG_BYTES_MAX {
            return Err(form(format!(
                "has an image config of {} bytes",
                config.size
            )));
        }
        let mut layers = Vec::new();
        for layer in &saved.layers {
            let layer = find(layer)?;
            let media_type = match layer.compression {
                Compression::None => OCI_LAYER,
                Compression::Gzip => OCI_LAYER_GZIP,
                Compression::Zstd => OCI_LAYER_ZSTD,
            };
            layers.push(descriptor(media_type, layer));
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(DOCKER_CONFIG, config), "layers": layers,
        });
        let bytes = Bytes::from(manifest.to_string());
        let digest = self.store().put_bytes(bytes.clone()).await?;
        let manifest = self.parse(&digest, &bytes).map_err(ImportError::Image)?;
        self.check_saved_layers(&manifest).await?;
        Ok((manifest, bytes))
    }

    /// Nothing else in such an archive tells of damage: names are no digests there.
    async fn check_saved_layers(&self, manifest: &Manifest) -> Result<(), ImportError> {
        let Manifest::Image(manifest) = manifest else {
            return Ok(());
        };
        let config = &manifest.config.digest;
        let config = self.store().read_blob(config, CONFIG_BYTES_MAX).await?;
        let config = config.ok_or(ImportError::Interrupted)?;
        let config = self
            .parse_config(manifest, &config)
            .map_err(ImportError::Image)?;
        let mut layers = manifest.layers.iter().zip(&config.diff_ids);
        // Of a packed layer the digest is known once it is unpacked.
        let is_damaged = |(layer, diff_id): &(&Descriptor, &Digest)| {
            layer.media_type == OCI_LAYER && layer.digest != **diff_id
        };
        match layers.find(is_damaged) {
            Some((_, diff_id)) => Err(form(format!("holds a damaged copy of layer {diff_id}"))),
            None => Ok(()),
        }
    }
}

fn descriptor(media_type: &str, member: &Member) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: member.digest.clone(),
        size: member.size,
        platform: None,
        artifact_type: None,
        annotations: BTreeMap::new(),
    }
}

/// Takes each file of an archive into the store; runs on a blocking thread.
fn take_members(
    path: &Path,
    store: &ContentStore,
    runtime: &Handle,
) -> Result<Members, ImportError> {
    // A pipe that nobody writes to would hold up the thread, and a device never end.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .on("open", path)?;
    if !file.metadata().on("look at", path)?.is_file() {
        return Err(form("is no regular file"));
    }
    let mut intake = Intake {
        reader: decompress(file).map_err(ImportError::Archive)?,
        store,
        runtime,
        buffer: vec![0; COPY_BYTES],
        n_bytes: 0,
    };
    let mut members = Members::default();
    let damaged = |error| ImportError::Archive(io::Error::other(error));
    while let Some(entry) = next_entry(&mut intake.reader).map_err(damaged)? {
        if members.blobs.len() + members.links.len() >= ARCHIVE_MEMBERS_MAX {
            return Err(form(format!("has more than {ARCHIVE_MEMBERS_MAX} members")));
        }
        if entry.path.len().max(entry.link.len()) > PATH_BYTES_MAX {
            return Err(form("has a member whose name is too long"));
        }
        let name = String::from_utf8_lossy(&entry.path);
        let name = name.trim_start_matches("./").to_owned();
        match entry.kind {
            EntryKind::File => {
                let member = intake.take(&name, entry.size)?;
                members.blobs.insert(name, member);
            }
            EntryKind::Symlink | EntryKind::HardLink => {
                let target = String::from_utf8_lossy(&entry.link);
                let target = target.trim_start_matches("../").trim_start_matches("./");
                members.links.insert(name, target.to_owned());
            }
            _ => {}
        }
    }
    Ok(members)
}

/// An archive on its way into the store.
struct Intake<'s> {
    reader: Box<dyn Read + Send>,
    store: &'s ContentStore,
    runtime: &'s Handle,
    buffer: Vec<u8>,
    /// What was announced so far: a small archive may hold very much.
    n_bytes: u64,
}

impl Intake<'_> {
    /// Takes the content that comes next.
    fn take(&mut self, name: &str, size: u64) -> Result<Member, ImportError> {
        self.n_bytes = self.n_bytes.saturating_add(size);
        if self.n_bytes > ARCHIVE_BYTES_MAX {
            return Err(form(format!("holds more than {ARCHIVE_BYTES_MAX} bytes")));
        }
        let mut writer: BlobWriter = self.runtime.block_on(self.store.begin_blob())?;
        let mut start = Vec::new();
        let mut content = (&mut self.reader).take(size);
        loop {
            let n = content
                .read(&mut self.buffer)
                .map_err(ImportError::Archive)?;
            if n == 0 {
                break;
            }
            if start.is_empty() {
                start.extend_from_slice(&self.buffer[..n.min(8)]);
            }
            self.runtime.block_on(writer.write(&self.buffer[..n]))?;
        }
        if writer.written() != size {
            return Err(form(format!("ends inside `{}`", shown(name))));
        }
        let mut rest = (&mut self.reader).take(padding(size));
        io::copy(&mut rest, &mut io::sink()).map_err(ImportError::Archive)?;
        let (digest, size) = self.runtime.block_on(writer.finish())?;
        Ok(Member {
            digest,
            size,
            compression: Compression::of(&start),
        })
    }
}
