//! A device or socket as an asynchronous stream.
//!
//! A virtio-serial port has no end: while nobody holds it at the node, a read
//! finds "no bytes" and the port reports a hang-up. That state passes when the
//! node comes back, and what was sent meanwhile is delivered. The event loop
//! would take the hang-up for good, so the port is registered anew after a
//! pause. A socket's end is an end.

use crate::limits::PORT_RETRY_INTERVAL;
use crate::sys::{self, Registered};
use std::fs::File;
use std::future::Future as _;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What "no bytes" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoBytes {
    /// The other end has gone for good.
    End,
    /// The other end is away.
    Pause,
}

/// A stream on a descriptor that does not block.
#[derive(Debug)]
pub(crate) struct NodeStream {
    fd: Arc<OwnedFd>,
    /// Absent during a pause.
    registered: Option<Registered>,
    no_bytes: NoBytes,
    pause: Option<Pin<Box<Sleep>>>,
}

impl NodeStream {
    /// Opens a virtio-serial port.
    pub(crate) fn open(device: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(device)?;
        Self::new(file.into(), NoBytes::Pause)
    }

    /// A connected socket.
    pub(crate) fn of_socket(socket: OwnedFd) -> io::Result<Self> {
        Self::new(socket, NoBytes::End)
    }

    fn new(fd: OwnedFd, no_bytes: NoBytes) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd: Arc::new(fd),
            registered: None,
            no_bytes,
            pause: None,
        })
    }

    /// Waits for the end of a pause, if there is one.
    fn poll_registered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut Registered>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let registered = match self.registered.take() {
            Some(registered) => registered,
            None => sys::register(self.fd.clone())?,
        };
        Poll::Ready(Ok(self.registered.insert(registered)))
    }

    fn begin_pause(&mut self) {
        self.registered = None;
        self.pause = Some(Box::pin(tokio::time::sleep(PORT_RETRY_INTERVAL)));
    }
}

impl AsyncRead for NodeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let registered = ready!(this.poll_registered(cx))?;
            let mut guard = ready!(registered.poll_read_ready(cx))?;
            let n_read = guard.try_io(|fd| {
                Ok(rustix::io::read(
                    fd.get_ref(),
                    buffer.initialize_unfilled(),
                )?)
            });
            match n_read {
                Ok(Ok(0)) if this.no_bytes == NoBytes::Pause => this.begin_pause(),
                Ok(Ok(n_read)) => {
                    buffer.advance(n_read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let registered = ready!(this.poll_registered(cx))?;
            let mut guard = ready!(registered.poll_write_ready(cx))?;
            // While the other end of a port is away, the port reports "ready" and takes nothing.
            let is_away = guard.ready().is_write_closed();
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) if is_away => this.begin_pause(),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.no_bytes == NoBytes::End {
            rustix::net::shutdown(&this.fd, rustix::net::Shutdown::Write)?;
        }
        Poll::Ready(Ok(()))
    }
}
