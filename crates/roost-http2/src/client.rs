//! The client's side of a connection that many requests share, to a server that is known to
//! speak HTTP/2 (RFC 9113 3.3).
//!
//! ```text
//!   Sender::send ──▶ State: streams, what is to be written ◀── Driver ──▶ the connection
//!        ▲             one short lock                            │ one task
//!        └──────────── Inbox of the stream: head, pieces, end ◀──┘
//! ```
//!
//! - Who asks writes the header of the request, and of the body what is there already, into the
//!   buffer of the connection, and waits at the inbox. What requests of one moment have written
//!   goes out at once.
//! - The driver reads, writes, and sends on the bodies of requests that were not there as a whole.
//!   It polls only those that were woken.
//! - The driver has one timer for all answers that are waited for, set to the earliest moment at
//!   which a wait may be over.
//! - The window of a stream opens as its reader takes what has come; that of the connection opens
//!   at once, so that readers who stand still hold up nobody else.

mod answer;
mod driver;
mod error;
mod inbox;
mod receive;
mod state;

pub use driver::Driver;
pub use error::Error;
pub use inbox::ResponseBody;

use crate::frame::{self, Code, PREFACE, Settings, WINDOW_BYTES};
use crate::hpack::Block;
use bytes::Bytes;
use driver::Woken;
use error::Why;
use http::Response;
use http_body::Body;
use inbox::Exchange;
use parking_lot::Mutex;
use state::{Ending, First, Source, State, Upload};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Streams that are opened before the other side has said how many it takes: more would be
/// refused by one that takes fewer, and some servers end the connection over what was on its way
/// to a stream that they have refused.
const STREAMS_BEFORE_SETTINGS: usize = 1;
/// The most of a body that is taken before its request is sent.
const BODY_BYTES_FIRST: usize = 32 * 1024;

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests at once, if the other side takes so many.
    pub streams_max: usize,
    /// The window of a stream.
    pub stream_window: u32,
    /// The window of the connection.
    pub connection_window: u32,
    /// Bytes of the header of an answer, as RFC 9113 6.5.2 counts them.
    pub header_bytes_max: u32,
    /// Lines of the header of an answer.
    pub header_lines_max: usize,
}

/// What all that have to do with a connection share.
struct Shared<B> {
    state: Mutex<State<B>>,
    /// Wakes the driver.
    woken: Arc<Woken>,
    /// Told when a stream has ended.
    places: Notify,
    /// Bytes of an answer that are worth telling that they were taken.
    credit_min: u32,
}

impl<B> Shared<B> {
    /// Nobody waits for this answer any more.
    fn cancel(&self, stream: u32) {
        let dropped = self.state.lock().reset(stream, Code::CANCEL);
        if dropped.is_some() {
            self.woken.wake();
            self.places.notify_one();
        }
    }

    /// So much of an answer was taken.
    fn credit(&self, number: u32, n_bytes: u32) {
        let mut state = self.state.lock();
        if let Some(stream) = state.streams.get_mut(&number)
            && stream.receives.add(n_bytes).is_ok()
        {
            frame::write_window_update(&mut state.out, number, n_bytes);
            drop(state);
            self.woken.wake();
        }
    }
}

/// Tells the driver when the last sender is gone.
struct Handle<B>(Arc<Shared<B>>);

impl<B> Drop for Handle<B> {
    fn drop(&mut self) {
        self.0.state.lock().is_abandoned = true;
        self.0.woken.wake();
    }
}

/// Sends requests with bodies of the type `B` on one connection.
pub struct Sender<B>(Arc<Handle<B>>);

impl<B> Clone for Sender<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> fmt::Debug for Sender<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// Begins HTTP/2 on a connection. The driver has to be polled for as long as it takes; it ends
/// with the last request after the last sender. Both need tokio's clock.
pub fn begin<T, B>(io: T, limits: Limits) -> (Sender<B>, Driver<T, B>) {
    let mut state = State::new(limits.stream_window, limits.streams_max);
    state.out.extend_from_slice(PREFACE);
    let settings = Settings {
        enable_push: Some(false),
        initial_window_size: Some(limits.stream_window),
        max_header_list_size: Some(limits.header_bytes_max),
        ..Settings::default()
    };
    frame::write_settings(&mut state.out, &settings);
    if let Some(more) = limits.connection_window.checked_sub(WINDOW_BYTES)
        && more > 0
    {
        frame::write_window_update(&mut state.out, 0, more);
    }
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        woken: Arc::default(),
        places: Notify::new(),
        credit_min: limits.stream_window / 2,
    });
    let driver = Driver::new(io, shared.clone(), limits);
    (Sender(Arc::new(Handle(shared))), driver)
}

/// A request that has not begun.
struct Request<W, B> {
    write: W,
    /// What is there of its body.
    first: First<B>,
    /// The body, if there may be more of it.
    body: Option<B>,
    is_head: bool,
    /// Until when its answer is waited for.
    deadline: Instant,
}

impl<B> Sender<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Whether there are as many requests on it as the other side takes: another one would wait
    /// for the end of one of them. Not known before it has said how many.
    pub fn is_full(&self) -> bool {
        self.0.0.state.lock().is_full()
    }

    /// Whether it takes requests, and is not known to have as many as the other side takes.
    pub fn takes_more(&self) -> bool {
        let state = self.0.0.state.lock();
        state.has_place().is_ok() && !state.is_full()
    }

    /// Whether both are of one connection.
    pub fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Sends a request whose fields `write` writes, those of HTTP/2's own first; `is_head` when
    /// its answer has no body by its method. Waits for the header of the answer until `until`,
    /// which is asked again when that moment has come, unless the request still waits for a place
    /// then: it may be a later one by then.
    ///
    /// Dropped before, the request is taken back, or reset.
    pub async fn send(
        &self,
        write: impl FnOnce(&mut Block<'_>),
        is_head: bool,
        mut body: B,
        until: impl Fn() -> Instant,
    ) -> Result<Response<ResponseBody<B>>, Error> {
        let mut deadline = until();
        let exchange = {
            let first = poll_fn(|cx| Poll::Ready(first_pieces(&mut body, cx)));
            let (first, is_whole) = first.await?;
            let mut request = Some(Request {
                write,
                first,
                body: (!is_whole).then_some(body),
                is_head,
                deadline,
            });
            match self.open(&mut request)? {
                Some(exchange) => exchange,
                // On the heap: most find a place at once.
                None => Box::pin(timeout_at(deadline, self.open_later(request)))
                    .await
                    .unwrap_or(Err(Error::unsent(Why::Late)))?,
            }
        };
        loop {
            if let Some(head) = poll_fn(|cx| exchange.poll_head(cx)).await? {
                return Ok(head.map(|()| ResponseBody::new(exchange)));
            }
            let later = until();
            if later <= deadline {
                return Err(Error::broken(Why::Late));
            }
            deadline = later;
            exchange.waits_until(deadline);
        }
    }

    /// Begins a request when there is a place for it.
    async fn open_later<W>(&self, mut request: Option<Request<W, B>>) -> Result<Exchange<B>, Error>
    where
        W: FnOnce(&mut Block<'_>),
    {
        loop {
            // Noted as waiting first, so that a place which is free by then is not missed.
            let mut place = pin!(self.0.0.places.notified());
            place.as_mut().enable();
            if let Some(exchange) = self.open(&mut request)? {
                return Ok(exchange);
            }
            place.await;
        }
    }

    /// Begins a request, unless there are as many as there may be.
    fn open<W>(&self, request: &mut Option<Request<W, B>>) -> Result<Option<Exchange<B>>, Error>
    where
        W: FnOnce(&mut Block<'_>),
    {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        if !state.has_place()? {
            return Ok(None);
        }
        let Some(request) = request.take() else {
            return Ok(None);
        };
        let (write, is_head, deadline) = (request.write, request.is_head, request.deadline);
        let (stream, inbox) = state.open(write, is_head, deadline, request.first);
        if let Some(body) = request.body
            && let Some(upload) = state.upload(stream)
        {
            let waker = shared.woken.waker(stream);
            upload.source = Some(Source { body, waker });
            shared.woken.note(stream);
        }
        drop(state);
        shared.woken.wake();
        Ok(Some(Exchange {
            shared: shared.clone(),
            inbox,
            stream,
        }))
    }
}

/// What of a body is there already, and whether that is all: most bodies are there as a whole, in
/// one piece.
fn first_pieces<B>(body: &mut B, cx: &mut Context<'_>) -> Result<(First<B>, bool), Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok((First::Nothing, true));
    }
    let mut pieces = VecDeque::new();
    let (mut ending, mut n_bytes) = (None, 0);
    while n_bytes < BODY_BYTES_FIRST && ending.is_none() {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => break,
            Poll::Ready(None) => ending = Some(Ending::Data),
            Poll::Ready(Some(Err(_))) => return Err(Error::broken(Why::RequestBody)),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    if is_last && pieces.is_empty() {
                        return Ok((First::Whole(data), true));
                    }
                    n_bytes += data.len();
                    pieces.push_back(data);
                    ending = is_last.then_some(Ending::Data);
                }
                Err(frame) => ending = Ending::of_trailers(frame),
            },
        }
    }
    let is_whole = ending.is_some();
    Ok((First::Part(Upload::new(pieces, ending)), is_whole))
}

#[cfg(test)]
mod tests;
