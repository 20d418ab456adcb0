//! A connection to a machine that carries one exchange after another, for requests without a
//! body. No task of its own: who waits for the answer reads it.

use super::answer::{self, AnswerHead, BadAnswer, Framing};
use super::chunks::{Chunks, Event};
use super::spare;
use crate::body::BodyError;
use crate::forward::SendFailure;
use crate::limits;
use crate::pool::Pool;
use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

/// A timer that many waits use, one after the other. It is set anew only when it has gone off
/// too early, not for each wait: most are over long before.
#[derive(Debug)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll_over(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let new = || Box::pin(sleep_until(deadline));
        let sleep = self.0.get_or_insert_with(new);
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// Waits for something, no longer than until a deadline.
async fn within<T>(
    timer: &mut Timer,
    deadline: Instant,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<T, SendFailure> {
    poll_fn(|cx| match poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => {
            ready!(timer.poll_over(deadline, cx));
            Poll::Ready(Err(SendFailure::TooLate))
        }
    })
    .await
}

/// A connection on which nothing is under way. On the heap, as it is handed on many times.
#[derive(Debug)]
pub(crate) struct MachineConnection {
    stream: TcpStream,
    /// What is read comes into it; it grows with the answers.
    buffer: BytesMut,
    timer: Timer,
}

impl MachineConnection {
    /// A new connection.
    pub(crate) fn new(stream: TcpStream) -> Box<Self> {
        Box::new(Self {
            stream,
            buffer: BytesMut::new(),
            timer: Timer(None),
        })
    }

    /// The same connection, as one of the runtime of this thread.
    pub(crate) fn moved_here(self) -> io::Result<Box<Self>> {
        let stream = TcpStream::from_std(self.stream.into_std()?)?;
        let mut moved = Self::new(stream);
        moved.buffer = self.buffer;
        Ok(moved)
    }

    /// Whether the machine has neither ended it nor said anything without being asked.
    pub(crate) fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request, header only, and reads the header of its answer. The buffer is one of
    /// [`spare`].
    pub(crate) async fn ask(
        mut self: Box<Self>,
        request: Vec<u8>,
        method: &Method,
        pool: &Arc<Pool>,
        patience: Duration,
    ) -> Result<Response<MachineBody>, SendFailure> {
        let deadline = Instant::now() + patience;
        self.say(&request, deadline).await?;
        // Others write while this one waits.
        spare::give(request);
        let mut buffer = std::mem::take(&mut self.buffer);
        // How much of the buffer was no whole head at the last look.
        let mut n_seen = 0;
        loop {
            buffer.reserve(limits::HTTP1_READ_BYTES_MIN);
            let Self { stream, timer, .. } = &mut *self;
            let read = within(timer, deadline, |cx| {
                poll_read_buf(Pin::new(&mut *stream), cx, &mut buffer)
            });
            match read.await? {
                Ok(0) => return Err(SendFailure::Broken(ENDED.to_owned())),
                Err(error) => return Err(SendFailure::Broken(error.to_string())),
                Ok(_) => {}
            }
            // Nearly always the first piece has all of it. Else part of a line says nothing new.
            let ends_line = buffer[n_seen..].contains(&b'\n');
            if n_seen == 0 || (ends_line && answer::is_whole(&buffer).map_err(broken)?) {
                let mut piece = buffer.split().freeze();
                while let Some(head) = answer::read(&piece, method).map_err(broken)? {
                    piece.advance(head.length);
                    let status = head.response.status();
                    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                        self.buffer = buffer;
                        return Ok(self.answered(head, piece, pool));
                    }
                    if piece.is_empty() {
                        break;
                    }
                }
                // In memory of its own, so that it grows without a copy at each piece.
                buffer = BytesMut::from(&piece[..]);
            }
            n_seen = buffer.len();
            if n_seen >= limits::BACKEND_BUFFER_BYTES_MAX {
                return Err(SendFailure::TooLarge);
            }
        }
    }

    async fn say(&mut self, request: &[u8], deadline: Instant) -> Result<(), SendFailure> {
        let Self { stream, timer, .. } = self;
        let mut rest = request;
        while !rest.is_empty() {
            let written = within(timer, deadline, |cx| {
                Pin::new(&mut *stream).poll_write(cx, rest)
            });
            match written.await? {
                Ok(n) => rest = &rest[n..],
                // Nobody does anything about a part of a header.
                Err(error) => return Err(SendFailure::Unsent(error.to_string())),
            }
        }
        Ok(())
    }

    fn answered(
        self: Box<Self>,
        head: AnswerHead,
        rest: Bytes,
        pool: &Arc<Pool>,
    ) -> Response<MachineBody> {
        let mut body = MachineBody {
            connection: Some(self),
            reading: match head.framing {
                Framing::Length(length) => Reading::Length(length),
                Framing::Chunked => Reading::Chunked(Chunks::new()),
                Framing::UntilClose => Reading::UntilClose,
            },
            rest,
            is_kept: head.is_kept,
            pool: pool.clone(),
        };
        if body.is_end_stream() {
            body.end();
        }
        head.response.map(|()| body)
    }
}

const ENDED: &str = "it closed the connection before its answer was complete";

fn broken(error: BadAnswer) -> SendFailure {
    match error {
        BadAnswer::Syntax(httparse::Error::TooManyHeaders) => SendFailure::TooLarge,
        error => SendFailure::Broken(error.to_string()),
    }
}

/// Where the next bytes of a body belong.
#[derive(Debug)]
enum Reading {
    /// So many are left.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    Done,
}

/// The body of an answer. At its end the connection goes back to its pool; dropped before, the
/// connection ends with it.
#[derive(Debug)]
pub(crate) struct MachineBody {
    /// Until the end of the body.
    connection: Option<Box<MachineConnection>>,
    reading: Reading,
    /// What was read and not yet given.
    rest: Bytes,
    is_kept: bool,
    pool: Arc<Pool>,
}

impl MachineBody {
    /// There is no more of it.
    fn end(&mut self) {
        self.reading = Reading::Done;
        // What a machine says beyond its answer is no answer to the next request.
        if let Some(connection) = self.connection.take()
            && self.is_kept
            && self.rest.is_empty()
        {
            self.pool.put_plain(connection);
        }
    }

    /// The next piece of what was read; `None` when more has to be read.
    fn given(&mut self) -> Option<Result<Option<Frame<Bytes>>, BodyError>> {
        let frame = match &mut self.reading {
            Reading::Done => return Some(Ok(None)),
            _ if self.rest.is_empty() => return None,
            Reading::UntilClose => Frame::data(std::mem::take(&mut self.rest)),
            Reading::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = self.rest.split_to(self.rest.len().min(most));
                *left -= data.len() as u64;
                if *left == 0 {
                    self.end();
                }
                Frame::data(data)
            }
            Reading::Chunked(chunks) => match chunks.next(&mut self.rest) {
                Err(error) => {
                    self.connection = None;
                    return Some(Err(BodyError::Chunks(error)));
                }
                Ok(Event::Data(data)) => Frame::data(data),
                Ok(Event::Trailers(trailers)) => {
                    self.end();
                    Frame::trailers(trailers)
                }
                Ok(Event::End) => {
                    self.end();
                    return Some(Ok(None));
                }
                Ok(Event::More) => return None,
            },
        };
        Some(Ok(Some(frame)))
    }
}

impl Body for MachineBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if let Some(given) = this.given() {
                return Poll::Ready(given.transpose());
            }
            let Some(connection) = &mut this.connection else {
                return Poll::Ready(None);
            };
            let MachineConnection { stream, buffer, .. } = &mut **connection;
            buffer.reserve(match &this.reading {
                // With room for the header of the next answer: then that comes whole.
                Reading::Length(left) => {
                    let left = usize::try_from(*left).unwrap_or(usize::MAX);
                    left.min(limits::HTTP1_READ_BYTES_MAX) + limits::HTTP1_READ_BYTES_MIN
                }
                _ => limits::HTTP1_READ_BYTES_MIN,
            });
            match ready!(poll_read_buf(Pin::new(stream), cx, buffer)) {
                Ok(0) => {
                    this.connection = None;
                    let is_end = matches!(this.reading, Reading::UntilClose);
                    this.reading = Reading::Done;
                    return Poll::Ready((!is_end).then_some(Err(BodyError::CutOff)));
                }
                Ok(_) => this.rest = buffer.split().freeze(),
                Err(error) => {
                    this.connection = None;
                    this.reading = Reading::Done;
                    return Poll::Ready(Some(Err(BodyError::Connection(error))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.reading, Reading::Length(0) | Reading::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match self.reading {
            Reading::Length(left) => SizeHint::with_exact(left),
            Reading::Done => SizeHint::with_exact(0),
            Reading::Chunked(_) | Reading::UntilClose => SizeHint::default(),
        }
    }
}
