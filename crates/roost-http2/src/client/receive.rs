//! What comes from the server, frame by frame.

use super::Limits;
use super::answer::{Fault, take_head, take_trailers};
use super::driver::Later;
use super::error::{Error, Why};
use super::state::{Answer, State};
use crate::fields::Fields;
use crate::frame::{self, Code, FRAME_BYTES_MAX, Frame, FrameError, HEAD_BYTES, Settings, Window};
use crate::hpack::Decoder;
use std::time::{Duration, Instant};

/// Bytes of a header block in more than one frame, beyond those that a header may have.
const BLOCK_BYTES_MORE: usize = 16 * 1024;
/// Frames in a second that carry nothing.
const IDLE_FRAMES_MAX: u32 = 10_000;
/// So many of them are made good by one that carries something: programs that measure a
/// connection send questions with their data.
const IDLE_FRAMES_FREE: u32 = 8;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Fatal {
    /// It is not there any more.
    Gone(Error),
    /// The other side does not hold to the protocol.
    Breach(Code, &'static str),
}

impl Fatal {
    pub(super) fn of_code(code: Code) -> Self {
        Self::Breach(code, "a frame is none")
    }
}

/// A header block whose end has not come.
#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    bytes: Vec<u8>,
    is_last: bool,
}

/// Frames that carry nothing, counted so that nobody sends them without end.
#[derive(Debug)]
struct Idle {
    n_frames: u32,
    since: Instant,
}

impl Idle {
    fn pardon(&mut self) {
        self.n_frames = self.n_frames.saturating_sub(IDLE_FRAMES_FREE);
    }

    fn count(&mut self) -> Result<(), Fatal> {
        self.n_frames += 1;
        if self.n_frames < IDLE_FRAMES_MAX {
            return Ok(());
        }
        let now = Instant::now();
        if now.duration_since(self.since) < Duration::from_secs(1) {
            return Err(Fatal::Breach(
                Code::ENHANCE_YOUR_CALM,
                "it floods the connection with frames that carry nothing",
            ));
        }
        self.n_frames = 0;
        self.since = now;
        Ok(())
    }
}

/// What only the driver knows of what comes.
#[derive(Debug)]
pub(super) struct Receiver {
    decoder: Decoder,
    block: Option<OpenBlock>,
    limits: Limits,
    /// Room in this side's window of the connection, and bytes that it may be opened by.
    window: Window,
    n_received: u32,
    has_settings: bool,
    idle: Idle,
}

type Read = Result<(), Fatal>;

impl Receiver {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            // An app that answers over HTTP/1 in the same way is understood.
            decoder: Decoder::that_trims(),
            block: None,
            limits,
            window: Window::new(limits.connection_window.max(frame::WINDOW_BYTES)),
            n_received: 0,
            has_settings: false,
            idle: Idle {
                n_frames: 0,
                since: Instant::now(),
            },
        }
    }

    /// Takes all whole frames from the bytes.
    pub(super) fn read<B>(
        &mut self,
        bytes: &mut &[u8],
        state: &mut State<B>,
        later: &mut Later<B>,
    ) -> Read {
        loop {
            let split = frame::split(bytes, FRAME_BYTES_MAX);
            let Some((head, payload)) =
                split.map_err(|error| fatal(error, "a frame is too long"))?
            else {
                return Ok(());
            };
            if !self.has_settings && !head.is_settings() {
                let why = "it does not begin with settings";
                return Err(Fatal::Breach(Code::PROTOCOL_ERROR, why));
            }
            if let Some(block) = &self.block
                && !head.continues(block.stream)
            {
                let why = "something comes between the parts of a header";
                return Err(Fatal::Breach(Code::PROTOCOL_ERROR, why));
            }
            match head.read(payload) {
                Ok(frame) => self.frame(frame, state, later)?,
                Err(FrameError::Stream { stream, code }) => {
                    known(state, stream)?;
                    self.idle.count()?;
                    breach(state, stream, code, "a frame is none", later);
                }
                Err(error) => return Err(fatal(error, "a frame is none")),
            }
            *bytes = bytes.get(HEAD_BYTES + payload.len()..).unwrap_or_default();
        }
    }

    fn frame<B>(&mut self, frame: Frame<'_>, state: &mut State<B>, later: &mut Later<B>) -> Read {
        match frame {
            Frame::Data {
                stream,
                payload,
                flow_bytes,
                is_last,
            } => {
                self.flows(flow_bytes, state)?;
                known(state, stream)?;
                if payload.is_empty() && !is_last {
                    self.idle.count()?;
                } else {
                    self.idle.pardon();
                }
                self.data(stream, payload, flow_bytes, is_last, state, later)
            }
            Frame::Headers {
                stream,
                fragment,
                is_whole,
                is_last,
            } => {
                known(state, stream)?;
                if is_whole {
                    return self.fields(stream, fragment, is_last, state, later);
                }
                let bytes = fragment.to_vec();
                self.block = Some(OpenBlock {
                    stream,
                    bytes,
                    is_last,
                });
                Ok(())
            }
            Frame::Continuation {
                fragment, is_whole, ..
            } => self.more_fields(fragment, is_whole, state, later),
            Frame::Reset { stream, code } => {
                known(state, stream)?;
                if !state.streams.contains_key(&stream) {
                    return self.idle.count();
                }
                was_reset(state, stream, code, later);
                Ok(())
            }
            Frame::Settings(settings) => self.settings(&settings, state),
            Frame::SettingsAck | Frame::PingAck(_) | Frame::Ignored => self.idle.count(),
            Frame::PushPromise => {
                let why = "it pushes what it may not";
                Err(Fatal::Breach(Code::PROTOCOL_ERROR, why))
            }
            Frame::Ping(data) => {
                self.idle.count()?;
                reply(state, |out| frame::write_ping(out, data, true))
            }
            Frame::GoAway { last, code } => {
                self.idle.count()?;
                goes_away(state, last, code, later);
                Ok(())
            }
            Frame::WindowUpdate { stream, increment } => {
                window_opens(stream, increment, state, later)
            }
        }
    }

    fn settings<B>(&mut self, settings: &Settings, state: &mut State<B>) -> Read {
        self.idle.count()?;
        if settings.enable_push == Some(true) {
            let why = "a server does not enable pushes";
            return Err(Fatal::Breach(Code::PROTOCOL_ERROR, why));
        }
        let set = if self.has_settings {
            state.set(settings)
        } else {
            self.has_settings = true;
            state.set_first(settings)
        };
        // It may be that there are more places than before.
        state.has_news = true;
        set.map_err(|_| Fatal::Breach(Code::FLOW_CONTROL_ERROR, "a window is too large"))?;
        reply(state, frame::write_settings_ack)
    }

    /// Counts what has come on the connection, whatever becomes of it.
    fn flows<B>(&mut self, flow_bytes: u32, state: &mut State<B>) -> Read {
        const WHY: &str = "it sends more than a window has room for";
        let taken = self.window.take(flow_bytes);
        taken.map_err(|_| Fatal::Breach(Code::FLOW_CONTROL_ERROR, WHY))?;
        self.n_received += flow_bytes;
        if self.n_received >= self.limits.connection_window / 2 {
            let n = std::mem::take(&mut self.n_received);
            // It was taken before.
            let _ = self.window.add(n);
            return reply(state, |out| frame::write_window_update(out, 0, n));
        }
        Ok(())
    }

    fn data<B>(
        &mut self,
        number: u32,
        payload: &[u8],
        flow_bytes: u32,
        is_last: bool,
        state: &mut State<B>,
        later: &mut Later<B>,
    ) -> Read {
        // After a reset more may have been on its way.
        let Some(stream) = state.streams.get_mut(&number) else {
            return Ok(());
        };
        let padding = usize::try_from(flow_bytes).unwrap_or(usize::MAX);
        let padding = u32::try_from(padding.saturating_sub(payload.len())).unwrap_or(0);
        let fault = match &mut stream.answer {
            _ if stream.receives.take(flow_bytes).is_err() => Some((
                Code::FLOW_CONTROL_ERROR,
                "it sends more than a window has room for",
            )),
            Answer::Awaited(_) => Some((Code::PROTOCOL_ERROR, "a body comes before its header")),
            Answer::Ended => Some((Code::STREAM_CLOSED, "something comes after the end")),
            Answer::Body(None) => None,
            Answer::Body(Some(left)) => match left.checked_sub(payload.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    None
                }
                None => Some((Code::PROTOCOL_ERROR, LENGTH)),
            },
        };
        if let Some((code, why)) = fault {
            breach(state, number, code, why, later);
            return Ok(());
        }
        if padding > 0 {
            // Nobody will take it.
            self.idle.count()?;
            let _ = stream.receives.add(padding);
            frame::write_window_update(&mut state.out, number, padding);
        }
        if !payload.is_empty() {
            let mut inbox = stream.inbox.lock();
            inbox.push(payload);
            inbox.left = match stream.answer {
                Answer::Body(left) => left,
                Answer::Awaited(_) | Answer::Ended => None,
            };
            later.wakers.extend(inbox.waker.take());
        }
        if is_last {
            ended(state, number, later);
        }
        Ok(())
    }

    fn more_fields<B>(
        &mut self,
        fragment: &[u8],
        is_whole: bool,
        state: &mut State<B>,
        later: &mut Later<B>,
    ) -> Read {
        let Some(mut block) = self.block.take() else {
            let why = "a header goes on that has not begun";
            return Err(Fatal::Breach(Code::PROTOCOL_ERROR, why));
        };
        self.idle.count()?;
        let most = usize::try_from(self.limits.header_bytes_max).unwrap_or(usize::MAX);
        if block.bytes.len() + fragment.len() > most.saturating_add(BLOCK_BYTES_MORE) {
            // It would have to be decoded all the same, or the connection is lost.
            return Err(Fatal::Breach(
                Code::ENHANCE_YOUR_CALM,
                "a header is too long",
            ));
        }
        block.bytes.extend_from_slice(fragment);
        if is_whole {
            return self.fields(block.stream, &block.bytes, block.is_last, state, later);
        }
        self.block = Some(block);
        Ok(())
    }

    fn fields<B>(
        &mut self,
        number: u32,
        block: &[u8],
        is_last: bool,
        state: &mut State<B>,
        later: &mut Later<B>,
    ) -> Read {
        let most = usize::try_from(self.limits.header_bytes_max).unwrap_or(usize::MAX);
        let lines_max = self.limits.header_lines_max;
        let fields = Fields::decode(&mut self.decoder, block, most, lines_max)
            .map_err(|_| Fatal::Breach(Code::COMPRESSION_ERROR, "a header cannot be decoded"))?;
        let Some(stream) = state.streams.get_mut(&number) else {
            return self.idle.count();
        };
        let taken = match stream.answer {
            Answer::Ended => Err(Fault(Code::STREAM_CLOSED, "something comes after the end")),
            _ if fields.is_too_large => {
                if let Some(stream) = state.reset(number, Code::CANCEL) {
                    stream.fail(Error::broken(Why::TooLarge), &mut later.wakers);
                    later.streams.push(stream);
                }
                return Ok(());
            }
            Answer::Awaited(n) => take_head(stream, fields, n, is_last),
            Answer::Body(_) => take_trailers(stream, fields, is_last),
        };
        self.idle.pardon();
        match taken {
            Err(Fault(code, why)) => breach(state, number, code, why, later),
            Ok(()) if is_last => ended(state, number, later),
            Ok(()) => later.wakers.extend(stream.inbox.lock().waker.take()),
        }
        Ok(())
    }
}

const LENGTH: &str = "a body is not as long as its header says";

/// An answer has come to its end.
fn ended<B>(state: &mut State<B>, number: u32, later: &mut Later<B>) {
    let Some(stream) = state.streams.get_mut(&number) else {
        return;
    };
    if matches!(stream.answer, Answer::Body(Some(left)) if left > 0) {
        breach(state, number, Code::PROTOCOL_ERROR, LENGTH, later);
        return;
    }
    stream.answer = Answer::Ended;
    let mut inbox = stream.inbox.lock();
    inbox.end = Some(Ok(()));
    later.wakers.extend(inbox.waker.take());
    drop(inbox);
    // The request may still have something to say.
    if stream.upload.is_none() {
        later.streams.extend(state.remove(number));
    }
}

fn window_opens<B>(
    number: u32,
    increment: u32,
    state: &mut State<B>,
    later: &mut Later<B>,
) -> Read {
    const WHY: &str = "a window is too large";
    let code = Code::FLOW_CONTROL_ERROR;
    state.has_room = true;
    if number == 0 {
        let added = state.sends.add(increment);
        return added.map_err(|_| Fatal::Breach(code, WHY));
    }
    known(state, number)?;
    if let Some(stream) = state.streams.get_mut(&number)
        && stream.sends.add(increment).is_err()
    {
        breach(state, number, code, WHY, later);
    }
    Ok(())
}

/// The server breaks the protocol on one stream.
fn breach<B>(
    state: &mut State<B>,
    number: u32,
    code: Code,
    why: &'static str,
    later: &mut Later<B>,
) {
    if let Some(stream) = state.reset(number, code) {
        stream.fail(Error::broken(Why::Protocol(why)), &mut later.wakers);
        later.streams.push(stream);
    }
}

fn was_reset<B>(state: &mut State<B>, number: u32, code: Code, later: &mut Later<B>) {
    let Some(stream) = state.remove(number) else {
        return;
    };
    // After a whole answer it only says that nobody reads the rest of the request, and changes
    // nothing (RFC 9113 8.1).
    let why = Why::Reset(code);
    let error = if code == Code::REFUSED_STREAM && matches!(stream.answer, Answer::Awaited(_)) {
        Error::unsent(why)
    } else {
        Error::broken(why)
    };
    stream.fail(error, &mut later.wakers);
    later.streams.push(stream);
}

/// The server takes no more requests, and has not seen those after `last` (RFC 9113 6.8).
fn goes_away<B>(state: &mut State<B>, last: u32, code: Code, later: &mut Later<B>) {
    let why = Why::GoAway(code);
    state.end.get_or_insert(Error::broken(why.clone()));
    let unseen: Vec<u32> = state
        .streams
        .keys()
        .copied()
        .filter(|number| *number > last)
        .collect();
    for number in unseen {
        if let Some(stream) = state.remove(number) {
            stream.fail(Error::unsent(why.clone()), &mut later.wakers);
            later.streams.push(stream);
        }
    }
    // Those who wait for a place hear of it.
    state.has_news = true;
}

fn reply<B>(state: &mut State<B>, write: impl FnOnce(&mut Vec<u8>)) -> Read {
    const WHY: &str = "it does not read what it asks for";
    let is_good = state.reply(write);
    is_good
        .then_some(())
        .ok_or(Fatal::Breach(Code::ENHANCE_YOUR_CALM, WHY))
}

/// A frame is of a stream that was opened (RFC 9113 5.1).
fn known<B>(state: &State<B>, stream: u32) -> Read {
    const WHY: &str = "a frame is of a stream that nobody has opened";
    let is_known = state.was_opened(stream);
    is_known
        .then_some(())
        .ok_or(Fatal::Breach(Code::PROTOCOL_ERROR, WHY))
}

fn fatal(error: FrameError, why: &'static str) -> Fatal {
    match error {
        FrameError::Connection(code) | FrameError::Stream { code, .. } => Fatal::Breach(code, why),
    }
}
