//! From a request to its answer: methods, conditions, ranges, variants.

mod body;

use crate::etag::Etags;
use crate::log::{self, RequestRecord};
use crate::resolve::{self, Target};
use body::FileBody;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Either;
use http_body_util::Full;
use hyper::body::Bytes;
use roost_model::web::range::{self, Slice};
use roost_model::web::{content_type, date, names_tag};
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The body of an answer.
pub(crate) type Body = Either<Full<Bytes>, FileBody>;

/// The variants that are looked for beside a file, best first.
const ENCODINGS: [(&str, &str); 2] = [("br", "br"), ("gzip", "gz")];

/// A folder that is served.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    root: Arc<Path>,
    etags: Arc<Etags>,
}

/// A file that is about to be sent.
struct OpenFile {
    file: File,
    size: u64,
    etag: String,
    last_modified: Option<String>,
    content_type: &'static str,
    cache_control: &'static str,
    encoding: Option<&'static str>,
    has_variants: bool,
}

impl Site {
    /// The site in this folder.
    pub(crate) fn open(root: &Path) -> Result<Self, String> {
        let describe = |error: io::Error| format!("open the folder {}: {error}", root.display());
        let canonical = std::fs::canonicalize(root).map_err(describe)?;
        // A file given as the folder fails here, and not at the first request.
        std::fs::read_dir(&canonical).map_err(describe)?;
        Ok(Self {
            root: canonical.into(),
            etags: Arc::default(),
        })
    }

    /// Answers a request and logs it.
    pub(crate) async fn respond<B>(&self, request: &Request<B>) -> Response<Body> {
        let started = Instant::now();
        let response = self.answer(request).await;
        let length = response.headers().get(header::CONTENT_LENGTH);
        log::request(&RequestRecord {
            method: request.method().as_str(),
            path: request.uri().path(),
            status: response.status().as_u16(),
            bytes: length
                .and_then(|v| v.to_str().ok()?.parse().ok())
                .unwrap_or(0),
            took: started.elapsed(),
        });
        response
    }

    async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD work here\n",
            );
            set(response.headers_mut(), header::ALLOW, "GET, HEAD");
            return response;
        }
        let site = self.clone();
        let path = request.uri().path().to_owned();
        let headers = request.headers().clone();
        // Look-up, open and hash may wait for the disk.
        let found = tokio::task::spawn_blocking(move || site.look_up(&path, &headers)).await;
        let mut response = match found {
            Ok(Ok(Found::File(file))) => send(file, request.headers()),
            Ok(Ok(Found::Missing(Some(page)))) => send_whole(StatusCode::NOT_FOUND, page),
            Ok(Ok(Found::Missing(None))) => text(StatusCode::NOT_FOUND, "not found\n"),
            Ok(Ok(Found::Redirect)) => redirect_to_folder(request),
            Ok(Err(error)) => {
                log::failure(&format!(
                    "read the file for {}: {error}",
                    request.uri().path()
                ));
                text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the file cannot be read\n",
                )
            }
            Err(_) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the file cannot be read\n",
            ),
        };
        set(
            response.headers_mut(),
            header::X_CONTENT_TYPE_OPTIONS,
            "nosniff",
        );
        if request.method() == Method::HEAD {
            *response.body_mut() = Either::Left(Full::default());
        }
        response
    }

    fn look_up(&self, path: &str, headers: &HeaderMap) -> io::Result<Found> {
        match resolve::resolve(&self.root, path)? {
            Target::File(path) => Ok(Found::File(self.open_file(&path, headers)?)),
            Target::FolderWithoutSlash => Ok(Found::Redirect),
            Target::Nothing => {
                let page = resolve::canonical_below(&self.root, &self.root.join("404.html"))?;
                let page = page.filter(|page| page.is_file());
                Ok(Found::Missing(
                    page.map(|page| self.open_file(&page, headers))
                        .transpose()?,
                ))
            }
        }
    }

    fn open_file(&self, path: &Path, headers: &HeaderMap) -> io::Result<OpenFile> {
        let mut chosen = path.to_owned();
        let mut encoding = None;
        let mut has_variants = false;
        for (name, extension) in ENCODINGS {
            let mut sibling = path.as_os_str().to_owned();
            sibling.push(format!(".{extension}"));
            let sibling = resolve::canonical_below(&self.root, &PathBuf::from(sibling))?;
            if let Some(sibling) = sibling.filter(|sibling| sibling.is_file()) {
                has_variants = true;
                if encoding.is_none() && accepts(headers, name) {
                    encoding = Some(name);
                    chosen = sibling;
                }
            }
        }
        let file = File::open(&chosen)?;
        let metadata = file.metadata()?;
        let etag = self.etags.of(&chosen, &file, &metadata)?;
        (&file).seek(io::SeekFrom::Start(0))?;
        // Files of an image bear the epoch, which says nothing about their age.
        let modified = Some(metadata.mtime()).filter(|seconds| *seconds > 0);
        let content_type = content_type::of(path);
        Ok(OpenFile {
            size: metadata.len(),
            file,
            etag,
            last_modified: modified.map(date::http_date),
            content_type,
            cache_control: cache_control(path, content_type),
            encoding,
            has_variants,
        })
    }
}

enum Found {
    File(OpenFile),
    Redirect,
    Missing(Option<OpenFile>),
}

/// Pages are asked for anew each time; files with a hash in their name never change.
fn cache_control(path: &Path, content_type: &str) -> &'static str {
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let last_word = stem.rsplit(['.', '-', '_']).next().unwrap_or_default();
    let is_hash = last_word.len() >= 8
        && last_word.len() < stem.len()
        && last_word.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && last_word.bytes().any(|byte| byte.is_ascii_digit())
        && last_word.bytes().any(|byte| byte.is_ascii_alphabetic());
    if content_type.starts_with("text/html") {
        "no-cache"
    } else if is_hash {
        "public, max-age=31536000, immutable"
    } else {
        "public, max-age=300"
    }
}

fn accepts(headers: &HeaderMap, encoding: &str) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| {
            let mut words = item.split(';').map(str::trim);
            let is_named = words
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(encoding));
            let is_refused = words.any(|word| {
                let weight = word
                    .strip_prefix("q=")
                    .and_then(|text| text.parse::<f32>().ok());
                weight == Some(0.0)
            });
            is_named && !is_refused
        })
}

/// Sends a file as the conditions and the range of the request ask.
fn send(file: OpenFile, request: &HeaderMap) -> Response<Body> {
    if is_unchanged(&file, request) {
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        describe(&file, response.headers_mut());
        return response;
    }
    let range = request
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let range = range.filter(|_| match request.get(header::IF_RANGE) {
        Some(value) => value.as_bytes() == file.etag_sent().as_bytes(),
        None => true,
    });
    match range::parse(range, file.size) {
        range::Range::Whole => send_whole(StatusCode::OK, file),
        range::Range::Part(slice) => send_part(file, slice),
        range::Range::Unsatisfiable => {
            let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "no such range\n");
            let all = format!("bytes */{}", file.size);
            set(response.headers_mut(), header::CONTENT_RANGE, &all);
            response
        }
    }
}

/// RFC 9110, 13.1: entity tags win over dates.
fn is_unchanged(file: &OpenFile, request: &HeaderMap) -> bool {
    if request.contains_key(header::IF_NONE_MATCH) {
        let values = request.get_all(header::IF_NONE_MATCH).into_iter();
        let tag = file.etag_sent();
        return names_tag(values.filter_map(|value| value.to_str().ok()), &tag);
    }
    // Only the very date that was sent out counts: an older file may replace a newer one.
    match (request.get(header::IF_MODIFIED_SINCE), &file.last_modified) {
        (Some(since), Some(modified)) => since.as_bytes() == modified.as_bytes(),
        _ => false,
    }
}

fn send_whole(status: StatusCode, file: OpenFile) -> Response<Body> {
    let mut head = HeaderMap::new();
    describe(&file, &mut head);
    let slice = Slice {
        start: 0,
        length: file.size,
    };
    let mut response = Response::new(Either::Right(FileBody::new(file.file, slice)));
    *response.headers_mut() = head;
    set(
        response.headers_mut(),
        header::CONTENT_LENGTH,
        &slice.length.to_string(),
    );
    *response.status_mut() = status;
    response
}

fn send_part(file: OpenFile, slice: Slice) -> Response<Body> {
    let mut head = HeaderMap::new();
    describe(&file, &mut head);
    let last = slice.start + slice.length - 1;
    set(
        &mut head,
        header::CONTENT_RANGE,
        &format!("bytes {}-{last}/{}", slice.start, file.size),
    );
    set(&mut head, header::CONTENT_LENGTH, &slice.length.to_string());
    if let Err(error) = (&file.file).seek(io::SeekFrom::Start(slice.start)) {
        log::failure(&format!("seek in a file: {error}"));
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the file cannot be read\n",
        );
    }
    let mut response = Response::new(Either::Right(FileBody::new(file.file, slice)));
    *response.headers_mut() = head;
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    response
}

impl OpenFile {
    /// The tag of the representation: two encodings of one file differ.
    fn etag_sent(&self) -> String {
        match self.encoding {
            Some(encoding) => format!("{}-{encoding}\"", self.etag.trim_end_matches('"')),
            None => self.etag.clone(),
        }
    }
}

/// Sets the headers that describe a file.
fn describe(file: &OpenFile, head: &mut HeaderMap) {
    set(head, header::CONTENT_TYPE, file.content_type);
    set(head, header::ETAG, &file.etag_sent());
    set(head, header::CACHE_CONTROL, file.cache_control);
    set(head, header::ACCEPT_RANGES, "bytes");
    if let Some(date) = &file.last_modified {
        set(head, header::LAST_MODIFIED, date);
    }
    if let Some(encoding) = file.encoding {
        set(head, header::CONTENT_ENCODING, encoding);
    }
    if file.has_variants {
        set(head, header::VARY, "accept-encoding");
    }
}

fn redirect_to_folder<B>(request: &Request<B>) -> Response<Body> {
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "see the folder\n");
    // One slash in front: `//host` would lead to another site.
    let path = request.uri().path().trim_start_matches('/');
    let query = request
        .uri()
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    set(
        response.headers_mut(),
        header::LOCATION,
        &format!("/{path}/{query}"),
    );
    response
}

fn text(status: StatusCode, message: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(message)));
    *response.status_mut() = status;
    set(
        response.headers_mut(),
        header::CONTENT_TYPE,
        "text/plain; charset=utf-8",
    );
    set(
        response.headers_mut(),
        header::CONTENT_LENGTH,
        &message.len().to_string(),
    );
    response
}

fn set(head: &mut HeaderMap, name: HeaderName, value: &str) {
    // Values are made here of numbers, hashes and already valid URI text.
    if let Ok(value) = HeaderValue::from_str(value) {
        head.insert(name, value);
    }
}
