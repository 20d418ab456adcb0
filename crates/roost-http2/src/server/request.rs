//! What the fields of a request say (RFC 9113 8.3.1 and 8.5, RFC 8441 4).

use crate::fields::{Fields, Malformed, content_length};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

/// The protocol that an extended CONNECT asks for (RFC 8441 4), among the extensions of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol(pub Bytes);

/// The head of a request.
pub(super) fn head(fields: Box<Fields>) -> Result<Parts, Malformed> {
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
    join_cookies(&mut parts.headers)?;
    if is_connect && parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(Malformed("a CONNECT has no content (RFC 9110 9.3.6)"));
    }
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

/// Cookies may come one by one; who reads HTTP/1 behind this knows one line of them (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Malformed> {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return Ok(());
    }
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let line = cookies.collect::<Vec<&[u8]>>().join(&b"; "[..]);
    let line = HeaderValue::from_maybe_shared(Bytes::from(line));
    headers.insert(COOKIE, line.map_err(|_| Malformed("its cookies are none"))?);
    Ok(())
}

/// The length that a request says it has: once, as a number. Who gets it by HTTP/1 is to have no
/// choice how to read it (RFC 9110 8.6).
pub(super) fn only_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let is_list = values
        .next()
        .is_some_and(|value| !value.as_bytes().iter().all(u8::is_ascii_digit));
    if is_list || values.next().is_some() {
        return Err(Malformed(
            "its length is no number, or there is more than one",
        ));
    }
    content_length(headers)
}

#[cfg(test)]
mod tests {
    use super::{head, only_length};
    use crate::fields::Fields;
    use crate::hpack::{Decoder, Encoder};
    use http::HeaderMap;

    fn decoded(lines: &[(&str, &str)]) -> Box<Fields> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new();
        let mut block = encoder.block(&mut bytes);
        for (name, value) in lines {
            block.field(name, value.as_bytes());
        }
        Fields::decode(&mut Decoder::new(), &bytes, 1000, 10).unwrap()
    }

    fn read(lines: &[(&str, &str)]) -> Result<String, String> {
        let parts = head(decoded(lines)).map_err(|fault| fault.0.to_owned())?;
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
            (
                &[connect, websocket, s, a, p, ("content-length", "0")],
                None,
            ),
        ] {
            let found = read(lines);
            let expected_ok = expected.map(str::to_owned);
            assert_eq!(found.clone().ok(), expected_ok, "{lines:?}: {found:?}");
        }
    }

    #[test]
    fn cookies_become_one_line() {
        let lines = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/"),
            ("cookie", "a=1"),
            ("x", "y"),
            ("cookie", "b=2; c=3"),
        ];
        let fields = decoded(&lines);
        let headers = head(fields).unwrap().headers;
        let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_length_is_a_number_said_once() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&["5"], Ok(Some(5))),
            (&["5", "5"], Err(())),
            (&["5, 5"], Err(())),
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
                only_length(&headers).map_err(|_| ()),
                expected,
                "{values:?}"
            );
        }
    }
}
