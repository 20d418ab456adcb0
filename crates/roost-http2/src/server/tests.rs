//! A client that says what it likes, and a connection that is polled by hand.

use super::*;
use crate::frame::Frame;
use http::HeaderMap;
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

const KILOBYTES_200: &[u8] = &[7; 200_000];

#[tokio::test]
async fn requests_of_one_read_are_answered_in_one_write() {
    let mut world = answering(&[b"ab", b"c"]);
    let both = [world.get(1), world.get(3)].concat();
    let expected = [
        "HEADERS 1 200",
        "DATA 1 2",
        "DATA 1 1 END",
        "HEADERS 3 200",
        "DATA 3 2",
        "DATA 3 1 END",
    ];
    assert_eq!(world.say(&both), expected);
    let connection = &world.connection;
    assert!(connection.streams.is_empty() && !world.is_over);
    // It waits without buffers.
    assert_eq!(
        connection.out.bytes.capacity() + connection.partial.capacity(),
        0
    );
}

#[tokio::test]
async fn an_answer_goes_as_far_as_the_windows_have_room() {
    let mut world = answering(&[KILOBYTES_200]);
    let get = world.get(1);
    let sum = |said: &[String]| {
        let sizes = said.iter().filter_map(|it| it.strip_prefix("DATA 1 "));
        let size = |it: &str| it.trim_end_matches(" END").parse::<u32>().unwrap();
        sizes.map(size).sum::<u32>()
    };
    assert_eq!(sum(&world.say(&get)), 65_535);
    // One of the two windows alone is not enough.
    assert_eq!(sum(&world.say(&window(1, 1000))), 0);
    assert_eq!(sum(&world.say(&window(0, 600))), 600);
    assert_eq!(sum(&world.say(&window(0, 100_000))), 400);
    // A smaller initial window counts for streams that are open (RFC 9113 6.9.2).
    let initial = |bytes| {
        let settings = frame::Settings {
            initial_window_size: Some(bytes),
            ..frame::Settings::default()
        };
        written(|out| frame::write_settings(out, &settings))
    };
    assert_eq!(sum(&world.say(&initial(65_435))), 0);
    assert_eq!(sum(&world.say(&window(1, 100))), 0);
    assert_eq!(sum(&world.say(&window(1, 10))), 10);
    assert_eq!(sum(&world.say(&initial(65_440))), 5);
    let rest = world.say(&[window(1, 200_000), window(0, 200_000)].concat());
    assert_eq!(sum(&rest), 200_000 - 65_535 - 1015);
    assert!(rest.last().unwrap().ends_with(" END"));
}

#[tokio::test]
async fn a_long_answer_lets_others_have_their_turn() {
    let mut n = 0;
    let mut world = world(move |_, _| {
        n += 1;
        let is_first = n == 1;
        async move { Response::new(Pieces::of(&[if is_first { KILOBYTES_200 } else { b"x" }])) }
    });
    let frames = [
        window(0, 1_000_000),
        written(|out| {
            let settings = frame::Settings {
                initial_window_size: Some(1_000_000),
                ..frame::Settings::default()
            };
            frame::write_settings(out, &settings);
        }),
        world.get(1),
        world.get(3),
    ];
    let said = world.say(&frames.concat());
    let place = |wanted: &str| said.iter().position(|it| it == wanted).unwrap();
    assert!(place("DATA 3 1 END") < said.len() - 5, "{said:?}");
    assert!(said.last().unwrap().starts_with("DATA 1 "));
}

#[tokio::test]
async fn a_body_comes_with_its_trailers_however_it_is_cut_up() {
    let mut world = counting();
    let bytes = [
        world.post(1),
        data(1, b"hello", false),
        world.fields(1, true, &[("a", "b")]),
    ]
    .concat();
    let mut said = Vec::new();
    for byte in bytes {
        said.extend(world.say(&[byte]));
    }
    assert_eq!(said, [r#"HEADERS 1 200 x-read=5 Some({"a": "b"}) END"#]);
}

#[tokio::test]
async fn windows_open_by_what_was_read() {
    let mut world = counting();
    let frames = [world.post(1), data(1, &[0; 40_000], false)].concat();
    assert_eq!(world.say(&frames), ["WINDOW 1 40000"]);
    // The connection's: when half of it was read.
    let said = world.say(&data(1, &[0; 20_000], false));
    assert_eq!(said, ["WINDOW 0 60000"]);
    // Padding counts, and is given back (RFC 9113 6.1).
    let mut padded = data(1, &[0; 16_000], false);
    (padded[4], padded[9]) = (8, 255);
    assert_eq!(world.say(&padded), ["WINDOW 1 36000"]);
    let said = world.say(&data(1, b"", true));
    assert_eq!(said, ["HEADERS 1 200 x-read=75744 END"]);
}

#[tokio::test]
async fn what_is_not_read_holds_the_window_and_too_much_is_an_error() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let mut world = world({
        let kept = kept.clone();
        move |_, body| {
            kept.lock().push(body);
            std::future::pending()
        }
    });
    let frames = [world.post(1), data(1, &[0; 65_535], false)].concat();
    assert!(world.say(&frames).is_empty());
    // What it held is given back to the connection.
    let expected = ["RESET 1 3", "WINDOW 0 65536"];
    assert_eq!(world.say(&data(1, b"x", false)), expected);
    let body = kept.lock().remove(0);
    assert_eq!(count(body).await, "0, then 3");
    // Beyond the window of the connection.
    let frames = [
        world.post(3),
        data(3, &[0; 60_000], false),
        world.post(5),
        data(5, &[0; 40_001], false),
    ];
    assert_eq!(world.say(&frames.concat()), ["GOAWAY 5 3"]);
    assert!(world.is_over);
}

#[tokio::test]
async fn many_small_pieces_are_one_for_the_reader() {
    let kept = Arc::new(Mutex::new(None));
    let mut world = world({
        let kept = kept.clone();
        move |_, body| {
            *kept.lock() = body;
            std::future::pending()
        }
    });
    let frames = [world.post(1), data(1, b"x", false).repeat(10_000)].concat();
    world.say(&frames);
    let mut body = kept.lock().take().unwrap();
    let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap().len(), 10_000);
}

#[tokio::test]
async fn a_body_that_nobody_wants_costs_the_connection_nothing() {
    let mut world = world(|_, body| {
        drop(body);
        std::future::pending()
    });
    let frames = [world.post(1), data(1, &[0; 60_000], false)].concat();
    assert_eq!(world.say(&frames), ["WINDOW 0 60000"]);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_ends_the_stream() {
    let mut world = answering(&[b"no"]);
    let post = world.post(1);
    let expected = ["HEADERS 1 200", "DATA 1 2 END", "RESET 1 0"];
    assert_eq!(world.say(&post), expected);
    // What was on its way is ignored, trailers as well.
    let late = [
        data(1, b"more", false),
        window(1, 5),
        world.fields(1, true, &[("a", "b")]),
    ];
    assert!(world.say(&late.concat()).is_empty());
}

/// The pieces of an answer, the length that it says, and what the client hears.
type Case = (
    &'static [&'static [u8]],
    Option<&'static str>,
    &'static [&'static str],
);

#[tokio::test]
async fn answers_have_the_length_that_they_say() {
    let cases: [Case; 5] = [
        (
            &[b"abc"],
            Some("3"),
            &["HEADERS 1 200 content-length=3", "DATA 1 3 END"],
        ),
        (
            &[b"abc"],
            Some("4"),
            &["HEADERS 1 200 content-length=4", "DATA 1 3", "RESET 1 2"],
        ),
        (
            &[b"abc"],
            Some("2"),
            &["HEADERS 1 200 content-length=2", "RESET 1 2"],
        ),
        (&[b"", b"a"], None, &["HEADERS 1 200", "DATA 1 1 END"]),
        (
            &[b"a", b""],
            None,
            &["HEADERS 1 200", "DATA 1 1", "DATA 1 0 END"],
        ),
    ];
    for (pieces, length, expected) in cases {
        let mut world = world(move |_, _| async move {
            let mut response = Response::new(Pieces::of(pieces));
            if let Some(length) = length {
                let value = length.parse().unwrap();
                response.headers_mut().insert("content-length", value);
            }
            response
        });
        let get = world.get(1);
        assert_eq!(world.say(&get), expected);
    }
}

#[tokio::test]
async fn the_length_of_a_body_is_told_and_lines_of_http1_are_not() {
    let answer = |status: u16, length| {
        world(move |_, _| async move {
            let mut pieces = Pieces::of(&[b"abc"]);
            pieces.length = length;
            let builder = Response::builder().status(status);
            let builder = builder.header("connection", "x").header("keep-alive", "1");
            builder.body(pieces).unwrap()
        })
    };
    let mut world = answer(200, Some(3));
    let get = world.get(1);
    assert_eq!(
        world.say(&get),
        ["HEADERS 1 200 content-length=3", "DATA 1 3 END"]
    );
    let head = world.request(3, "HEAD", &[]);
    assert_eq!(world.say(&head), ["HEADERS 3 200 END"]);
    for (status, expected) in [
        (204, "HEADERS 1 204 END"),
        (304, "HEADERS 1 304 END"),
        (101, "RESET 1 2"),
    ] {
        let mut world = answer(status, None);
        let get = world.get(1);
        assert_eq!(world.say(&get), [expected]);
    }
}

#[tokio::test]
async fn an_answer_has_its_trailers() {
    let mut world = world(|_, _| async {
        let mut pieces = Pieces::of(&[b"abc"]);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        pieces
            .frames
            .push_back(http_body::Frame::trailers(trailers));
        Response::new(pieces)
    });
    let get = world.get(1);
    let expected = ["HEADERS 1 200", "DATA 1 3", "HEADERS 1 grpc-status=0 END"];
    assert_eq!(world.say(&get), expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_an_answer_loses_it() {
    let mut world = answering(&[KILOBYTES_200]);
    let get = world.get(1);
    world.say(&get);
    tokio::time::advance(Duration::from_secs(50)).await;
    let get = world.get(3);
    world.say(&get);
    assert!(world.heard().is_empty());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(world.heard(), ["RESET 1 8"]);
    tokio::time::advance(Duration::from_secs(50)).await;
    assert_eq!(world.heard(), ["RESET 3 8"]);
    // One that waits for its app is not of that kind.
    let mut world = self::world(|_, _| async {
        let mut pieces = Pieces::of(&[b"abc"]);
        pieces.is_open = true;
        Response::new(pieces)
    });
    let get = world.get(1);
    world.say(&get);
    tokio::time::advance(Duration::from_secs(1000)).await;
    assert!(world.heard().is_empty());
}

#[tokio::test]
async fn a_shutdown_answers_what_was_asked_and_takes_nothing_after_it() {
    let mut world = counting();
    let post = world.post(1);
    world.say(&post);
    world.connection.graceful_shutdown();
    assert_eq!(world.heard(), ["GOAWAY 2147483647 0", "PING"]);
    // It was on its way.
    let get = world.get(3);
    assert_eq!(world.say(&get), ["HEADERS 3 200 x-read=no body END"]);
    let pong = written(|out| frame::write_ping(out, CLOSING, true));
    assert_eq!(world.say(&pong), ["GOAWAY 3 0"]);
    let late = [world.post(5), data(5, b"x", true), reset(5)].concat();
    assert!(world.say(&late).is_empty());
    world.connection.graceful_shutdown();
    assert!(world.heard().is_empty() && !world.is_over);
    let end = data(1, b"x", true);
    assert_eq!(world.say(&end), ["HEADERS 1 200 x-read=1 END"]);
    assert!(world.is_over);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_are_too_many_at_some_time() {
    let mut world = answering(&[b"x"]);
    let mut said = Vec::new();
    for n in 0..10 {
        // Those that come to an end make up for others.
        let (one, other) = (4 * n + 1, 4 * n + 3);
        let frames = [world.get(one), reset(one), world.get(other)].concat();
        said.extend(world.say(&frames));
    }
    assert!(said.iter().all(|it| !it.starts_with("GOAWAY")), "{said:?}");
    let frames: Vec<u8> = (100..106)
        .flat_map(|n| [world.get(2 * n + 1), reset(2 * n + 1)].concat())
        .collect();
    assert_eq!(world.say(&frames), ["GOAWAY 211 11"]);
    assert!(world.is_over);
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_and_a_slot_is_used_again() {
    let mut world = world(|_, _| std::future::pending());
    let frames: Vec<u8> = (0..9).flat_map(|n| world.get(2 * n + 1)).collect();
    assert_eq!(world.say(&frames), ["RESET 17 7"]);
    let frames = [reset(5), world.get(19), world.get(21)].concat();
    assert_eq!(world.say(&frames), ["RESET 21 7"]);
}

#[tokio::test]
async fn a_client_that_leaves_ends_answers_and_bodies() {
    let kept = Arc::new(Mutex::new(None));
    let dropped = Arc::new(());
    let mut world = world({
        let (kept, dropped) = (kept.clone(), dropped.clone());
        move |_, body| {
            *kept.lock() = body;
            let held = dropped.clone();
            async move {
                let _held = held;
                std::future::pending().await
            }
        }
    });
    let frames = [world.post(1), data(1, b"abc", false)].concat();
    world.say(&frames);
    assert_eq!(Arc::strong_count(&dropped), 3);
    let (client, _) = tokio::io::duplex(1);
    drop(std::mem::replace(&mut world.client, client));
    world.heard();
    assert!(world.is_over);
    assert_eq!(Arc::strong_count(&dropped), 2);
    let body = kept.lock().take();
    assert_eq!(count(body).await, "0, then 8");
}

#[tokio::test]
async fn nothing_more_is_read_while_answers_to_questions_are_not_taken() {
    let (mut client, io) = tokio::io::duplex(1000);
    let handler = |_: Parts, _: Option<RequestBody>| std::future::pending::<Response<Pieces>>();
    let mut connection = Connection::new(io, settings(), handler);
    let ping = written(|out| frame::write_ping(out, [1; 8], false));
    let mut flood = PREFACE.to_vec();
    frame::write_settings(&mut flood, &frame::Settings::default());
    flood.extend(ping.repeat(100_000));
    let mut cx = Context::from_waker(Waker::noop());
    let mut n_written = 0;
    while let Poll::Ready(Ok(n)) = Pin::new(&mut client).poll_write(&mut cx, &flood[n_written..]) {
        n_written += n;
        assert!(Pin::new(&mut connection).poll(&mut cx).is_pending());
    }
    assert!(n_written < 200_000, "{n_written}");
    assert!(connection.out.bytes.len() < 2 * OUT_BYTES_MAX);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..300), kinds in proptest::collection::vec((0..10_u8, any::<u8>(), 0..4_u32, 0..40_u8), 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = counting();
            let get = world.get(1);
            world.say(&get);
            let mut at = 0;
            for (kind, flags, stream, length) in kinds {
                let payload: Vec<u8> = bytes.iter().copied().cycle().skip(at).take(usize::from(length).min(bytes.len())).collect();
                at += 7;
                let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
                frame.extend([kind, flags]);
                frame.extend(stream.to_be_bytes());
                frame.extend(payload);
                world.say(&frame);
            }
            world.say(&bytes);
        });
    }
}
