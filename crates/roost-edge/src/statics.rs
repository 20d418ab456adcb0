//! Static files: those of a machine that the edge serves by itself.
//!
//! A request has its machine before its path is looked at: the files are that machine's, so
//! it has to run, and counts as busy until they are sent. A path that leads to no file is the
//! app's, as if there were no rule. Symbolic links are nowhere followed.

use crate::forward::{Answer, Head};
use crate::limits;
use crate::pages::Page;
use crate::shared::Shared;
use crate::table::Target;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use roost_model::machine::StaticFolder;
use roost_model::web::range::{Range, Slice};
use roost_model::web::{content_type, date, names_tag, range};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::timeout;

/// What a machine has for a request.
pub(crate) enum Answered {
    /// The answer of its app.
    App(Answer),
    /// A file.
    File(Box<FileAnswer>),
}

/// A file, or what there is to say instead of it.
pub(crate) struct FileAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Option<FileContent>,
}

/// A part of a file that is read piece by piece.
#[derive(Debug)]
pub(crate) struct FileContent {
    file: tokio::fs::File,
    left: u64,
    buffer: Vec<u8>,
}

/// The file of this machine that the request is for, if there is one.
pub(crate) async fn find(
    shared: &Shared,
    target: &Target,
    head: &Head,
) -> Result<Option<FileAnswer>, Page> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Ok(None);
    }
    let Some(path) = StaticFolder::file_of(&target.endpoint.statics, head.path.path()) else {
        return Ok(None);
    };
    let Some(files) = shared.files.lock().clone() else {
        return Ok(None);
    };
    let opened = async {
        // It is never closed; who waits does so no longer than the limit below.
        let place = shared.file_openings.clone().acquire_owned().await;
        let opening = files.open(target.endpoint.machine_id.clone(), path.clone());
        // It holds a thread until it ends, and its place as long, whoever still waits for it.
        let opening = shared.backends.spawn(async move {
            let opened = opening.await;
            drop(place);
            opened
        });
        let opened = opening.await.map_err(|error| error.to_string())?;
        opened.map_err(|error| error.to_string())
    };
    let opened = timeout(limits::FILE_OPEN_TIMEOUT, opened).await;
    let file = opened.unwrap_or_else(|_| Err("it takes too long".to_owned()));
    let answer = match file {
        Ok(None) => return Ok(None),
        Ok(Some(file)) => answer(file, Path::new(&path), head).map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    answer.map(Some).map_err(|why| {
        let title = "a static file of the app could not be read";
        Page::new(StatusCode::BAD_GATEWAY, "static-file", title)
            .detail(format!("machine {}: {why}", target.endpoint.machine_id))
    })
}

/// Answers with the file as the conditions and the range of the request ask.
fn answer(mut file: File, path: &Path, head: &Head) -> io::Result<FileAnswer> {
    // What is open is in memory: neither this nor the seek waits for a disk.
    let metadata = file.metadata()?;
    let size = metadata.len();
    // The time of the last change of any kind, which nothing in the machine can set: files of
    // images often all bear the same time of writing.
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    let etag = format!("\"{changed:x}-{size:x}\"");
    // Files of images may bear the epoch, which says nothing about their age.
    let modified = Some(metadata.mtime()).filter(|seconds| *seconds > 0);
    let modified = modified.map(date::http_date);
    let mut headers = HeaderMap::new();
    set(&mut headers, CONTENT_TYPE, content_type::of(path));
    set(&mut headers, ETAG, &etag);
    set(&mut headers, ACCEPT_RANGES, "bytes");
    if let Some(modified) = &modified {
        set(&mut headers, LAST_MODIFIED, modified);
    }
    let empty = |status, headers| FileAnswer {
        status,
        headers,
        content: None,
    };
    if is_unchanged(&head.headers, &etag, modified.as_deref()) {
        return Ok(empty(StatusCode::NOT_MODIFIED, headers));
    }
    let asked = head
        .headers
        .get(RANGE)
        .and_then(|value| value.to_str().ok());
    // A range is for GET only (RFC 9110, 14.2), and for this very file if the client says so.
    let asked = asked.filter(|_| {
        let same = head.headers.get(IF_RANGE);
        head.method == Method::GET && same.is_none_or(|same| same.as_bytes() == etag.as_bytes())
    });
    let (status, slice) = match range::parse(asked, size) {
        Range::Whole => (
            StatusCode::OK,
            Slice {
                start: 0,
                length: size,
            },
        ),
        Range::Part(slice) => {
            let last = slice.start + slice.length - 1;
            let part = format!("bytes {}-{last}/{size}", slice.start);
            set(&mut headers, CONTENT_RANGE, &part);
            (StatusCode::PARTIAL_CONTENT, slice)
        }
        Range::Unsatisfiable => {
            set(&mut headers, CONTENT_RANGE, &format!("bytes */{size}"));
            set(&mut headers, CONTENT_LENGTH, "0");
            return Ok(empty(StatusCode::RANGE_NOT_SATISFIABLE, headers));
        }
    };
    set(&mut headers, CONTENT_LENGTH, &slice.length.to_string());
    file.seek(SeekFrom::Start(slice.start))?;
    Ok(FileAnswer {
        status,
        headers,
        content: Some(FileContent {
            file: tokio::fs::File::from_std(file),
            left: slice.length,
            buffer: Vec::new(),
        }),
    })
}

/// RFC 9110, 13.1: entity tags win over dates.
fn is_unchanged(request: &HeaderMap, etag: &str, modified: Option<&str>) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let values = request.get_all(IF_NONE_MATCH).into_iter();
        return names_tag(values.filter_map(|value| value.to_str().ok()), etag);
    }
    // Only the very date that was sent counts: an older file may replace a newer one.
    let since = request.get(IF_MODIFIED_SINCE);
    since.is_some_and(|since| Some(since.as_bytes()) == modified.map(str::as_bytes))
}

/// Values are made of numbers and known words.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

impl FileContent {
    /// The next piece; none at the end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let most = limits::FILE_PIECE_BYTES;
        let wanted = usize::try_from(self.left).map_or(most, |left| left.min(most));
        self.buffer.resize(wanted, 0);
        let mut read = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.file).poll_read(cx, &mut read))?;
        let filled = read.filled();
        if filled.is_empty() {
            // The head promised more: the connection must break, not look complete.
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter");
            return Poll::Ready(Some(Err(error)));
        }
        self.left -= filled.len() as u64;
        Poll::Ready(Some(Ok(BytesMut::from(filled).freeze())))
    }

    /// How many bytes are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}
