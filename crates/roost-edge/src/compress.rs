//! Answers made smaller on their way to the client, for services that want it
//! (`http_options.compress`).
//!
//! What has come of the app goes out when the app pauses: who streams is not held up.

use crate::body::{BodyError, ResponseBody};
use crate::limits;
use crate::shared::Shared;
use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderName, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::{Body as _, Frame};
use std::io::{self, BufWriter, IntoInnerError, Write as _};
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use zstd::stream::raw::CParameter;

/// Digests are of the bytes that the app has sent; they would be wrong of others.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The codings that a client takes, of those that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Accepts {
    zstd: bool,
    brotli: bool,
    gzip: bool,
}

impl Accepts {
    /// What a request says (RFC 9110 12.5.3).
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let (mut zstd, mut brotli, mut gzip, mut any) = (None, None, None, None);
        for line in headers.get_all(ACCEPT_ENCODING) {
            let codings = line.to_str().unwrap_or_default().split(',');
            for coding in codings {
                let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
                let place = match name.trim() {
                    name if name.eq_ignore_ascii_case("zstd") => &mut zstd,
                    name if name.eq_ignore_ascii_case("br") => &mut brotli,
                    name if name.eq_ignore_ascii_case("gzip") => &mut gzip,
                    "*" => &mut any,
                    _ => continue,
                };
                *place = Some(!is_zero(weight));
            }
        }
        Self {
            zstd: zstd.unwrap_or(false),
            brotli: brotli.unwrap_or(false),
            gzip: gzip.or(any).unwrap_or(false),
        }
    }
}

/// Whether this is the weight of what is not wanted.
fn is_zero(weight: &str) -> bool {
    let value = weight.trim().strip_prefix(['q', 'Q']);
    let value = value.and_then(|value| value.trim_start().strip_prefix('='));
    value.is_some_and(|value| value.trim().parse::<f32>().is_ok_and(|q| q <= 0.0))
}

/// The answer, compressed if it is text and the client takes that.
pub(crate) fn answer(
    shared: &Shared,
    accepts: Accepts,
    method: &Method,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    if !may_be_compressed(&response) {
        return response;
    }
    let is_not_modified = response.status() == StatusCode::NOT_MODIFIED;
    // At its quality brotli looks at each piece alone: what comes in small ones is gzip's.
    let is_whole = response.body().size_hint().exact().is_some();
    let headers = response.headers_mut();
    add_vary(headers);
    let takes_any = accepts != Accepts::default();
    if is_not_modified {
        // What its 200 said, so that caches do not take the one for that of another answer.
        if takes_any {
            weaken_tag(headers);
        }
        return response;
    }
    if !takes_any || *method == Method::HEAD {
        return response;
    }
    // Beyond the bound it is sent as it is.
    let Ok(permit) = shared.compressions.clone().try_acquire_owned() else {
        return response;
    };
    let encoder = if accepts.zstd {
        Encoder::zstd().ok()
    } else if accepts.brotli && (is_whole || !accepts.gzip) {
        Some(Encoder::brotli())
    } else {
        Some(Encoder::gzip())
    };
    let Some(encoder) = encoder else {
        return response;
    };
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoder.name()));
    // Ranges would be of bytes that nobody has.
    for name in [CONTENT_LENGTH, ACCEPT_RANGES] {
        headers.remove(name);
    }
    weaken_tag(headers);
    response.map(|body| {
        ResponseBody::Compressed(Box::new(Compressed {
            body,
            encoder: Some(encoder),
            input: Bytes::new(),
            is_held: false,
            trailers: None,
            failed: None,
            _permit: permit,
        }))
    })
}

/// Whether anybody could get this answer compressed, or, of a 304, the answer that it is about:
/// then what is not said of its content may be so.
fn may_be_compressed(response: &Response<ResponseBody>) -> bool {
    let headers = response.headers();
    let is_bare = matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT
    );
    let is_not_modified = response.status() == StatusCode::NOT_MODIFIED;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_fixed = [CONTENT_ENCODING, CONTENT_RANGE]
        .iter()
        .chain(&DIGESTS)
        .any(|name| headers.contains_key(name));
    let is_not_to_be_changed = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|directive| directive.trim().eq_ignore_ascii_case("no-transform"));
    let size = response.body().size_hint().exact();
    let size = size.filter(|_| !is_not_modified);
    // Of a HEAD, what a GET would have had.
    let length = text(CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let is_small = length
        .or(size)
        .is_some_and(|n| n < limits::COMPRESS_BYTES_MIN);
    !is_bare
        && !is_fixed
        && !is_not_to_be_changed
        && !is_small
        && text(CONTENT_TYPE).map_or(is_not_modified, is_text)
}

/// Whether content of this type becomes much smaller.
fn is_text(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let known = [
        "application/javascript",
        "application/json",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
    ];
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || known.contains(&kind.as_str())
}

/// Tells caches that the answer is another one for clients that take other codings.
fn add_vary(headers: &mut HeaderMap) {
    let is_said = headers
        .get_all(VARY)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|name| name == "*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str()));
    if !is_said {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// The tag is no longer that of these very bytes (RFC 9110 8.8.1).
fn weaken_tag(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG) else { return };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => drop(headers.insert(ETAG, weak)),
        Err(_) => drop(headers.remove(ETAG)),
    }
}

/// What compresses, with what has come out of it.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    /// Small pieces are put together before it sees them.
    Brotli(Box<BufWriter<CompressorWriter<Vec<u8>>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn gzip() -> Self {
        Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    fn brotli() -> Self {
        let encoder = CompressorWriter::new(
            Vec::new(),
            limits::BROTLI_BUFFER_BYTES,
            limits::BROTLI_QUALITY,
            limits::BROTLI_WINDOW_LOG,
        );
        let pieces = BufWriter::with_capacity(limits::COMPRESS_PIECE_BYTES, encoder);
        Self::Brotli(Box::new(pieces))
    }

    fn zstd() -> io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), limits::ZSTD_LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(limits::ZSTD_WINDOW_LOG))?;
        Ok(Self::Zstd(encoder))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Gzip(_) => "gzip",
            Self::Brotli(_) => "br",
            Self::Zstd(_) => "zstd",
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Brotli(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut().get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(pieces) => {
                let encoder = pieces.into_inner().map_err(IntoInnerError::into_error)?;
                Ok(encoder.into_inner())
            }
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A body that is compressed as it comes.
#[derive(Debug)]
pub(crate) struct Compressed {
    body: ResponseBody,
    /// None once all has come out of it.
    encoder: Option<Encoder>,
    /// What of the last piece is still to be compressed.
    input: Bytes,
    /// Whether the encoder holds something back.
    is_held: bool,
    trailers: Option<HeaderMap>,
    /// Told at the next poll: by then the codec has written what it was given before.
    failed: Option<BodyError>,
    /// One of the compressions that may be under way.
    _permit: OwnedSemaphorePermit,
}

impl Compressed {
    /// The next piece.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        for _ in 0..limits::COMPRESS_STEPS {
            let Some(encoder) = &mut self.encoder else {
                let trailers = self.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            };
            let out = if self.input.is_empty() {
                match self.body.poll_piece(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            self.input = data;
                            continue;
                        }
                        Err(frame) => {
                            self.trailers = frame.into_trailers().ok();
                            self.finish()
                        }
                    },
                    Poll::Ready(Some(Err(error))) => {
                        self.failed = Some(error);
                        break;
                    }
                    Poll::Ready(None) => self.finish(),
                    Poll::Pending if self.is_held => {
                        self.is_held = false;
                        encoder.flush().map(|()| std::mem::take(encoder.out()))
                    }
                    Poll::Pending => return Poll::Pending,
                }
            } else {
                let n_bytes = self.input.len().min(limits::COMPRESS_PIECE_BYTES);
                let piece = self.input.split_to(n_bytes);
                self.is_held = true;
                encoder.write(&piece).map(|()| {
                    if encoder.out().len() >= limits::COMPRESS_PIECE_BYTES {
                        std::mem::take(encoder.out())
                    } else {
                        Vec::new()
                    }
                })
            };
            match out {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out.into())))),
                Err(error) => return Poll::Ready(Some(Err(BodyError::Compress(error)))),
            }
        }
        // Also what becomes very small must not keep the thread for long.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish(&mut self) -> io::Result<Vec<u8>> {
        self.encoder
            .take()
            .map_or_else(|| Ok(Vec::new()), Encoder::finish)
    }

    /// Whether all has been given.
    pub(crate) fn is_end(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::{Accepts, Encoder, is_text};
    use http::HeaderMap;
    use http::header::ACCEPT_ENCODING;

    #[test]
    fn a_client_takes_what_it_names_and_does_not_refuse() {
        for (line, takes) in [
            ("", [false, false, false]),
            ("gzip, deflate, br, zstd", [true, true, true]),
            ("GZIP;q=0.5", [false, false, true]),
            ("zstd;q=1, gzip; q = 0", [true, false, false]),
            ("gzip;q=0.000,*", [false, false, false]),
            ("*", [false, false, true]),
            ("*;q=0, zstd", [true, false, false]),
            ("identity, BR", [false, true, false]),
            ("br;q=0, gzip", [false, false, true]),
            ("gzip;q=nonsense", [false, false, true]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, line.parse().unwrap());
            let [zstd, brotli, gzip] = takes;
            let expected = Accepts { zstd, brotli, gzip };
            assert_eq!(Accepts::of(&headers), expected, "{line}");
        }
        assert_eq!(Accepts::of(&HeaderMap::new()), Accepts::default());
    }

    #[test]
    fn small_pieces_become_smaller_whatever_the_coding() {
        let zstd = Encoder::zstd().unwrap();
        for mut encoder in [Encoder::gzip(), Encoder::brotli(), zstd] {
            let mut n_bytes = 0;
            for number in 0..200 {
                let piece = format!("number {number} of those that are much alike\n");
                encoder.write(piece.as_bytes()).unwrap();
                n_bytes += piece.len();
            }
            let name = encoder.name();
            let n_out = encoder.finish().unwrap().len();
            assert!(n_out < n_bytes / 3, "{name}: {n_out} of {n_bytes}");
        }
    }

    #[test]
    fn text_is_what_becomes_much_smaller() {
        for kind in [
            "text/html; charset=utf-8",
            "TEXT/event-stream",
            "application/json",
            "application/problem+json",
            "image/svg+xml",
        ] {
            assert!(is_text(kind), "{kind}");
        }
        for kind in [
            "image/png",
            "application/grpc",
            "application/octet-stream",
            "video/mp4",
            "",
        ] {
            assert!(!is_text(kind), "{kind}");
        }
    }
}
