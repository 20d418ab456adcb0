//! Files that the node puts into the guest or takes out of it, part by part.

use crate::failure::{Attempt as _, Failure};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt as _};
use roost_agent::limits::PART_BYTES_MAX;
use roost_agent::proto::{FilePart, WriteFilePart, WriteFileStart, write_file_part};
use rustix::fs::OFlags;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;

/// The mode of a file for which none is given.
const MODE_DEFAULT: u32 = 0o644;
/// Numbers files that are being written.
static N_WRITTEN: AtomicU64 = AtomicU64::new(0);

/// A file that is not whole yet, and goes away unless it becomes so.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is gone already when it became what it was to be.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes a file from its parts; it shows under its name when it is whole.
/// Returns its length.
pub(crate) async fn write(
    mut parts: impl Stream<Item = Result<WriteFilePart, Status>> + Unpin,
) -> Result<u64, Status> {
    let first = parts.next().await.transpose()?.and_then(|first| first.part);
    let Some(write_file_part::Part::Start(WriteFileStart { path, mode })) = first else {
        return Err(Status::invalid_argument("the first part is not a start"));
    };
    let (target, unfinished) = place(&path)?;
    let what = || format!("write {path} in the machine");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished.path)
        .await
        .attempt_for_machine(what())?;
    let mut n_bytes = 0;
    while let Some(part) = parts.next().await.transpose()? {
        let Some(write_file_part::Part::Data(data)) = part.part else {
            return Err(Status::invalid_argument("a part is not data"));
        };
        file.write_all(&data).await.attempt_for_machine(what())?;
        n_bytes += data.len() as u64;
    }
    let mode = if mode == 0 { MODE_DEFAULT } else { mode };
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
        .await
        .attempt_for_machine(what())?;
    file.flush().await.attempt_for_machine(what())?;
    drop(file);
    tokio::fs::rename(&unfinished.path, &target)
        .await
        .attempt_for_machine(what())?;
    Ok(n_bytes)
}

/// Where a file goes, and where it is while it is not whole.
fn place(path: &str) -> Result<(PathBuf, Unfinished), Failure> {
    let target = absolute(path)?;
    let number = N_WRITTEN.fetch_add(1, Ordering::Relaxed);
    // Not made of its own name, which may be as long as a name can be.
    let path = target.with_file_name(format!(".roost-copy-{number}"));
    Ok((target, Unfinished { path }))
}

/// Opens a file to be read part by part.
pub(crate) async fn read(
    path: String,
) -> Result<impl Stream<Item = Result<FilePart, Status>> + Send + use<>, Failure> {
    let what = format!("read {path} in the machine");
    let file = OpenOptions::new()
        .read(true)
        // It might be a pipe, or a file of the kernel that waits for news.
        .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).attempt("open a file")?)
        .open(absolute(&path)?)
        .await
        .attempt_for_machine(&what)?;
    let metadata = file.metadata().await.attempt_for_machine(&what)?;
    if !metadata.is_file() {
        return Err(Failure::machine(format!(
            "{path} in the machine is not a file"
        )));
    }
    let first = FilePart {
        mode: metadata.permissions().mode() & 0o7777,
        size: metadata.len(),
        ..FilePart::default()
    };
    let rest = futures_util::stream::unfold(Some(file), move |file| {
        let what = what.clone();
        async move {
            let mut file = file?;
            match next_part(&mut file).await {
                Ok(None) => None,
                Ok(Some(part)) => Some((Ok(part), Some(file))),
                Err(error) => {
                    let failure = Failure::machine(format!("{what}: {error}"));
                    Some((Err(failure.into()), None))
                }
            }
        }
    });
    Ok(futures_util::stream::iter([Ok(first)]).chain(rest))
}

async fn next_part(file: &mut File) -> std::io::Result<Option<FilePart>> {
    let mut data = BytesMut::with_capacity(PART_BYTES_MAX);
    let n_read = file.read_buf(&mut data).await?;
    Ok((n_read > 0).then(|| FilePart {
        data: data.freeze(),
        ..FilePart::default()
    }))
}

fn absolute(path: &str) -> Result<PathBuf, Failure> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Failure::request(format!(
            "`{}` is not an absolute path",
            path.replace('\0', "\\0")
        )));
    }
    Ok(Path::new(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use bytes::Bytes;
    use futures_util::TryStreamExt as _;
    use roost_agent::proto::write_file_part::Part;
    use roost_agent::proto::{FilePart, WriteFilePart, WriteFileStart};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use tonic::{Code, Status};

    fn parts(path: &Path, mode: u32, data: &[&'static [u8]]) -> Vec<Result<WriteFilePart, Status>> {
        let path = path.to_str().unwrap().to_owned();
        let data = data.iter().map(|data| Part::Data(Bytes::from_static(data)));
        std::iter::once(Part::Start(WriteFileStart { path, mode }))
            .chain(data)
            .map(|part| Ok(WriteFilePart { part: Some(part) }))
            .collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_file_goes_in_and_comes_out_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "older").unwrap();
        let sent = parts(&path, 0o750, &[b"one ", b"", b"two"]);
        assert_eq!(write(tokio_stream::iter(sent)).await.unwrap(), 7);
        assert_eq!(names(dir.path()), ["file"]);
        let received: Vec<FilePart> = read(path.to_str().unwrap().to_owned())
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert_eq!((received[0].mode, received[0].size), (0o750, 7));
        let data: Vec<u8> = received
            .iter()
            .flat_map(|part| part.data.to_vec())
            .collect();
        assert_eq!(data, b"one two");
    }

    #[tokio::test]
    async fn a_file_that_was_not_sent_whole_does_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "older").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut sent = parts(&path, 0, &[b"one "]);
        sent.push(Err(Status::cancelled("the sender went away")));
        let status = write(tokio_stream::iter(sent)).await.unwrap_err();
        assert_eq!(status.code(), Code::Cancelled);
        assert_eq!(names(dir.path()), ["file"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "older");
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap().to_owned();
        for path in [
            folder,
            "relative".to_owned(),
            "/no/such".to_owned(),
            "/\0".to_owned(),
        ] {
            assert!(read(path).await.is_err());
        }
        let no_parent = parts(&dir.path().join("none/file"), 0, &[]);
        let status = write(tokio_stream::iter(no_parent)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
    }
}
