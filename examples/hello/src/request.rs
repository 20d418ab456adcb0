//! Reads just enough of HTTP/1.1 for an app that takes no bodies.

use std::io::{self, BufRead, Read as _};

/// Largest request head.
const HEAD_BYTES_MAX: u64 = 16 * 1024;
/// Largest body that is read and thrown away to keep the connection.
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// A request. A malformed one has the method `BAD`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The method.
    pub(crate) method: String,
    /// The path without the query.
    pub(crate) path: String,
    /// Whether the client wants to send more on this connection.
    pub(crate) keep_alive: bool,
}

impl Request {
    fn malformed() -> Self {
        Self {
            method: "BAD".into(),
            path: String::new(),
            keep_alive: false,
        }
    }
}

/// Reads the next request; `None` when the client has closed the connection.
pub(crate) fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    let mut limited = reader.by_ref().take(HEAD_BYTES_MAX);
    loop {
        let line_start = head.len();
        if limited.read_until(b'\n', &mut head)? == 0 {
            // End of stream before a request is a goodbye, within one it is an error.
            return Ok((!head.is_empty()).then(Request::malformed));
        }
        let line = &head[line_start..];
        if line_start > 0 && matches!(line, b"\r\n" | b"\n") {
            break;
        }
    }
    let Ok(head) = std::str::from_utf8(&head) else {
        return Ok(Some(Request::malformed()));
    };
    let Some((request, body_bytes)) = parse(head) else {
        return Ok(Some(Request::malformed()));
    };
    io::copy(&mut reader.by_ref().take(body_bytes), &mut io::sink())?;
    Ok(Some(request))
}

/// The request and the length of its body.
fn parse(head: &str) -> Option<(Request, u64)> {
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if !target.starts_with('/') || !version.starts_with("HTTP/1.") || words.next().is_some() {
        return None;
    }
    let mut keep_alive = version == "HTTP/1.1";
    let mut body_bytes = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" if value.eq_ignore_ascii_case("close") => keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => keep_alive = true,
            "content-length" => body_bytes = value.parse().ok()?,
            "transfer-encoding" => return None,
            _ => {}
        }
    }
    if body_bytes > BODY_BYTES_MAX {
        return None;
    }
    let path = target.split('?').next().unwrap_or(target).to_owned();
    Some((
        Request {
            method: method.to_owned(),
            path,
            keep_alive,
        },
        body_bytes,
    ))
}

#[cfg(test)]
mod tests {
    use super::read_request;

    #[test]
    fn two_requests_on_one_connection_are_told_apart_even_with_a_body() {
        let text = "POST /a?b HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET / HTTP/1.0\r\n\r\n";
        let mut reader = text.as_bytes();
        let first = read_request(&mut reader).unwrap().unwrap();
        assert_eq!(
            (first.method.as_str(), first.path.as_str(), first.keep_alive),
            ("POST", "/a", true)
        );
        let second = read_request(&mut reader).unwrap().unwrap();
        assert_eq!((second.method.as_str(), second.keep_alive), ("GET", false));
        assert_eq!(read_request(&mut reader).unwrap(), None);
    }

    #[test]
    fn what_is_not_a_request_is_malformed_and_ends_the_connection() {
        let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(100_000));
        let cases = [
            "hello\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            endless.as_str(),
            "POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
        ];
        for text in cases {
            let request = read_request(&mut text.as_bytes()).unwrap().unwrap();
            assert_eq!(
                (request.method.as_str(), request.keep_alive),
                ("BAD", false),
                "{text:.40}"
            );
        }
    }
}
