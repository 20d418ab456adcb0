//! Raw bytes of clients and machines, and what became of them.

use crate::world::{LIMIT, World, backend, endpoint, full, machine, wait_until};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as the app got it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Result<Bytes, String>,
}

pub(crate) type Log = Arc<Mutex<Vec<Seen>>>;

/// A machine that takes down what it gets, and says `ok`.
pub(crate) async fn recorder(world: &World) -> Log {
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
pub(crate) async fn scripted(world: &World, pieces: &'static [&'static str]) {
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

/// No connection, stream or tunnel of a client is left, and this machine serves nobody.
pub(crate) async fn nothing_is_left(world: &World, number: u8) {
    let gauge = world.edge.gauge();
    wait_until("no connection is left", || world.edge.clients() == 0).await;
    wait_until("the machine is free", || {
        gauge.in_flight(&machine(number)) == 0
    })
    .await;
}

/// The status of the first answer; nothing when there is none.
pub(crate) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

pub(crate) const HOST: &str = "Host: app.localhost\r\nConnection: close\r\n";

/// One HTTP/2 frame (RFC 9113 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

/// A field that no table knows (RFC 7541 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
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

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// The setting of RFC 9113 6.5.2.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
/// The error code of RFC 9113 7.
pub(crate) const CANCEL: u32 = 8;

pub(crate) fn request_fields(path: &str) -> Vec<u8> {
    [
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":authority", "app.localhost"),
        field(":path", path),
    ]
    .concat()
}

/// A connection with HTTP/2 on it, and these settings of the client.
pub(crate) async fn http2(world: &World, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    first.extend(frame(SETTINGS, 0, 0, settings));
    stream.write_all(&first).await.unwrap();
    stream
}

/// The edge's next frame: kind, stream, payload. A reset is an end too.
pub(crate) async fn next_frame(
    reading: &mut (impl AsyncRead + Unpin),
) -> Option<(u8, u32, Vec<u8>)> {
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
pub(crate) async fn flood(
    world: &World,
    frames: impl Iterator<Item = Vec<u8>>,
) -> (usize, Vec<u32>) {
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
