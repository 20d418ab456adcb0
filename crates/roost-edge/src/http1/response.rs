//! The head of a response to a client, as bytes, and how its body is framed.

use crate::headers;
use bytes::{BufMut as _, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::SizeHint;

/// How the client sees where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// There is none.
    Empty,
    /// It has so many bytes.
    Length(u64),
    Chunked,
}

impl Coding {
    /// The coding of a body of this size, in answer to this method.
    fn of(parts: &Parts, method: &Method, size: &SizeHint) -> Self {
        let status = parts.status;
        let is_bare = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        match size.exact() {
            _ if is_bare || method == Method::HEAD => Self::Empty,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }
}

impl Coding {
    /// The length, if it is told.
    pub(crate) fn length(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            Self::Empty | Self::Chunked => None,
        }
    }
}

/// Writes a head; the coding of the body that is to follow. The app's transfer coding has been
/// taken off already.
pub(crate) fn write_head(
    parts: &mut Parts,
    method: &Method,
    size: &SizeHint,
    is_last: bool,
    bytes: &mut Vec<u8>,
) -> Coding {
    let coding = Coding::of(parts, method, size);
    match coding {
        // Nearly always the app has said so itself.
        Coding::Length(length) if says_length(&parts.headers, length) => {}
        Coding::Length(length) => {
            parts.headers.insert(CONTENT_LENGTH, length.into());
        }
        Coding::Chunked => {
            parts.headers.remove(CONTENT_LENGTH);
        }
        Coding::Empty if parts.status == StatusCode::NO_CONTENT => {
            parts.headers.remove(CONTENT_LENGTH);
        }
        // What a GET would have had.
        Coding::Empty => {}
    }
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(parts.status.as_str().as_bytes());
    bytes.put_u8(b' ');
    let reason = parts.status.canonical_reason().unwrap_or_default();
    bytes.extend_from_slice(reason.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    write_lines(&parts.headers, bytes);
    if coding == Coding::Chunked {
        bytes.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if is_last && !parts.headers.contains_key(CONNECTION) {
        bytes.extend_from_slice(b"connection: close\r\n");
    }
    if !parts.headers.contains_key(DATE) {
        write_line("date", headers::date().as_bytes(), bytes);
    }
    bytes.extend_from_slice(b"\r\n");
    coding
}

/// Whether the headers have this length, once and in plain digits.
fn says_length(headers: &HeaderMap, length: u64) -> bool {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let (value, other) = (values.next(), values.next());
    let digits = value.map_or(&[][..], HeaderValue::as_bytes);
    let number = |sum: u64, digit: &u8| {
        let digit = char::from(*digit).to_digit(10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    };
    let is_plain = other.is_none() && (digits.len() == 1 || !digits.starts_with(b"0"));
    is_plain && !digits.is_empty() && digits.iter().try_fold(0, number) == Some(length)
}

/// Writes header lines.
pub(crate) fn write_lines(headers: &HeaderMap, bytes: &mut Vec<u8>) {
    for (name, value) in headers {
        write_line(name.as_str(), value.as_bytes(), bytes);
    }
}

/// Writes a header line.
pub(crate) fn write_line(name: &str, value: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

/// Writes a piece of a body.
pub(crate) fn write_piece(coding: Coding, piece: &Bytes, bytes: &mut Vec<u8>) {
    if coding == Coding::Chunked {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    } else {
        bytes.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::{Coding, write_head, write_piece};
    use bytes::Bytes;
    use http::{Method, Response};
    use http_body::SizeHint;

    fn written(
        status: u16,
        lines: &[(&'static str, &str)],
        method: &Method,
        size: Option<u64>,
    ) -> String {
        let mut response = Response::builder().status(status);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        let mut parts = response
            .header("date", "now")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let size = size.map_or_else(SizeHint::default, SizeHint::with_exact);
        let mut bytes = Vec::new();
        let coding = write_head(&mut parts, method, &size, false, &mut bytes);
        write_piece(coding, &Bytes::from("ab"), &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_length_is_said_once_and_truly() {
        for lengths in [&["2"][..], &["02"], &["2", "2"], &["3"], &["2, 2"], &["+2"]] {
            let lines: Vec<_> = lengths.iter().map(|it| ("content-length", *it)).collect();
            let text = written(200, &lines, &Method::GET, Some(2));
            let expected = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: now\r\n\r\nab";
            assert_eq!(text, expected, "{lengths:?}");
        }
    }

    #[test]
    fn a_body_has_one_coding() {
        let length = [("content-length", "2")];
        let chunked = "transfer-encoding: chunked\r\n";
        for (status, lines, method, size, expected) in [
            (
                200,
                &length[..],
                Method::GET,
                Some(2),
                "200 OK\r\ncontent-length: 2\r\ndate: now\r\n\r\nab",
            ),
            (
                200,
                &[],
                Method::GET,
                Some(2),
                "200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\nab",
            ),
            (
                200,
                &length,
                Method::HEAD,
                Some(0),
                "200 OK\r\ncontent-length: 2\r\ndate: now\r\n\r\nab",
            ),
            (
                304,
                &length,
                Method::GET,
                Some(0),
                "304 Not Modified\r\ncontent-length: 2\r\ndate: now\r\n\r\nab",
            ),
            (
                204,
                &length,
                Method::GET,
                Some(0),
                "204 No Content\r\ndate: now\r\n\r\nab",
            ),
            (
                799,
                &[],
                Method::GET,
                Some(0),
                "799 \r\ndate: now\r\ncontent-length: 0\r\n\r\nab",
            ),
        ] {
            assert_eq!(
                written(status, lines, &method, size),
                format!("HTTP/1.1 {expected}")
            );
        }
        let text = written(200, &length, &Method::GET, None);
        assert_eq!(
            text,
            format!("HTTP/1.1 200 OK\r\ndate: now\r\n{chunked}\r\n2\r\nab\r\n")
        );
        assert_ne!(Coding::Empty, Coding::Length(0));
    }
}
