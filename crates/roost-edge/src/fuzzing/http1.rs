//! HTTP/1 as clients and machines send it.

use crate::arrival::{Arrival, Origin};
use crate::header_watch::HeaderWatch;
use crate::headers;
use crate::http1::answer::{self, Framing};
use crate::http1::chunks::{BadChunks, Chunks, Event};
use crate::http1::request;
use crate::http1::response::{Coding, write_head};
use crate::limits;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Version};
use http_body::SizeHint;

/// The longest head of which each beginning is read.
const HEAD_BYTES_CUT: usize = 300;

/// What a machine answers. The first byte says in what pieces its chunks come, whether it was asked
/// by HEAD, and whether there are chunks only.
///
/// # Panics
/// When pieces make a difference, or what is told to the client is not what the machine has said.
pub fn http1_response(bytes: &[u8]) {
    let (how, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let method = if how & 1 == 1 {
        Method::HEAD
    } else {
        Method::GET
    };
    let piece = usize::from(how >> 2) + 1;
    if how & 2 == 2 {
        return chunks(bytes, piece);
    }
    let bytes = Bytes::copy_from_slice(bytes);
    let is_whole = answer::is_whole(&bytes);
    let Ok(Some(mut head)) = answer::read(&bytes, &method) else {
        return;
    };
    assert!(matches!(is_whole, Ok(true)) && head.length <= bytes.len());
    for end in 0..head.length.min(HEAD_BYTES_CUT) {
        let cut = answer::read(&bytes.slice(..end), &method);
        assert!(end == head.length || matches!(cut, Ok(None)), "{cut:?}");
    }
    if head.framing == Framing::Chunked {
        chunks(&bytes[head.length..], piece);
    }
    let is_refused = headers::has_other_coding(head.response.headers());
    if !is_refused && !head.response.status().is_informational() {
        let (size, expected) = match head.framing {
            Framing::Length(length) => (SizeHint::with_exact(length), head.framing),
            Framing::Chunked | Framing::UntilClose => (SizeHint::default(), Framing::Chunked),
        };
        let id = HeaderValue::from_static("id");
        headers::towards_client(head.response.headers_mut(), Version::HTTP_11, id, None);
        told(head.response, &method, &size, expected);
    }
}

/// Writes a head to the client, who reads the same of where the body ends.
fn told(response: http::Response<()>, method: &Method, size: &SizeHint, expected: Framing) {
    if response.headers().len() + 4 > limits::HEADER_LINES_MAX {
        return;
    }
    let mut parts = response.into_parts().0;
    for is_last in [true, false] {
        let mut written = Vec::new();
        let coding = write_head(&mut parts, method, size, is_last, &mut written);
        let written = Bytes::from(written);
        let again = answer::read(&written, method);
        let again = again.ok().flatten().expect("a head is written");
        assert_eq!(again.length, written.len());
        assert_eq!(again.response.status(), parts.status);
        assert_eq!((again.framing, again.is_kept), (expected, !is_last));
        let is_same = match coding {
            Coding::Empty => expected == Framing::Length(0),
            Coding::Length(length) => expected == Framing::Length(length),
            Coding::Chunked => expected == Framing::Chunked,
        };
        assert!(is_same, "{coding:?} is not {expected:?}");
    }
}

/// What was read of chunks, and how they ended: with so many bytes behind them, or not yet.
type Read = (Vec<u8>, Option<HeaderMap>, Result<Option<usize>, BadChunks>);

fn chunks(bytes: &[u8], piece: usize) {
    let whole = read_chunks(bytes, bytes.len().max(1));
    assert_eq!(read_chunks(bytes, piece), whole, "in pieces of {piece}");
    if let (content, trailers, Ok(Some(left))) = whole {
        assert!(content.len() + left < bytes.len());
        assert!(trailers.is_none_or(|it| it.len() <= limits::TRAILER_LINES_MAX));
    }
}

fn read_chunks(bytes: &[u8], piece: usize) -> Read {
    let (mut content, mut trailers) = (Vec::new(), None);
    let mut chunks = Chunks::new();
    let mut left = bytes.len();
    for piece in bytes.chunks(piece) {
        left -= piece.len();
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match chunks.next(&mut piece) {
                Ok(Event::Data(data)) => {
                    assert!(!data.is_empty());
                    content.extend_from_slice(&data);
                }
                Ok(Event::Trailers(map)) => {
                    trailers = Some(map);
                    return (content, trailers, Ok(Some(left + piece.len())));
                }
                Ok(Event::End) => return (content, trailers, Ok(Some(left + piece.len()))),
                Ok(Event::More) => break,
                Err(error) => return (content, trailers, Err(error)),
            }
        }
        assert!(piece.is_empty());
    }
    (content, trailers, Ok(None))
}

/// The header of a client's request.
///
/// # Panics
/// When a length beside a transfer coding is not seen, or a machine is told something else than it
/// was to be.
pub fn http1_request(bytes: &[u8]) {
    watch(bytes);
    let bytes = Bytes::copy_from_slice(bytes);
    let Some(plain) = request::read(&bytes) else {
        return;
    };
    for end in 0..bytes.len().min(HEAD_BYTES_CUT) {
        let cut = bytes.slice(..end);
        assert!(request::read(&cut).is_none(), "{cut:?}");
    }
    let mut headers = plain.parts.headers;
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        assert!(!headers.contains_key(&name), "{name}");
    }
    headers::towards_app(&mut headers);
    let n_lines = headers.len() + crate::arrival::LINES + 1;
    if n_lines > limits::HEADER_LINES_MAX {
        return;
    }
    let ends = ([192, 0, 2, 1].into(), ([192, 0, 2, 2], 80).into());
    let region = HeaderValue::from_static("local");
    let origin = Origin::new(ends.0, ends.1, true, region);
    let arrival = Arrival::new(origin, Version::HTTP_11, ulid::Ulid::from(7_u128), 7);
    let mut written = b"GET / HTTP/1.1\r\n".to_vec();
    arrival.write_http1(&headers, &mut written);
    written.extend_from_slice(b"\r\n");
    let again = request::read(&Bytes::from(written)).expect("a request is written");
    arrival.tell(&mut headers);
    assert_eq!(again.parts.headers, headers);
}

/// Looks at a header for two lengths, as the codec sees it.
fn watch(bytes: &[u8]) {
    let seen = HeaderWatch::default().see(bytes);
    for size in [1, 7] {
        let mut watch = HeaderWatch::default();
        let pieces = bytes.chunks(size);
        assert_eq!(
            pieces.fold(false, |_, piece| watch.see(piece)),
            seen && !bytes.is_empty()
        );
    }
    let mut lines = [httparse::EMPTY_HEADER; limits::HEADER_LINES_MAX];
    let mut head = httparse::Request::new(&mut lines);
    if !matches!(head.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let has = |name: &http::HeaderName| {
        let mut lines = head.headers.iter();
        lines.any(|line| line.name.eq_ignore_ascii_case(name.as_str()))
    };
    assert_eq!(seen, has(&CONTENT_LENGTH) && has(&TRANSFER_ENCODING));
}
