//! The bytes of greetings and frames, written and read.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};

use super::crc32c::crc32c;
use crate::limits::FRAME_PAYLOAD_BYTES_MAX;

/// Version of the session layer that this program speaks.
pub const VERSION: u8 = 1;

/// Begins what the host says. The first byte never occurs in UTF-8 and comes
/// only once, so that a search need not look back.
const PREAMBLE_MAGIC: [u8; MAGIC_BYTES] = *b"\xF5roost>\xFA";
/// Begins what the guest answers.
const ANSWER_MAGIC: [u8; MAGIC_BYTES] = *b"\xF5roost<\xFA";

const MAGIC_BYTES: usize = 8;
/// Length of a preamble and of an answer.
pub(super) const GREETING_BYTES: usize = 32;
/// Length of what precedes the payload of a frame.
pub(super) const HEADER_BYTES: usize = 20;

/// First bytes of the session's id, in each of its frames.
type Tag = [u8; 4];

/// Names one session; random.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Takes random bytes as the id of a session; `None` if frames tagged with
    /// their beginning could be taken for something else.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        let id = Self(bytes);
        let reserved = [[0; 4], first_four(PREAMBLE_MAGIC)];
        (!reserved.contains(&id.tag())).then_some(id)
    }

    pub(super) fn tag(self) -> Tag {
        first_four(self.0)
    }
}

fn first_four<const N: usize>(bytes: [u8; N]) -> Tag {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why bytes are not the next frame of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Neither a frame of this session nor a greeting that may come here.
    #[error("bytes of no frame")]
    NotAFrame,
    /// The header does not add up.
    #[error("a frame's header is damaged")]
    Header,
    /// The header adds up and says what no frame may.
    #[error("a frame of no known kind or size")]
    Kind,
    /// A frame is missing or came twice.
    #[error("a frame is out of sequence")]
    Sequence,
    /// The payload does not add up.
    #[error("a frame's payload is damaged")]
    Payload,
}

/// Which of the two greetings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    Preamble,
    Answer,
}

impl Greeting {
    pub(super) fn magic(self) -> &'static [u8; MAGIC_BYTES] {
        match self {
            Self::Preamble => &PREAMBLE_MAGIC,
            Self::Answer => &ANSWER_MAGIC,
        }
    }

    fn encode(self, id: SessionId) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..8].copy_from_slice(self.magic());
        bytes[8] = VERSION;
        bytes[12..28].copy_from_slice(&id.0);
        let checksum = crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a greeting: the session and the version that the sender speaks.
    /// `None` if it is damaged or another greeting. The checksum is where it is
    /// in all versions.
    pub(super) fn parse(self, bytes: &[u8; GREETING_BYTES]) -> Option<(SessionId, u8)> {
        let (head, mut checksum) = bytes.split_at(28);
        if !head.starts_with(self.magic()) || checksum.get_u32_le() != crc32c(head) {
            return None;
        }
        let mut id = [0; 16];
        id.copy_from_slice(&head[12..28]);
        Some((SessionId::new(id)?, head[8]))
    }
}

/// What the host sends, again and again, until it is answered.
#[must_use]
pub fn preamble(id: SessionId) -> [u8; GREETING_BYTES] {
    Greeting::Preamble.encode(id)
}

/// What the guest sends for each preamble.
#[must_use]
pub fn answer(id: SessionId) -> [u8; GREETING_BYTES] {
    Greeting::Answer.encode(id)
}

/// What the host sends before its first preamble: it completes a frame that the
/// stream may have been left in.
#[must_use]
pub fn flush() -> &'static [u8] {
    &[0; HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data = 1,
    Close = 2,
}

/// What precedes the payload of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) length: usize,
    pub(super) sequence: u32,
    pub(super) payload_checksum: u32,
}

impl Header {
    /// Reads what [`Encoder::frame`] writes; the caller has compared the tag.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Fault> {
        let (head, mut checksum) = bytes.split_at(16);
        if checksum.get_u32_le() != crc32c(head) {
            return Err(Fault::Header);
        }
        let length = usize::from(head[5]) | usize::from(head[6]) << 8 | usize::from(head[7]) << 16;
        let kind = match (head[4], length) {
            (1, 1..=FRAME_PAYLOAD_BYTES_MAX) => Kind::Data,
            (2, 0) => Kind::Close,
            _ => return Err(Fault::Kind),
        };
        let mut numbers = &head[8..];
        Ok(Self {
            kind,
            length,
            sequence: numbers.get_u32_le(),
            payload_checksum: numbers.get_u32_le(),
        })
    }
}

/// Writes the frames of one direction of one session.
#[derive(Debug)]
pub struct Encoder {
    tag: Tag,
    sequence: u32,
}

impl Encoder {
    /// For the frames that this side sends in session `id`.
    #[must_use]
    pub fn new(id: SessionId) -> Self {
        Self {
            tag: id.tag(),
            sequence: 0,
        }
    }

    /// Appends `data` to `out`, as so many frames as it takes.
    pub fn data(&mut self, data: &[u8], out: &mut BytesMut) {
        for payload in data.chunks(FRAME_PAYLOAD_BYTES_MAX) {
            self.frame(Kind::Data, payload, out);
        }
    }

    /// Appends the frame that ends the session.
    pub fn close(&mut self, out: &mut BytesMut) {
        self.frame(Kind::Close, &[], out);
    }

    fn frame(&mut self, kind: Kind, payload: &[u8], out: &mut BytesMut) {
        let start = out.len();
        let length = u32::try_from(payload.len()).expect("chunks are at most a frame long");
        out.reserve(HEADER_BYTES + payload.len());
        out.put_slice(&self.tag);
        out.put_u32_le(kind as u32 | length << 8);
        out.put_u32_le(self.sequence);
        out.put_u32_le(crc32c(payload));
        out.put_u32_le(crc32c(&out[start..]));
        out.put_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
    }
}
