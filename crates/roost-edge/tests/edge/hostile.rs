//! Bytes that a well-behaved client or app would not send: what reaches the
//! other side is unambiguous, and what has no end is cut off.

use crate::world::{LIMIT, World, backend, endpoint, full, says, wait_until};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as the app got it.
#[derive(Debug)]
struct Seen {
    line: String,
    headers: HeaderMap,
    body: Result<Bytes, String>,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// A machine that takes down what it gets, and says `ok`.
async fn recorder(world: &World) -> Log {
    let log = Log::default();
    let seen = log.clone();
    let address = backend(&world.tasks, move |request| {
        let seen = seen.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await;
            seen.lock().push(Seen {
                line: format!("{} {}", parts.method, parts.uri),
                headers: parts.headers,
                body: body
                    .map(|body| body.to_bytes())
                    .map_err(|error| error.to_string()),
            });
            Response::new(full("ok"))
        }
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    log
}

/// A machine that sends these pieces for each request, with a pause between them.
async fn scripted(world: &World, pieces: &'static [&'static str]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = world.tasks.clone();
    world.tasks.spawn("scripted", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tasks.spawn("scripted-connection", async move {
                let mut buffer = [0; 8192];
                while stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    for piece in pieces {
                        if stream.write_all(piece.as_bytes()).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        }
    });
    world.publish(vec![endpoint(1, address)]);
}

const HOST: &str = "Host: app.localhost\r\nConnection: close\r\n";

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn what_cannot_be_read_in_one_way_only_is_refused() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\n{HOST}{headers}\r\n{body}");
    let get = |headers: &str| format!("GET / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    let cases = [
        (post("Content-Length: 2, 2\r\n", "ab"), "a list of lengths"),
        (post("Content-Length: +2\r\n", "ab"), "a signed length"),
        (post("Content-Length: -2\r\n", "ab"), "a negative length"),
        (
            post("Content-Length: 0x2\r\n", "ab"),
            "a hexadecimal length",
        ),
        (post("Content-Length: 2 2\r\n", "ab"), "two lengths in one"),
        (post("Content-Length: \r\n", ""), "an empty length"),
        (
            post("Content-Length: 18446744073709551616\r\n", ""),
            "a length above 64 bits",
        ),
        (
            post("Content-Length: 2\r\nContent-Length: 3\r\n", "abc"),
            "two lengths",
        ),
        (
            post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
            "chunked not last",
        ),
        (
            post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
            "chunked twice",
        ),
        (
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                "0\r\n\r\n",
            ),
            "two codings",
        ),
        (
            post("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"),
            "a coding with a control",
        ),
        (
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
            "space before the colon",
        ),
        (get("Host: user@app.localhost\r\n"), "a user in Host"),
        (get("Host: app.localhost/path\r\n"), "a path in Host"),
        (
            get("Host: app.localhost:99999999\r\n"),
            "a port that is none",
        ),
        (
            get("Host: app.localhost, other.localhost\r\n"),
            "a list of hosts",
        ),
        (get("Host: \r\n"), "an empty host"),
        (get("Host: app.localhost\u{e9}\r\n"), "a host beyond ASCII"),
        (
            get("Host: app.localhost\r\nA: b\rc\r\n"),
            "a lone CR in a value",
        ),
        (get("Host: app.localhost\r\n\tA: b\r\n"), "a folded line"),
        (
            get("Host: app.localhost\r\nA(b): c\r\n"),
            "a name that is none",
        ),
        (
            get("Host: app.localhost\r\nno colon\r\n"),
            "a line without a colon",
        ),
        (
            format!("GET http://user@app.localhost/ HTTP/1.1\r\n{HOST}\r\n"),
            "a user in the address",
        ),
        (format!("GET  / HTTP/1.1\r\n{HOST}\r\n"), "two spaces"),
        (
            format!("GET / HTTP/1.1 x\r\n{HOST}\r\n"),
            "more after the version",
        ),
        (
            format!("GET /a b HTTP/1.1\r\n{HOST}\r\n"),
            "a space in the address",
        ),
        (format!("GET / HTTP/2.0\r\n{HOST}\r\n"), "another version"),
        ("GET /\r\n\r\n".to_owned(), "HTTP/0.9"),
    ];
    for (request, what) in cases {
        let answer = world.raw(&request).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(
            matches!(status, "400" | "501" | "505"),
            "{what}: {answer:?}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{what}: {answer:?}");
    }
    let seen = log.lock();
    assert!(seen.is_empty(), "the app saw none of them: {seen:?}");
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn what_may_be_written_in_several_ways_reaches_the_app_in_one() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let long = "x".repeat(900);
    let cases = [
        // A lone LF ends a line (RFC 9112 2.2); the app gets CRLF like everybody's.
        (
            format!("GET /lf HTTP/1.1\n{}\n", HOST.replace('\r', "")),
            "GET /lf",
            "",
        ),
        (
            format!(
                "POST /twice HTTP/1.1\r\n{HOST}Content-Length: 2\r\nContent-Length: 2\r\n\r\nab"
            ),
            "POST /twice",
            "ab",
        ),
        (
            format!(
                "POST /extended HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n\
                 2;a=b;c=\"d\"\r\nab\r\n1 ;{long}\r\nc\r\n0;last\r\n\r\n"
            ),
            "POST /extended",
            "abc",
        ),
        (
            format!(
                "POST /trailers HTTP/1.1\r\n{HOST}Transfer-Encoding: CHUNKED\r\n\r\n\
                 2\r\nab\r\n0\r\nHost: other.localhost\r\nContent-Length: 9\r\nFly-Client-IP: 6.6.6.6\r\n\r\n"
            ),
            "POST /trailers",
            "ab",
        ),
        (
            format!(
                "POST /named HTTP/1.1\r\n{HOST}Connection: Content-Length, Host, Fly-Client-IP, X-Gone\r\nX-Gone: 1\r\nContent-Length: 2\r\n\r\nab"
            ),
            "POST /named",
            "ab",
        ),
        (
            format!(
                "POST /named-coding HTTP/1.1\r\n{HOST}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
            ),
            "POST /named-coding",
            "ab",
        ),
        (
            "GET http://APP.localhost/absolute?q HTTP/1.1\r\nHost: app.LOCALHOST\r\nConnection: close\r\n\r\n".to_owned(),
            "GET /absolute?q",
            "",
        ),
        (format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n"), "OPTIONS *", ""),
        (
            "GET /old HTTP/1.0\r\nHost: app.localhost\r\n\r\n".to_owned(),
            "GET /old",
            "",
        ),
    ];
    for (request, line, body) in cases {
        let answer = world.raw(&request).await;
        assert_eq!(answer.split(' ').nth(1), Some("200"), "{line}: {answer}");
        let seen = log.lock().pop().expect(line);
        assert_eq!(
            (seen.line.as_str(), seen.body.as_deref()),
            (line, Ok(body.as_bytes()))
        );
        let headers = &seen.headers;
        let n_lengths = headers.get_all("content-length").iter().count();
        let n_codings = headers.get_all("transfer-encoding").iter().count();
        assert!(n_lengths + n_codings <= 1, "{line}: {headers:?}");
        assert!(
            headers["host"]
                .as_bytes()
                .eq_ignore_ascii_case(b"app.localhost"),
            "{line}"
        );
        assert_eq!(headers["fly-client-ip"], "127.0.0.1", "{line}");
        for gone in ["x-gone", "connection", "expect"] {
            assert!(!headers.contains_key(gone), "{line}: {headers:?}");
        }
        assert!(log.lock().is_empty(), "{line} arrives once");
    }
}

#[tokio::test]
async fn requests_in_one_piece_are_answered_in_order_and_nothing_after_a_refusal() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let host = "Host: app.localhost\r\n";
    let answer = world
        .raw(format!(
            "POST /1 HTTP/1.1\r\n{host}Content-Length: 2\r\n\r\nabGET /2 HTTP/1.1\r\n{host}\r\n\
             GET /3 HTTP/1.1\r\n{host}{host}\r\nGET /4 HTTP/1.1\r\n{host}\r\n"
        ))
        .await;
    let statuses: Vec<&str> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answer}");
    let lines: Vec<String> = log.lock().iter().map(|seen| seen.line.clone()).collect();
    assert_eq!(lines, ["POST /1", "GET /2"]);
}

#[tokio::test]
async fn a_broken_chunk_ends_the_request_and_the_app_sees_no_whole_body() {
    let world = World::with(|config| config.timeouts.body_idle = Duration::from_millis(300)).await;
    let log = recorder(&world).await;
    let endless = format!("2;{}", "x".repeat(200_000));
    for (body, what) in [
        ("FFFFFFFFFFFFFFFFF\r\nab", "a size above 64 bits"),
        ("-2\r\nab\r\n0\r\n\r\n", "a negative size"),
        ("0x2\r\nab\r\n0\r\n\r\n", "a size with a prefix"),
        ("2\r\nabc\r\n0\r\n\r\n", "more than the size says"),
        ("2\r\nab0\r\n\r\n", "no end of line after the chunk"),
        ("2\r\nab\r\n", "no last chunk"),
        (endless.as_str(), "an extension without an end"),
    ] {
        let head = format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n");
        let answer = world.raw(head + body).await;
        assert!(!answer.contains(" 200 "), "{what}: {answer}");
        let seen = log.lock().pop();
        assert!(seen.is_none_or(|seen| seen.body.is_err()), "{what}");
    }
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_cut_off_all_the_same() {
    let world = World::with(|config| config.timeouts.header = Duration::from_millis(200)).await;
    world.publish(vec![endpoint(1, says(&world.tasks, "ok").await)]);
    let stream = TcpStream::connect(world.http()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    world.tasks.spawn("slow-client", async move {
        let head = b"GET / HTTP/1.1\r\nHost: app.localhost\r\nX-Slow: ";
        if writing.write_all(head).await.is_err() {
            return;
        }
        while writing.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, reading.read_to_end(&mut answer));
    let _ = read.await.expect("the edge ends it");
    // The client's later bytes may reset the connection before the answer is read.
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_connection() {
    let world = World::with(|config| {
        // Also how often a connection is looked at.
        config.timeouts.header = Duration::from_secs(1);
        config.timeouts.body_idle = Duration::from_millis(300);
    })
    .await;
    let address = backend(&world.tasks, |_| async {
        Response::new(full(vec![7; 64 << 20]))
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    stream
        .write_all(format!("GET / HTTP/1.1\r\n{HOST}\r\n").as_bytes())
        .await
        .unwrap();
    stream.read_exact(&mut [0; 1024]).await.unwrap();
    let gauge = world.edge.gauge();
    let machine = crate::world::machine(1);
    assert_eq!(gauge.in_flight(&machine), 1);
    wait_until("the machine is free again", || {
        gauge.in_flight(&machine) == 0
    })
    .await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 64 << 20, "it did not get all of it");
}

#[tokio::test]
async fn answers_without_a_body_have_none_whatever_they_say_of_it() {
    let world = World::new().await;
    let client = world.client();
    for (number, status, head_only) in [(1, 200, true), (2, 304, false), (3, 204, false)] {
        let address = backend(&world.tasks, move |_| async move {
            let mut response = Response::builder().status(status);
            if status != 204 {
                response = response.header("content-length", "5");
            }
            response.header("etag", "\"x\"").body(full("")).unwrap()
        })
        .await;
        world.publish(vec![endpoint(number, address)]);
        let method = if head_only {
            http::Method::HEAD
        } else {
            http::Method::GET
        };
        for _ in 0..2 {
            let answer = client
                .request(method.clone(), world.url("/"))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status().as_u16(), status);
            let length = answer.headers().get("content-length");
            match status {
                200 => assert_eq!(length.unwrap(), "5"),
                204 => assert_eq!(length, None),
                _ => {}
            }
            assert_eq!(answer.text().await.unwrap(), "", "{status}");
        }
    }
}

#[tokio::test]
async fn an_app_that_sends_more_than_its_answer_does_not_poison_the_next_one() {
    let cases: [(&str, &'static [&'static str]); 4] = [
        (
            "HEAD",
            &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"],
        ),
        (
            "HEAD",
            &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "body"],
        ),
        (
            "GET",
            &["HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody"],
        ),
        (
            "GET",
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
            ],
        ),
    ];
    for (method, pieces) in cases {
        let world = World::new().await;
        scripted(&world, pieces).await;
        for _ in 0..10 {
            let request = format!("{method} / HTTP/1.1\r\n{HOST}\r\n");
            let answer = world.raw(&request).await;
            assert!(!answer.contains("poisoned"), "{method}: {answer}");
            // A connection with something left over is given up, at worst with a 502.
            assert!(
                answer.starts_with("HTTP/1.1 200")
                    || answer.starts_with("HTTP/1.1 304")
                    || answer.starts_with("HTTP/1.1 502"),
                "{method}: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_none_becomes_a_502_or_is_read_in_one_way() {
    let cases: [(&'static [&'static str], &str); 6] = [
        (&["SSH-2.0-OpenSSH_9.2\r\n\r\n"], "502"),
        (
            &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"],
            "502",
        ),
        (&["HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc"], "502"),
        (
            &["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
            "502",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            ],
            "200",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\nConnection: X-Inner, close\r\nX-Inner: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nab",
            ],
            "200",
        ),
    ];
    for (pieces, status) in cases {
        let world = World::new().await;
        scripted(&world, pieces).await;
        let answer = world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
        assert_eq!(
            answer.split(' ').nth(1),
            Some(status),
            "{pieces:?}: {answer}"
        );
        let lower = answer.to_lowercase();
        let (has_length, has_coding) = (
            lower.contains("\r\ncontent-length:"),
            lower.contains("\r\ntransfer-encoding:"),
        );
        assert!(has_length != has_coding, "{pieces:?}: {answer}");
        assert!(
            !lower.contains("x-inner") && !lower.contains("keep-alive"),
            "{answer}"
        );
    }
}

/// One HTTP/2 frame (RFC 9113 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

/// A field that no table knows (RFC 7541 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap() & 0x7f;
    let (name_length, value_length) = (length(name), length(value));
    [
        &[0, name_length],
        name.as_bytes(),
        &[value_length],
        value.as_bytes(),
    ]
    .concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The setting of RFC 9113 6.5.2.
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The error code of RFC 9113 7.
const CANCEL: u32 = 8;

fn request_fields(path: &str) -> Vec<u8> {
    [
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":authority", "app.localhost"),
        field(":path", path),
    ]
    .concat()
}

/// A connection with HTTP/2 on it, and these settings of the client.
async fn http2(world: &World, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    first.extend(frame(SETTINGS, 0, 0, settings));
    stream.write_all(&first).await.unwrap();
    stream
}

/// The edge's next frame: kind, stream, payload. A reset is an end too.
async fn next_frame(reading: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u32, Vec<u8>)> {
    let read = async {
        let mut head = [0; 9];
        reading.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        reading.read_exact(&mut payload).await.ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    };
    let read = tokio::time::timeout(LIMIT, read).await;
    read.expect("the edge sends more, or ends it")
}

/// Sends frames until the edge has enough of them; returns how many bytes it
/// took and the error codes of its GOAWAY frames.
async fn flood(world: &World, frames: impl Iterator<Item = Vec<u8>>) -> (usize, Vec<u32>) {
    let (mut reading, mut writing) = http2(world, &[]).await.into_split();
    let write = async {
        let mut n_written = 0;
        for frame in frames {
            if writing.write_all(&frame).await.is_err() {
                break;
            }
            n_written += frame.len();
        }
        n_written
    };
    let read = async {
        let mut codes = Vec::new();
        while let Some((kind, _, payload)) = next_frame(&mut reading).await {
            if kind == GOAWAY {
                codes.push(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        codes
    };
    tokio::join!(write, read)
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let n_streams = 20_000;
    let frames = (0..n_streams).step_by(50).map(|start| {
        let pair = |n: u32| {
            let id = 2 * n + 1;
            let open = frame(HEADERS, END_STREAM | END_HEADERS, id, &request_fields("/"));
            [open, frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes())].concat()
        };
        (start..start + 50).flat_map(pair).collect()
    });
    let (_, codes) = flood(&world, frames).await;
    assert!(
        codes.iter().all(|code| *code == 0xb),
        "ENHANCE_YOUR_CALM: {codes:?}"
    );
    let n_seen = log.lock().len();
    assert!(n_seen < n_streams as usize / 10, "the app saw {n_seen}");
    let gauge = world.edge.gauge();
    wait_until("the machine is free", || {
        gauge.in_flight(&crate::world::machine(1)) == 0
    })
    .await;
    let answer = world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "others are served: {answer}"
    );
}

#[tokio::test]
async fn a_header_block_that_goes_on_for_ever_ends_the_connection() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let limit = 64 << 20;
    for (payload, what) in [(field("x-more", "more"), "fields"), (vec![], "nothing")] {
        let begin = frame(HEADERS, END_STREAM, 1, &request_fields("/"));
        let more = frame(CONTINUATION, 0, 1, &payload);
        let piece = more.repeat(16 * 1024 / more.len());
        let frames = std::iter::once(begin).chain(std::iter::repeat_n(piece, limit >> 14));
        let (n_written, _) = flood(&world, frames).await;
        // The rest is what sockets hold.
        assert!(
            n_written < limit / 2,
            "{what}: {n_written} bytes were taken"
        );
    }
    assert!(log.lock().is_empty());
}

#[tokio::test]
async fn an_http2_request_with_what_belongs_to_http1_is_refused() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let cases = [
        (Vec::new(), true),
        (field("x-line", "a b: c"), true),
        (field("connection", "close"), false),
        (field("transfer-encoding", "chunked"), false),
        (field("Upper", "case"), false),
        (field("host", "other.localhost"), false),
        (field(":path", "/again"), false),
        (field("x-line", "a\r\nb: c"), false),
    ];
    for (odd, is_good) in cases {
        let what = String::from_utf8_lossy(&odd);
        let mut stream = http2(&world, &[]).await;
        for (id, fields) in [
            (1, [request_fields("/"), odd.clone()].concat()),
            (3, request_fields("/control")),
        ] {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, id, &fields);
            // The edge may have ended the connection after the first one.
            let _ = stream.write_all(&request).await;
        }
        let mut answered = BTreeSet::new();
        while answered.len() < 2
            && let Some((kind, id, _)) = next_frame(&mut stream).await
        {
            if matches!(kind, HEADERS | RST_STREAM) {
                answered.insert(id);
            }
        }
        let mut lines: Vec<String> = log.lock().drain(..).map(|seen| seen.line).collect();
        lines.sort();
        if is_good {
            assert_eq!(lines, ["GET /", "GET /control"], "{what}");
        } else {
            lines.retain(|line| line != "GET /control");
            assert!(lines.is_empty(), "{what}: {lines:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_http2_stream_loses_that_stream() {
    let world = World::with(|config| config.timeouts.body_idle = Duration::from_secs(1)).await;
    let address = backend(&world.tasks, |request| async move {
        let is_large = request.uri().path() == "/large";
        Response::new(full(vec![7; if is_large { 1 << 20 } else { 0 }]))
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let gauge = world.edge.gauge();
    let shut = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &[0; 4]].concat();
    for (settings, what) in [(&shut[..], "no window"), (&[], "never opened again")] {
        let mut stream = http2(&world, settings).await;
        let open = |id, path| frame(HEADERS, END_STREAM | END_HEADERS, id, &request_fields(path));
        stream.write_all(&open(1, "/large")).await.unwrap();
        let mut kinds = Vec::new();
        while !kinds.contains(&RST_STREAM) {
            let (kind, id, payload) = next_frame(&mut stream).await.expect(what);
            if id == 1 {
                kinds.push(kind);
            }
            if kind == RST_STREAM {
                assert_eq!((id, payload), (1, CANCEL.to_be_bytes().to_vec()), "{what}");
            }
        }
        assert_eq!(kinds[0], HEADERS, "{what}: the answer had begun");
        assert_eq!(kinds.contains(&DATA), what != "no window", "{what}");
        wait_until("the machine is free again", || {
            gauge.in_flight(&crate::world::machine(1)) == 0
        })
        .await;
        stream.write_all(&open(3, "/empty")).await.unwrap();
        let mut answered = false;
        while !answered {
            let (kind, id, _) = next_frame(&mut stream).await.expect("it goes on");
            answered = (kind, id) == (HEADERS, 3);
        }
    }
}
