//! Which requests are plain: the header is there as a whole, nothing follows it, there is no
//! body, and no line asks something of this hop but whether the connection stays.

use crate::limits;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Uri};
use std::mem::MaybeUninit;

/// A plain request.
#[derive(Debug)]
pub(crate) struct PlainRequest {
    pub(crate) parts: Parts,
    /// Whether the client wants no more of this connection.
    pub(crate) is_last: bool,
}

/// Reads a plain request. `None`: it is not plain, or none; nothing of it has been used.
pub(crate) fn read(bytes: &Bytes) -> Option<PlainRequest> {
    let mut lines = [MaybeUninit::uninit(); limits::HEADER_LINES_MAX];
    let mut head = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_request_with_uninit_headers(&mut head, bytes, &mut lines);
    if !matches!(parsed, Ok(httparse::Status::Complete(length)) if length == bytes.len())
        || head.version != Some(1)
    {
        return None;
    }
    let method = match head.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "OPTIONS" => Method::OPTIONS,
        _ => return None,
    };
    let path = head.path.filter(|path| path.starts_with('/'))?;
    let path = PathAndQuery::from_maybe_shared(bytes.slice_ref(path.as_bytes())).ok()?;
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    let mut is_last = false;
    for line in head.headers {
        if is_of_this_hop(line.name) {
            if !line.name.eq_ignore_ascii_case("connection") {
                return None;
            }
            let is_close = line.value.eq_ignore_ascii_case(b"close");
            is_last |= is_close;
            if !is_close && !line.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
            continue;
        }
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).ok()?;
        headers.append(name, value);
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    let parts = request.into_parts().0;
    Some(PlainRequest { parts, is_last })
}

/// Whether a line speaks to this hop, or of a body.
fn is_of_this_hop(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    // Most names begin otherwise.
    let first = name.as_bytes().first().map(u8::to_ascii_lowercase);
    matches!(first, Some(b'c' | b'e' | b'h' | b'p' | b't' | b'u'))
        && NAMES.iter().any(|one| name.eq_ignore_ascii_case(one))
}

#[cfg(test)]
mod tests {
    use super::read;
    use bytes::Bytes;

    #[test]
    fn what_is_plain() {
        for (text, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(false)),
            ("GET /a?b HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n", Some(false)),
            (
                "HEAD / HTTP/1.1\r\nconnection: Keep-Alive\r\n\r\n",
                Some(false),
            ),
            (
                "OPTIONS /a HTTP/1.1\r\nConnection: close\r\n\r\n",
                Some(true),
            ),
            (
                "GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
                Some(true),
            ),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nG", None),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nConnection: close, x\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nEXPECT: 100-continue\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nTE: trailers\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nTrailer: x\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHTTP2-Settings: x\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nProxy-Connection: x\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nX : 1\r\n\r\n", None),
            ("GET /\x7f HTTP/1.1\r\n\r\n", None),
            ("", None),
        ] {
            let request = read(&Bytes::from(text));
            assert_eq!(request.map(|request| request.is_last), expected, "{text:?}");
        }
    }
}
