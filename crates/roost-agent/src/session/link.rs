//! The pump between a stream and the session on it; both ends use it.
//!
//! Owned by one task, which calls [`Link::step`] in a loop. Four things move,
//! each only when there is room for what it brings, so nothing here grows:
//!
//! ```text
//! stream ─▶ decoder ─▶ inbound (one frame) ─▶ pipe ─▶ user of the session
//! stream ◀──────────── outgoing frames     ◀─ pipe ◀─ user of the session
//! ```
//! While `inbound` is not empty the decoder rests, and with it reading: the
//! back-pressure of the session is that of the stream. A user who does not read
//! at all would hide the preamble of the next session; he is dropped after
//! [`SESSION_STALL_MAX`].

use std::future::pending;
use std::io;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::time::Instant;

use super::{Decoder, Encoder, Event, SessionEnd, SessionId, SessionStream};
use crate::limits::{
    CLOSE_TIME_MAX, DEVICE_RETRY_PAUSE, FRAME_PAYLOAD_BYTES_MAX, OUTGOING_BYTES_MAX,
    SESSION_BUFFER_BYTES, SESSION_STALL_MAX,
};

/// What it means that a stream ends or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A socket: its end is the end.
    Connection,
    /// A device that stays, such as a virtio-serial port: it has no peer just
    /// now. Tried again until it has.
    Device,
}

/// What the owner of a link must act upon.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The other side begins this session; an older one is over. The guest has
    /// yet to answer.
    Opened(SessionId),
    /// The guest's answer has not been read yet.
    Repeated(SessionId),
    /// The other side speaks another version.
    OtherVersion { id: SessionId, version: u8 },
    /// The session is over; none is open now.
    Ended(SessionEnd),
}

/// The stream is of no more use; the session, if any, has ended with it.
#[derive(Debug)]
pub(crate) enum StreamEnd {
    Ended,
    Failed(io::Error),
}

pub(crate) struct Link<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    kind: StreamKind,
    decoder: Decoder,
    session: Option<Session>,
    /// Payload that the session has yet to take.
    inbound: Bytes,
    /// When the session must have taken some of it.
    stalls_at: Option<Instant>,
    /// Whole greetings and frames, the first of which may be partly written.
    outgoing: BytesMut,
    /// What a read from the stream goes into.
    read_buffer: Box<[u8]>,
    /// What a read from the session goes into.
    payload_buffer: Box<[u8]>,
    /// A device without a peer is not touched before.
    read_after: Option<Instant>,
    write_after: Option<Instant>,
}

struct Session {
    from_user: ReadHalf<DuplexStream>,
    to_user: WriteHalf<DuplexStream>,
    encoder: Encoder,
    end: Arc<OnceLock<SessionEnd>>,
}

/// What one round of the pump brought.
enum Progress {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Taken(io::Result<usize>),
    Given(io::Result<usize>),
    Stalled,
}

impl<S: AsyncRead + AsyncWrite> Link<S> {
    /// `stream` must not keep back what is written to it.
    pub(crate) fn new(stream: S, kind: StreamKind, decoder: Decoder) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            kind,
            decoder,
            session: None,
            inbound: Bytes::new(),
            stalls_at: None,
            outgoing: BytesMut::new(),
            read_buffer: vec![0; SESSION_BUFFER_BYTES].into(),
            payload_buffer: vec![0; FRAME_PAYLOAD_BYTES_MAX].into(),
            read_after: None,
            write_after: None,
        }
    }

    /// Opens the session `id`, whose greeting arrived.
    pub(crate) fn open(&mut self, id: SessionId) -> SessionStream {
        self.end_session(&SessionEnd::Superseded);
        let (ours, theirs) = tokio::io::duplex(SESSION_BUFFER_BYTES);
        let (from_user, to_user) = tokio::io::split(ours);
        let end = Arc::new(OnceLock::new());
        self.session = Some(Session {
            from_user,
            to_user,
            encoder: Encoder::new(id),
            end: Arc::clone(&end),
        });
        SessionStream::new(theirs, end)
    }

    /// Ends the session, if there is one, and tells the other side.
    pub(crate) fn close(&mut self, end: &SessionEnd) {
        if let Some(session) = &mut self.session {
            session.encoder.close(&mut self.outgoing);
        }
        self.end_session(end);
    }

    fn end_session(&mut self, end: &SessionEnd) {
        if let Some(session) = self.session.take() {
            // Set once: nobody else holds a session that is still here.
            let _ = session.end.set(end.clone());
        }
        self.inbound = Bytes::new();
        self.stalls_at = None;
    }

    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Appends a greeting; does nothing while much is waiting to be written.
    pub(crate) fn greet(&mut self, bytes: &[u8]) {
        if self.outgoing.len() < OUTGOING_BYTES_MAX {
            self.outgoing.extend_from_slice(bytes);
        }
    }

    /// Forgets what was to be written for an older session. The other side is
    /// seeking, so it bears half a frame.
    pub(crate) fn forget_outgoing(&mut self) {
        self.outgoing.clear();
    }

    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(crate) fn n_discarded(&self) -> u64 {
        self.decoder.n_discarded()
    }

    /// Moves bytes until something happens. Cancel-safe.
    pub(crate) async fn step(&mut self) -> Result<LinkEvent, StreamEnd> {
        loop {
            if let Some(event) = self.next_event() {
                return Ok(event);
            }
            let done = match self.progress().await {
                Progress::Read(result) => self.on_read(result)?,
                Progress::Written(result) => self.on_written(result)?,
                Progress::Taken(result) => self.on_taken(result),
                Progress::Given(result) => self.on_given(result),
                Progress::Stalled => {
                    self.close(&SessionEnd::Stalled);
                    Some(LinkEvent::Ended(SessionEnd::Stalled))
                }
            };
            if let Some(event) = done {
                return Ok(event);
            }
        }
    }

    /// Writes what is left, as far as it goes in [`CLOSE_TIME_MAX`].
    pub(crate) async fn finish(&mut self) {
        let rest = self.writer.write_all_buf(&mut self.outgoing);
        // The other side finds out by itself, if not by this.
        let _ = tokio::time::timeout(CLOSE_TIME_MAX, rest).await;
    }

    /// One round. Every future in it is cancel-safe: it moved bytes and is
    /// ready, or did nothing.
    async fn progress(&mut self) -> Progress {
        let (from_user, to_user) = match &mut self.session {
            Some(session) => (Some(&mut session.from_user), Some(&mut session.to_user)),
            None => (None, None),
        };
        let may_read = self.inbound.is_empty();
        let may_give = self.outgoing.len() < OUTGOING_BYTES_MAX;
        tokio::select! {
            result = write(Some(&mut self.writer), &self.outgoing, self.write_after) => Progress::Written(result),
            result = write(to_user, &self.inbound, None) => Progress::Taken(result),
            result = read(from_user, &mut self.payload_buffer, None), if may_give => Progress::Given(result),
            result = read(Some(&mut self.reader), &mut self.read_buffer, self.read_after), if may_read => Progress::Read(result),
            () = at(self.stalls_at) => Progress::Stalled,
        }
    }

    /// Lets the decoder go on, unless the session has yet to take what came before.
    fn next_event(&mut self) -> Option<LinkEvent> {
        while self.inbound.is_empty() {
            let event = match self.decoder.next_event()? {
                Event::Data(payload) => {
                    // A session that was closed here may still be written to.
                    if self.session.is_some() {
                        self.inbound = payload;
                        self.stalls_at = Some(Instant::now() + SESSION_STALL_MAX);
                    }
                    continue;
                }
                Event::Opened(id) => {
                    self.end_session(&SessionEnd::Superseded);
                    LinkEvent::Opened(id)
                }
                Event::Repeated(id) => LinkEvent::Repeated(id),
                Event::OtherVersion { id, version } => {
                    self.end_session(&SessionEnd::Superseded);
                    LinkEvent::OtherVersion { id, version }
                }
                Event::Closed => {
                    self.end_session(&SessionEnd::ClosedThere);
                    LinkEvent::Ended(SessionEnd::ClosedThere)
                }
                Event::Broken(fault) => {
                    let end = SessionEnd::Broken(fault);
                    self.close(&end);
                    LinkEvent::Ended(end)
                }
            };
            return Some(event);
        }
        None
    }

    fn on_read(&mut self, result: io::Result<usize>) -> Result<Option<LinkEvent>, StreamEnd> {
        self.read_after = None;
        match (self.kind, result) {
            (_, Ok(n_bytes)) if n_bytes > 0 => self.decoder.feed(&self.read_buffer[..n_bytes]),
            (StreamKind::Device, Ok(_) | Err(_)) => {
                self.read_after = Some(Instant::now() + DEVICE_RETRY_PAUSE);
            }
            (StreamKind::Connection, Ok(_)) => return Err(self.lost(None)),
            (StreamKind::Connection, Err(error)) => return Err(self.lost(Some(error))),
        }
        Ok(None)
    }

    fn on_written(&mut self, result: io::Result<usize>) -> Result<Option<LinkEvent>, StreamEnd> {
        self.write_after = None;
        match (self.kind, result) {
            (_, Ok(n_bytes)) if n_bytes > 0 => self.outgoing.advance(n_bytes),
            (StreamKind::Device, Ok(_) | Err(_)) => {
                self.write_after = Some(Instant::now() + DEVICE_RETRY_PAUSE);
            }
            (StreamKind::Connection, Ok(_)) => return Err(self.lost(None)),
            (StreamKind::Connection, Err(error)) => return Err(self.lost(Some(error))),
        }
        Ok(None)
    }

    fn lost(&mut self, error: Option<io::Error>) -> StreamEnd {
        match error {
            None => {
                self.end_session(&SessionEnd::StreamEnded);
                StreamEnd::Ended
            }
            Some(error) => {
                self.end_session(&SessionEnd::StreamFailed(error.kind()));
                StreamEnd::Failed(error)
            }
        }
    }

    /// The session took some of the payload, or its user is gone.
    fn on_taken(&mut self, result: io::Result<usize>) -> Option<LinkEvent> {
        let Ok(n_bytes) = result else {
            return Some(self.closed_here());
        };
        self.inbound.advance(n_bytes);
        self.stalls_at = (!self.inbound.is_empty()).then(|| Instant::now() + SESSION_STALL_MAX);
        None
    }

    /// The session gave something to send, or its user closed it.
    fn on_given(&mut self, result: io::Result<usize>) -> Option<LinkEvent> {
        match (result, &mut self.session) {
            (Ok(n_bytes), Some(session)) if n_bytes > 0 => {
                let payload = &self.payload_buffer[..n_bytes];
                session.encoder.data(payload, &mut self.outgoing);
                None
            }
            (Ok(_) | Err(_), _) => Some(self.closed_here()),
        }
    }

    fn closed_here(&mut self) -> LinkEvent {
        self.close(&SessionEnd::ClosedHere);
        LinkEvent::Ended(SessionEnd::ClosedHere)
    }
}

/// Reads from `reader`, not before `after`; never ready without a reader.
async fn read<R: AsyncRead + Unpin>(
    reader: Option<&mut R>,
    buffer: &mut [u8],
    after: Option<Instant>,
) -> io::Result<usize> {
    let Some(reader) = reader else {
        return pending().await;
    };
    pause_until(after).await;
    reader.read(buffer).await
}

/// Writes some of `bytes`, not before `after`; never ready without a writer or bytes.
async fn write<W: AsyncWrite + Unpin>(
    writer: Option<&mut W>,
    bytes: &[u8],
    after: Option<Instant>,
) -> io::Result<usize> {
    match writer {
        Some(writer) if !bytes.is_empty() => {
            pause_until(after).await;
            writer.write(bytes).await
        }
        Some(_) | None => pending().await,
    }
}

async fn pause_until(when: Option<Instant>) {
    if let Some(when) = when {
        tokio::time::sleep_until(when).await;
    }
}

/// Ready at `when`; never without it.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
