//! HTTP/2 requests as RFC 9113 has them, and what it calls malformed.

use crate::h2_conformance::Done::{Answer, Goaway, Reset};
use crate::h2_conformance::{FLOW_CONTROL, PROTOCOL, check, get, post};
use crate::raw::{
    DATA, END_HEADERS, END_STREAM, HEADERS, WINDOW_UPDATE, field, frame, request_fields,
};

/// The flag of RFC 9113 6.2.
const WITH_PRIORITY: u8 = 0x20;

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn streams_that_break_the_protocol_are_reset_and_the_others_go_on() {
    let fields = |lines: &[(&str, &str)]| {
        let lines: Vec<u8> = lines.iter().flat_map(|(n, v)| field(n, v)).collect();
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &lines)
    };
    let with = |name: &str, value: &str| {
        let lines = [request_fields("/"), field(name, value)].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &lines)
    };
    let (m, s, a, p) = (
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "app.localhost"),
        (":path", "/"),
    );
    let window = |by: u32| by.to_be_bytes();
    check(vec![
        ("a good request", Answer(200), get(1, "/")),
        ("another line", Answer(200), with("x-line", "a b: c")),
        (
            "host that agrees",
            Answer(200),
            with("host", "app.localhost"),
        ),
        ("te: trailers", Answer(200), with("te", "trailers")),
        // 5.1
        (
            "HEADERS after the end",
            Goaway(PROTOCOL),
            [get(1, "/"), get(1, "/")].concat(),
        ),
        // 5.3.2: priorities are ignored, this one as well, which RFC 7540 did not allow.
        (
            "a stream that depends on itself",
            Answer(200),
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 1, 15][..], &request_fields("/")].concat(),
            ),
        ),
        // 6.9
        (
            "a stream's WINDOW_UPDATE by nothing",
            Reset(PROTOCOL),
            [post(1, &[]), frame(WINDOW_UPDATE, 0, 1, &window(0))].concat(),
        ),
        (
            "a stream's WINDOW_UPDATE beyond 31 bits",
            Reset(FLOW_CONTROL),
            [
                post(1, &[]),
                frame(WINDOW_UPDATE, 0, 1, &window(0x7fff_ffff)),
            ]
            .concat(),
        ),
        // 8.1.1
        (
            "less body than it says",
            Reset(PROTOCOL),
            [
                post(1, &field("content-length", "3")),
                frame(DATA, END_STREAM, 1, b"ab"),
            ]
            .concat(),
        ),
        (
            "more body than it says",
            Reset(PROTOCOL),
            [
                post(1, &field("content-length", "1")),
                frame(DATA, END_STREAM, 1, b"ab"),
            ]
            .concat(),
        ),
        (
            "a length without a body",
            Reset(PROTOCOL),
            with("content-length", "3"),
        ),
        // 8.1
        (
            "trailers with a pseudo-header",
            Reset(PROTOCOL),
            [
                post(1, &[]),
                frame(HEADERS, END_STREAM | END_HEADERS, 1, &field(":path", "/")),
            ]
            .concat(),
        ),
        (
            "trailers that do not end the stream",
            Reset(PROTOCOL),
            [
                post(1, &[]),
                frame(HEADERS, END_HEADERS, 1, &field("a", "b")),
            ]
            .concat(),
        ),
        // 8.2
        ("an upper case name", Reset(PROTOCOL), with("Upper", "case")),
        (
            "a line within a value",
            Reset(PROTOCOL),
            with("x-line", "a\r\nb: c"),
        ),
        ("NUL in a value", Reset(PROTOCOL), with("x-line", "a\0b")),
        ("a space in a name", Reset(PROTOCOL), with("x line", "a")),
        ("an empty name", Reset(PROTOCOL), with("", "a")),
        // 8.2.2
        ("connection", Reset(PROTOCOL), with("connection", "close")),
        ("keep-alive", Reset(PROTOCOL), with("keep-alive", "5")),
        (
            "proxy-connection",
            Reset(PROTOCOL),
            with("proxy-connection", "close"),
        ),
        (
            "transfer-encoding",
            Reset(PROTOCOL),
            with("transfer-encoding", "chunked"),
        ),
        ("upgrade", Reset(PROTOCOL), with("upgrade", "websocket")),
        (
            "te that is not trailers",
            Reset(PROTOCOL),
            with("te", "gzip"),
        ),
        // 8.3
        (
            "a pseudo-header after a line",
            Reset(PROTOCOL),
            fields(&[m, s, a, ("x", "y"), p]),
        ),
        (
            "an unknown pseudo-header",
            Reset(PROTOCOL),
            with(":odd", "1"),
        ),
        (
            "a pseudo-header of answers",
            Reset(PROTOCOL),
            with(":status", "200"),
        ),
        // 8.3.1
        ("no method", Reset(PROTOCOL), fields(&[s, a, p])),
        ("no scheme", Reset(PROTOCOL), fields(&[m, a, p])),
        ("no path", Reset(PROTOCOL), fields(&[m, s, a])),
        (
            "an empty path",
            Reset(PROTOCOL),
            fields(&[m, s, a, (":path", "")]),
        ),
        (
            "a path without a slash",
            Reset(PROTOCOL),
            fields(&[m, s, a, (":path", "odd")]),
        ),
        (
            "a star that asks for nothing",
            Answer(400),
            fields(&[m, s, a, (":path", "*")]),
        ),
        (
            "a space in the path",
            Reset(PROTOCOL),
            fields(&[m, s, a, (":path", "/a b")]),
        ),
        ("two paths", Reset(PROTOCOL), with(":path", "/again")),
        ("two methods", Reset(PROTOCOL), with(":method", "GET")),
        (
            "two authorities",
            Reset(PROTOCOL),
            with(":authority", "app.localhost"),
        ),
        ("another host", Answer(400), with("host", "other.localhost")),
        (
            "a user in the authority",
            Answer(400),
            fields(&[m, s, (":authority", "u@app.localhost"), p]),
        ),
        ("no authority and no host", Answer(400), fields(&[m, s, p])),
        (
            "an empty authority",
            Reset(PROTOCOL),
            fields(&[m, s, (":authority", ""), p]),
        ),
        // 8.5
        (
            "CONNECT with a path",
            Reset(PROTOCOL),
            fields(&[(":method", "CONNECT"), s, a, p]),
        ),
        (
            "extended CONNECT without a path",
            Reset(PROTOCOL),
            fields(&[(":method", "CONNECT"), s, a, (":protocol", "websocket")]),
        ),
    ])
    .await;
}
