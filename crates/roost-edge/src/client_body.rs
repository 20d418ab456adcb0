//! The body of a client's request, and the two directions of its stream as one.

use crate::body::BodyError;
use crate::limits;
use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use roost_http2::server::RequestBody;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// The body of a client's request.
#[derive(Debug)]
pub(crate) enum ClientBody {
    /// From a connection that hyper reads.
    Hyper(Incoming),
    Http2(RequestBody),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Hyper(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Transport)))
            }
            Self::Http2(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Client)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// A stream of HTTP/2 that carries bytes both ways (RFC 8441 5): what comes is the body of the
/// request, what goes that of the answer.
#[derive(Debug)]
pub(crate) struct ClientStreams {
    reading: RequestBody,
    /// What has come and was not read.
    ahead: Bytes,
    writing: DuplexStream,
}

/// The body of such an answer.
#[derive(Debug)]
pub(crate) struct WrittenBody(DuplexStream);

impl ClientStreams {
    /// The two directions, and the body that carries what is written.
    pub(crate) fn new(reading: RequestBody) -> (Self, WrittenBody) {
        let (writing, written) = duplex(limits::TUNNEL_BUFFER_BYTES);
        let streams = Self {
            reading,
            ahead: Bytes::new(),
            writing,
        };
        (streams, WrittenBody(written))
    }
}

impl AsyncRead for ClientStreams {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ahead.is_empty() {
            match ready!(Pin::new(&mut this.reading).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                // There are no trailers in a tunnel.
                Some(Ok(frame)) => this.ahead = frame.into_data().unwrap_or_default(),
            }
        }
        let n = this.ahead.len().min(buf.remaining());
        buf.put_slice(this.ahead.get(..n).unwrap_or_default());
        this.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStreams {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().writing).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().writing).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().writing).poll_shutdown(cx)
    }
}

impl WrittenBody {
    /// The next piece.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut buffer = [0; limits::TUNNEL_PIECE_BYTES];
        let mut buffer = ReadBuf::new(&mut buffer);
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer));
        Poll::Ready(match read {
            Ok(()) if buffer.filled().is_empty() => None,
            Ok(()) => Some(Ok(Frame::data(Bytes::copy_from_slice(buffer.filled())))),
            Err(error) => Some(Err(BodyError::Connection(error))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::WrittenBody;
    use std::future::poll_fn;
    use tokio::io::{AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn what_is_written_is_the_body_until_the_writer_ends_it() {
        let (mut writing, written) = duplex(16);
        let mut body = WrittenBody(written);
        writing.write_all(b"hello").await.unwrap();
        let piece = poll_fn(|cx| body.poll_piece(cx)).await.unwrap().unwrap();
        assert_eq!(piece.into_data().unwrap(), "hello");
        writing.shutdown().await.unwrap();
        assert!(poll_fn(|cx| body.poll_piece(cx)).await.is_none());
    }
}
