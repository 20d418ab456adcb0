//! HTTP/2 as RFC 9113 has it, frame by frame.

use crate::raw::{
    CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, http2,
    next_frame, nothing_is_left, recorder, request_fields,
};
use crate::world::World;
use std::collections::BTreeMap;
use tokio::io::AsyncWriteExt as _;

/// The error codes of RFC 9113 7.
pub(crate) const PROTOCOL: u32 = 1;
pub(crate) const FLOW_CONTROL: u32 = 3;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;
/// Flags of RFC 9113 6.
const ACK: u8 = 1;
const PADDED: u8 = 8;
/// The stream of the request that is sent after each case.
const CONTROL: u32 = 101;

/// What the edge does about what it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// The connection ends with this code.
    Goaway(u32),
    /// The stream ends with this code, and the connection goes on.
    Reset(u32),
    /// The stream is answered with this status, and the connection goes on.
    Answer(u16),
    /// Nothing, and the connection goes on.
    Nothing,
}
use Done::{Answer, Goaway, Nothing, Reset};

/// The status in a header block, of those that have a short form (RFC 7541 A); 0 is another.
fn status(block: &[u8]) -> u16 {
    match block.first() {
        Some(0x88) => 200,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        _ => 0,
    }
}

/// Sends these frames and a good request after them; what became of the first stream, or of all.
async fn done(world: &World, frames: &[u8]) -> Done {
    let mut stream = http2(world, &[]).await;
    let good = frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        CONTROL,
        &request_fields("/control"),
    );
    // The edge may end the connection before it has taken all.
    let _ = stream.write_all(&[frames, &good].concat()).await;
    let mut of_streams = BTreeMap::new();
    loop {
        let Some((kind, id, payload)) = next_frame(&mut stream).await else {
            panic!("the connection ended without a GOAWAY");
        };
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match (kind, id) {
            (GOAWAY, _) => return Goaway(code(4)),
            (HEADERS, CONTROL) => break,
            (RST_STREAM, CONTROL) => panic!("the good request was reset: {}", code(0)),
            (RST_STREAM, id) => drop(of_streams.insert(id, Reset(code(0)))),
            (HEADERS, id) => drop(of_streams.entry(id).or_insert(Answer(status(&payload)))),
            _ => {}
        }
    }
    // Answers may come in any order.
    while of_streams.is_empty() && frames_open_a_stream(frames) {
        match next_frame(&mut stream).await.expect("it goes on") {
            (RST_STREAM, id, payload) => {
                let code = u32::from_be_bytes(payload[..4].try_into().unwrap());
                of_streams.insert(id, Reset(code));
            }
            (HEADERS, id, payload) => drop(of_streams.insert(id, Answer(status(&payload)))),
            (GOAWAY, _, payload) => {
                return Goaway(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            _ => {}
        }
    }
    of_streams.into_values().next().unwrap_or(Nothing)
}

/// Whether the first frame is a whole header block.
fn frames_open_a_stream(frames: &[u8]) -> bool {
    frames.get(3) == Some(&HEADERS)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

pub(crate) fn get(id: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, id, &request_fields(path))
}

/// A request whose body follows.
pub(crate) fn post(id: u32, more: &[u8]) -> Vec<u8> {
    let fields = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":authority", "app.localhost"),
        field(":path", "/post"),
        more.to_vec(),
    ];
    frame(HEADERS, END_HEADERS, id, &fields.concat())
}

pub(crate) async fn check(cases: Vec<(&str, Done, Vec<u8>)>) {
    let world = World::new().await;
    let log = recorder(&world).await;
    let mut wrong = Vec::new();
    for (what, expected, frames) in cases {
        let done = done(&world, &frames).await;
        // The app has seen the good request, and no other unless it was answered.
        let seen: Vec<String> = log.lock().drain(..).map(|seen| seen.line).collect();
        let others = seen.iter().filter(|line| *line != "GET /control").count();
        if done != expected || others != usize::from(expected == Answer(200)) {
            wrong.push(format!("{what}: {done:?}, {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    nothing_is_left(&world, 1).await;
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection_with_the_right_code() {
    let window = |by: u32| by.to_be_bytes();
    check(vec![
        // 4.1, 4.2
        (
            "an unknown kind of frame",
            Nothing,
            frame(0xbb, 0xff, 0, b"x"),
        ),
        (
            "a frame that is too large",
            Goaway(FRAME_SIZE),
            frame(DATA, 0, 1, &[0; 16_385]),
        ),
        (
            "a HEADERS that is too large",
            Goaway(FRAME_SIZE),
            frame(HEADERS, 4, 1, &[0; 16_385]),
        ),
        // 4.3
        (
            "a header block that is none",
            Goaway(COMPRESSION),
            frame(HEADERS, 5, 1, &[0xff; 12]),
        ),
        (
            "an index beyond the table",
            Goaway(COMPRESSION),
            frame(HEADERS, 5, 1, &[0xc5]),
        ),
        (
            "another frame within a header block",
            Goaway(PROTOCOL),
            [
                frame(HEADERS, END_STREAM, 1, &request_fields("/")),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        // 5.1
        (
            "DATA on an idle stream",
            Goaway(PROTOCOL),
            frame(DATA, END_STREAM, 1, b"x"),
        ),
        (
            "RST_STREAM on an idle stream",
            Goaway(PROTOCOL),
            frame(RST_STREAM, 0, 1, &window(CANCEL)),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            Goaway(PROTOCOL),
            frame(WINDOW_UPDATE, 0, 1, &window(1)),
        ),
        // 5.1.1
        ("a stream of even number", Goaway(PROTOCOL), get(2, "/")),
        (
            "a stream of smaller number",
            Goaway(PROTOCOL),
            [post(5, &[]), get(3, "/")].concat(),
        ),
        // 6
        (
            "DATA without a stream",
            Goaway(PROTOCOL),
            frame(DATA, 0, 0, b"x"),
        ),
        (
            "HEADERS without a stream",
            Goaway(PROTOCOL),
            frame(HEADERS, 5, 0, &request_fields("/")),
        ),
        (
            "more padding than frame",
            Goaway(PROTOCOL),
            [post(1, &[]), frame(DATA, PADDED, 1, &[9, 1, 2])].concat(),
        ),
        (
            "HEADERS with more padding than frame",
            Goaway(PROTOCOL),
            frame(HEADERS, 5 | PADDED, 1, &[200, 1]),
        ),
        (
            "PRIORITY without a stream",
            Goaway(PROTOCOL),
            frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 1]),
        ),
        (
            "RST_STREAM without a stream",
            Goaway(PROTOCOL),
            frame(RST_STREAM, 0, 0, &window(CANCEL)),
        ),
        (
            "RST_STREAM of three bytes",
            Goaway(FRAME_SIZE),
            [post(1, &[]), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
        ),
        (
            "SETTINGS on a stream",
            Goaway(PROTOCOL),
            frame(SETTINGS, 0, 1, &[]),
        ),
        (
            "SETTINGS of five bytes",
            Goaway(FRAME_SIZE),
            frame(SETTINGS, 0, 0, &[0; 5]),
        ),
        (
            "an acknowledgement with settings",
            Goaway(FRAME_SIZE),
            frame(SETTINGS, ACK, 0, &setting(1, 1)),
        ),
        (
            "push that is neither on nor off",
            Goaway(PROTOCOL),
            frame(SETTINGS, 0, 0, &setting(2, 2)),
        ),
        (
            "a window above 31 bits",
            Goaway(FLOW_CONTROL),
            frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 1 << 31)),
        ),
        (
            "a frame size below the least",
            Goaway(PROTOCOL),
            frame(SETTINGS, 0, 0, &setting(5, 16_383)),
        ),
        (
            "a frame size above the most",
            Goaway(PROTOCOL),
            frame(SETTINGS, 0, 0, &setting(5, 1 << 24)),
        ),
        (
            "an unknown setting",
            Nothing,
            frame(SETTINGS, 0, 0, &setting(0xff, 1)),
        ),
        (
            "PUSH_PROMISE from a client",
            Goaway(PROTOCOL),
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        (
            "PING on a stream",
            Goaway(PROTOCOL),
            frame(PING, 0, 1, &[0; 8]),
        ),
        (
            "PING of seven bytes",
            Goaway(FRAME_SIZE),
            frame(PING, 0, 0, &[0; 7]),
        ),
        (
            "PING that answers nothing",
            Nothing,
            frame(PING, ACK, 0, &[7; 8]),
        ),
        (
            "GOAWAY on a stream",
            Goaway(PROTOCOL),
            frame(GOAWAY, 0, 1, &[0; 8]),
        ),
        (
            "WINDOW_UPDATE by nothing",
            Goaway(PROTOCOL),
            frame(WINDOW_UPDATE, 0, 0, &window(0)),
        ),
        (
            "WINDOW_UPDATE of three bytes",
            Goaway(FRAME_SIZE),
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
        ),
        (
            "WINDOW_UPDATE beyond 31 bits",
            Goaway(FLOW_CONTROL),
            frame(WINDOW_UPDATE, 0, 0, &window(0x7fff_ffff)),
        ),
        (
            "CONTINUATION of nothing",
            Goaway(PROTOCOL),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_preface_that_is_none_gets_no_http2() {
    let world =
        World::with(|config| config.timeouts.header = std::time::Duration::from_secs(1)).await;
    let log = recorder(&world).await;
    for (bytes, expected) in [
        // As HTTP/1 these are bad requests.
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"[..], "HTTP/1.1 400"),
        (
            b"PRI * HTTP/1.1\r\nHost: app.localhost\r\n\r\n",
            "HTTP/1.1 400",
        ),
        (b"PRI * HTTP/2.0\r\n\r\n", ""),
    ] {
        let answer = world.raw(bytes).await;
        assert!(answer.starts_with(expected), "{answer:?}");
        assert_eq!(answer.is_empty(), expected.is_empty(), "{answer:?}");
    }
    assert!(log.lock().is_empty());
    nothing_is_left(&world, 1).await;
}
