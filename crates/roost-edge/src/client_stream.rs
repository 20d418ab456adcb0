//! A client's byte stream: first the bytes that were read to tell the
//! protocol, then the rest; reads and writes are noted for the time-outs.
//!
//! The HTTP codec owns the stream and has no way to answer a header that never
//! ends. So when such a connection is dropped, its stream comes back to whoever
//! began it, unless an earlier answer is stuck half-way in it.

use crate::activity::{Activity, Came};
use crate::header_watch::HeaderWatch;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// See the module.
#[derive(Debug)]
pub(crate) struct ClientStream<S> {
    /// Always there, until the drop.
    inner: Option<S>,
    first: Vec<u8>,
    activity: Arc<Activity>,
    watch: HeaderWatch,
    /// Whether the last write could not be done at once.
    is_stuck: bool,
    back: Option<oneshot::Sender<S>>,
}

impl<S> ClientStream<S> {
    /// `first` has been read from `inner` already.
    pub(crate) fn new(inner: S, first: Vec<u8>, activity: Arc<Activity>) -> Self {
        Self {
            inner: Some(inner),
            first,
            activity,
            watch: HeaderWatch::default(),
            is_stuck: false,
            back: None,
        }
    }

    /// The bytes that have been read already.
    pub(crate) fn take_first(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.first)
    }

    /// Puts bytes back that have been read, and not noted.
    pub(crate) fn begin_with(&mut self, first: Vec<u8>) {
        self.first = first;
    }

    /// The bare stream.
    pub(crate) fn into_inner(mut self) -> Option<S> {
        self.inner.take()
    }

    /// From now on the stream comes back if its header is late.
    pub(crate) fn comes_back(&mut self) -> oneshot::Receiver<S> {
        let (back, stream) = oneshot::channel();
        self.back = Some(back);
        stream
    }

    fn note_read(&mut self, bytes: &[u8]) {
        match self.activity.bytes_read() {
            Came::NewHeader => self.watch = HeaderWatch::default(),
            Came::MoreOfHeader => {}
            Came::Other => return,
        }
        if self.watch.see(bytes) {
            self.activity.has_two_lengths();
        }
    }

    fn note_write(&mut self, result: &Poll<io::Result<usize>>) {
        self.is_stuck = result.is_pending();
        self.activity.written(!self.is_stuck);
    }

    fn inner(&mut self) -> &mut S {
        self.inner
            .as_mut()
            .expect("the stream is there until it is dropped")
    }
}

impl<S> Drop for ClientStream<S> {
    fn drop(&mut self) {
        let back = self.back.take().zip(self.inner.take());
        if let Some((back, inner)) = back
            && self.activity.is_late()
            && !self.is_stuck
        {
            // Whoever began the connection may have ended meanwhile.
            let _ = back.send(inner);
        }
    }
}

impl<S: AsyncRead + Unpin> ClientStream<S> {
    /// Reads from the bare stream, and looks at nothing.
    pub(crate) fn poll_read_unnoted(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.inner()).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let taken = this.first.len().min(buf.remaining());
            let rest = this.first.split_off(taken);
            let first = std::mem::replace(&mut this.first, rest);
            buf.put_slice(&first);
            this.note_read(&first);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(this.inner()).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.note_read(&buf.filled()[before..]);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(this.inner()).poll_write(cx, buf);
        this.note_write(&result);
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(this.inner()).poll_write_vectored(cx, bufs);
        this.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(S::is_write_vectored)
    }
}
