//! What has come of an answer and was not taken yet, and who takes it.

use super::Shared;
use super::error::Error;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::time::Instant;

/// Pieces that wait one by one.
const PIECES_MAX: usize = 64;

/// What has come of an answer. No more than a window of it, since only what was taken makes room.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) head: Option<Response<()>>,
    /// The first piece: most answers have no other.
    piece: Option<Bytes>,
    pieces: VecDeque<Bytes>,
    /// What comes after so many: each costs more than its bytes, and may have one of them.
    tail: BytesMut,
    pub(super) trailers: Option<HeaderMap>,
    /// No more is to come.
    pub(super) end: Option<Result<(), Error>>,
    /// How many bytes are to come, if it is known.
    pub(super) left: Option<u64>,
    pub(super) waker: Option<Waker>,
    /// Whether its head was waited for as long as it was to be.
    pub(super) is_late: bool,
}

impl Inbox {
    pub(super) fn push(&mut self, piece: &[u8]) {
        if !self.tail.is_empty() || self.pieces.len() >= PIECES_MAX {
            self.tail.extend_from_slice(piece);
        } else if self.is_empty() {
            self.piece = Some(Bytes::copy_from_slice(piece));
        } else {
            self.pieces.push_back(Bytes::copy_from_slice(piece));
        }
    }

    fn is_empty(&self) -> bool {
        self.piece.is_none() && self.pieces.is_empty() && self.tail.is_empty()
    }

    fn take(&mut self) -> Option<Bytes> {
        let piece = self.piece.take().or_else(|| self.pieces.pop_front());
        let is_tail = piece.is_none() && !self.tail.is_empty();
        // Not a part of it: the window is about as much as its buffer.
        piece.or_else(|| is_tail.then(|| std::mem::take(&mut self.tail).freeze()))
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

/// A request under way. Dropped before the end of its answer, it is reset.
pub(super) struct Exchange<B> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) inbox: Arc<Mutex<Inbox>>,
    pub(super) stream: u32,
}

impl<B> Exchange<B> {
    /// The header of the answer; none when it has not come in time.
    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<Option<Response<()>>, Error>> {
        let mut inbox = self.inbox.lock();
        if let Some(head) = inbox.head.take() {
            return Poll::Ready(Ok(Some(head)));
        }
        if let Some(Err(error)) = &inbox.end {
            return Poll::Ready(Err(error.clone()));
        }
        if std::mem::take(&mut inbox.is_late) {
            return Poll::Ready(Ok(None));
        }
        inbox.wait(cx);
        Poll::Pending
    }

    /// Waits until then from now on.
    pub(super) fn waits_until(&self, deadline: Instant) {
        self.shared.state.lock().waits_until(self.stream, deadline);
        self.shared.woken.wake();
    }
}

impl<B> Drop for Exchange<B> {
    fn drop(&mut self) {
        if self.inbox.lock().end.is_none() {
            self.shared.cancel(self.stream);
        }
    }
}

impl<B> fmt::Debug for Exchange<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// The body of an answer. Dropped before its end, the stream is reset.
pub struct ResponseBody<B> {
    exchange: Exchange<B>,
    /// Bytes that were taken and of which the other side does not know yet.
    n_taken: u32,
}

impl<B> ResponseBody<B> {
    pub(super) fn new(exchange: Exchange<B>) -> Self {
        let n_taken = 0;
        Self { exchange, n_taken }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exchange.fmt(f)
    }
}

impl<B> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let mut inbox = this.exchange.inbox.lock();
        if let Some(piece) = inbox.take() {
            let is_all = inbox.end.is_some();
            drop(inbox);
            // No more than a window waits.
            this.n_taken += u32::try_from(piece.len()).unwrap_or(0);
            // Small answers end before it is worth telling.
            if !is_all && this.n_taken >= this.exchange.shared.credit_min {
                let n = std::mem::take(&mut this.n_taken);
                this.exchange.shared.credit(this.exchange.stream, n);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &inbox.end {
            Some(Err(error)) => return Poll::Ready(Some(Err(error.clone()))),
            Some(Ok(())) => {
                let trailers = inbox.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            None => {}
        }
        inbox.wait(cx);
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let inbox = self.exchange.inbox.lock();
        matches!(inbox.end, Some(Ok(()))) && inbox.is_empty() && inbox.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let inbox = self.exchange.inbox.lock();
        let here = inbox.piece.iter().chain(&inbox.pieces);
        let here: usize = here.map(Bytes::len).sum();
        let here = (here + inbox.tail.len()) as u64;
        // Whether all of it is here already says nothing: in other pieces it would not be.
        let exact = |left| SizeHint::with_exact(here + left);
        inbox.left.map_or_else(SizeHint::default, exact)
    }
}

#[cfg(test)]
mod tests {
    use super::{Inbox, PIECES_MAX};

    #[test]
    fn many_small_pieces_come_out_as_few_and_in_order() {
        const BYTES: usize = 10_000;
        let byte = |n: usize| u8::try_from(n % 251).unwrap();
        for take_each in [7, 3000, BYTES] {
            let (mut inbox, mut taken, mut n_pieces) = (Inbox::default(), Vec::new(), 0);
            for n in 1..=BYTES {
                inbox.push(&[byte(n)]);
                assert!(inbox.pieces.len() <= PIECES_MAX);
                if n % take_each == 0 {
                    let before = taken.len();
                    while let Some(piece) = inbox.take() {
                        taken.extend(piece);
                        n_pieces += 1;
                    }
                    assert!(inbox.is_empty() && taken.len() - before == take_each);
                }
            }
            while let Some(piece) = inbox.take() {
                taken.extend(piece);
            }
            assert!((1..=BYTES).map(byte).eq(taken), "{take_each}");
            // The first, those that wait one by one, and the rest as one.
            let most = BYTES / take_each * take_each.min(PIECES_MAX + 2);
            assert_eq!(n_pieces, most, "{take_each}");
        }
    }
}
