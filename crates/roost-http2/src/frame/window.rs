//! Windows of flow control (RFC 9113 5.2 and 6.9).

use super::NUMBER_MAX;

/// How many bytes may still be sent. It can be negative: a smaller initial window counts for
/// streams that are open already (RFC 9113 6.9.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window(i64);

/// More room than a window can have, or more bytes than it had room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a flow-control window has overflowed")]
pub struct Overflow;

impl Window {
    /// A window with this much room.
    pub fn new(bytes: u32) -> Self {
        Self(i64::from(bytes))
    }

    /// How much may be sent now.
    pub fn room(self) -> u32 {
        u32::try_from(self.0).unwrap_or(0)
    }

    /// Makes more room.
    pub fn add(&mut self, increment: u32) -> Result<(), Overflow> {
        self.set(self.0 + i64::from(increment))
    }

    /// The initial window has changed.
    pub fn shift(&mut self, from: u32, to: u32) -> Result<(), Overflow> {
        self.set(self.0 + i64::from(to) - i64::from(from))
    }

    /// Takes room for bytes.
    pub fn take(&mut self, bytes: u32) -> Result<(), Overflow> {
        if self.0 < i64::from(bytes) && bytes > 0 {
            return Err(Overflow);
        }
        self.0 -= i64::from(bytes);
        Ok(())
    }

    fn set(&mut self, bytes: i64) -> Result<(), Overflow> {
        if bytes > i64::from(NUMBER_MAX) {
            return Err(Overflow);
        }
        self.0 = bytes;
        Ok(())
    }
}
