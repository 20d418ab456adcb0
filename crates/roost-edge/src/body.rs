//! Bodies on their way through: streamed piece by piece.
//!
//! A request body can be taken back, for a retry or a replay, as long as all
//! that was read of it is kept ([`crate::kept`]). What becomes of an answer's is in [`response`].

mod response;

pub(crate) use response::ResponseBody;

use crate::client_body::ClientBody;
use crate::coarse;
use crate::http1::chunks::BadChunks;
use crate::http1::machine::MachineBody;
use crate::kept::{Kept, NotKept};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The other side broke off.
    #[error("the body ended early")]
    Transport(#[source] hyper::Error),
    /// The client broke off.
    #[error("the body ended early")]
    Client(#[source] roost_http2::server::BodyCut),
    /// The machine's connection failed.
    #[error("the connection of the body failed")]
    Connection(#[source] std::io::Error),
    /// The machine's connection ended.
    #[error("the body ended early")]
    CutOff,
    /// The machine's HTTP/2 stream or connection failed.
    #[error("the body ended early")]
    Http2(#[source] roost_http2::client::Error),
    /// It is not what its header said.
    #[error(transparent)]
    Chunks(#[from] BadChunks),
    /// Nothing came for too long.
    #[error("the body stood still for {} s", .0.as_secs())]
    Idle(Duration),
    /// The body was taken back for another attempt.
    #[error("the body was taken back")]
    TakenBack,
    /// A file could not be read to its end.
    #[error("the file could not be read to its end")]
    File(#[source] std::io::Error),
    /// It could not be compressed.
    #[error("the body could not be compressed")]
    Compress(#[source] std::io::Error),
}

/// The body of a machine's answer.
#[derive(Debug)]
pub(crate) enum AppBody {
    /// From a connection that hyper reads.
    Hyper(Incoming),
    Http1(MachineBody),
    Http2(roost_http2::client::ResponseBody<RequestBody>),
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Hyper(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Transport)))
            }
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Http2)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// Ends a wait that takes too long. The timer is made only when there is a wait.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)))
            .as_mut()
            .poll(cx)
    }

    fn progress(&mut self) {
        self.timer = None;
    }
}

#[derive(Debug)]
struct SlotState {
    body: ClientBody,
    /// What was read of it.
    kept: Kept,
    /// Whether there is no more to read.
    is_read: bool,
    /// The attempt that may read the body.
    attempt: u32,
}

/// What an exchange knows about the request body while a connection sends it.
#[derive(Debug)]
pub(crate) struct BodySlot {
    /// The size of the whole.
    size: SizeHint,
    state: Mutex<SlotState>,
    finished: AtomicBool,
    /// Whether the client has not given the piece that was asked for last.
    awaits_client: AtomicBool,
    /// Whether it ended before its end, or stood still.
    broke_off: AtomicBool,
    origin: Instant,
    progress_ms: AtomicU64,
}

impl BodySlot {
    /// Holds the body of a request that came then, which nobody has read yet; `kept` counts what
    /// all bodies keep.
    pub(crate) fn new(body: ClientBody, kept: &Arc<AtomicUsize>, came: Instant) -> Arc<Self> {
        Arc::new(Self {
            size: body.size_hint(),
            state: Mutex::new(SlotState {
                body,
                kept: Kept::new(kept),
                is_read: false,
                attempt: 0,
            }),
            finished: AtomicBool::new(false),
            awaits_client: AtomicBool::new(false),
            broke_off: AtomicBool::new(false),
            origin: came,
            progress_ms: AtomicU64::new(0),
        })
    }

    /// Takes the body away from the connection that has it, for another attempt.
    ///
    /// An error when a part of it is gone: then it is too late. The connection
    /// may still be there and ask later; it gets an error then.
    pub(crate) fn take_back(&self) -> Result<(), NotKept> {
        let mut state = self.state.lock();
        state.attempt += 1;
        self.finished.store(false, Ordering::Release);
        state.kept.whole()
    }

    /// It will not be taken back: nothing needs to be kept but what this attempt still has to send.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        if state.attempt == 0 || self.finished() {
            state.kept.forget(NotKept::Gone);
        }
    }

    /// Whether this attempt has been given all of it.
    pub(crate) fn finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Whether it broke off, so that no machine is to blame.
    pub(crate) fn broke_off(&self) -> bool {
        self.broke_off.load(Ordering::Acquire)
    }

    /// Whether the machine has taken all that the client has given, and waits for more.
    pub(crate) fn awaits_client(&self) -> bool {
        self.awaits_client.load(Ordering::Acquire)
    }

    /// When the last piece was read.
    pub(crate) fn last_progress(&self) -> Instant {
        self.origin + Duration::from_millis(self.progress_ms.load(Ordering::Relaxed))
    }

    fn note_progress(&self) {
        let ms = coarse::ms_since(self.origin);
        self.progress_ms.store(ms, Ordering::Relaxed);
    }
}

/// The body of an exchange, if it has one.
pub(crate) type Slot<'a> = Option<&'a Arc<BodySlot>>;

/// The body of a request to a machine.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// No body.
    Empty,
    /// The client's body.
    Streamed {
        slot: Arc<BodySlot>,
        attempt: u32,
        /// The number of the next piece, of those that are kept.
        next: usize,
        patience: BodyPatience,
    },
}

/// The patience of a request body. A type of its own only to keep `Patience` private.
#[derive(Debug)]
pub(crate) struct BodyPatience(Patience);

impl RequestBody {
    /// The body in this slot.
    pub(crate) fn streamed(slot: &Arc<BodySlot>, idle: Duration) -> Self {
        Self::Streamed {
            slot: slot.clone(),
            attempt: slot.state.lock().attempt,
            next: 0,
            patience: BodyPatience(Patience::new(idle)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Streamed {
            slot,
            attempt,
            next,
            patience,
        } = self.get_mut()
        else {
            return Poll::Ready(None);
        };
        let mut state = slot.state.lock();
        if state.attempt != *attempt {
            return Poll::Ready(Some(Err(BodyError::TakenBack)));
        }
        if let Some(piece) = state.kept.piece(*next) {
            *next += 1;
            let is_last = state.is_read && state.kept.piece(*next).is_none();
            slot.finished.store(is_last, Ordering::Release);
            return Poll::Ready(Some(Ok(piece)));
        }
        if state.is_read {
            slot.finished.store(true, Ordering::Release);
            return Poll::Ready(None);
        }
        match Pin::new(&mut state.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                patience.0.progress();
                slot.note_progress();
                slot.awaits_client.store(false, Ordering::Release);
                match &frame {
                    Some(Ok(frame)) => {
                        state.kept.add(frame);
                        *next += 1;
                    }
                    Some(Err(_)) => {
                        state.kept.forget(NotKept::Gone);
                        slot.broke_off.store(true, Ordering::Release);
                    }
                    None => {}
                }
                if frame.is_none() || state.body.is_end_stream() {
                    state.is_read = true;
                    slot.finished.store(true, Ordering::Release);
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                slot.awaits_client.store(true, Ordering::Release);
                ready!(patience.0.poll_over(cx));
                slot.broke_off.store(true, Ordering::Release);
                Poll::Ready(Some(Err(BodyError::Idle(patience.0.limit))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed { slot, .. } => slot.finished(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed { slot, .. } => slot.size,
        }
    }
}
