//! What a server may not do, and what becomes of the request and of the connection.

use super::*;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

/// More frames than a second may have, also when a slow machine takes some seconds for them.
const FLOOD: usize = 50_000;

/// A frame of any kind.
fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

type Lines = &'static [(&'static str, &'static str)];
/// Answers: the header, the body if there is one, the trailers if there are some.
const MALFORMED: [(Lines, Option<&str>, Option<Lines>); 22] = [
    (&[("x-a", "b")], None, None),
    (&[(":status", "20")], None, None),
    (&[(":status", "2000")], None, None),
    (&[(":status", "")], None, None),
    (&[(":status", "101")], Some(""), None),
    (&[(":status", "100")], None, None),
    (&[("x-a", "b"), (":status", "200")], None, None),
    (&[(":status", "200"), (":status", "200")], None, None),
    (&[(":status", "200"), (":path", "/")], None, None),
    (&[(":status", "200"), (":other", "/")], None, None),
    (&[(":status", "200"), ("X-A", "b")], None, None),
    (&[(":status", "200"), ("x-a", "b\n")], None, None),
    (&[(":status", "200"), ("connection", "close")], None, None),
    (
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        Some("a"),
        None,
    ),
    (
        &[(":status", "200"), ("content-length", "x")],
        Some("a"),
        None,
    ),
    (
        &[
            (":status", "200"),
            ("content-length", "1"),
            ("content-length", "2"),
        ],
        Some("a"),
        None,
    ),
    (&[(":status", "200"), ("content-length", "2")], None, None),
    (
        &[(":status", "200"), ("content-length", "2")],
        Some("a"),
        None,
    ),
    (
        &[(":status", "200"), ("content-length", "2")],
        Some("abc"),
        None,
    ),
    (
        &[(":status", "200"), ("content-length", "2")],
        Some("a"),
        Some(&[("x-a", "b")]),
    ),
    (
        &[(":status", "200")],
        Some("a"),
        Some(&[(":status", "200")]),
    ),
    (&[(":status", "304")], Some("a"), None),
];

#[tokio::test]
async fn a_stream_that_breaks_the_protocol_is_reset_and_others_go_on() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let ok = (":status", "200");
    let length = ("content-length", "2");
    for (head, body, trailers) in MALFORMED {
        let asked = get(&sender).await;
        let stream = server.request().await;
        server.write_headers(stream, head, body.is_none() && trailers.is_none());
        if let Some(body) = body {
            server.write_data(stream, body.as_bytes(), trailers.is_none());
        }
        if let Some(trailers) = trailers {
            server.write_headers(stream, trailers, true);
        }
        server.flush().await;
        let error = outcome(asked).await.expect_err("a malformed answer");
        assert!(
            error.contains("does not hold to HTTP/2"),
            "{head:?}: {error}"
        );
        assert_eq!(
            server.reset().await,
            (stream, Code::PROTOCOL_ERROR),
            "{head:?}"
        );
    }
    // Trailers that are not the end, a body before its header.
    let asked = get(&sender).await;
    let stream = server.request().await;
    server.write_headers(stream, &[ok], false);
    server.headers(stream, &[("x-a", "b")], false).await;
    assert!(outcome(asked).await.is_err());
    let asked = get(&sender).await;
    let stream = server.request().await;
    server.data(stream, b"a", true).await;
    assert!(outcome(asked).await.is_err());
    // After the end, while the request goes on.
    let asked = ask(&sender, "POST", Scripted::default());
    let stream = server.request().await;
    server.headers(stream, &[ok], true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ");
    server.data(stream, b"a", true).await;
    server
        .until(|seen| *seen == Seen::Reset(stream, Code::STREAM_CLOSED))
        .await;
    // Others go on.
    let asked = get(&sender).await;
    let stream = server.request().await;
    server.write_headers(stream, &[ok, length], false);
    server.data(stream, b"ok", true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ok");
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused_and_others_go_on() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let long = "x".repeat(2000);
    let many = [("a", "b"); 21];
    let status = [(":status", "200")];
    for lines in [
        [&status[..], &[("x-a", &long)]].concat(),
        [&status[..], &many].concat(),
    ] {
        let asked = get(&sender).await;
        let stream = server.request().await;
        server.headers(stream, &lines, false).await;
        let error = outcome(asked).await.unwrap_err();
        assert_eq!(error, "its answer has too long a header");
        assert_eq!(server.reset().await, (stream, Code::CANCEL));
    }
    let asked = get(&sender).await;
    let stream = server.request().await;
    server.headers(stream, &status, true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ");
}

#[tokio::test]
async fn a_header_in_many_frames_is_one() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let asked = get(&sender).await;
    server.request().await;
    let mut block = Vec::new();
    let mut writer = server.encoder.block(&mut block);
    writer.field(":status", b"200");
    writer.field("x-a", b"b");
    let (first, rest) = block.split_at(2);
    let (second, third) = rest.split_at(1);
    let mut bytes = raw(1, 1, 1, first);
    bytes.extend(raw(9, 0, 1, second));
    bytes.extend(raw(9, 4, 1, third));
    // Whatever pieces they come in.
    for byte in bytes {
        server.raw(|out| out.push(byte)).await;
    }
    let response = within(asked).await.unwrap().unwrap();
    assert_eq!(response.headers()["x-a"], "b");
}

/// What ends a connection, and the code.
fn breaches() -> Vec<(&'static str, Vec<u8>, Code)> {
    let (protocol, size) = (Code::PROTOCOL_ERROR, Code::FRAME_SIZE_ERROR);
    let (flow, calm) = (Code::FLOW_CONTROL_ERROR, Code::ENHANCE_YOUR_CALM);
    let repeat = |frame: Vec<u8>, n: usize| frame.repeat(n);
    let header = |flags| raw(1, flags, 1, &[0x88]);
    vec![
        ("text", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), size),
        ("a push", raw(5, 4, 1, &[0, 0, 0, 2, 0x82]), protocol),
        ("pushes", raw(4, 0, 0, &[0, 2, 0, 0, 0, 1]), protocol),
        ("a stream of its own", raw(1, 5, 2, &[0x88]), protocol),
        ("a stream to come", raw(1, 5, 3, &[0x88]), protocol),
        ("data of a stream to come", raw(0, 0, 99, b"x"), protocol),
        (
            "a reset of a stream to come",
            raw(3, 0, 3, &[0; 4]),
            protocol,
        ),
        (
            "room for a stream to come",
            raw(8, 0, 3, &[0, 0, 0, 1]),
            protocol,
        ),
        (
            "something in a header",
            [header(0), raw(6, 0, 0, &[0; 8])].concat(),
            protocol,
        ),
        (
            "another header in it",
            [header(0), raw(9, 4, 3, &[])].concat(),
            protocol,
        ),
        ("a part of no header", raw(9, 4, 1, &[0x88]), protocol),
        ("no block", raw(1, 5, 1, &[0x80]), Code::COMPRESSION_ERROR),
        (
            "a long header",
            [header(0), repeat(raw(9, 0, 1, &[0; 10_000]), 2)].concat(),
            calm,
        ),
        (
            "a header without end",
            [header(0), repeat(raw(9, 0, 1, &[]), FLOOD)].concat(),
            calm,
        ),
        (
            "much room",
            repeat(raw(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), 1),
            flow,
        ),
        ("no room", raw(8, 0, 0, &[0; 4]), protocol),
        ("a large window", raw(4, 0, 0, &[0, 4, 0x80, 0, 0, 0]), flow),
        ("empty data", repeat(raw(0, 0, 1, &[]), FLOOD), calm),
        ("priorities", repeat(raw(2, 0, 1, &[0; 5]), FLOOD), calm),
        ("unknown frames", repeat(raw(99, 0, 0, &[]), FLOOD), calm),
        ("resets", repeat(raw(3, 0, 1, &[0; 4]), FLOOD), calm),
    ]
}

#[tokio::test]
async fn a_connection_that_breaks_the_protocol_ends() {
    for (what, bytes, expected) in breaches() {
        let (sender, mut server, driver) = connected(Settings::default()).await;
        let asked = get(&sender).await;
        assert_eq!(server.request().await, 1);
        let Server { io, .. } = &mut server;
        let (mut reads, mut writes) = tokio::io::split(io);
        // It may go away before all was written.
        let written = async { drop(writes.write_all(&bytes).await) };
        let mut answer = Vec::new();
        let read = async { drop(reads.read_to_end(&mut answer).await) };
        within(async { tokio::join!(written, read) }).await;
        let mut rest = &answer[..];
        let mut last = None;
        while let Some((head, payload)) = split(rest, FRAME_BYTES_MAX).unwrap() {
            last = Some(head.read(payload).unwrap());
            rest = &rest[HEAD_BYTES + payload.len()..];
        }
        let Some(Frame::GoAway { code, .. }) = last else {
            panic!("{what}: {last:?}");
        };
        assert_eq!(code, expected, "{what}");
        assert!(outcome(asked).await.is_err(), "{what}");
        within(driver).await.unwrap();
    }
}

#[tokio::test]
async fn a_first_frame_that_is_no_settings_ends_the_connection() {
    let (sender, mut server, driver) = started().await;
    let asked = get(&sender).await;
    server.raw(|out| write_ping(out, [0; 8], false)).await;
    let error = outcome(asked).await.unwrap_err();
    assert!(error.contains("does not begin with settings"), "{error}");
    assert_eq!(server.goaway().await, Code::PROTOCOL_ERROR);
    within(driver).await.unwrap();
}

#[tokio::test]
async fn one_request_goes_before_the_settings_and_others_wait_for_them() {
    let (sender, mut server, _driver) = started().await;
    let asked = [get(&sender).await, get(&sender).await, get(&sender).await];
    assert_eq!(server.request().await, 1);
    assert!(!sender.is_full());
    server
        .raw(|out| write_settings(out, &Settings::default()))
        .await;
    // Nothing came between the first one and the answer to the settings.
    assert_eq!(within(server.next()).await, Seen::SettingsAck);
    for stream in [3, 5] {
        assert_eq!(server.request().await, stream);
    }
    // As many as it is let have.
    assert!(!sender.is_full());
    drop(asked);
}

#[tokio::test]
async fn questions_whose_answers_nobody_reads_end_the_connection() {
    let (sender, mut server, driver) = connected(Settings::default()).await;
    let asked = get(&sender).await;
    assert_eq!(server.request().await, 1);
    let mut pings = Vec::new();
    for _ in 0..8000 {
        write_ping(&mut pings, [0; 8], false);
    }
    // More than the pipe and the buffers hold; the server never reads.
    let Server { io, .. } = &mut server;
    within(async {
        while io.write_all(&pings).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(outcome(asked).await.is_err());
    within(driver).await.unwrap();
}

#[tokio::test]
async fn requests_that_leave_fill_no_memory_while_nobody_reads() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    server.raw(|out| write_window_update(out, 0, 1 << 24)).await;
    let n_waiting = || sender.0.0.state.lock().out.len();
    // The pipe is full long before the last of them.
    for n in 0..1000 {
        let asked = ask(&sender, "POST", Scripted::whole(&[b'x'; 1000]));
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        asked.abort();
        let _ = asked.await;
        assert!(n_waiting() < 80_000, "{n}: {} bytes", n_waiting());
    }
    // Who waits for room is sent when the server reads again.
    let asked = get(&sender).await;
    tokio::task::yield_now().await;
    assert!(n_waiting() >= 60_000, "{} bytes", n_waiting());
    let seen = server.until(|seen| matches!(seen, Seen::Headers(_, _, true)));
    let Seen::Headers(stream, ..) = seen.await else {
        unreachable!()
    };
    server.headers(stream, &[(":status", "200")], true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ");
}

#[tokio::test]
async fn a_server_that_takes_fewer_streams_gets_no_more_of_them() {
    let (sender, mut server, _driver) = connected(Settings {
        max_concurrent_streams: Some(0),
        ..Settings::default()
    })
    .await;
    let asked = [get(&sender).await, get(&sender).await];
    assert!(sender.is_full());
    server.raw(|out| write_ping(out, [0; 8], false)).await;
    assert_eq!(within(server.next()).await, Seen::PingAck);
    let settings = Settings {
        max_concurrent_streams: Some(1),
        ..Settings::default()
    };
    server.raw(|out| write_settings(out, &settings)).await;
    for (n, asked) in (0..).zip(asked) {
        // One, and the other when it has ended.
        let stream = server.request().await;
        assert_eq!(stream, n * 2 + 1);
        server.raw(|out| write_ping(out, [0; 8], false)).await;
        assert_eq!(
            server.until(|seen| *seen != Seen::SettingsAck).await,
            Seen::PingAck
        );
        server.headers(stream, &[(":status", "200")], true).await;
        drop(asked);
    }
}
