//! One stream: the request that comes, and the answer on its way.

use super::body::Shared;
use super::{Outgoing, Service};
use crate::fields::{content_length, is_of_connection};
use crate::frame::{self, Code, FRAME_BYTES_MAX, Window};
use bytes::{Buf as _, Bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// A stream sends no more at a time, so that others have their turn.
const TURN_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX as usize;

/// Who takes less at a time than this takes nothing: one byte now and then holds an answer as long
/// as somebody likes.
const MOVED_BYTES_MIN: usize = 4 * 1024;

/// See the module.
pub(super) struct Stream<S: Service> {
    pub(super) id: u32,
    pub(super) incoming: Incoming,
    /// Room for what is sent.
    pub(super) window: Window,
    pub(super) phase: Phase<S>,
    pub(super) is_head: bool,
    /// Whether its service has been asked for an answer.
    pub(super) is_begun: bool,
    /// Since when a piece of the answer has waited for room in a window.
    pub(super) blocked_since: Option<Instant>,
}

/// The body of a request, seen from the connection.
pub(super) struct Incoming {
    pub(super) window: Window,
    /// None when there is no body.
    pub(super) body: Option<Arc<Shared>>,
    /// How much is still to come, if that was said.
    pub(super) left: Option<u64>,
    pub(super) is_ended: bool,
}

/// How far an answer is.
pub(super) enum Phase<S: Service> {
    Answering(Pin<Box<S::Answer>>),
    Sending(Sending<S::Body>),
    Sent,
}

/// A body on its way.
pub(super) struct Sending<B> {
    body: B,
    /// What the body gave and the windows had no room for yet.
    piece: Bytes,
    /// Whether it has come in this turn.
    is_new: bool,
    /// Bytes that went out in this turn.
    n_moved: usize,
    /// How much is still to be sent, if that was said.
    left: Option<u64>,
}

/// What becomes of a stream after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It waits to be woken.
    Waits,
    /// It waits for room in a window.
    IsBlocked,
    /// It has more to do.
    GoesOn,
    /// Both sides have said all.
    Ends,
    /// It ends before its end.
    Breaks(Code),
}

impl<S: Service> Stream<S> {
    /// Does what can be done now.
    pub(super) fn take_turn(&mut self, out: &mut Outgoing, cx: &mut Context<'_>) -> After {
        self.is_begun = true;
        let mut is_unread = true;
        if let Some(body) = &self.incoming.body {
            let credit;
            (credit, is_unread) = body.progress();
            if let Some(credit) = credit
                && !self.incoming.is_ended
                && self.incoming.window.add(credit).is_ok()
            {
                frame::write_window_update(&mut out.bytes, self.id, credit);
            }
        }
        if let Phase::Answering(answer) = &mut self.phase {
            let response = match unless_it_panics(|| answer.as_mut().poll(cx)) {
                Some(Poll::Pending) => return After::Waits,
                Some(Poll::Ready(response)) => response,
                None => return After::Breaks(Code::INTERNAL_ERROR),
            };
            self.phase = match begin(self.id, self.is_head, response, out) {
                Ok(Some(sending)) => Phase::Sending(sending),
                Ok(None) => Phase::Sent,
                Err(code) => return After::Breaks(code),
            };
        }
        if let Phase::Sending(sending) = &mut self.phase {
            let end = out.bytes.len() + TURN_BYTES_MAX;
            let after = sending.send(self.id, &mut self.window, out, end, cx);
            let has_moved = std::mem::take(&mut sending.n_moved) >= MOVED_BYTES_MIN;
            if sending.piece.is_empty() || sending.is_new || has_moved {
                self.blocked_since = None;
            }
            sending.is_new = false;
            if after == After::IsBlocked {
                self.blocked_since.get_or_insert_with(Instant::now);
            }
            if after != After::Ends {
                return after;
            }
            // What hangs on the body is let go at once.
            self.phase = Phase::Sent;
        }
        if self.incoming.is_ended {
            After::Ends
        } else if is_unread {
            // RFC 9113 8.1: the answer is whole, and the rest of the request of no use.
            After::Breaks(Code::NO_ERROR)
        } else {
            After::Waits
        }
    }
}

/// What the service or an answer gives; none if it panics, which is then the end of this stream and
/// of no other.
pub(super) fn unless_it_panics<T>(give: impl FnOnce() -> T) -> Option<T> {
    // An answer that has panicked is dropped and not asked again.
    catch_unwind(AssertUnwindSafe(give)).ok()
}

/// Writes the head of an answer; its body, if one is to follow.
fn begin<B>(
    id: u32,
    is_head: bool,
    response: Response<B>,
    out: &mut Outgoing,
) -> Result<Option<Sending<B>>, Code>
where
    B: http_body::Body<Data = Bytes>,
{
    let (parts, body) = response.into_parts();
    if parts.status.is_informational() {
        return Err(Code::INTERNAL_ERROR);
    }
    let is_bare = is_head
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    let is_empty = is_bare || body.is_end_stream();
    let said = content_length(&parts.headers).map_err(|_| Code::INTERNAL_ERROR)?;
    let known = body.size_hint().exact().filter(|_| !is_empty);
    if !is_bare && is_empty && said.is_some_and(|said| said > 0) {
        return Err(Code::INTERNAL_ERROR);
    }
    let start = frame::begin_headers(&mut out.bytes, id, is_empty);
    let mut block = out.encoder.block(&mut out.bytes);
    block.field(":status", parts.status.as_str().as_bytes());
    for (name, value) in &parts.headers {
        let is_left_out = is_of_connection(name)
            || (parts.status == StatusCode::NO_CONTENT && *name == CONTENT_LENGTH);
        if !is_left_out {
            block.header(name, value);
        }
    }
    if said.is_none()
        && let Some(known) = known
    {
        block.header(&CONTENT_LENGTH, &known.into());
    }
    frame::end_headers(&mut out.bytes, start);
    Ok((!is_empty).then(|| Sending {
        body,
        piece: Bytes::new(),
        is_new: false,
        n_moved: 0,
        left: said.or(known),
    }))
}

impl<B> Sending<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    /// Sends until there is nothing, no room, or the buffer has come to `end`.
    fn send(
        &mut self,
        id: u32,
        window: &mut Window,
        out: &mut Outgoing,
        end: usize,
        cx: &mut Context<'_>,
    ) -> After {
        loop {
            if !self.piece.is_empty() {
                if self.write_piece(id, window, out) {
                    return After::Ends;
                }
                if !self.piece.is_empty() && (window.room() == 0 || out.window.room() == 0) {
                    return After::IsBlocked;
                }
                if out.bytes.len() >= end {
                    return After::GoesOn;
                }
                continue;
            }
            let polled = unless_it_panics(|| Pin::new(&mut self.body).poll_frame(cx));
            let Some(polled) = polled else {
                return After::Breaks(Code::INTERNAL_ERROR);
            };
            let frame = match polled {
                Poll::Pending => return After::Waits,
                Poll::Ready(None) if self.is_short() => return After::Breaks(Code::INTERNAL_ERROR),
                Poll::Ready(None) => {
                    frame::write_data_head(&mut out.bytes, id, 0, true);
                    return After::Ends;
                }
                Poll::Ready(Some(Err(_))) => return After::Breaks(Code::INTERNAL_ERROR),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    // More than it has said would make the answer malformed (RFC 9113 8.1.1).
                    match self.left.map(|left| left.checked_sub(data.len() as u64)) {
                        Some(None) => return After::Breaks(Code::INTERNAL_ERROR),
                        left => self.left = left.flatten(),
                    }
                    (self.piece, self.is_new) = (data, true);
                    if self.piece.is_empty() && self.body.is_end_stream() && !self.is_short() {
                        frame::write_data_head(&mut out.bytes, id, 0, true);
                        return After::Ends;
                    }
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else {
                        continue;
                    };
                    if self.is_short() {
                        return After::Breaks(Code::INTERNAL_ERROR);
                    }
                    write_trailers(id, &trailers, out);
                    return After::Ends;
                }
            }
        }
    }

    /// Writes as much of the piece as there is room for; whether it was the last of the body.
    fn write_piece(&mut self, id: u32, window: &mut Window, out: &mut Outgoing) -> bool {
        let room = window.room().min(out.window.room()).min(FRAME_BYTES_MAX) as usize;
        let n = self.piece.len().min(room);
        if n == 0 {
            return false;
        }
        let is_last = n == self.piece.len() && self.body.is_end_stream() && !self.is_short();
        frame::write_data_head(&mut out.bytes, id, n, is_last);
        out.bytes
            .extend_from_slice(self.piece.get(..n).unwrap_or_default());
        self.piece.advance(n);
        self.n_moved += n;
        let taken = u32::try_from(n).unwrap_or(u32::MAX);
        // There was room for them.
        let _ = (window.take(taken), out.window.take(taken));
        is_last
    }

    /// Whether less has come than was said.
    fn is_short(&self) -> bool {
        self.left.is_some_and(|left| left > 0)
    }
}

fn write_trailers(id: u32, trailers: &HeaderMap, out: &mut Outgoing) {
    let start = frame::begin_headers(&mut out.bytes, id, true);
    let mut block = out.encoder.block(&mut out.bytes);
    for (name, value) in trailers {
        if !is_of_connection(name) {
            block.header(name, value);
        }
    }
    frame::end_headers(&mut out.bytes, start);
}
