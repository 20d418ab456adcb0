//! The head of a machine's answer, and where its body ends (RFC 9112 4 and 6.3).

use crate::limits;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use std::mem::MaybeUninit;

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    Chunked,
    /// With the connection.
    UntilClose,
}

/// A head that is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("its answer is no HTTP/1: {0}")]
    Syntax(httparse::Error),
    #[error("its answer cannot be read: {0}")]
    Lines(&'static str),
}

/// What a head says.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    /// Whether the connection may be used again.
    pub(crate) is_kept: bool,
    /// How many bytes it has.
    pub(crate) length: usize,
}

/// Whether all of a head has come.
pub(crate) fn is_whole(bytes: &[u8]) -> Result<bool, BadAnswer> {
    let mut lines = [MaybeUninit::uninit(); limits::HEADER_LINES_MAX];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut head, bytes, &mut lines);
    Ok(parsed.map_err(BadAnswer::Syntax)?.is_complete())
}

/// Reads a head, if all of it has come.
pub(crate) fn read(bytes: &Bytes, method: &Method) -> Result<Option<AnswerHead>, BadAnswer> {
    let mut lines = [MaybeUninit::uninit(); limits::HEADER_LINES_MAX];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut head, bytes, &mut lines)
        .map_err(BadAnswer::Syntax)?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(head.code.unwrap_or_default())
        .map_err(|_| BadAnswer::Lines("the status is none"))?;
    let is_1_1 = head.version == Some(1);
    let mut headers = HeaderMap::with_capacity(head.headers.len() + LINES_ADDED);
    for line in head.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes())
            .map_err(|_| BadAnswer::Lines("a name is none"))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value))
            .map_err(|_| BadAnswer::Lines("a value is none"))?;
        headers.append(name, value);
    }
    let framing = framing(&headers, status, method, is_1_1)?;
    let is_kept = framing != Framing::UntilClose
        && status != StatusCode::SWITCHING_PROTOCOLS
        && keeps(&headers, is_1_1);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    *response.version_mut() = if is_1_1 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    Ok(Some(AnswerHead {
        response,
        framing,
        is_kept,
        length,
    }))
}

/// Those that the edge adds for the client.
const LINES_ADDED: usize = 4;

fn framing(
    headers: &HeaderMap,
    status: StatusCode,
    method: &Method,
    is_1_1: bool,
) -> Result<Framing, BadAnswer> {
    let length = length(headers)?;
    let is_bare = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *method == Method::HEAD;
    if is_bare {
        return Ok(Framing::Length(0));
    }
    if let Some(last) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        if !is_1_1 {
            return Err(BadAnswer::Lines("HTTP/1.0 knows no transfer coding"));
        }
        let mut codings = last.as_bytes().split(|byte| *byte == b',');
        let last = codings.next_back().unwrap_or_default().trim_ascii();
        let is_chunked = last.eq_ignore_ascii_case(b"chunked");
        return Ok(if is_chunked {
            Framing::Chunked
        } else {
            Framing::UntilClose
        });
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// The length, which may be said more than once if it is always the same.
fn length(headers: &HeaderMap) -> Result<Option<u64>, BadAnswer> {
    const BAD: BadAnswer = BadAnswer::Lines("the lengths are no number, or not the same");
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for text in value.as_bytes().split(|byte| *byte == b',') {
            let length = digits(text.trim_ascii()).ok_or(BAD)?;
            if found.is_some_and(|found| found != length) {
                return Err(BAD);
            }
            found = Some(length);
        }
    }
    Ok(found)
}

/// A number of nothing but digits.
fn digits(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn keeps(headers: &HeaderMap, is_1_1: bool) -> bool {
    let says = |word: &str| {
        headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    if is_1_1 {
        !says("close")
    } else {
        says("keep-alive")
    }
}

#[cfg(test)]
mod tests {
    use super::{Framing, read};
    use bytes::Bytes;
    use http::Method;

    #[test]
    fn where_a_body_ends() {
        use Framing::{Chunked, Length, UntilClose};
        for (lines, expected) in [
            ("200 OK\r\nContent-Length: 5", Some((Length(5), true))),
            (
                "200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5",
                Some((Length(5), true)),
            ),
            ("200 OK\r\nContent-Length: 5\r\nContent-Length: 6", None),
            ("200 OK\r\nContent-Length: 5,", None),
            ("200 OK\r\nContent-Length: +5", None),
            ("200 OK\r\nContent-Length: 99999999999999999999", None),
            (
                "200 OK\r\nConnection: x, Close\r\nContent-Length: 0",
                Some((Length(0), false)),
            ),
            (
                "200 OK\r\nTransfer-Encoding: Chunked",
                Some((Chunked, true)),
            ),
            (
                "200 OK\r\nTransfer-Encoding: gzip, chunked",
                Some((Chunked, true)),
            ),
            (
                "200 OK\r\nTransfer-Encoding: chunked, gzip",
                Some((UntilClose, false)),
            ),
            (
                "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
                Some((Chunked, true)),
            ),
            ("200 OK", Some((UntilClose, false))),
            ("204 No\r\nContent-Length: 5", Some((Length(0), true))),
            (
                "304 No\r\nTransfer-Encoding: chunked",
                Some((Length(0), true)),
            ),
            ("101 Go\r\nUpgrade: x", Some((Length(0), false))),
            ("99 x", None),
        ] {
            let bytes = Bytes::from(format!("HTTP/1.1 {lines}\r\n\r\n"));
            let head = read(&bytes, &Method::GET);
            let found = head.ok().flatten().map(|head| (head.framing, head.is_kept));
            assert_eq!(found, expected, "{lines:?}");
        }
        let bytes = Bytes::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        let head = read(&bytes, &Method::HEAD).unwrap().unwrap();
        assert_eq!((head.framing, head.is_kept), (Length(0), true));
        let old = |lines: &str| {
            read(
                &Bytes::from(format!("HTTP/1.0 200 OK\r\n{lines}\r\n\r\n")),
                &Method::GET,
            )
        };
        assert!(!old("Content-Length: 5").unwrap().unwrap().is_kept);
        assert!(
            old("Connection: keep-alive\r\nContent-Length: 5")
                .unwrap()
                .unwrap()
                .is_kept
        );
        assert!(old("Transfer-Encoding: chunked").is_err());
        for end in 0..bytes.len() {
            assert!(read(&bytes.slice(..end), &Method::GET).unwrap().is_none());
        }
    }
}
