//! The session layer: what makes a fresh, ordered connection out of one byte
//! stream that outlives its users.
//!
//! A virtio-serial port is one eternal pipe: what a host process left unread
//! reaches the next one, and what it left half written precedes the next one's
//! first byte. So a session begins with an exchange that finds its place in any
//! garbage, and everything after it carries a tag and checksums. The same is
//! spoken over vsock, where it costs little. HTTP/2 runs inside.
//!
//! ```text
//! host                                               guest
//!  flush, preamble(id), preamble(id), …  ─────────▶  seeking: drops bytes up to a preamble
//!  seeking: drops bytes up to its own id ◀─────────  answer(id), for each preamble
//!  frames(tag = id[..4])                 ◀────────▶  frames(tag = id[..4])
//!  close frame                           ◀────────▶  close frame
//!
//! greeting, 32 bytes: magic 8 | version 1 | zero 3 | session id 16 | CRC-32C of the 28 before 4
//! frame, 20 + n bytes: tag 4 | kind 1 | n 3 | sequence 4 | CRC-32C of the payload 4
//!                      | CRC-32C of the 16 before 4 | payload n
//! ```
//! Numbers are little-endian. Invariants:
//! - A greeting is recognised between frames and while seeking, never inside a
//!   frame: a payload that looks like one is payload.
//! - The *flush* is as many zero bytes as the longest frame. If the stream was
//!   left inside a frame, it completes that frame, whose checksum then fails
//!   (or which was all zero, and is whole), and the preamble is found: no timer
//!   decides whether the rest of a frame is still to come.
//! - Between frames a preamble ends the session and begins another; anything
//!   else that is not a frame of this session, in sequence and with the right
//!   checksums, breaks the session. The guest is then seeking again; the host
//!   gives the stream up.
//! - Who closed a session still reads the other side's frames as frames, so
//!   that no payload is searched for greetings.
//!
//! [`Decoder`] and [`Encoder`] are pure; the `link` module connects them to a
//! stream, [`crate::host`] and [`crate::guest`] are the two ends.

pub(crate) mod crc32c;
mod decoder;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod link;
mod stream;
mod wire;

pub use decoder::{Decoder, Event};
pub use stream::SessionStream;
pub use wire::{Encoder, Fault, SessionId, VERSION, answer, flush, preamble};

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The user of the session's stream closed or dropped it.
    #[error("the session was closed on this side")]
    ClosedHere,
    /// The other side closed it.
    #[error("the session was closed by the other side")]
    ClosedThere,
    /// The other side began another one.
    #[error("the other side began a new session")]
    Superseded,
    /// What arrived was not the next frame of this session.
    #[error("the session broke: {0}")]
    Broken(Fault),
    /// The user of the session's stream did not read for too long.
    #[error("what arrived was not taken in time")]
    Stalled,
    /// The stream below came to its end.
    #[error("the stream ended")]
    StreamEnded,
    /// The stream below failed.
    #[error("the stream failed ({0})")]
    StreamFailed(std::io::ErrorKind),
}

impl SessionEnd {
    /// Whether one of the two sides wanted it so.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        matches!(self, Self::ClosedHere | Self::ClosedThere)
    }
}
