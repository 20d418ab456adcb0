//! Frames of a client, and what they do.

use super::body::Shared;
use super::request::{head, only_length};
use super::stream::{Incoming, Phase, Stream, unless_it_panics};
use super::{CLOSING, Connection, Service, Settings, Stage, goes_on_with_preface};
use crate::fields::Fields;
use crate::frame::{self, Code, FRAME_BYTES_MAX, Frame, FrameError, HEAD_BYTES, PREFACE, Window};
use http::Method;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// Frames of one header block.
const BLOCK_FRAMES_MAX: u32 = 64;
/// Empty DATA frames in a row, of all streams, that do not end theirs.
const EMPTY_DATA_MAX: u32 = 1000;

/// A header block that goes on.
pub(super) struct OpenBlock {
    stream: u32,
    is_last: bool,
    bytes: Vec<u8>,
    n_frames: u32,
}

/// What a client has done too often.
#[derive(Debug, Default)]
pub(super) struct Counts {
    quick_resets: u32,
    cancels: u32,
    /// Since when time has given none of them back.
    cancels_since: Option<Instant>,
    error_resets: u32,
    empty_data: u32,
    /// Whether the client has seen the settings.
    knows_settings: bool,
}

impl Counts {
    /// A stream has come to its end as it should.
    pub(super) fn stream_ended(&mut self) {
        self.quick_resets = self.quick_resets.saturating_sub(1);
        self.cancels = self.cancels.saturating_sub(1);
        self.error_resets = self.error_resets.saturating_sub(1);
    }

    /// A stream was reset that somebody had begun to answer; whether that was one too many.
    fn is_one_cancel_too_many(&mut self, settings: &Settings) -> bool {
        let now = Instant::now();
        let since = *self.cancels_since.get_or_insert(now);
        let pause = settings.cancel_pause.max(Duration::from_millis(1));
        let n_back = (now - since).as_millis() / pause.as_millis();
        if n_back > 0 {
            let n_back = u32::try_from(n_back).unwrap_or(u32::MAX);
            self.cancels = self.cancels.saturating_sub(n_back);
            // What is left of a pause counts, while there is anything to give back.
            let is_clear = self.cancels == 0;
            self.cancels_since = Some(if is_clear {
                now
            } else {
                since + pause * n_back
            });
        }
        self.cancels += 1;
        self.cancels > settings.cancels_max
    }
}

impl<IO, S> Connection<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service,
{
    /// Takes all frames that are whole; how many bytes they were. An error ends the connection.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<usize, Code> {
        let mut n_taken = self.take_preface(bytes)?;
        while self.n_preface == PREFACE.len() {
            let rest = bytes.get(n_taken..).unwrap_or_default();
            let split = frame::split(rest, FRAME_BYTES_MAX).map_err(of_connection)?;
            let Some((head, payload)) = split else { break };
            n_taken += HEAD_BYTES + payload.len();
            if !self.is_greeted && !head.is_settings() {
                return Err(Code::PROTOCOL_ERROR);
            }
            self.is_greeted = true;
            if let Some(block) = &self.block
                && !head.continues(block.stream)
            {
                return Err(Code::PROTOCOL_ERROR);
            }
            match head.read(payload) {
                Ok(frame) => self.take(frame)?,
                Err(FrameError::Connection(code)) => return Err(code),
                Err(FrameError::Stream { stream, code }) => self.stream_error(stream, code)?,
            }
        }
        Ok(n_taken)
    }

    fn take_preface(&mut self, bytes: &[u8]) -> Result<usize, Code> {
        if !goes_on_with_preface(self.n_preface, bytes) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let n = bytes.len().min(PREFACE.len() - self.n_preface);
        self.n_preface += n;
        Ok(n)
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), Code> {
        match frame {
            Frame::Data {
                stream,
                payload,
                flow_bytes,
                is_last,
            } => self.data(stream, payload, flow_bytes, is_last),
            Frame::Headers {
                stream,
                fragment,
                is_whole: true,
                is_last,
            } => self.header_block(stream, fragment, is_last),
            Frame::Headers {
                stream,
                fragment,
                is_whole: false,
                is_last,
            } => {
                self.block = Some(OpenBlock {
                    stream,
                    is_last,
                    bytes: fragment.to_vec(),
                    n_frames: 1,
                });
                Ok(())
            }
            Frame::Continuation {
                fragment, is_whole, ..
            } => self.more_of_block(fragment, is_whole),
            Frame::Reset { stream, .. } => self.client_resets(stream),
            Frame::Settings(settings) => self.client_sets(&settings),
            Frame::SettingsAck => {
                self.counts.knows_settings = true;
                Ok(())
            }
            // RFC 9113 8.4: clients push nothing.
            Frame::PushPromise => Err(Code::PROTOCOL_ERROR),
            Frame::Ping(data) => {
                frame::write_ping(&mut self.out.bytes, data, true);
                Ok(())
            }
            Frame::PingAck(data) => {
                if data == CLOSING {
                    self.client_has_seen_goaway();
                }
                Ok(())
            }
            Frame::WindowUpdate { stream, increment } => self.room(stream, increment),
            // The client opens no more streams, or it does not matter.
            Frame::GoAway { .. } | Frame::Ignored => Ok(()),
        }
    }

    /// Whether no such stream has been opened; then nothing can be said about it (RFC 9113 5.1).
    fn is_idle(&self, id: u32) -> bool {
        // Those that came after the last GOAWAY were not opened, and the client does not know it.
        id.is_multiple_of(2) || (id > self.last_id && self.stage != Stage::Last)
    }

    /// Only this stream is at fault.
    fn stream_error(&mut self, id: u32, code: Code) -> Result<(), Code> {
        if self.is_idle(id) {
            return Err(code);
        }
        if let Some(slot) = self.streams.slot_of(id) {
            self.reset(slot, code);
            return self.count_error();
        }
        Ok(())
    }

    fn count_error(&mut self) -> Result<(), Code> {
        self.counts.error_resets += 1;
        if self.counts.error_resets > self.settings.error_resets_max {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        Ok(())
    }

    fn more_of_block(&mut self, fragment: &[u8], is_whole: bool) -> Result<(), Code> {
        // Without one it would continue nothing.
        let block = self.block.as_mut().ok_or(Code::PROTOCOL_ERROR)?;
        block.n_frames += 1;
        block.bytes.extend_from_slice(fragment);
        let most = self.settings.header_bytes_max as usize * 2;
        if block.n_frames > BLOCK_FRAMES_MAX || block.bytes.len() > most {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        if is_whole && let Some(block) = self.block.take() {
            return self.header_block(block.stream, &block.bytes, block.is_last);
        }
        Ok(())
    }

    fn header_block(&mut self, id: u32, block: &[u8], is_last: bool) -> Result<(), Code> {
        // Whatever becomes of it: it changes the state of the compression (RFC 9113 4.3).
        let most = self.settings.header_bytes_max as usize;
        let lines_max = self.settings.header_lines_max;
        let fields = Fields::decode(&mut self.decoder, block, most, lines_max)
            .map_err(|_| Code::COMPRESSION_ERROR)?;
        if id.is_multiple_of(2) {
            return Err(Code::PROTOCOL_ERROR);
        }
        if id > self.last_id {
            return self.open(id, fields, is_last);
        }
        if self.streams.slot_of(id).is_some() {
            return self.trailers(id, fields, is_last);
        }
        // RFC 9113 5.1: the client may not have known that its stream had ended.
        if self.streams.was_reset(id) {
            return Ok(());
        }
        Err(Code::PROTOCOL_ERROR)
    }

    fn open(&mut self, id: u32, fields: Box<Fields>, is_last: bool) -> Result<(), Code> {
        // What comes after the last GOAWAY is nobody's (RFC 9113 6.8).
        if self.stage == Stage::Last {
            return Ok(());
        }
        self.last_id = id;
        if self.streams.len() >= self.settings.streams_max as usize {
            self.refuse(id, Code::REFUSED_STREAM);
            if self.counts.knows_settings {
                return self.count_error();
            }
            return Ok(());
        }
        if fields.is_too_large {
            self.refuse_as_too_large(id, is_last);
            return self.count_error();
        }
        let Ok(parts) = head(fields) else {
            self.refuse(id, Code::PROTOCOL_ERROR);
            return self.count_error();
        };
        let left = match only_length(&parts.headers) {
            Ok(left) if !is_last || left.unwrap_or(0) == 0 => left,
            Ok(_) | Err(_) => {
                self.refuse(id, Code::PROTOCOL_ERROR);
                return self.count_error();
            }
        };
        let Some(slot) = self.streams.free_slot(&self.ready) else {
            self.refuse(id, Code::REFUSED_STREAM);
            return Ok(());
        };
        let body = (!is_last).then(|| {
            let (stream, connection) = (
                self.settings.stream_window / 2,
                self.settings.connection_window / 2,
            );
            Shared::new(&self.ready, slot, left, stream, connection)
        });
        let reader = body.as_ref().map(Shared::reader);
        let is_head = parts.method == Method::HEAD;
        let answer = unless_it_panics(|| self.service.call(parts, reader));
        let has_panicked = answer.is_none();
        let stream = Box::new(Stream {
            id,
            incoming: Incoming {
                window: Window::new(self.settings.stream_window),
                body,
                left,
                is_ended: is_last,
            },
            window: Window::new(self.out.stream_window),
            phase: answer.map_or(Phase::Sent, Phase::Answering),
            is_head,
            is_begun: false,
            blocked_since: None,
        });
        self.streams.insert(slot, stream);
        if has_panicked {
            self.reset(slot, Code::INTERNAL_ERROR);
        }
        Ok(())
    }

    /// Ends a stream that has not been opened.
    fn refuse(&mut self, id: u32, code: Code) {
        frame::write_reset(&mut self.out.bytes, id, code);
        self.streams.note_reset(id);
    }

    /// Answers that the header is too large (RFC 6585 5).
    fn refuse_as_too_large(&mut self, id: u32, is_last: bool) {
        let start = frame::begin_headers(&mut self.out.bytes, id, true);
        let mut block = self.out.encoder.block(&mut self.out.bytes);
        block.field(":status", b"431");
        frame::end_headers(&mut self.out.bytes, start);
        if is_last {
            self.streams.note_reset(id);
        } else {
            self.refuse(id, Code::NO_ERROR);
        }
    }

    fn trailers(&mut self, id: u32, fields: Box<Fields>, is_last: bool) -> Result<(), Code> {
        let Some((slot, stream)) = self.streams.by_id(id) else {
            return Ok(());
        };
        if stream.incoming.is_ended {
            // RFC 9113 5.1: nothing may come after the end.
            return Err(Code::PROTOCOL_ERROR);
        }
        // RFC 9113 8.1.
        let is_malformed = !is_last
            || fields.fault.is_some()
            || fields.has_pseudo()
            || fields.is_too_large
            || stream.incoming.left.is_some_and(|left| left > 0);
        if is_malformed {
            self.reset(slot, Code::PROTOCOL_ERROR);
            return self.count_error();
        }
        stream.incoming.is_ended = true;
        if let Some(body) = &stream.incoming.body {
            body.end(Some(fields.headers));
        }
        if matches!(stream.phase, Phase::Sent) {
            self.streams.is_due(slot);
        }
        Ok(())
    }

    fn data(
        &mut self,
        id: u32,
        payload: &[u8],
        flow_bytes: u32,
        is_last: bool,
    ) -> Result<(), Code> {
        if self.is_idle(id) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let taken = self.window.take(flow_bytes);
        taken.map_err(|_| Code::FLOW_CONTROL_ERROR)?;
        if payload.is_empty() && !is_last {
            self.counts.empty_data += 1;
            if self.counts.empty_data > EMPTY_DATA_MAX {
                return Err(Code::ENHANCE_YOUR_CALM);
            }
        } else {
            self.counts.empty_data = 0;
        }
        let enough = self.settings.connection_window / 2;
        let Some((slot, stream)) = self.streams.by_id(id) else {
            // Nobody reads it; it counts for the connection all the same (RFC 9113 6.9).
            self.ready.add_credit(flow_bytes, enough);
            return Ok(());
        };
        let incoming = &mut stream.incoming;
        let code = if incoming.is_ended {
            Some(Code::STREAM_CLOSED)
        } else if incoming.window.take(flow_bytes).is_err() {
            Some(Code::FLOW_CONTROL_ERROR)
        } else {
            let length = payload.len() as u64;
            let left = incoming.left.map(|left| left.checked_sub(length));
            incoming.left = left.flatten();
            // RFC 9113 8.1.1: more than was said, or less.
            let is_malformed =
                left == Some(None) || (is_last && incoming.left.is_some_and(|left| left > 0));
            is_malformed.then_some(Code::PROTOCOL_ERROR)
        };
        if let Some(code) = code {
            self.ready.add_credit(flow_bytes, enough);
            self.reset(slot, code);
            return self.count_error();
        }
        if let Some(body) = &incoming.body {
            body.push(payload, flow_bytes);
            if is_last {
                body.end(None);
            }
        }
        incoming.is_ended = is_last;
        if is_last && matches!(stream.phase, Phase::Sent) {
            self.streams.is_due(slot);
        }
        Ok(())
    }

    fn client_resets(&mut self, id: u32) -> Result<(), Code> {
        if self.is_idle(id) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let Some(slot) = self.streams.slot_of(id) else {
            return Ok(());
        };
        let Some(stream) = self.streams.remove(slot) else {
            return Ok(());
        };
        if let Some(body) = &stream.incoming.body {
            body.cut(Code::CANCEL);
        }
        if !stream.is_begun {
            self.counts.quick_resets += 1;
            if self.counts.quick_resets > self.settings.quick_resets_max {
                return Err(Code::ENHANCE_YOUR_CALM);
            }
        } else if matches!(stream.phase, Phase::Answering(_))
            && self.counts.is_one_cancel_too_many(&self.settings)
        {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        Ok(())
    }

    fn client_sets(&mut self, settings: &frame::Settings) -> Result<(), Code> {
        if let Some(size) = settings.header_table_size {
            self.out.encoder.set_table_size(size);
        }
        if let Some(to) = settings.initial_window_size {
            let from = std::mem::replace(&mut self.out.stream_window, to);
            for (_, stream) in self.streams.all() {
                let shifted = stream.window.shift(from, to);
                shifted.map_err(|_| Code::FLOW_CONTROL_ERROR)?;
            }
            self.unblock();
        }
        frame::write_settings_ack(&mut self.out.bytes);
        Ok(())
    }

    /// There is room in a window.
    fn room(&mut self, id: u32, increment: u32) -> Result<(), Code> {
        if id == 0 {
            let added = self.out.window.add(increment);
            added.map_err(|_| Code::FLOW_CONTROL_ERROR)?;
            self.unblock();
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let Some((slot, stream)) = self.streams.by_id(id) else {
            return Ok(());
        };
        if stream.window.add(increment).is_err() {
            return self.stream_error(id, Code::FLOW_CONTROL_ERROR);
        }
        if stream.blocked_since.is_some() {
            self.streams.is_due(slot);
        }
        Ok(())
    }

    /// Those who wait for room look whether there is some.
    fn unblock(&mut self) {
        let mut blocked = 0_u128;
        for (slot, stream) in self.streams.all() {
            if stream.blocked_since.is_some() {
                blocked |= 1 << slot;
            }
        }
        self.streams.are_due(blocked);
    }
}

fn of_connection(error: FrameError) -> Code {
    match error {
        FrameError::Connection(code) | FrameError::Stream { code, .. } => code,
    }
}
