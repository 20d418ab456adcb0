//! What the fields of a request say (RFC 9113 8.3.1 and 8.5, RFC 8441 4).

use crate::fields::{Fields, Malformed};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

/// The protocol that an extended CONNECT asks for (RFC 8441 4), among the extensions of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol(pub Bytes);

/// The head of a request.
pub(super) fn head(fields: Fields) -> Result<Parts, Malformed> {
    if let Some(fault) = fields.fault {
        return Err(fault);
    }
    if fields.status.is_some() {
        return Err(Malformed("it has a status"));
    }
    let method = fields.method.ok_or(Malformed("it has no method"))?;
    let method = Method::from_bytes(&method).map_err(|_| Malformed("its method is none"))?;
    let is_connect = method == Method::CONNECT;
    if fields.protocol.is_some() && !is_connect {
        return Err(Malformed("it has a protocol and is no CONNECT"));
    }
    let mut uri = http::uri::Parts::default();
    if let Some(authority) = fields.authority {
        let authority = Authority::from_maybe_shared(authority);
        uri.authority = Some(authority.map_err(|_| Malformed("its authority is none"))?);
    }
    if is_connect && fields.protocol.is_none() {
        if fields.scheme.is_some() || fields.path.is_some() || uri.authority.is_none() {
            return Err(Malformed(
                "a CONNECT has an authority, and no scheme or path",
            ));
        }
    } else {
        let scheme = scheme(&fields.scheme.ok_or(Malformed("it has no scheme"))?)?;
        // The type knows no scheme without an authority.
        uri.scheme = uri.authority.is_some().then_some(scheme);
        uri.path_and_query = Some(path(fields.path.ok_or(Malformed("it has no path"))?)?);
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = Uri::from_parts(uri).map_err(|_| Malformed("its target is none"))?;
    parts.version = Version::HTTP_2;
    parts.headers = fields.headers;
    if let Some(protocol) = fields.protocol {
        parts.extensions.insert(Protocol(protocol));
    }
    Ok(parts)
}

fn scheme(scheme: &[u8]) -> Result<Scheme, Malformed> {
    match scheme {
        b"https" => Ok(Scheme::HTTPS),
        b"http" => Ok(Scheme::HTTP),
        other => Scheme::try_from(other).map_err(|_| Malformed("its scheme is none")),
    }
}

fn path(path: Bytes) -> Result<PathAndQuery, Malformed> {
    if path.first() != Some(&b'/') && path != "*" {
        return Err(Malformed("its path does not begin with a slash"));
    }
    PathAndQuery::from_maybe_shared(path).map_err(|_| Malformed("its path is none"))
}

/// The length that a message says it has (RFC 9110 8.6).
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    const BAD: Malformed = Malformed("its lengths are no number, or not the same");
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for text in value.as_bytes().split(|byte| *byte == b',') {
            let text = text.trim_ascii();
            if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
                return Err(BAD);
            }
            let length = std::str::from_utf8(text).map_err(|_| BAD)?;
            let length = length.parse::<u64>().map_err(|_| BAD)?;
            if found.is_some_and(|found| found != length) {
                return Err(BAD);
            }
            found = Some(length);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{content_length, head};
    use crate::fields::Fields;
    use crate::hpack::{Decoder, Encoder};
    use http::HeaderMap;

    fn read(lines: &[(&str, &str)]) -> Result<String, String> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new();
        let mut block = encoder.block(&mut bytes);
        for (name, value) in lines {
            block.field(name, value.as_bytes());
        }
        let fields = Fields::decode(&mut Decoder::new(), &bytes, 1000, 10).unwrap();
        let parts = head(fields).map_err(|fault| fault.0.to_owned())?;
        Ok(format!("{} {}", parts.method, parts.uri))
    }

    #[test]
    fn what_a_request_is() {
        let (m, s, a, p) = (
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a.b"),
            (":path", "/x?y"),
        );
        let connect = (":method", "CONNECT");
        let websocket = (":protocol", "websocket");
        for (lines, expected) in [
            (&[m, s, a, p][..], Some("GET https://a.b/x?y")),
            (&[m, s, p, ("host", "a.b")], Some("GET /x?y")),
            (
                &[(":method", "OPTIONS"), s, a, (":path", "*")],
                Some("OPTIONS https://a.b*"),
            ),
            (&[connect, (":authority", "a.b:80")], Some("CONNECT a.b:80")),
            (
                &[connect, websocket, s, a, p],
                Some("CONNECT https://a.b/x?y"),
            ),
            (&[s, a, p], None),
            (&[m, a, p], None),
            (&[m, s, a], None),
            (&[(":method", "G T"), s, a, p], None),
            (&[m, (":scheme", "h p"), a, p], None),
            (&[m, s, (":authority", ""), p], None),
            (&[m, s, (":authority", "a b"), p], None),
            (&[m, s, a, (":path", "")], None),
            (&[m, s, a, (":path", "x")], None),
            (&[m, s, a, (":path", "/a b")], None),
            (&[m, s, a, p, (":status", "200")], None),
            (&[m, s, a, p, websocket], None),
            (&[connect, a, p], None),
            (&[connect, s], None),
            (&[connect, websocket, s, a], None),
        ] {
            let found = read(lines);
            let expected_ok = expected.map(str::to_owned);
            assert_eq!(found.clone().ok(), expected_ok, "{lines:?}: {found:?}");
        }
    }

    #[test]
    fn a_length_is_a_number_and_always_the_same() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&["5"], Ok(Some(5))),
            (&["5", "5, 5"], Ok(Some(5))),
            (&["5", "6"], Err(())),
            (&["+5"], Err(())),
            (&[""], Err(())),
            (&["5,"], Err(())),
            (&["99999999999999999999"], Err(())),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-length", value.parse().unwrap());
            }
            assert_eq!(
                content_length(&headers).map_err(|_| ()),
                expected,
                "{values:?}"
            );
        }
    }
}
