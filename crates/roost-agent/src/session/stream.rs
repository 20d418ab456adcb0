//! One session, as its user sees it: an ordinary connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::SessionEnd;

/// The bytes of one session.
///
/// Closing the writing half ends the session: what the other side sends after
/// that is lost. A session that neither side closed ends with an error, after
/// the bytes that arrived whole.
#[derive(Debug)]
pub struct SessionStream {
    pipe: DuplexStream,
    end: Arc<OnceLock<SessionEnd>>,
}

impl SessionStream {
    /// `end` is set before the other half of `pipe` is dropped.
    pub(super) fn new(pipe: DuplexStream, end: Arc<OnceLock<SessionEnd>>) -> Self {
        Self { pipe, end }
    }

    /// Why the session is over, if neither side wanted it so.
    fn failure(&self) -> Option<io::Error> {
        let end = self.end.get().filter(|end| !end.is_orderly())?;
        Some(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            end.clone(),
        ))
    }
}

impl AsyncRead for SessionStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(context, buffer))?;
        let at_end = buffer.filled().len() == before && buffer.remaining() > 0;
        match self.failure() {
            Some(error) if at_end => Poll::Ready(Err(error)),
            Some(_) | None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for SessionStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.pipe).poll_write(context, bytes));
        Poll::Ready(written.map_err(|error| self.failure().unwrap_or(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

impl tonic::transport::server::Connected for SessionStream {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}
