//! A virtio-serial port in miniature: the guest's end stays, hosts come and go,
//! and what one host leaves unread the next one gets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Makes hosts for the one guest.
#[derive(Clone)]
pub(crate) struct Port(Arc<Mutex<DuplexStream>>);

impl Port {
    /// The port and the guest's end of it.
    pub(crate) fn new() -> (Self, DuplexStream) {
        let (host, guest) = tokio::io::duplex(4096);
        (Self(Arc::new(Mutex::new(host))), guest)
    }

    /// A host's connection; dropping it leaves the port open.
    pub(crate) fn connect(&self) -> Self {
        self.clone()
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(context, buffer)
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
