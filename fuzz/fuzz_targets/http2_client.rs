//! A connection to an HTTP/2 server: whatever that says and however it is cut up, each request gets
//! an answer or an error, and what the client says can be read.
#![no_main]

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Empty, Full};
use roost_http2::client::{Limits, Sender, begin};
use roost_http2::frame::{self, Frame};
use roost_http2::hpack::Block;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Gives the server's bytes in pieces, each at a turn of its own, and keeps what the client says.
struct Server<'a> {
    rest: &'a [u8],
    piece: usize,
    is_ready: bool,
    heard: &'a mut Vec<u8>,
}

impl AsyncRead for Server<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_ready = !self.is_ready;
        if !self.is_ready {
            return Poll::Pending;
        }
        let n = self.piece.min(self.rest.len()).min(buffer.remaining());
        let (piece, rest) = self.rest.split_at(n);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.heard.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

type RequestBody = Either<Empty<Bytes>, Full<Bytes>>;

/// Asks, and reads the answer to its end, or drops it unread; how many bytes it had.
async fn ask(sender: Sender<RequestBody>, method: &'static str, is_read: bool) -> usize {
    let write = |block: &mut Block<'_>| {
        block.field(":method", method.as_bytes());
        block.field(":scheme", b"http");
        block.field(":authority", b"app");
        block.field(":path", b"/");
    };
    let body = match method {
        // More than a window.
        "POST" => Either::Right(Full::new(Bytes::from_static(&[7; 100_000]))),
        _ => Either::Left(Empty::new()),
    };
    let until = || Instant::now() + Duration::from_secs(3600);
    match sender.send(write, method == "HEAD", body, until).await {
        Ok(response) if is_read => {
            let body = response.into_body().collect().await;
            body.map_or(0, |body| body.to_bytes().len())
        }
        Ok(_) | Err(_) => 0,
    }
}

/// What the client says can be read, is not much more than it was to say, and no body goes beyond
/// its window.
fn check(heard: &[u8], said: &[u8]) {
    let mut window = u64::from(frame::WINDOW_BYTES);
    let mut rest = said;
    while let Ok(Some((head, payload))) = frame::split(rest, 1 << 24) {
        if let Ok(Frame::WindowUpdate {
            stream: 0,
            increment,
        }) = head.read(payload)
        {
            window += u64::from(increment);
        }
        rest = &rest[frame::HEAD_BYTES + payload.len()..];
    }
    let mut n_sent = 0;
    let mut rest = heard.strip_prefix(frame::PREFACE).expect("a preface");
    while let Some((head, payload)) = frame::split(rest, 1 << 24).expect("frames") {
        match head.read(payload).expect("a frame") {
            Frame::Data { flow_bytes, .. } => n_sent += u64::from(flow_bytes),
            read @ (Frame::PushPromise | Frame::Ignored) => panic!("{read:?}"),
            _ => {}
        }
        rest = &rest[frame::HEAD_BYTES + payload.len()..];
    }
    assert!(n_sent <= window, "{n_sent} bytes of bodies");
    assert!(
        heard.len() <= 110_000 + 3 * said.len(),
        "{} bytes",
        heard.len()
    );
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Answers are waited for until a moment.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let (piece, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let mut said = Vec::new();
    frame::write_settings(&mut said, &frame::Settings::default());
    said.extend_from_slice(bytes);
    let mut heard = Vec::new();
    let server = Server {
        rest: &said,
        piece: usize::from(*piece) * 16 + 1,
        is_ready: false,
        heard: &mut heard,
    };
    let limits = Limits {
        streams_max: 8,
        stream_window: 65_535,
        connection_window: 100_000,
        header_bytes_max: 4096,
        header_lines_max: 50,
    };
    let (sender, mut driver) = begin::<_, RequestBody>(server, limits);
    let asked = [
        ("GET", true),
        ("POST", true),
        ("HEAD", true),
        ("GET", false),
        ("GET", true),
    ];
    let mut asked = asked.map(|(method, is_read)| {
        let asking: Pin<Box<dyn Future<Output = usize>>> =
            Box::pin(ask(sender.clone(), method, is_read));
        (asking, None)
    });
    drop(sender);
    let mut cx = Context::from_waker(Waker::noop());
    // Each other turn reads a piece, and the end of what the server says is that of the connection.
    let mut is_over = false;
    for _ in 0..2 * (said.len() + 20) {
        for (asking, answered) in &mut asked {
            if answered.is_none()
                && let Poll::Ready(n_bytes) = asking.as_mut().poll(&mut cx)
            {
                *answered = Some(n_bytes);
            }
        }
        is_over = is_over || Pin::new(&mut driver).poll(&mut cx).is_ready();
        if is_over && asked.iter().all(|(_, answered)| answered.is_some()) {
            break;
        }
    }
    assert!(is_over, "it does not end");
    let n_bytes: Option<usize> = asked.iter().map(|(_, answered)| *answered).sum();
    let n_bytes = n_bytes.expect("each request has an end");
    assert!(n_bytes <= said.len());
    drop(asked);
    drop(driver);
    check(&heard, &said);
});
