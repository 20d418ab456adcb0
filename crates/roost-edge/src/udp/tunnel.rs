//! Datagrams between two edges: each flow has a stream of its own, as a raw
//! connection has. What does not go out at once waits here, a little of it;
//! what there is no room for is dropped, so that a slow way holds up nobody.

use super::BUFFER;
use crate::datagram_frames::{self, Frame, Frames, HEAD_BYTES};
use crate::limits;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Datagrams of a flow that wait to be sent to another edge.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    /// Told when there is something to send.
    filled: Notify,
    /// Bytes that all flows may have waiting, beyond what is their own.
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
    /// Nothing comes after it.
    is_refused: bool,
}

impl Outbox {
    pub(super) fn new(room: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            filled: Notify::new(),
            room,
        })
    }

    /// Has a datagram sent; an error when there is no room for it.
    pub(super) fn push(&self, datagram: &[u8]) -> io::Result<()> {
        let no_room = || io::Error::from(io::ErrorKind::WouldBlock);
        let mut waiting = self.waiting.lock();
        let n_bytes = HEAD_BYTES + datagram.len();
        if waiting.is_refused || waiting.frames.len() + n_bytes > limits::FLOW_OUT_BYTES_MAX {
            return Err(no_room());
        }
        let after = waiting.frames.len() + n_bytes;
        let beyond = after.saturating_sub(limits::FLOW_OUT_OWN_BYTES);
        let count = u32::try_from(beyond.min(n_bytes)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(count);
        let room = room.map_err(|_| no_room())?;
        if !datagram_frames::write(&mut waiting.frames, datagram) {
            return Err(no_room());
        }
        match &mut waiting.room {
            Some(all) => all.merge(room),
            none => *none = Some(room),
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Has the other edge hear that nobody listens at the machine, as the last of all.
    pub(super) fn refuse(&self) {
        let mut waiting = self.waiting.lock();
        if !waiting.is_refused {
            datagram_frames::write_refused(&mut waiting.frames);
            waiting.is_refused = true;
            self.filled.notify_one();
        }
    }

    /// All that waits, once there is something.
    async fn next(&self) -> Waiting {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if !waiting.frames.is_empty() {
                    let is_refused = waiting.is_refused;
                    let taken = std::mem::take(&mut *waiting);
                    waiting.is_refused = is_refused;
                    return Waiting {
                        is_refused,
                        ..taken
                    };
                }
            }
            self.filled.notified().await;
        }
    }
}

/// Sends what waits and gives what comes, until the other edge ends the stream or it is sent that
/// nobody listens at the machine. Whether nothing came that is no frame.
pub(super) async fn carry<S>(stream: S, outbox: &Outbox, take: impl FnMut(Frame<'_>)) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        // Not cancel-safe, either: whichever ends first ends the stream.
        ended = send_all(writer, outbox) => ended,
        ended = take_all(reader, take) => ended,
    };
    let Err(error) = ended else { return true };
    tracing::debug!(%error, "a flow of datagrams from edge to edge broke off");
    error.kind() != io::ErrorKind::InvalidData
}

async fn send_all(mut writer: impl AsyncWrite + Unpin, outbox: &Outbox) -> io::Result<()> {
    loop {
        let waiting = outbox.next().await;
        // In pieces: what is written at once is held once more below.
        for piece in waiting.frames.chunks(limits::TUNNEL_BUFFER_BYTES) {
            writer.write_all(piece).await?;
        }
        writer.flush().await?;
        if waiting.is_refused {
            return writer.shutdown().await;
        }
    }
}

async fn take_all(
    mut reader: impl AsyncRead + Unpin,
    mut take: impl FnMut(Frame<'_>),
) -> io::Result<()> {
    let mut frames = Frames::default();
    loop {
        let n_bytes = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(&mut reader).poll_read(cx, &mut read))?;
                frames.take(read.filled(), &mut take)?;
                Poll::Ready(io::Result::Ok(read.filled().len()))
            })
        });
        if n_bytes.await? == 0 {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
