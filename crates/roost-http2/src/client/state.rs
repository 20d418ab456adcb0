//! What a connection's task and those who ask share: the streams, and what is to be written.
//!
//! Everything here is done under one lock, which nobody holds while they wait, read, write, poll
//! a body or drop one.

use super::error::{Error, Why};
use super::inbox::Inbox;
use crate::frame::{
    self, Code, FRAME_BYTES_MAX, NUMBER_MAX, Overflow, Settings, WINDOW_BYTES, Window,
};
use crate::hpack::{Block, Encoder};
use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::task::Waker;
use tokio::time::Instant;

/// From here on no more of a body, and no more requests, are put behind what is to be written.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// How the body of a request ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// With its last piece.
    Data,
    /// With trailers.
    Trailers(Box<HeaderMap>),
}

impl Ending {
    /// With what this frame says, if it is one of trailers.
    pub(super) fn of_trailers(frame: http_body::Frame<Bytes>) -> Option<Self> {
        let trailers = frame.into_trailers().ok()?;
        Some(Self::Trailers(Box::new(trailers)))
    }
}

/// A body, and what is woken when it has more.
#[derive(Debug)]
pub(super) struct Source<B> {
    pub(super) body: B,
    pub(super) waker: Waker,
}

/// What is left to be sent of a request.
#[derive(Debug)]
pub(super) struct Upload<B> {
    /// Not here while it is polled, and when it has ended.
    pub(super) source: Option<Source<B>>,
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) ending: Option<Ending>,
    /// Whether it waits for room in a window or in the buffer.
    is_blocked: bool,
}

impl<B> Upload<B> {
    pub(super) fn new(pieces: VecDeque<Bytes>, ending: Option<Ending>) -> Self {
        Self {
            source: None,
            pieces,
            ending,
            is_blocked: false,
        }
    }
}

/// What is there of a request's body when it begins.
#[derive(Debug)]
pub(super) enum First<B> {
    /// It has none.
    Nothing,
    /// All of it, in one piece.
    Whole(Bytes),
    /// Some of it, or all in pieces.
    Part(Upload<B>),
}

/// How much of an answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// No header, but so many that were not the last word.
    Awaited(u8),
    /// The header, and so many bytes are to follow, if it is known.
    Body(Option<u64>),
    /// All.
    Ended,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Stream<B> {
    pub(super) inbox: Arc<Mutex<Inbox>>,
    /// Whether the answer has no body whatever it says.
    pub(super) is_head: bool,
    pub(super) answer: Answer,
    /// Room for what comes.
    pub(super) receives: Window,
    /// Room for what goes.
    pub(super) sends: Window,
    /// Until all of the request has been sent.
    pub(super) upload: Option<Upload<B>>,
    /// Until when the header of the answer is waited for; nothing when that is over.
    deadline: Option<Instant>,
}

impl<B> Stream<B> {
    /// Tells its reader that no more comes.
    pub(super) fn fail(&self, error: Error, wakers: &mut Vec<Waker>) {
        let mut inbox = self.inbox.lock();
        inbox.end.get_or_insert(Err(error));
        wakers.extend(inbox.waker.take());
    }
}

/// What became of the attempt to send more of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// The body may give more.
    Wants,
    /// There is no room.
    Blocked,
    /// All has been sent, or there is no such stream.
    Done,
}

#[derive(Debug)]
pub(super) struct State<B> {
    /// What is to be written.
    pub(super) out: Vec<u8>,
    encoder: Encoder,
    pub(super) streams: HashMap<u32, Box<Stream<B>>, BuildHasherDefault<OwnNumbers>>,
    /// The number of the next stream.
    next: u32,
    /// The number of the last one that may have been written.
    begun: u32,
    /// The other side's window of the connection.
    pub(super) sends: Window,
    /// The other side's windows of new streams.
    initial_window: u32,
    receives: u32,
    streams_max: usize,
    /// Whether it has said how many.
    has_settings: bool,
    /// Streams of the other side at most, whatever it says.
    own_streams_max: usize,
    /// Streams whose bodies wait for room, the one that has waited longest first.
    blocked: VecDeque<u32>,
    /// Whether there is room that there was not before.
    pub(super) has_room: bool,
    /// Why no more requests are taken.
    pub(super) end: Option<Error>,
    /// Whether nobody can ask any more.
    pub(super) is_abandoned: bool,
    /// Bytes that are to be written because the other side asked for them.
    n_replies: usize,
    /// Streams that have ended and whose places nobody was told of.
    pub(super) n_freed: usize,
    /// Whether all that wait for a place have to look again.
    pub(super) has_news: bool,
    /// When one that is waited for may be late.
    pub(super) next_look: Option<Instant>,
}

impl<B> State<B> {
    pub(super) fn new(receives: u32, streams_max: usize) -> Self {
        Self {
            out: Vec::new(),
            encoder: Encoder::new(),
            streams: HashMap::default(),
            next: 1,
            begun: 0,
            sends: Window::new(WINDOW_BYTES),
            initial_window: WINDOW_BYTES,
            receives,
            // As long as it has not said how many it takes.
            streams_max: streams_max.min(super::STREAMS_BEFORE_SETTINGS),
            has_settings: false,
            own_streams_max: streams_max,
            blocked: VecDeque::new(),
            has_room: false,
            end: None,
            is_abandoned: false,
            n_replies: 0,
            n_freed: 0,
            has_news: false,
            next_look: None,
        }
    }

    /// Whether another request may begin now.
    pub(super) fn has_place(&self) -> Result<bool, Error> {
        if let Some(end) = &self.end {
            return Err(Error::unsent(end.why().clone()));
        }
        if self.next > NUMBER_MAX {
            return Err(Error::unsent(Why::UsedUp));
        }
        // One that was taken back has a place no more, but what was written of it is still here.
        Ok(self.streams.len() < self.streams_max && self.out.len() < OUT_BYTES_MAX)
    }

    /// Whether the other side has said how many streams it takes, and has as many.
    pub(super) fn is_full(&self) -> bool {
        self.has_settings && self.streams.len() >= self.streams_max
    }

    /// Whether a stream has been opened, however long ago.
    pub(super) fn was_opened(&self, stream: u32) -> bool {
        stream % 2 == 1 && stream < self.next
    }

    /// Begins a request, and sends of its body what there is room for.
    pub(super) fn open(
        &mut self,
        write: impl FnOnce(&mut Block<'_>),
        is_head: bool,
        deadline: Instant,
        first: First<B>,
    ) -> (u32, Arc<Mutex<Inbox>>) {
        let stream = self.next;
        self.next += 2;
        let is_bare = matches!(first, First::Nothing);
        let start = frame::begin_headers(&mut self.out, stream, is_bare);
        write(&mut self.encoder.block(&mut self.out));
        frame::end_headers(&mut self.out, start);
        let mut sends = Window::new(self.initial_window);
        let upload = match first {
            First::Nothing => None,
            First::Whole(piece) if self.fits(&piece) => {
                self.write_whole(stream, &piece, &mut sends);
                None
            }
            First::Whole(piece) => Some(Upload::new([piece].into(), Some(Ending::Data))),
            First::Part(upload) => Some(upload),
        };
        let is_left = upload.is_some();
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let entry = Box::new(Stream {
            inbox: inbox.clone(),
            is_head,
            answer: Answer::Awaited(0),
            receives: Window::new(self.receives),
            sends,
            upload,
            deadline: Some(deadline),
        });
        self.streams.insert(stream, entry);
        self.looks_by(deadline);
        if is_left {
            self.pump(stream);
        }
        (stream, inbox)
    }

    /// The header of this answer is waited for until then.
    pub(super) fn waits_until(&mut self, number: u32, deadline: Instant) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.deadline = Some(deadline);
            self.looks_by(deadline);
        }
    }

    fn looks_by(&mut self, at: Instant) {
        self.next_look = Some(self.next_look.map_or(at, |before| before.min(at)));
    }

    /// Tells those that wait for answers whose time is over, and when others' may be.
    pub(super) fn look_for_late(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        let mut next = None::<Instant>;
        for stream in self.streams.values_mut() {
            let is_awaited = matches!(stream.answer, Answer::Awaited(_));
            let Some(deadline) = stream.deadline.filter(|_| is_awaited) else {
                continue;
            };
            if deadline > now {
                next = Some(next.map_or(deadline, |at| at.min(deadline)));
                continue;
            }
            stream.deadline = None;
            let mut inbox = stream.inbox.lock();
            inbox.is_late = true;
            wakers.extend(inbox.waker.take());
        }
        self.next_look = next;
    }

    /// Whether there is room for all of a new stream's body in one frame.
    fn fits(&self, piece: &Bytes) -> bool {
        let room = self.sends.room().min(self.initial_window);
        let room = room.min(FRAME_BYTES_MAX) as usize;
        piece.len() <= room && self.out.len() < OUT_BYTES_MAX
    }

    /// Sends all of a body, for which there is room.
    fn write_whole(&mut self, number: u32, piece: &Bytes, sends: &mut Window) {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let taken = (sends.take(length), self.sends.take(length));
        debug_assert_eq!(taken, (Ok(()), Ok(())));
        frame::write_data_head(&mut self.out, number, piece.len(), true);
        self.out.extend_from_slice(piece);
    }

    /// Puts as much of a body as there is room for behind what is to be written.
    pub(super) fn pump(&mut self, number: u32) -> Pumped {
        let Some(stream) = self.streams.get_mut(&number) else {
            return Pumped::Done;
        };
        let Some(upload) = &mut stream.upload else {
            return Pumped::Done;
        };
        while let Some(piece) = upload.pieces.front_mut() {
            if piece.is_empty() {
                upload.pieces.pop_front();
                continue;
            }
            let room = stream.sends.room().min(self.sends.room());
            let room = room.min(FRAME_BYTES_MAX);
            let length = u32::try_from(piece.len()).unwrap_or(u32::MAX).min(room);
            if length == 0 || self.out.len() >= OUT_BYTES_MAX {
                if !upload.is_blocked {
                    upload.is_blocked = true;
                    self.blocked.push_back(number);
                }
                return Pumped::Blocked;
            }
            // There is room, as was just seen.
            let taken = (stream.sends.take(length), self.sends.take(length));
            debug_assert_eq!(taken, (Ok(()), Ok(())));
            let bytes = piece.split_to(length as usize);
            if piece.is_empty() {
                upload.pieces.pop_front();
            }
            let is_last = upload.pieces.is_empty() && matches!(upload.ending, Some(Ending::Data));
            frame::write_data_head(&mut self.out, number, bytes.len(), is_last);
            self.out.extend_from_slice(&bytes);
            if is_last {
                return self.sent(number);
            }
        }
        match &upload.ending {
            None => return Pumped::Wants,
            Some(Ending::Data) => frame::write_data_head(&mut self.out, number, 0, true),
            Some(Ending::Trailers(trailers)) => {
                let start = frame::begin_headers(&mut self.out, number, true);
                self.encoder.block(&mut self.out).headers(trailers);
                frame::end_headers(&mut self.out, start);
            }
        }
        self.sent(number)
    }

    /// What is left to be sent of a request.
    pub(super) fn upload(&mut self, number: u32) -> Option<&mut Upload<B>> {
        self.streams.get_mut(&number)?.upload.as_mut()
    }

    /// All of a request has been sent. Its body is not here any more.
    fn sent(&mut self, number: u32) -> Pumped {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.upload = None;
            if stream.answer == Answer::Ended {
                self.remove(number);
            }
        }
        Pumped::Done
    }

    /// Goes on with the bodies that wait for room; those that want to give more.
    pub(super) fn pump_blocked(&mut self, wants: &mut Vec<u32>) {
        self.has_room = false;
        for _ in 0..self.blocked.len() {
            if self.sends.room() == 0 || self.out.len() >= OUT_BYTES_MAX {
                return;
            }
            let Some(number) = self.blocked.pop_front() else {
                return;
            };
            if let Some(stream) = self.streams.get_mut(&number)
                && let Some(upload) = &mut stream.upload
            {
                upload.is_blocked = false;
            }
            if self.pump(number) == Pumped::Wants {
                wants.push(number);
            }
        }
    }

    /// Exchanges what is to be written for an empty buffer.
    pub(super) fn take_out(&mut self, empty: &mut Vec<u8>) {
        let was_full = self.out.len() >= OUT_BYTES_MAX;
        self.has_room |= was_full;
        self.has_news |= was_full;
        std::mem::swap(&mut self.out, empty);
        self.n_replies = 0;
        self.begun = self.next.saturating_sub(2);
    }

    /// The other side's settings (RFC 9113 6.5.3).
    pub(super) fn set(&mut self, settings: &Settings) -> Result<(), Overflow> {
        if let Some(size) = settings.header_table_size {
            self.encoder.set_table_size(size);
        }
        if let Some(most) = settings.max_concurrent_streams {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            self.streams_max = most.min(self.own_streams_max);
        }
        if let Some(window) = settings.initial_window_size {
            for stream in self.streams.values_mut() {
                stream.sends.shift(self.initial_window, window)?;
            }
            self.initial_window = window;
            self.has_room = true;
        }
        Ok(())
    }

    /// It has not said how many streams it takes: then as many as there may be.
    pub(super) fn set_first(&mut self, settings: &Settings) -> Result<(), Overflow> {
        self.streams_max = self.own_streams_max;
        self.has_settings = true;
        self.set(settings)
    }

    /// Ends a stream at once, and tells the other side. The stream is to be dropped without the
    /// lock.
    pub(super) fn reset(&mut self, number: u32, code: Code) -> Option<Box<Stream<B>>> {
        let stream = self.remove(number)?;
        frame::write_reset(&mut self.out, number, code);
        Some(stream)
    }

    /// Whether the other side may have seen anything of a stream.
    pub(super) fn was_begun(&self, stream: u32) -> bool {
        stream <= self.begun
    }

    /// Answers a question of the other side, which has to read what it asks for: `false` when it
    /// does not.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let before = self.out.len();
        write(&mut self.out);
        self.n_replies += self.out.len() - before;
        self.n_replies <= OUT_BYTES_MAX
    }

    /// A stream has ended.
    pub(super) fn remove(&mut self, number: u32) -> Option<Box<Stream<B>>> {
        let stream = self.streams.remove(&number)?;
        self.n_freed += 1;
        Some(stream)
    }
}

/// Numbers of streams are chosen by this side: nobody else makes them collide.
#[derive(Debug, Default)]
pub(super) struct OwnNumbers(u64);

impl Hasher for OwnNumbers {
    fn finish(&self) -> u64 {
        // Tables take their places from the lower bits.
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
