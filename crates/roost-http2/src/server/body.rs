//! The body of a request, between the connection and whoever reads it, in whatever task that is.

use crate::frame::Code;
use crate::ready::Ready;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The body of a request. Who drops it before its end wants no more of it.
#[derive(Debug)]
pub struct RequestBody(Arc<Shared>);

/// A body that came not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client's stream ended early: code {}", .0.0)]
pub struct BodyCut(pub Code);

/// What the connection and the reader share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    ready: Arc<Ready>,
    slot: usize,
    /// From so many bytes on the client is told that there is room in the window of the stream.
    enough: u32,
    /// The same of the connection.
    connection_enough: u32,
}

#[derive(Debug, Default)]
struct State {
    /// The first piece: most bodies have no other.
    piece: Bytes,
    /// Pieces that follow it are one: many small ones cost no more than a large one.
    data: BytesMut,
    trailers: Option<HeaderMap>,
    end: Option<Result<(), BodyCut>>,
    reader: Option<Waker>,
    /// Bytes that were read since the client was told last.
    credit: u32,
    is_dropped: bool,
    /// Bytes that are still to be read, if that is known.
    left: Option<u64>,
}

impl State {
    fn is_empty(&self) -> bool {
        self.piece.is_empty() && self.data.is_empty()
    }

    fn add(&mut self, payload: &[u8]) {
        if self.is_empty() {
            self.piece = Bytes::copy_from_slice(payload);
        } else {
            self.data.extend_from_slice(payload);
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let piece = std::mem::take(&mut self.piece);
        if !piece.is_empty() {
            return Some(piece);
        }
        (!self.data.is_empty()).then(|| std::mem::take(&mut self.data).freeze())
    }

    /// Lets all go that nobody has read; how many bytes it was.
    fn take_all(&mut self) -> u32 {
        let (piece, data) = (
            std::mem::take(&mut self.piece),
            std::mem::take(&mut self.data),
        );
        length(&piece).saturating_add(length(&data))
    }
}

impl Shared {
    /// A body of this length, if that is known, of the stream in this slot.
    pub(super) fn new(
        ready: &Arc<Ready>,
        slot: usize,
        left: Option<u64>,
        enough: u32,
        connection_enough: u32,
    ) -> Arc<Self> {
        let state = State {
            left,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            ready: ready.clone(),
            slot,
            enough,
            connection_enough,
        })
    }

    /// What the service gets.
    pub(super) fn reader(self: &Arc<Self>) -> RequestBody {
        RequestBody(self.clone())
    }

    /// More of the body; `flow_bytes` is what it took of the windows.
    pub(super) fn push(&self, payload: &[u8], flow_bytes: u32) {
        let mut state = self.state.lock();
        if state.is_dropped {
            drop(state);
            return self.ready.add_credit(flow_bytes, self.connection_enough);
        }
        state.add(payload);
        let n_padding = flow_bytes.saturating_sub(length(payload));
        state.credit = state.credit.saturating_add(n_padding);
        let tells = n_padding > 0 && state.credit >= self.enough;
        let reader = state.reader.take();
        drop(state);
        if n_padding > 0 {
            self.ready.add_credit(n_padding, self.connection_enough);
        }
        if tells {
            self.ready.set(self.slot);
        }
        wake(reader);
    }

    /// The body has come to its end.
    pub(super) fn end(&self, trailers: Option<HeaderMap>) {
        let mut state = self.state.lock();
        state.trailers = trailers;
        state.end.get_or_insert(Ok(()));
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// The stream has ended. Without effect on a body that has come to its end.
    pub(super) fn cut(&self, code: Code) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(Err(BodyCut(code)));
        let n_unread = state.take_all();
        let reader = state.reader.take();
        drop(state);
        self.ready.add_credit(n_unread, self.connection_enough);
        wake(reader);
    }

    /// The bytes by which the window of the stream may be opened, if they are enough, and whether
    /// nobody reads any more.
    pub(super) fn progress(&self) -> (Option<u32>, bool) {
        let mut state = self.state.lock();
        let is_enough = state.credit >= self.enough && state.end.is_none();
        let credit = is_enough.then(|| std::mem::take(&mut state.credit));
        (credit, state.is_dropped)
    }
}

fn wake(reader: Option<Waker>) {
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// No piece is longer than a window.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        let shared = &*self.0;
        let mut state = shared.state.lock();
        if let Some(data) = state.take() {
            let n_read = length(&data);
            state.left = state
                .left
                .map(|left| left.saturating_sub(u64::from(n_read)));
            state.credit = state.credit.saturating_add(n_read);
            let tells = state.credit >= shared.enough && state.end.is_none();
            drop(state);
            shared.ready.add_credit(n_read, shared.connection_enough);
            if tells {
                shared.ready.set(shared.slot);
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(cut)) => Poll::Ready(Some(Err(cut))),
            None => {
                let is_known = |reader: &Waker| reader.will_wake(cx.waker());
                if !state.reader.as_ref().is_some_and(is_known) {
                    state.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.state.lock();
        state.end == Some(Ok(())) && state.is_empty() && state.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.0.state.lock().left;
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_dropped = true;
        let n_unread = state.take_all();
        state.trailers = None;
        let is_over = state.end.is_some();
        drop(state);
        if n_unread > 0 {
            let enough = self.0.connection_enough;
            self.0.ready.add_credit(n_unread, enough);
        }
        // A stream that has been answered may wait for this.
        if !is_over {
            self.0.ready.set(self.0.slot);
        }
    }
}
