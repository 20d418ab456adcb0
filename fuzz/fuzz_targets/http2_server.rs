//! A connection of an HTTP/2 client, from its preface on: whatever it says and however it is cut
//! up, the server ends it or goes on, and says what can be read.
#![no_main]

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use roost_http2::frame;
use roost_http2::server::{Connection, RequestBody, Settings};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives the client's bytes in pieces, and keeps what the server says.
struct Client<'a> {
    rest: &'a [u8],
    piece: usize,
    heard: &'a mut Vec<u8>,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.piece.min(self.rest.len()).min(buffer.remaining());
        let (piece, rest) = self.rest.split_at(n);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
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

/// Answers with the body of the request, or with one that no window has room for.
async fn answer(head: http::request::Parts, body: Option<RequestBody>) -> Response<Full<Bytes>> {
    let content = match body {
        Some(body) if head.uri.path() != "/unread" => match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::new(),
        },
        _ => Bytes::from_static(&[7; 100_000]),
    };
    Response::new(Full::new(content))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Answers that wait for their client have a timer.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let (piece, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let mut said = frame::PREFACE.to_vec();
    frame::write_settings(&mut said, &frame::Settings::default());
    said.extend_from_slice(bytes);
    let mut heard = Vec::new();
    let client = Client {
        rest: &said,
        piece: usize::from(*piece) * 16 + 1,
        heard: &mut heard,
    };
    let settings = Settings {
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
    };
    let mut connection =
        Connection::new(client, settings, |head, body| Box::pin(answer(head, body)));
    let mut cx = Context::from_waker(Waker::noop());
    // Each turn reads at least a piece, and the end of what the client says is that of the connection.
    let is_over = (0..=said.len() + 2).any(|_| Pin::new(&mut connection).poll(&mut cx).is_ready());
    assert!(is_over, "it does not end");
    drop(connection);
    let mut rest = &heard[..];
    while let Some((head, payload)) = frame::split(rest, 16_384).expect("frames") {
        assert!(head.read(payload).is_ok(), "{head:?}");
        rest = &rest[frame::HEAD_BYTES + payload.len()..];
    }
});
