//! The task of a connection: reads, writes, and sends bodies on.

use super::error::{Error, Why};
use super::receive::{Fatal, Receiver};
use super::state::{Ending, Pumped, Source, State, Stream};
use super::{Limits, Shared};
use crate::frame::{self, Code};
use crate::spare;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::Body;
use parking_lot::{Mutex, MutexGuard};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Rounds of reading, writing and sending before others have their turn.
const ROUNDS: usize = 16;
/// Pieces of one body before others have their turn.
const PIECES_IN_A_ROW: usize = 8;
/// A larger buffer is not kept while nothing is under way.
const BUFFER_BYTES_IDLE: usize = 4 * 1024;

/// Who is to be woken, and for which bodies.
#[derive(Default)]
pub(super) struct Woken {
    driver: AtomicWaker,
    streams: Mutex<Vec<u32>>,
}

impl Woken {
    pub(super) fn wake(&self) {
        self.driver.wake();
    }

    /// The body of this stream is to be polled.
    pub(super) fn note(&self, stream: u32) {
        self.streams.lock().push(stream);
    }

    pub(super) fn waker(self: &Arc<Self>, stream: u32) -> Waker {
        let woken = self.clone();
        Waker::from(Arc::new(BodyWaker { woken, stream }))
    }
}

struct BodyWaker {
    woken: Arc<Woken>,
    stream: u32,
}

impl Wake for BodyWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.note(self.stream);
        self.woken.wake();
    }
}

/// Drives one connection; ends with it.
pub struct Driver<T, B> {
    io: T,
    shared: Arc<Shared<B>>,
    receiver: Receiver,
    /// What was taken to be written, and how much of it was.
    writing: Vec<u8>,
    n_written: usize,
    /// The beginning of a frame whose rest has not come.
    rest: Vec<u8>,
    /// Goes off when an answer may be late, or before.
    timer: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl<T, B> fmt::Debug for Driver<T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// What a connection leaves to be done without its lock.
pub(super) struct Later<B> {
    pub(super) wakers: Vec<Waker>,
    pub(super) streams: Vec<Box<Stream<B>>>,
}

impl<B> Later<B> {
    pub(super) fn new() -> Self {
        Self {
            wakers: Vec::new(),
            streams: Vec::new(),
        }
    }

    /// Gives the lock back and does it.
    pub(super) fn done(self, mut state: MutexGuard<'_, State<B>>, shared: &Shared<B>) {
        let n_freed = std::mem::take(&mut state.n_freed);
        let has_news = std::mem::take(&mut state.has_news);
        drop(state);
        drop(self.streams);
        for waker in self.wakers {
            waker.wake();
        }
        if has_news {
            shared.places.notify_waiters();
        }
        for _ in 0..n_freed {
            shared.places.notify_one();
        }
    }
}

impl<T, B> Driver<T, B> {
    pub(super) fn new(io: T, shared: Arc<Shared<B>>, limits: Limits) -> Self {
        Self {
            io,
            shared,
            receiver: Receiver::new(limits),
            writing: Vec::new(),
            n_written: 0,
            rest: Vec::new(),
            timer: None,
            is_over: false,
        }
    }
}

impl<T, B> Driver<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// Writes what there is; whether anything was.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let mut has_written = false;
        loop {
            if self.n_written == self.writing.len() {
                self.writing.clear();
                self.n_written = 0;
                let mut state = self.shared.state.lock();
                if state.has_room {
                    let mut wants = Vec::new();
                    state.pump_blocked(&mut wants);
                    self.shared.woken.streams.lock().append(&mut wants);
                }
                state.take_out(&mut self.writing);
                Later::new().done(state, &self.shared);
            }
            let rest = self.writing.get(self.n_written..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(has_written);
            }
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Pending => return Ok(has_written),
                Poll::Ready(Ok(0)) => return Err(io_error(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.n_written += n,
                Poll::Ready(Err(error)) => return Err(io_error(error)),
            }
            has_written = true;
        }
    }

    /// Reads what there is, once; whether anything was.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Fatal> {
        spare::with_scratch(|scratch| {
            // What is left of a frame is shorter than the longest frame, the buffer is longer.
            let (begin, room) = scratch
                .split_at_mut_checked(self.rest.len())
                .ok_or(Fatal::of_code(Code::INTERNAL_ERROR))?;
            let mut buffer = ReadBuf::new(room);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(Fatal::Gone(io_error(error))),
                Poll::Ready(Ok(())) => {}
            }
            let n_read = buffer.filled().len();
            if n_read == 0 {
                return Err(Fatal::Gone(Error::broken(Why::Closed)));
            }
            begin.copy_from_slice(&self.rest);
            let n_bytes = self.rest.len() + n_read;
            let mut bytes = scratch.get(..n_bytes).unwrap_or_default();
            let mut state = self.shared.state.lock();
            let mut later = Later::new();
            let read = self.receiver.read(&mut bytes, &mut state, &mut later);
            later.done(state, &self.shared);
            self.rest.clear();
            self.rest.extend_from_slice(bytes);
            read.map(|()| true)
        })
    }

    /// Sends on the bodies that were woken; whether there were any.
    fn poll_bodies(&mut self) -> bool {
        let mut streams = self.shared.woken.streams.lock();
        if streams.is_empty() {
            return false;
        }
        let noted = std::mem::take(&mut *streams);
        drop(streams);
        for stream in noted {
            self.poll_body(stream);
        }
        true
    }

    fn poll_body(&mut self, number: u32) {
        for _ in 0..PIECES_IN_A_ROW {
            let mut state = self.shared.state.lock();
            let source = state.upload(number).and_then(|upload| {
                // A piece that waits for room comes first.
                upload.pieces.is_empty().then(|| upload.source.take())?
            });
            drop(state);
            let Some(mut source) = source else {
                return;
            };
            let mut cx = Context::from_waker(&source.waker);
            let polled = Pin::new(&mut source.body).poll_frame(&mut cx);
            let is_end = source.body.is_end_stream();
            let mut given = None;
            let ending = match polled {
                Poll::Pending => {
                    self.put_back(number, source);
                    return;
                }
                Poll::Ready(None) => Some(Ending::Data),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        given = Some(data);
                        is_end.then_some(Ending::Data)
                    }
                    Err(frame) => Ending::of_trailers(frame),
                },
                Poll::Ready(Some(Err(_))) => {
                    drop(source);
                    self.body_broke(number);
                    return;
                }
            };
            let mut source = Some(source);
            if ending.is_some() {
                // Not below, where the lock is held.
                source = None;
            }
            let mut state = self.shared.state.lock();
            let Some(upload) = state.upload(number) else {
                drop(state);
                return;
            };
            upload.pieces.extend(given);
            upload.ending = ending;
            upload.source = source;
            let pumped = state.pump(number);
            Later::new().done(state, &self.shared);
            if pumped != Pumped::Wants {
                return;
            }
        }
        self.shared.woken.note(number);
    }

    fn put_back(&self, number: u32, source: Source<B>) {
        let mut state = self.shared.state.lock();
        if let Some(upload) = state.upload(number) {
            upload.source = Some(source);
            return;
        }
        drop(state);
    }

    /// The body of a request has broken off: there is nothing more to be had from either side.
    fn body_broke(&self, number: u32) {
        let mut state = self.shared.state.lock();
        let mut later = Later::new();
        if let Some(stream) = state.reset(number, Code::CANCEL) {
            stream.fail(Error::broken(Why::RequestBody), &mut later.wakers);
            later.streams.push(stream);
        }
        later.done(state, &self.shared);
    }

    /// Everything that is under way has failed.
    fn fail(&mut self, error: &Error) {
        let mut state = self.shared.state.lock();
        let mut later = Later::new();
        state.end.get_or_insert_with(|| error.clone());
        let numbers: Vec<u32> = state.streams.keys().copied().collect();
        for number in numbers {
            let error = if state.was_begun(number) {
                error.clone()
            } else {
                Error::unsent(error.why().clone())
            };
            if let Some(stream) = state.remove(number) {
                stream.fail(error, &mut later.wakers);
                later.streams.push(stream);
            }
        }
        state.has_news = true;
        later.done(state, &self.shared);
    }

    /// Whether nothing is under way and nothing can come.
    fn is_done(&mut self) -> bool {
        let mut state = self.shared.state.lock();
        if !state.streams.is_empty() {
            return false;
        }
        // A connection that waits holds little.
        state.out.shrink_to(BUFFER_BYTES_IDLE);
        self.writing.shrink_to(BUFFER_BYTES_IDLE);
        self.rest.shrink_to(BUFFER_BYTES_IDLE);
        let is_done = state.is_abandoned || state.end.is_some();
        if is_done {
            state.end.get_or_insert(Error::broken(Why::Closed));
        }
        is_done
    }

    /// Tells those whose answers are late; whether it is to be asked again.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.shared.state.lock().next_look else {
            self.timer = None;
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // One that goes off too early is set anew then: most answers come long before.
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        let mut state = self.shared.state.lock();
        let mut later = Later::new();
        state.look_for_late(Instant::now(), &mut later.wakers);
        later.done(state, &self.shared);
        true
    }

    /// Says goodbye, if the other side listens.
    fn leave(&mut self, code: Code, cx: &mut Context<'_>) {
        frame::write_goaway(&mut self.shared.state.lock().out, 0, code);
        let _ = self.poll_write(cx);
        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        self.is_over = true;
    }

    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, Fatal> {
        // First what has come: a request is not given to a connection that was closed before. Twice,
        // since the end may come behind a word of farewell.
        let mut has_moved = self.poll_read(cx)?;
        if has_moved {
            self.poll_read(cx)?;
        }
        has_moved |= self.poll_write(cx).map_err(Fatal::Gone)?;
        has_moved |= self.poll_bodies();
        Ok(has_moved)
    }
}

impl<T, B> Future for Driver<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(());
        }
        // First who is to be woken, then what there is to be done: between the two nothing is
        // missed.
        this.shared.woken.driver.register(cx.waker());
        for _ in 0..ROUNDS {
            match this.round(cx) {
                Ok(true) => {}
                Ok(false) if this.is_done() => {
                    this.leave(Code::NO_ERROR, cx);
                    return Poll::Ready(());
                }
                Ok(false) if this.poll_late(cx) => {}
                Ok(false) => return Poll::Pending,
                Err(Fatal::Gone(error)) => {
                    this.fail(&error);
                    this.is_over = true;
                    return Poll::Ready(());
                }
                Err(Fatal::Breach(code, why)) => {
                    this.fail(&Error::broken(Why::Protocol(why)));
                    this.leave(code, cx);
                    return Poll::Ready(());
                }
            }
        }
        this.poll_late(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A driver that is dropped leaves nobody waiting.
impl<T, B> Drop for Driver<T, B> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let error = Error::broken(Why::Closed);
        state.end.get_or_insert_with(|| error.clone());
        let mut later = Later::new();
        for (_, stream) in std::mem::take(&mut state.streams) {
            stream.fail(error.clone(), &mut later.wakers);
            later.streams.push(stream);
        }
        state.has_news = true;
        later.done(state, &self.shared);
    }
}

fn io_error(error: io::Error) -> Error {
    Error::broken(Why::Io(Arc::new(error)))
}
