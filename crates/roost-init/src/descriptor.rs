//! Pipes and terminals without blocking.

use crate::limits::{OUTPUT_DRAIN_READS_MAX, OUTPUT_READ_BYTES};
use crate::sys::{self, Registered};
use bytes::Bytes;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::watch;

/// An open pipe end or terminal.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: Registered,
}

impl Descriptor {
    /// Takes charge of a descriptor.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd: sys::register(Arc::new(fd))?,
        })
    }

    /// Reads what is there; `None` when nothing will come any more.
    ///
    /// Cancel-safe: bytes that were read are returned without a pause between.
    pub(crate) async fn read(&self) -> Option<Bytes> {
        let mut buffer = vec![0; OUTPUT_READ_BYTES];
        let n_read = self
            .fd
            .async_io(Interest::READABLE, |fd| {
                Ok(rustix::io::retry_on_intr(|| {
                    rustix::io::read(fd, &mut buffer)
                })?)
            })
            .await;
        match n_read {
            Ok(n_read) if n_read > 0 => {
                buffer.truncate(n_read);
                buffer.shrink_to_fit();
                Some(Bytes::from(buffer))
            }
            // A terminal whose programs are gone fails with EIO: its end.
            Ok(_) | Err(_) => None,
        }
    }

    /// Writes some of the bytes; returns how many.
    ///
    /// Cancel-safe: as with `read`.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.fd
            .async_io(Interest::WRITABLE, |fd| {
                rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes)).map_err(Errno::into)
            })
            .await
    }

    /// The descriptor itself.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// What a process writes, to its end.
///
/// The end is that nobody can write any more. Once the process itself has ended,
/// silence will do: others may have inherited the pipe and hold it for ever.
#[derive(Debug)]
pub(crate) struct OutputPipe {
    descriptor: Arc<Descriptor>,
    ended: watch::Receiver<bool>,
    silence: Duration,
    n_reads_left: u32,
}

impl OutputPipe {
    /// A pipe whose process has ended when `ended` says so.
    pub(crate) fn new(
        descriptor: impl Into<Arc<Descriptor>>,
        ended: watch::Receiver<bool>,
        silence: Duration,
    ) -> Self {
        Self {
            descriptor: descriptor.into(),
            ended,
            silence,
            n_reads_left: OUTPUT_DRAIN_READS_MAX,
        }
    }

    /// The next piece.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        if *self.ended.borrow() {
            self.n_reads_left = self.n_reads_left.checked_sub(1)?;
        }
        let silence = async {
            if self.ended.wait_for(|ended| *ended).await.is_err() {
                // Whoever would say so is gone, and the process with him.
            }
            tokio::time::sleep(self.silence).await;
        };
        tokio::select! {
            // After a stop of the whole guest both may be ready: bytes come first.
            biased;
            // Cancel-safe: see `read`.
            data = self.descriptor.read() => data,
            // Cancel-safe: it only waits.
            () = silence => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, OutputPipe};
    use futures_util::FutureExt as _;
    use std::io::Write as _;
    use std::time::Duration;
    use tokio::sync::watch;

    #[tokio::test]
    async fn silence_never_beats_bytes() {
        const SILENCE: Duration = Duration::from_millis(1);
        // Without an order each round would go wrong half of the time.
        for _ in 0..32 {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let descriptor = Descriptor::new(reader.into()).unwrap();
            let (_ended, is_ended) = watch::channel(true);
            let mut pipe = OutputPipe::new(descriptor, is_ended, SILENCE);
            let mut next = Box::pin(pipe.next());
            assert!((&mut next).now_or_never().is_none());
            writer.write_all(b"late").unwrap();
            // The event loop stands still, as it does while a guest is stopped.
            std::thread::sleep(2 * SILENCE);
            assert_eq!(next.await.as_deref(), Some(&b"late"[..]));
        }
    }
}
