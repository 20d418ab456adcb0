//! A folder as a tar stream, without what the ignore file names.
//!
//! The same content gives the same bytes: entries are sorted, and times,
//! owners and all permissions but "executable" are left out.

use crate::error::CliError;
use crate::limits;
use bytes::Bytes;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
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
        archive.follow_symlinks(false);
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
    use super::list;
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
}
