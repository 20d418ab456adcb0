//! A client that says what it likes, and a connection that is polled by hand.

use super::*;
use crate::frame::Frame;
use http::{HeaderMap, Method};
use http_body::Body as _;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Waker;
use tokio::io::DuplexStream;

/// The body of an answer: these pieces, then nothing more for now if it is open, else its end.
#[derive(Default)]
struct Pieces {
    frames: VecDeque<http_body::Frame<Bytes>>,
    is_open: bool,
    panics: bool,
    length: Option<u64>,
}

impl Pieces {
    fn of(pieces: &[&[u8]]) -> Self {
        let data = |piece: &&[u8]| http_body::Frame::data(Bytes::copy_from_slice(piece));
        Self {
            frames: pieces.iter().map(data).collect(),
            ..Self::default()
        }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        assert!(!self.panics, "on purpose");
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.is_open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && !self.is_open
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let exact = http_body::SizeHint::with_exact;
        self.length.map_or_else(http_body::SizeHint::default, exact)
    }
}

type Answer = Pin<Box<dyn Future<Output = Response<Pieces>>>>;
type Handler = Box<dyn FnMut(Parts, Option<RequestBody>) -> Answer>;

struct World {
    connection: Connection<DuplexStream, Handler>,
    is_over: bool,
    client: DuplexStream,
    unread: Vec<u8>,
    decoder: Decoder,
    encoder: Encoder,
}

fn settings() -> Settings {
    Settings {
        streams_max: 8,
        stream_window: 65_535,
        connection_window: 100_000,
        header_bytes_max: 4096,
        header_lines_max: 50,
        quick_resets_max: 5,
        cancels_max: 5,
        cancel_pause: Duration::from_secs(3600),
        error_resets_max: 5,
        stall_max: Duration::from_secs(60),
    }
}

/// After the greetings of both sides.
fn world<F, A>(mut handler: F) -> World
where
    F: FnMut(Parts, Option<RequestBody>) -> A + 'static,
    A: Future<Output = Response<Pieces>> + 'static,
{
    let handler: Handler = Box::new(move |parts, body| Box::pin(handler(parts, body)));
    let (client, io) = tokio::io::duplex(1 << 20);
    let mut world = World {
        connection: Connection::new(io, settings(), handler),
        is_over: false,
        client,
        unread: Vec::new(),
        decoder: Decoder::new(),
        encoder: Encoder::new(),
    };
    let mut first = PREFACE.to_vec();
    frame::write_settings(&mut first, &frame::Settings::default());
    frame::write_settings_ack(&mut first);
    let answer = world.say(&first);
    assert_eq!(answer, ["SETTINGS", "WINDOW 0 34465", "SETTINGS ACK"]);
    world
}

impl World {
    /// Sends bytes; what the server says to them.
    fn say(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let written = Pin::new(&mut self.client).poll_write(&mut cx, bytes);
        // A connection that has ended takes nothing.
        if !self.is_over {
            assert!(matches!(written, Poll::Ready(Ok(n)) if n == bytes.len()));
        }
        self.heard()
    }

    /// What the server says now.
    fn heard(&mut self) -> Vec<String> {
        let mut cx = Context::from_waker(Waker::noop());
        if !self.is_over {
            self.is_over = Pin::new(&mut self.connection).poll(&mut cx).is_ready();
        }
        let mut buffer = vec![0; 1 << 20];
        let mut read = ReadBuf::new(&mut buffer);
        let _ = Pin::new(&mut self.client).poll_read(&mut cx, &mut read);
        self.unread.extend_from_slice(read.filled());
        let mut said = Vec::new();
        let mut at = 0;
        while let Some((head, payload)) = frame::split(&self.unread[at..], 16_384).unwrap() {
            at += frame::HEAD_BYTES + payload.len();
            let frame = head.read(payload).unwrap();
            said.push(describe(&frame, &mut self.decoder));
        }
        self.unread.drain(..at);
        said
    }

    fn fields(&mut self, stream: u32, is_last: bool, lines: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let start = frame::begin_headers(&mut bytes, stream, is_last);
        let mut block = self.encoder.block(&mut bytes);
        for (name, value) in lines {
            block.field(name, value.as_bytes());
        }
        frame::end_headers(&mut bytes, start);
        bytes
    }

    fn request(&mut self, stream: u32, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut lines = vec![
            (":method", method),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ];
        lines.extend(more);
        self.fields(stream, method != "POST", &lines)
    }

    fn get(&mut self, stream: u32) -> Vec<u8> {
        self.request(stream, "GET", &[])
    }

    fn post(&mut self, stream: u32) -> Vec<u8> {
        self.request(stream, "POST", &[])
    }
}

fn describe(frame: &Frame<'_>, decoder: &mut Decoder) -> String {
    let end = |is_last: &bool| if *is_last { " END" } else { "" };
    match frame {
        Frame::Data {
            stream,
            payload,
            is_last,
            ..
        } => format!("DATA {stream} {}{}", payload.len(), end(is_last)),
        Frame::Headers {
            stream,
            fragment,
            is_last,
            ..
        } => {
            let fields = crate::fields::Fields::decode(decoder, fragment, 9999, 99).unwrap();
            let mut text = format!("HEADERS {stream}");
            if let Some(status) = &fields.status {
                text += &format!(" {}", String::from_utf8_lossy(status));
            }
            for (name, value) in &fields.headers {
                text += &format!(" {name}={}", value.to_str().unwrap());
            }
            text + end(is_last)
        }
        Frame::Reset { stream, code } => format!("RESET {stream} {}", code.0),
        Frame::Settings(_) => "SETTINGS".to_owned(),
        Frame::SettingsAck => "SETTINGS ACK".to_owned(),
        Frame::Ping(_) => "PING".to_owned(),
        Frame::PingAck(_) => "PING ACK".to_owned(),
        Frame::GoAway { last, code } => format!("GOAWAY {last} {}", code.0),
        Frame::WindowUpdate { stream, increment } => format!("WINDOW {stream} {increment}"),
        Frame::Continuation { .. } | Frame::PushPromise | Frame::Ignored => {
            panic!("no server says {frame:?}")
        }
    }
}

fn data(stream: u32, payload: &[u8], is_last: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (n, piece) in payload.chunks(16_384).enumerate() {
        let is_end = is_last && (n + 1) * 16_384 >= payload.len();
        frame::write_data_head(&mut bytes, stream, piece.len(), is_end);
        bytes.extend_from_slice(piece);
    }
    if payload.is_empty() {
        frame::write_data_head(&mut bytes, stream, 0, is_last);
    }
    bytes
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    written(|out| frame::write_window_update(out, stream, increment))
}

fn reset(stream: u32) -> Vec<u8> {
    written(|out| frame::write_reset(out, stream, Code::CANCEL))
}

/// Says how much of a body came, and its trailers.
async fn count(body: Option<RequestBody>) -> String {
    let Some(mut body) = body else {
        return "no body".to_owned();
    };
    let mut text = String::new();
    let mut n_bytes = 0;
    loop {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            None => return format!("{n_bytes}{text}"),
            Some(Err(cut)) => return format!("{n_bytes}, then {}", cut.0.0),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => n_bytes += data.len(),
                Err(frame) => text += &format!(" {:?}", frame.into_trailers().ok()),
            },
        }
    }
}

/// Answers with how much of a body came.
fn counting() -> World {
    world(|_, body| async move {
        let length = count(body).await;
        let builder = Response::builder().header("x-read", length);
        builder.body(Pieces::default()).unwrap()
    })
}

/// Answers with these pieces.
fn answering(pieces: &'static [&'static [u8]]) -> World {
    world(move |_, _| async move { Response::new(Pieces::of(pieces)) })
}

mod rules;
