//! A folder as a tar stream, without what the ignore file names; or a saved image as it is.
//!
//! The same content gives the same bytes: entries are sorted, and times,
//! owners and all permissions but "executable" are left out.

use crate::error::CliError;
use crate::limits;
use bytes::Bytes;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

/// What will be sent.
#[derive(Debug)]
pub(crate) struct Packing {
    root: PathBuf,
    /// Paths below the root, sorted.
    pub(crate) paths: Vec<PathBuf>,
    /// Total size of the files.
    pub(crate) n_bytes: u64,
    /// Whether the files that links name are sent in their place.
    follows_links: bool,
}

/// Lists a folder; `keep` are files that are sent although they are ignored.
pub(crate) fn list(
    root: &Path,
    ignorefile: Option<&str>,
    keep: &[&str],
) -> Result<Packing, CliError> {
    if !root.is_dir() {
        return Err(CliError::usage(format!(
            "{} is not a folder",
            root.display()
        )));
    }
    let rules = rules(root, ignorefile)?;
    let mut packing = Packing {
        root: root.to_owned(),
        paths: Vec::new(),
        n_bytes: 0,
        follows_links: false,
    };
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let on = |error| CliError::io(format!("read {}", root.join(&folder).display()), &error);
        for entry in std::fs::read_dir(root.join(&folder)).map_err(on)? {
            let entry = entry.map_err(on)?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(on)?;
            if path == Path::new(".git") || path == Path::new(".roost") {
                continue;
            }
            let is_kept = keep
                .iter()
                .any(|kept| Path::new(kept).starts_with(&path) || path.starts_with(kept));
            let is_ignored = rules.matched(&path, kind.is_dir()).is_ignore() && !is_kept;
            if kind.is_dir() {
                // An ignored folder is still walked when a later `!` rule may bring something back.
                if !is_ignored || rules.num_whitelists() > 0 {
                    folders.push(path.clone());
                }
            } else if (kind.is_file() || kind.is_symlink())
                && !is_ignored
                && !is_parent_ignored(&rules, &path, is_kept)
            {
                packing.n_bytes += if kind.is_file() {
                    entry.metadata().map_err(on)?.len()
                } else {
                    0
                };
                packing.paths.push(path);
            }
            check_size(&packing, root)?;
        }
    }
    packing.paths.sort();
    Ok(packing)
}

/// Lists a saved image, a file or an OCI layout folder; also says what it is called in the tar.
///
/// Nothing beside it is listed.
pub(crate) fn archive(path: &Path) -> Result<(String, Packing), CliError> {
    let on = |error| CliError::io(format!("read {}", path.display()), &error);
    let full = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::usage(format!("{} is not there", path.display()))
                .hint("--archive names what `docker save` wrote, or an OCI layout"));
        }
        result => result.map_err(on)?,
    };
    let (Some(root), Some(name)) = (full.parent(), full.file_name().and_then(OsStr::to_str)) else {
        let problem = format!("{} has no name that can be sent", full.display());
        return Err(CliError::usage(problem));
    };
    let mut packing = Packing {
        root: root.to_owned(),
        paths: Vec::new(),
        n_bytes: 0,
        follows_links: true,
    };
    if full.is_dir() {
        packing.add_layout(Path::new(name))?;
    } else {
        packing.paths.push(name.into());
        packing.n_bytes = full.metadata().map_err(on)?.len();
    }
    if packing.n_bytes > limits::ARCHIVE_BYTES_MAX {
        let max = limits::ARCHIVE_BYTES_MAX / 1024 / 1024;
        let problem = format!("{} has more than {max} MiB", path.display());
        return Err(CliError::usage(problem)
            .hint("push the image to the platform's registry instead, and use --image"));
    }
    Ok((name.to_owned(), packing))
}

fn is_parent_ignored(rules: &Gitignore, path: &Path, is_kept: bool) -> bool {
    !is_kept
        && !rules.matched(path, false).is_whitelist()
        && rules.matched_path_or_any_parents(path, false).is_ignore()
}

fn check_size(packing: &Packing, root: &Path) -> Result<(), CliError> {
    let problem = if packing.n_bytes > limits::UPLOAD_BYTES_MAX {
        format!("more than {} MiB", limits::UPLOAD_BYTES_MAX / 1024 / 1024)
    } else if packing.paths.len() > limits::UPLOAD_FILES_MAX {
        format!("more than {} files", limits::UPLOAD_FILES_MAX)
    } else {
        return Ok(());
    };
    Err(CliError::usage(format!(
        "{} has {problem} to send for a build",
        root.display()
    ))
    .hint("name what the build does not need in .dockerignore"))
}

fn rules(root: &Path, ignorefile: Option<&str>) -> Result<Gitignore, CliError> {
    let path = root.join(ignorefile.unwrap_or(".dockerignore"));
    let mut builder = GitignoreBuilder::new("");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            for line in text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                // In .dockerignore patterns are relative to the root, unlike in .gitignore.
                let (not, pattern) = line
                    .strip_prefix('!')
                    .map_or(("", line), |rest| ("!", rest.trim()));
                let pattern = pattern.trim_start_matches("./").trim_start_matches('/');
                builder
                    .add_line(None, &format!("{not}/{pattern}"))
                    .map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && ignorefile.is_none() => {}
        Err(error) => return Err(CliError::io(format!("read {}", path.display()), &error)),
    }
    builder
        .build()
        .map_err(|error| CliError::usage(format!("{}: {error}", path.display())))
}

impl Packing {
    /// Lists the parts of an OCI layout folder below the root, and nothing else that lies in it.
    fn add_layout(&mut self, name: &Path) -> Result<(), CliError> {
        let folder = self.root.join(name);
        let on = |error| CliError::io(format!("read {}", folder.display()), &error);
        let blobs = Path::new("blobs/sha256");
        if !folder.join("index.json").is_file() || !folder.join(blobs).is_dir() {
            let problem = format!("{} is no OCI layout", folder.display());
            return Err(CliError::usage(problem)
                .hint("--archive takes a folder with index.json and blobs/, or an archive file"));
        }
        let mut parts = vec![PathBuf::from("index.json"), PathBuf::from("oci-layout")];
        for entry in std::fs::read_dir(folder.join(blobs)).map_err(on)? {
            parts.push(blobs.join(entry.map_err(on)?.file_name()));
            if parts.len() > limits::UPLOAD_FILES_MAX {
                let max = limits::UPLOAD_FILES_MAX;
                let problem = format!("{} has more than {max} blobs", folder.display());
                return Err(CliError::usage(problem));
            }
        }
        for part in parts {
            match folder.join(&part).metadata() {
                Ok(file) if file.is_file() => {
                    self.n_bytes += file.len();
                    self.paths.push(name.join(part));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(on(error)),
            }
        }
        self.paths.sort();
        Ok(())
    }

    /// Leaves out everything but one file or folder.
    pub(crate) fn keep_only(&mut self, kept: &Path) {
        let kept: PathBuf = kept
            .components()
            .filter(|part| *part != std::path::Component::CurDir)
            .collect();
        self.paths.retain(|path| path.starts_with(&kept));
        let size = |path: &PathBuf| {
            std::fs::symlink_metadata(self.root.join(path)).map_or(0, |file| file.len())
        };
        self.n_bytes = self.paths.iter().map(size).sum();
    }

    /// Writes the tar.
    pub(crate) fn write(&self, sink: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(sink);
        archive.mode(tar::HeaderMode::Deterministic);
        archive.follow_symlinks(self.follows_links);
        for path in &self.paths {
            archive.append_path_with_name(self.root.join(path), path)?;
        }
        archive.into_inner()?.flush()
    }

    /// The tar as a request body, made while it is sent.
    ///
    /// `on_sent` hears the size of each piece that was handed to the connection, and `None` at the end.
    pub(crate) fn into_body(self, on_sent: impl Fn(Option<u64>) + Send + 'static) -> reqwest::Body {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(limits::UPLOAD_CHUNKS_QUEUED);
        // Detached: it ends with the archive, or when the request drops the receiver.
        drop(tokio::task::spawn_blocking(move || {
            let sink = io::BufWriter::with_capacity(64 * 1024, ChannelWriter(sender.clone()));
            if let Err(error) = self.write(sink) {
                let _ = sender.blocking_send(Err(error));
            }
        }));
        let pieces = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let ended = tokio_stream::once(None);
        let noted = pieces.map(Some).chain(ended).filter_map(move |piece| {
            match &piece {
                Some(Ok(piece)) => on_sent(Some(piece.len() as u64)),
                Some(Err(_)) => {}
                None => on_sent(None),
            }
            piece
        });
        reqwest::Body::wrap_stream(noted)
    }

    /// The size of the tar, near enough for a progress bar: each file has a header and is padded.
    pub(crate) fn tar_size(&self) -> u64 {
        self.n_bytes + 768 * self.paths.len() as u64 + 1024
    }
}

struct ChannelWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(buffer)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the request has ended"))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{archive, list};
    use std::io::Read as _;
    use std::path::Path;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn ignored_files_stay_behind_and_the_same_content_gives_the_same_bytes() {
        let pack = || {
            let dir = tempfile::tempdir().unwrap();
            for path in [
                "b.txt",
                "a/c.txt",
                "node_modules/x/y.js",
                "node_modules/keep.js",
                ".git/config",
                "log.log",
                "a/log.log",
            ] {
                write(dir.path(), path, path);
            }
            write(
                dir.path(),
                ".dockerignore",
                "# no\nnode_modules\n!node_modules/keep.js\n*.log\n",
            );
            let packing = list(dir.path(), None, &[]).unwrap();
            let paths: Vec<String> = packing
                .paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            assert_eq!(
                paths,
                [
                    ".dockerignore",
                    "a/c.txt",
                    "a/log.log",
                    "b.txt",
                    "node_modules/keep.js"
                ]
            );
            let mut bytes = Vec::new();
            packing.write(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(pack(), pack());
    }

    #[test]
    fn what_the_build_names_is_sent_although_it_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "dist/app", "x");
        write(dir.path(), ".dockerignore", "dist\n");
        assert_eq!(
            list(dir.path(), None, &["dist/app"]).unwrap().paths,
            [Path::new(".dockerignore"), Path::new("dist/app")]
        );
        assert!(list(dir.path(), Some("missing"), &[]).is_err());
        assert!(list(&dir.path().join("nope"), None, &[]).is_err());
    }

    #[test]
    fn a_saved_image_is_sent_alone_and_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "web.tar", "archive");
        write(dir.path(), "secret.txt", "x");
        let (name, packing) = archive(&dir.path().join("web.tar")).unwrap();
        assert_eq!(name, "web.tar");
        assert_eq!(packing.paths, [Path::new("web.tar")]);
        assert_eq!(packing.n_bytes, 7);
        let mut bytes = Vec::new();
        packing.write(&mut bytes).unwrap();
        let mut sent = tar::Archive::new(&bytes[..]);
        let paths: Vec<_> = sent
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(paths, [Path::new("web.tar")]);

        let error = archive(&dir.path().join("none.tar")).unwrap_err();
        assert!(error.message.contains("none.tar is not there"), "{error}");
    }

    #[test]
    fn of_a_layout_folder_the_layout_is_sent_and_a_folder_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = archive(dir.path()).unwrap_err();
        assert!(error.message.contains("is no OCI layout"), "{error}");
        for path in [
            "saved/index.json",
            "saved/oci-layout",
            "saved/blobs/sha256/aa",
            "saved/notes.txt",
            "saved/.git/config",
            "beside",
        ] {
            write(dir.path(), path, "x");
        }
        let (name, packing) = archive(&dir.path().join("saved/../saved/.")).unwrap();
        assert_eq!(name, "saved");
        let wanted = [
            "saved/blobs/sha256/aa",
            "saved/index.json",
            "saved/oci-layout",
        ];
        assert_eq!(packing.paths, wanted.map(Path::new));
    }

    #[test]
    fn of_a_layout_whose_blobs_are_links_the_blobs_are_sent() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["saved/index.json", "saved/blobs/sha256/aa", "store/bb"] {
            write(dir.path(), path, path);
        }
        let link = dir.path().join("saved/blobs/sha256/bb");
        std::os::unix::fs::symlink("../../../store/bb", link).unwrap();
        let (_, packing) = archive(&dir.path().join("saved")).unwrap();
        let mut bytes = Vec::new();
        packing.write(&mut bytes).unwrap();
        let mut sent = tar::Archive::new(&bytes[..]);
        let mut blob = sent
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|entry| entry.path().unwrap().ends_with("bb"))
            .unwrap();
        let mut text = String::new();
        blob.read_to_string(&mut text).unwrap();
        assert_eq!(text, "store/bb");
    }
}
