//! Finds sessions and their frames in the bytes that arrive.

use bytes::{Buf, Bytes, BytesMut};

use super::wire::{
    Fault, GREETING_BYTES, Greeting, HEADER_BYTES, Header, Kind, SessionId, VERSION,
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session began: the guest saw a preamble, the host the answer to its
    /// own. An older session is over.
    Opened(SessionId),
    /// The guest saw the preamble of the session again, before any frame of it:
    /// the answer has not been read yet.
    Repeated(SessionId),
    /// The other side speaks another version. No session begins, an older one is over.
    OtherVersion {
        /// The session that was meant.
        id: SessionId,
        /// What the other side speaks.
        version: u8,
    },
    /// The next bytes of the session.
    Data(Bytes),
    /// The other side closed the session.
    Closed,
    /// The session is over, since this is no frame of it.
    Broken(Fault),
}

/// Reads one direction of a stream, in pieces of any size.
///
/// Holds at most what it was fed since [`Self::next_event`] last returned
/// `None`, and one unfinished frame.
#[derive(Debug)]
pub struct Decoder {
    side: Side,
    state: State,
    buffer: BytesMut,
    n_discarded: u64,
}

#[derive(Debug)]
enum Side {
    Guest,
    /// Waits for the answer to this session.
    Host(SessionId),
}

#[derive(Debug)]
enum State {
    /// Looks for a greeting at every byte.
    Seeking,
    /// Reads frame after frame.
    Framed(Framed),
}

#[derive(Debug)]
struct Framed {
    id: SessionId,
    /// Number of the next frame.
    sequence: u32,
    /// Of the frame whose payload is awaited.
    header: Option<Header>,
}

impl Decoder {
    /// For what the host sends.
    #[must_use]
    pub fn guest() -> Self {
        Self::new(Side::Guest)
    }

    /// For what the guest sends to the host of session `id`.
    #[must_use]
    pub fn host(id: SessionId) -> Self {
        Self::new(Side::Host(id))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            state: State::Seeking,
            buffer: BytesMut::new(),
            n_discarded: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What comes next in what was fed; `None` if more is needed.
    pub fn next_event(&mut self) -> Option<Event> {
        match &mut self.state {
            State::Seeking => self.seek(),
            State::Framed(framed) => match framed.next(&self.side, &mut self.buffer) {
                Ok(event) => {
                    if let Some(event) = &event {
                        self.state_after(event);
                    }
                    event
                }
                Err(fault) => {
                    self.state = State::Seeking;
                    Some(Event::Broken(fault))
                }
            },
        }
    }

    /// How many bytes were dropped while seeking, since the decoder was made.
    #[must_use]
    pub fn n_discarded(&self) -> u64 {
        self.n_discarded
    }

    /// How many bytes are kept until more arrive.
    #[must_use]
    pub fn n_buffered(&self) -> usize {
        self.buffer.len()
    }

    fn state_after(&mut self, event: &Event) {
        match event {
            Event::Opened(id) => {
                self.state = State::Framed(Framed {
                    id: *id,
                    sequence: 0,
                    header: None,
                });
            }
            Event::OtherVersion { .. } | Event::Closed | Event::Broken(_) => {
                self.state = State::Seeking;
            }
            Event::Repeated(_) | Event::Data(_) => {}
        }
    }

    /// Drops bytes up to a greeting.
    fn seek(&mut self) -> Option<Event> {
        loop {
            let at = possible_start(&self.buffer, self.side.greeting().magic());
            self.discard(at);
            let greeting = self.buffer.first_chunk::<GREETING_BYTES>()?;
            if let Some(event) = self.side.on_greeting(greeting) {
                self.buffer.advance(GREETING_BYTES);
                self.state_after(&event);
                return Some(event);
            }
            self.discard(1);
        }
    }

    fn discard(&mut self, n_bytes: usize) {
        self.buffer.advance(n_bytes);
        self.n_discarded = self.n_discarded.saturating_add(n_bytes as u64);
    }
}

/// Where `magic`, or as much of it as there are bytes left, first stands; the
/// length of `bytes` if nowhere.
fn possible_start(bytes: &[u8], magic: &[u8]) -> usize {
    let mut from = 0;
    while let Some(offset) = bytes[from..].iter().position(|byte| *byte == magic[0]) {
        from += offset;
        if begins_like(&bytes[from..], magic) {
            return from;
        }
        from += 1;
    }
    bytes.len()
}

/// Whether `bytes` begin with `pattern`, as far as both go.
fn begins_like(bytes: &[u8], pattern: &[u8]) -> bool {
    let n_bytes = bytes.len().min(pattern.len());
    bytes[..n_bytes] == pattern[..n_bytes]
}

impl Side {
    /// What the other side begins a session with.
    fn greeting(&self) -> Greeting {
        match self {
            Self::Guest => Greeting::Preamble,
            Self::Host(_) => Greeting::Answer,
        }
    }

    /// What a greeting means to this side; `None` if it is none, or for another.
    fn on_greeting(&self, bytes: &[u8; GREETING_BYTES]) -> Option<Event> {
        let (id, version) = self.greeting().parse(bytes)?;
        match self {
            Self::Host(own) if *own != id => None,
            Self::Host(_) | Self::Guest if version != VERSION => {
                Some(Event::OtherVersion { id, version })
            }
            Self::Host(_) | Self::Guest => Some(Event::Opened(id)),
        }
    }
}

impl Framed {
    /// Takes one frame or greeting from `buffer`; `None` if it is not whole yet.
    fn next(&mut self, side: &Side, buffer: &mut BytesMut) -> Result<Option<Event>, Fault> {
        loop {
            if let Some(header) = self.header {
                return self.payload(header, buffer);
            }
            if begins_like(buffer, &self.id.tag()) {
                let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
                    return Ok(None);
                };
                let header = Header::parse(header)?;
                if header.sequence != self.sequence {
                    return Err(Fault::Sequence);
                }
                buffer.advance(HEADER_BYTES);
                self.header = Some(header);
            } else if begins_like(buffer, side.greeting().magic()) {
                let Some(greeting) = buffer.first_chunk::<GREETING_BYTES>() else {
                    return Ok(None);
                };
                let event = side.on_greeting(greeting).ok_or(Fault::NotAFrame)?;
                buffer.advance(GREETING_BYTES);
                match (side, event) {
                    // The guest answered each repetition of the preamble.
                    (Side::Host(_), Event::Opened(_)) => {}
                    (Side::Guest, Event::Opened(id)) if id == self.id && self.sequence == 0 => {
                        return Ok(Some(Event::Repeated(id)));
                    }
                    (Side::Guest | Side::Host(_), event) => return Ok(Some(event)),
                }
            } else {
                return Err(Fault::NotAFrame);
            }
        }
    }

    fn payload(&mut self, header: Header, buffer: &mut BytesMut) -> Result<Option<Event>, Fault> {
        if buffer.len() < header.length {
            return Ok(None);
        }
        let payload = buffer.split_to(header.length).freeze();
        if super::crc32c::crc32c(&payload) != header.payload_checksum {
            return Err(Fault::Payload);
        }
        self.header = None;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(Some(match header.kind {
            Kind::Data => Event::Data(payload),
            Kind::Close => Event::Closed,
        }))
    }
}

#[cfg(test)]
mod tests;
