//! Frames (RFC 9113 4 and 6): read where they lie in a buffer, written to the end of one.
//!
//! What is checked here is all that a frame says by itself: lengths, padding, which stream it may
//! name. What it means in the state of a stream is the connection's to judge.

mod settings;
mod window;
mod write;

pub use settings::{BadSetting, Settings};
pub use window::{Overflow, Window};
pub use write::{
    BlockStart, begin_headers, end_headers, write_data_head, write_goaway, write_ping, write_reset,
    write_settings, write_settings_ack, write_window_update,
};

/// The preface of a client (RFC 9113 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of the head of a frame (RFC 9113 4.1).
pub const HEAD_BYTES: usize = 9;
/// The longest frame that anybody may send who was told nothing else (RFC 9113 4.2).
pub const FRAME_BYTES_MAX: u32 = 16_384;
/// The highest number of a stream, and the largest window.
pub const NUMBER_MAX: u32 = (1 << 31) - 1;
/// The window of a stream or a connection of which nothing was said (RFC 9113 6.9.2).
pub const WINDOW_BYTES: u32 = 65_535;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITISED: u8 = 0x20;

/// Why a stream or a connection ends (RFC 9113 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// Nothing is wrong.
    pub const NO_ERROR: Self = Self(0x0);
    /// The other side does not hold to the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// This side has failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// More was sent than a window had room for.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// A frame came for a stream that was half closed.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// The length of a frame is wrong.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// Nothing was done with the stream.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is of no use any more.
    pub const CANCEL: Self = Self(0x8);
    /// The state of header compression is lost.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The other side makes too much work.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

/// A frame that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The connection cannot go on.
    #[error("a frame breaks the protocol: code {}", .0.0)]
    Connection(Code),
    /// Only this stream cannot go on.
    #[error("a frame of stream {stream} breaks the protocol: code {}", .code.0)]
    Stream {
        /// The stream.
        stream: u32,
        /// What is wrong.
        code: Code,
    },
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many bytes follow.
    pub length: u32,
    kind: u8,
    flags: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
}

/// The fields of the stream on which a stream is said to depend are not kept: priorities of
/// RFC 7540 are ignored (RFC 9113 5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Bytes of a body.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        payload: &'a [u8],
        /// What they take of the windows: padding counts (RFC 9113 6.1).
        flow_bytes: u32,
        /// Whether they are the last ones.
        is_last: bool,
    },
    /// The beginning of a header block.
    Headers {
        /// The stream.
        stream: u32,
        /// A part of the block.
        fragment: &'a [u8],
        /// Whether it is all of it.
        is_whole: bool,
        /// Whether nothing else follows on the stream.
        is_last: bool,
    },
    /// More of a header block.
    Continuation {
        /// The stream.
        stream: u32,
        /// A part of the block.
        fragment: &'a [u8],
        /// Whether it is the last one.
        is_whole: bool,
    },
    /// The end of a stream before its end.
    Reset {
        /// The stream.
        stream: u32,
        /// Why.
        code: Code,
    },
    /// Settings of the other side.
    Settings(Settings),
    /// The other side has seen the settings.
    SettingsAck,
    /// A response that nobody has asked for.
    PushPromise,
    /// A question whether this side is there.
    Ping([u8; 8]),
    /// The answer to such a question.
    PingAck([u8; 8]),
    /// The other side takes no more streams.
    GoAway {
        /// The last stream that it does something with.
        last: u32,
        /// Why.
        code: Code,
    },
    /// Room in a window.
    WindowUpdate {
        /// The stream; 0 is the connection.
        stream: u32,
        /// How much.
        increment: u32,
    },
    /// Nothing that this side knows or cares for.
    Ignored,
}

/// The first frame of `bytes`: its head and its payload, if all of it is there.
///
/// A frame longer than `length_max` is an error as soon as its head is there.
pub fn split(bytes: &[u8], length_max: u32) -> Result<Option<(Head, &[u8])>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
    let head = Head {
        length: u32::from_be_bytes([0, l0, l1, l2]),
        kind,
        flags,
        stream: number([s0, s1, s2, s3]),
    };
    if head.length > length_max {
        return Err(FrameError::Connection(Code::FRAME_SIZE_ERROR));
    }
    let payload = usize::try_from(head.length)
        .ok()
        .and_then(|n| rest.get(..n));
    Ok(payload.map(|payload| (head, payload)))
}

impl Head {
    /// Reads the payload.
    pub fn read(self, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
        let stream = self.stream;
        let is_of_stream = match self.kind {
            DATA | HEADERS | PRIORITY | RST_STREAM | PUSH_PROMISE | CONTINUATION => Some(true),
            SETTINGS | PING | GOAWAY => Some(false),
            _ => None,
        };
        if is_of_stream.is_some_and(|is_of_stream| is_of_stream != (stream != 0)) {
            return Err(FrameError::Connection(Code::PROTOCOL_ERROR));
        }
        Ok(match self.kind {
            DATA => Frame::Data {
                stream,
                payload: self.without_padding(payload)?,
                flow_bytes: self.length,
                is_last: self.has(END_STREAM),
            },
            HEADERS => Frame::Headers {
                stream,
                fragment: self.without_priority(self.without_padding(payload)?)?,
                is_whole: self.has(END_HEADERS),
                is_last: self.has(END_STREAM),
            },
            PRIORITY => {
                // RFC 9113 6.3: only the stream has an error of that.
                let code = Code::FRAME_SIZE_ERROR;
                let fields = <[u8; 5]>::try_from(payload);
                fields.map_err(|_| FrameError::Stream { stream, code })?;
                Frame::Ignored
            }
            RST_STREAM => Frame::Reset {
                stream,
                code: Code(u32::from_be_bytes(of_length(payload)?)),
            },
            SETTINGS => self.read_settings(payload)?,
            PUSH_PROMISE => Frame::PushPromise,
            PING if self.has(ACK) => Frame::PingAck(of_length(payload)?),
            PING => Frame::Ping(of_length(payload)?),
            GOAWAY => {
                let (last, rest) = payload.split_first_chunk::<4>().ok_or(BAD_LENGTH)?;
                let (code, _) = rest.split_first_chunk::<4>().ok_or(BAD_LENGTH)?;
                Frame::GoAway {
                    last: number(*last),
                    code: Code(u32::from_be_bytes(*code)),
                }
            }
            WINDOW_UPDATE => {
                let increment = number(of_length(payload)?);
                let code = Code::PROTOCOL_ERROR;
                match (increment, stream) {
                    // RFC 9113 6.9.
                    (0, 0) => return Err(FrameError::Connection(code)),
                    (0, stream) => return Err(FrameError::Stream { stream, code }),
                    _ => Frame::WindowUpdate { stream, increment },
                }
            }
            CONTINUATION => Frame::Continuation {
                stream,
                fragment: payload,
                is_whole: self.has(END_HEADERS),
            },
            _ => Frame::Ignored,
        })
    }

    fn read_settings(self, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
        if self.has(ACK) {
            return of_length::<0>(payload).map(|_| Frame::SettingsAck);
        }
        let settings = Settings::read(payload).map_err(|bad| {
            FrameError::Connection(match bad {
                BadSetting::Length => Code::FRAME_SIZE_ERROR,
                BadSetting::Window => Code::FLOW_CONTROL_ERROR,
                BadSetting::Value => Code::PROTOCOL_ERROR,
            })
        })?;
        Ok(Frame::Settings(settings))
    }

    /// Whether it goes on with the header block of this stream. Nothing else may come between
    /// (RFC 9113 6.10).
    pub fn continues(self, stream: u32) -> bool {
        self.kind == CONTINUATION && self.stream == stream
    }

    /// Whether it is of the settings, as the first frame of a connection must be (RFC 9113 3.4).
    pub fn is_settings(self) -> bool {
        self.kind == SETTINGS && !self.has(ACK)
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn without_padding(self, payload: &[u8]) -> Result<&[u8], FrameError> {
        if !self.has(PADDED) {
            return Ok(payload);
        }
        let bad = |code| FrameError::Connection(code);
        let (n_padding, rest) = payload.split_first().ok_or(bad(Code::FRAME_SIZE_ERROR))?;
        // RFC 9113 6.1: padding that is as long as the payload or longer.
        let length = rest.len().checked_sub(usize::from(*n_padding));
        length
            .and_then(|length| rest.get(..length))
            .ok_or(bad(Code::PROTOCOL_ERROR))
    }

    fn without_priority(self, payload: &[u8]) -> Result<&[u8], FrameError> {
        if !self.has(PRIORITISED) {
            return Ok(payload);
        }
        payload
            .get(5..)
            .ok_or(FrameError::Connection(Code::FRAME_SIZE_ERROR))
    }
}

const BAD_LENGTH: FrameError = FrameError::Connection(Code::FRAME_SIZE_ERROR);

/// A payload that can have one length only.
fn of_length<const N: usize>(payload: &[u8]) -> Result<[u8; N], FrameError> {
    payload.try_into().map_err(|_| BAD_LENGTH)
}

/// A number of 31 bits; the first bit is reserved and ignored.
fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & NUMBER_MAX
}

#[cfg(test)]
mod tests;
