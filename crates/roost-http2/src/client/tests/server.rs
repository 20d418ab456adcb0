//! A server that is played frame by frame, and the requests that it gets.

use crate::client::{Driver, Error, Limits, ResponseBody, Sender, begin};
use crate::frame::{
    self, Code, FRAME_BYTES_MAX, Frame, HEAD_BYTES, PREFACE, Settings, write_data_head,
    write_settings, write_settings_ack,
};
use crate::hpack::{Decoder, Encoder, Field};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const LIMITS: Limits = Limits {
    streams_max: 1000,
    stream_window: 65_535,
    connection_window: 1 << 20,
    header_bytes_max: 2000,
    header_lines_max: 20,
};

pub(super) type Piece = Result<http_body::Frame<Bytes>, io::Error>;

#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) pieces: VecDeque<Piece>,
    is_ended: bool,
    waker: Option<Waker>,
    n_polls: usize,
}

/// A body that gives what it is told to give.
#[derive(Debug, Clone, Default)]
pub(super) struct Scripted(pub(in crate::client) Arc<Mutex<Script>>);

impl Scripted {
    pub(super) fn whole(text: &[u8]) -> Self {
        let body = Self::default();
        if !text.is_empty() {
            body.give(text);
        }
        body.end();
        body
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.0.lock();
        change(&mut script);
        let waker = script.waker.take();
        drop(script);
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn push(&self, piece: Piece) {
        self.change(|script| script.pieces.push_back(piece));
    }

    pub(super) fn give(&self, text: &[u8]) {
        self.push(Ok(http_body::Frame::data(Bytes::copy_from_slice(text))));
    }

    pub(super) fn end(&self) {
        self.change(|script| script.is_ended = true);
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        let mut script = self.0.lock();
        script.n_polls += 1;
        if let Some(piece) = script.pieces.pop_front() {
            return Poll::Ready(Some(piece));
        }
        if script.is_ended {
            return Poll::Ready(None);
        }
        script.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let script = self.0.lock();
        script.is_ended && script.pieces.is_empty()
    }
}

/// What a server sees, without what only holds the connection together.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Headers(u32, Vec<(String, String)>, bool),
    Data(u32, usize, bool),
    Reset(u32, Code),
    Window(u32, u32),
    PingAck,
    SettingsAck,
    GoAway(Code),
    Closed,
}

pub(super) struct Server {
    pub(super) io: DuplexStream,
    buffer: Vec<u8>,
    decoder: Decoder,
    pub(super) encoder: Encoder,
    out: Vec<u8>,
}

impl Server {
    pub(super) async fn flush(&mut self) {
        // A client that has gone away reads nothing.
        let _ = self.io.write_all(&self.out).await;
        self.out.clear();
    }

    pub(super) async fn raw(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out);
        self.flush().await;
    }

    pub(super) fn write_headers(&mut self, stream: u32, lines: &[(&str, &str)], is_last: bool) {
        let start = frame::begin_headers(&mut self.out, stream, is_last);
        let mut block = self.encoder.block(&mut self.out);
        for (name, value) in lines {
            block.field(name, value.as_bytes());
        }
        frame::end_headers(&mut self.out, start);
    }

    pub(super) async fn headers(&mut self, stream: u32, lines: &[(&str, &str)], is_last: bool) {
        self.write_headers(stream, lines, is_last);
        self.flush().await;
    }

    pub(super) fn write_data(&mut self, stream: u32, data: &[u8], is_last: bool) {
        write_data_head(&mut self.out, stream, data.len(), is_last);
        self.out.extend(data);
    }

    pub(super) async fn data(&mut self, stream: u32, data: &[u8], is_last: bool) {
        self.write_data(stream, data, is_last);
        self.flush().await;
    }

    /// The next frame.
    pub(super) async fn next(&mut self) -> Seen {
        loop {
            if let Some((head, payload)) = frame::split(&self.buffer, FRAME_BYTES_MAX).unwrap() {
                let seen = match head.read(payload).unwrap() {
                    Frame::Headers {
                        stream,
                        fragment,
                        is_whole: true,
                        is_last,
                    } => {
                        let mut lines = Vec::new();
                        let sink = |field| {
                            lines.push(match field {
                                Field::Pseudo(name, value) => {
                                    let value = String::from_utf8(value.to_vec()).unwrap();
                                    (format!("{name:?}"), value)
                                }
                                Field::Header(name, value) => {
                                    (name.to_string(), value.to_str().unwrap().to_owned())
                                }
                                Field::Malformed => panic!("a malformed field"),
                            });
                        };
                        self.decoder.decode(fragment, 1 << 20, sink).unwrap();
                        Some(Seen::Headers(stream, lines, is_last))
                    }
                    Frame::Data {
                        stream,
                        payload,
                        is_last,
                        ..
                    } => Some(Seen::Data(stream, payload.len(), is_last)),
                    Frame::Reset { stream, code } => Some(Seen::Reset(stream, code)),
                    Frame::WindowUpdate { stream, increment } => {
                        Some(Seen::Window(stream, increment))
                    }
                    Frame::PingAck(_) => Some(Seen::PingAck),
                    Frame::SettingsAck => Some(Seen::SettingsAck),
                    Frame::GoAway { code, .. } => Some(Seen::GoAway(code)),
                    other => panic!("{other:?}"),
                };
                let length = HEAD_BYTES + payload.len();
                self.buffer.drain(..length);
                if let Some(seen) = seen {
                    return seen;
                }
            }
            let mut bytes = [0; 4096];
            match self.io.read(&mut bytes).await {
                Ok(0) | Err(_) => return Seen::Closed,
                Ok(n) => self.buffer.extend(&bytes[..n]),
            }
        }
    }

    /// The next frames up to the one that `wanted` knows.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        loop {
            let seen = within(self.next()).await;
            if wanted(&seen) {
                return seen;
            }
            assert_ne!(seen, Seen::Closed, "the connection ended before");
        }
    }

    pub(super) async fn request(&mut self) -> u32 {
        let seen = self.until(|seen| matches!(seen, Seen::Headers(..))).await;
        let Seen::Headers(stream, ..) = seen else {
            unreachable!()
        };
        stream
    }

    pub(super) async fn reset(&mut self) -> (u32, Code) {
        let seen = self.until(|seen| matches!(seen, Seen::Reset(..))).await;
        let Seen::Reset(stream, code) = seen else {
            unreachable!()
        };
        (stream, code)
    }

    pub(super) async fn goaway(&mut self) -> Code {
        let seen = self.until(|seen| matches!(seen, Seen::GoAway(_))).await;
        let Seen::GoAway(code) = seen else {
            unreachable!()
        };
        code
    }
}

/// A wait that nothing in a test exceeds.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, future)
        .await
        .expect("a wait that ends")
}

/// A connection whose settings both sides have seen.
pub(super) async fn connected(settings: Settings) -> (Sender<Scripted>, Server, JoinHandle<()>) {
    let (client, mut server, driver) = started().await;
    server.raw(|out| write_settings(out, &settings)).await;
    server.raw(write_settings_ack).await;
    server.until(|seen| *seen == Seen::SettingsAck).await;
    (client, server, driver)
}

/// A connection on which nothing has happened, and whose driver is not polled.
pub(super) fn unpolled() -> (Sender<Scripted>, Server, Driver<DuplexStream, Scripted>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (sender, driver) = begin(near, LIMITS);
    let server = Server {
        io: far,
        buffer: Vec::new(),
        decoder: Decoder::new(),
        encoder: Encoder::new(),
        out: Vec::new(),
    };
    (sender, server, driver)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this crate knows no tasks but in tests"
)]
pub(super) async fn started() -> (Sender<Scripted>, Server, JoinHandle<()>) {
    let (sender, mut server, driver) = unpolled();
    let driver = tokio::spawn(driver);
    let mut preface = [0; PREFACE.len()];
    within(server.io.read_exact(&mut preface)).await.unwrap();
    assert_eq!(&preface, PREFACE);
    let mut head = [0; HEAD_BYTES];
    within(server.io.read_exact(&mut head)).await.unwrap();
    let mut settings = vec![0; usize::from(head[2])];
    within(server.io.read_exact(&mut settings)).await.unwrap();
    let bytes = [&head[..], &settings].concat();
    let (head, payload) = frame::split(&bytes, FRAME_BYTES_MAX).unwrap().unwrap();
    let Ok(Frame::Settings(settings)) = head.read(payload) else {
        panic!("no settings");
    };
    assert_eq!(settings.enable_push, Some(false));
    (sender, server, driver)
}

/// No answer is late.
pub(super) fn never() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

pub(super) type Answered = Result<Response<ResponseBody<Scripted>>, Error>;

pub(super) fn ask(
    sender: &Sender<Scripted>,
    method: &'static str,
    body: Scripted,
) -> JoinHandle<Answered> {
    ask_until(sender, method, body, never)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this crate knows no tasks but in tests"
)]
pub(super) fn ask_until(
    sender: &Sender<Scripted>,
    method: &'static str,
    body: Scripted,
    until: impl Fn() -> Instant + Send + Sync + 'static,
) -> JoinHandle<Answered> {
    let sender = sender.clone();
    tokio::spawn(async move {
        let write = |block: &mut crate::hpack::Block<'_>| {
            block.field(":method", method.as_bytes());
            block.field(":scheme", b"http");
            block.field(":authority", b"app");
            block.field(":path", b"/");
        };
        sender.send(write, method == "HEAD", body, until).await
    })
}

pub(super) async fn get(sender: &Sender<Scripted>) -> JoinHandle<Answered> {
    ask(sender, "GET", Scripted::whole(b""))
}

pub(super) async fn frames(
    body: &mut ResponseBody<Scripted>,
) -> Result<(Vec<u8>, Option<HeaderMap>), Error> {
    let (mut data, mut trailers) = (Vec::new(), None);
    loop {
        let frame = within(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await;
        match frame.transpose()?.map(http_body::Frame::into_data) {
            None => return Ok((data, trailers)),
            Some(Ok(piece)) => data.extend(piece),
            Some(Err(frame)) => trailers = frame.into_trailers().ok(),
        }
    }
}

/// The whole of what a request has got, as text.
pub(super) async fn outcome(asked: JoinHandle<Answered>) -> Result<String, String> {
    let response = within(asked).await.unwrap().map_err(|error| {
        let unsent = if error.is_unsent() { "unsent: " } else { "" };
        format!("{unsent}{error}")
    })?;
    let (head, mut body) = response.into_parts();
    let (data, trailers) = frames(&mut body)
        .await
        .map_err(|error| format!("later: {error}"))?;
    let trailers = trailers.map_or(String::new(), |map| format!(" {map:?}"));
    Ok(format!(
        "{} {}{trailers}",
        head.status.as_u16(),
        String::from_utf8_lossy(&data)
    ))
}
