//! The server's side of a connection (RFC 9113): one future, driven by one task.
//!
//! A turn of the task reads what has come, polls the streams that were woken, and writes what
//! they have said, as far as possible in one write. No stream has a task or a channel of its own;
//! only the body of a request can be read from elsewhere ([`RequestBody`]).
//!
//! What a client may do is bounded: streams ([`Settings::streams_max`]), header blocks, what waits
//! to be written (nothing more is read until the client takes it), streams that it opens and
//! resets at once or before they are answered, streams that have to be reset for its errors, frames that say nothing. A
//! connection that waits holds its tables and no buffers.

mod body;
mod receive;
mod request;
mod stream;
mod streams;

pub use body::{BodyCut, RequestBody};
pub use request::Protocol;

use crate::frame::{self, Code, NUMBER_MAX, PREFACE, WINDOW_BYTES, Window};
use crate::hpack::{Decoder, Encoder};
use crate::ready::{Ready, SLOTS};
use crate::spare;
use bytes::Bytes;
use http::Response;
use http::request::Parts;
use receive::{Counts, OpenBlock};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use stream::After;
use streams::Streams;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// With more than this to be written, nothing more is read or made.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// Reads before the streams have their turn.
const READS_IN_A_ROW: usize = 4;
/// Rounds of reading, answering and writing before other tasks have their turn.
const ROUNDS_IN_A_ROW: usize = 16;
/// Reads of what a client still sends that has been told that its connection ends.
const LAST_READS_MAX: usize = 64;
/// What a PING carries whose answer says that the client has seen the first GOAWAY.
const CLOSING: [u8; 8] = *b"closing!";

/// What answers requests.
pub trait Service: Unpin {
    /// The body of an answer.
    type Body: http_body::Body<Data = Bytes> + Unpin;
    /// An answer on its way, on the heap, where it may be large. When its stream ends before it, it is
    /// dropped.
    type Answer: Future<Output = Response<Self::Body>> + ?Sized;

    /// Answers a request. It has a body unless its header says that there is none. If it panics, the
    /// stream ends and it is called for the next one.
    fn call(&mut self, head: Parts, body: Option<RequestBody>) -> Pin<Box<Self::Answer>>;
}

impl<F, A, B> Service for F
where
    F: FnMut(Parts, Option<RequestBody>) -> Pin<Box<A>> + Unpin,
    A: Future<Output = Response<B>> + ?Sized,
    B: http_body::Body<Data = Bytes> + Unpin,
{
    type Body = B;
    type Answer = A;

    fn call(&mut self, head: Parts, body: Option<RequestBody>) -> Pin<Box<A>> {
        self(head, body)
    }
}

/// What a client may do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Streams at once; at most 128.
    pub streams_max: u32,
    /// The window of each stream; at least what a client begins with, 65 535.
    pub stream_window: u32,
    /// The window of the connection; at least as much.
    pub connection_window: u32,
    /// Bytes of a header list, as RFC 9113 6.5.2 counts them.
    pub header_bytes_max: u32,
    /// Header lines.
    pub header_lines_max: usize,
    /// Streams that a client may open and reset at once, beyond those that it lets come to an end.
    pub quick_resets_max: u32,
    /// Streams that a client may reset before their answers have begun, beyond those that it lets
    /// come to an end.
    pub cancels_max: u32,
    /// After this long it may reset one more of them.
    pub cancel_pause: Duration,
    /// Streams that may have to be reset for errors of the client.
    pub error_resets_max: u32,
    /// How long a client may take nothing of an answer, or less than 4 KiB at a time.
    pub stall_max: Duration,
}

/// A connection of a client. It ends with the future.
pub struct Connection<IO, S: Service> {
    io: IO,
    service: S,
    settings: Settings,
    ready: Arc<Ready>,
    streams: Streams<S>,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// How much of the preface has come.
    n_preface: usize,
    /// Whether the first settings have come.
    is_greeted: bool,
    block: Option<OpenBlock>,
    decoder: Decoder,
    window: Window,
    last_id: u32,
    counts: Counts,
    out: Outgoing,
    stage: Stage,
    /// Is over when an answer may have been waiting for its client for too long.
    stall: Option<Pin<Box<Sleep>>>,
}

/// What is to be written.
struct Outgoing {
    bytes: Vec<u8>,
    n_written: usize,
    is_flushed: bool,
    encoder: Encoder,
    /// Room in the client's window of the connection.
    window: Window,
    /// The window of new streams.
    stream_window: u32,
}

/// How far the life of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The client is asked to open no more streams, and to say that it knows.
    Asked,
    /// It has been told which streams were the last ones (RFC 9113 6.8).
    Last,
    /// It has been told that the connection ends now.
    Failed,
    /// All is written.
    ShutDown {
        n_reads: usize,
    },
}

impl<IO, S: Service> std::fmt::Debug for Connection<IO, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("stage", &self.stage)
            .field("n_streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

impl<IO, S> Connection<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service,
{
    /// A connection on which nothing has been said yet, the client's preface included.
    pub fn new(io: IO, mut settings: Settings, service: S) -> Self {
        let streams_most = u32::try_from(SLOTS).unwrap_or(u32::MAX);
        settings.streams_max = settings.streams_max.min(streams_most);
        // So that a client that has not seen the settings yet does not go beyond them.
        settings.stream_window = settings.stream_window.clamp(WINDOW_BYTES, NUMBER_MAX);
        settings.connection_window = settings.connection_window.clamp(WINDOW_BYTES, NUMBER_MAX);
        let mut bytes = Vec::new();
        let told = frame::Settings {
            max_concurrent_streams: Some(settings.streams_max),
            initial_window_size: Some(settings.stream_window),
            max_header_list_size: Some(settings.header_bytes_max),
            enable_connect_protocol: Some(true),
            ..frame::Settings::default()
        };
        frame::write_settings(&mut bytes, &told);
        let more = settings.connection_window - WINDOW_BYTES;
        if more > 0 {
            frame::write_window_update(&mut bytes, 0, more);
        }
        Self {
            io,
            service,
            ready: Arc::default(),
            streams: Streams::new(),
            partial: Vec::new(),
            n_preface: 0,
            is_greeted: false,
            block: None,
            decoder: Decoder::new(),
            window: Window::new(settings.connection_window),
            last_id: 0,
            counts: Counts::default(),
            out: Outgoing {
                bytes,
                n_written: 0,
                is_flushed: true,
                encoder: Encoder::new(),
                window: Window::new(WINDOW_BYTES),
                stream_window: WINDOW_BYTES,
            },
            stage: Stage::Open,
            stall: None,
            settings,
        }
    }

    /// Takes no more streams, answers those that there are, and ends. To be polled afterwards.
    pub fn graceful_shutdown(&mut self) {
        if self.stage != Stage::Open {
            return;
        }
        self.stage = Stage::Asked;
        // RFC 9113 6.8: streams that are on their way are still taken.
        frame::write_goaway(&mut self.out.bytes, NUMBER_MAX, Code::NO_ERROR);
        frame::write_ping(&mut self.out.bytes, CLOSING, false);
    }

    fn client_has_seen_goaway(&mut self) {
        if self.stage == Stage::Asked {
            self.stage = Stage::Last;
            frame::write_goaway(&mut self.out.bytes, self.last_id, Code::NO_ERROR);
        }
    }

    /// Ends the connection for this.
    fn fail(&mut self, code: Code) {
        frame::write_goaway(&mut self.out.bytes, self.last_id, code);
        self.stage = Stage::Failed;
        self.cut_all(code);
    }

    fn cut_all(&mut self, code: Code) {
        for (_, stream) in self.streams.all() {
            if let Some(body) = &stream.incoming.body {
                body.cut(code);
            }
        }
        self.streams = Streams::new();
    }

    /// Ends a stream before its end, and says so.
    fn reset(&mut self, slot: usize, code: Code) {
        let Some(stream) = self.streams.remove(slot) else {
            return;
        };
        frame::write_reset(&mut self.out.bytes, stream.id, code);
        self.streams.note_reset(stream.id);
        if let Some(body) = &stream.incoming.body {
            body.cut(code);
        }
    }

    /// Reads what there is; whether there may be more.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..READS_IN_A_ROW {
            if self.out.bytes.len() >= OUT_BYTES_MAX || self.stage == Stage::Failed {
                break;
            }
            let n_read = spare::with_scratch(|scratch| self.poll_read(scratch, cx));
            if ready!(n_read)? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n_before = self.partial.len();
        let mut buffer = ReadBuf::new(scratch);
        // A frame is shorter than the buffer.
        buffer.put_slice(&self.partial);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        let n_read = bytes.len() - n_before;
        let n_taken = self.receive(bytes).unwrap_or_else(|code| {
            self.fail(code);
            bytes.len()
        });
        let rest = bytes.get(n_taken..).unwrap_or_default();
        self.partial = rest.to_vec();
        Poll::Ready(Ok(n_read))
    }

    /// Gives the streams that have something to do their turns.
    fn take_turns(&mut self) {
        let mut due = self.streams.take_due(&self.ready);
        while self.out.bytes.len() < OUT_BYTES_MAX
            && let Some(slot) = due.next()
        {
            let Some((stream, waker)) = self.streams.in_slot(slot) else {
                continue;
            };
            match stream.take_turn(&mut self.out, &mut Context::from_waker(waker)) {
                After::Waits => {}
                After::IsBlocked => {
                    let limit = self.settings.stall_max;
                    self.stall
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                }
                After::GoesOn => self.streams.is_due(slot),
                After::Ends => {
                    self.streams.remove(slot);
                    self.counts.stream_ended();
                }
                After::Breaks(code) => {
                    self.reset(slot, code);
                    if code == Code::NO_ERROR {
                        self.counts.stream_ended();
                    }
                }
            }
        }
        self.streams.put_back(&due);
    }

    /// Resets the streams whose client has taken nothing for too long.
    fn look_for_stalls(&mut self, cx: &mut Context<'_>) {
        let Some(timer) = &mut self.stall else { return };
        if timer.as_mut().poll(cx).is_pending() {
            return;
        }
        let (now, limit) = (Instant::now(), self.settings.stall_max);
        let over: Vec<(usize, Instant)> = self
            .streams
            .all()
            .filter_map(|(slot, stream)| Some((slot, stream.blocked_since? + limit)))
            .collect();
        for (slot, _) in over.iter().filter(|(_, at)| *at <= now) {
            self.reset(*slot, Code::CANCEL);
        }
        let next = over.iter().map(|(_, at)| *at).filter(|at| *at > now).min();
        match next {
            None => self.stall = None,
            Some(next) => {
                timer_reset(self.stall.as_mut(), next);
                // Whoever is woken by the timer has to ask it again.
                cx.waker().wake_by_ref();
            }
        }
    }

    /// Opens the connection's window by what was read.
    fn open_window(&mut self) {
        let enough = self.settings.connection_window / 2;
        if let Some(credit) = self.ready.take_credit(enough)
            && self.window.add(credit).is_ok()
        {
            frame::write_window_update(&mut self.out.bytes, 0, credit);
        }
    }

    /// Writes what there is.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = &mut self.out;
        while let Some(rest) = out.bytes.get(out.n_written..).filter(|it| !it.is_empty()) {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.n_written += n;
            out.is_flushed = false;
        }
        out.bytes.clear();
        out.n_written = 0;
        if !out.is_flushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            out.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing is left to be said.
    fn is_over(&self) -> bool {
        match self.stage {
            Stage::Open | Stage::Asked => false,
            Stage::Last => self.streams.is_empty(),
            Stage::Failed | Stage::ShutDown { .. } => true,
        }
    }

    /// Ends a connection of which all is written. What the client has sent meanwhile is read: if
    /// it were not, the kernel would reset the connection, and with it what was said last.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.stage, Stage::ShutDown { .. }) {
            // A client that is gone already is none to wait for.
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
            self.stage = Stage::ShutDown { n_reads: 0 };
        }
        let Stage::ShutDown { n_reads } = &mut self.stage else {
            return Poll::Ready(());
        };
        let io = &mut self.io;
        spare::with_scratch(|scratch| {
            while *n_reads < LAST_READS_MAX {
                *n_reads += 1;
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) | Poll::Pending => break,
                }
            }
        });
        Poll::Ready(())
    }

    fn poll_until_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ready.register(cx.waker());
        self.look_for_stalls(cx);
        for _ in 0..ROUNDS_IN_A_ROW {
            let mut reads_on = false;
            if !self.is_over() {
                match self.poll_receive(cx) {
                    Poll::Ready(Ok(())) => reads_on = self.stage != Stage::Failed,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            if !self.is_over() {
                self.take_turns();
                self.open_window();
            }
            // A client that takes nothing is waited for; whoever drives this has a limit for it.
            ready!(self.poll_send(cx))?;
            if self.is_over() {
                ready!(self.poll_end(cx));
                return Poll::Ready(Ok(()));
            }
            if !reads_on && !self.streams.has_due() && self.ready.is_empty() {
                // A timer that was made in this turn is to wake the task as well.
                if let Some(timer) = &mut self.stall
                    && timer.as_mut().poll(cx).is_ready()
                {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
        // Other connections have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn timer_reset(timer: Option<&mut Pin<Box<Sleep>>>, at: Instant) {
    if let Some(timer) = timer {
        timer.as_mut().reset(at);
    }
}

impl<IO, S> Future for Connection<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.out.bytes.is_empty() {
            this.out.bytes = spare::take();
        }
        let polled = this.poll_until_end(cx);
        if this.out.bytes.is_empty() {
            spare::give(std::mem::take(&mut this.out.bytes));
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(end) => {
                if end.is_err() {
                    this.cut_all(Code::CANCEL);
                }
                Poll::Ready(())
            }
        }
    }
}

impl<IO, S: Service> Drop for Connection<IO, S> {
    /// Bodies may be read elsewhere: there it has to be known.
    fn drop(&mut self) {
        for (_, stream) in self.streams.all() {
            if let Some(body) = &stream.incoming.body {
                body.cut(Code::CANCEL);
            }
        }
    }
}

/// Whether these bytes go on with the preface, of which so many have come.
fn goes_on_with_preface(n_before: usize, bytes: &[u8]) -> bool {
    let rest = PREFACE.get(n_before..).unwrap_or_default();
    rest.iter().zip(bytes).all(|(one, other)| one == other)
}

#[cfg(test)]
mod tests;
