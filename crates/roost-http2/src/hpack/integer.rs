//! Numbers and the bytes of a block (RFC 7541 5.1).

use super::HpackError;

/// What is left of a block.
#[derive(Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.0.split_first().ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn bytes(&mut self, n: usize) -> Result<&'a [u8], HpackError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number that begins in the lowest `prefix` bits of a byte that has been taken.
    ///
    /// At most four more bytes: larger numbers mean nothing, and zeros without end are refused.
    pub(super) fn number(&mut self, first: u8, prefix: u32) -> Result<usize, HpackError> {
        let most = (1_u64 << prefix) - 1;
        let mut number = u64::from(first) & most;
        if number < most {
            return usize::try_from(number).map_err(|_| HpackError::Number);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).map_err(|_| HpackError::Number);
            }
        }
        Err(HpackError::Number)
    }
}

/// Writes a number; `first` has the bits above its prefix.
#[expect(clippy::cast_possible_truncation, reason = "each is less than a byte")]
pub(super) fn write(mut number: usize, prefix: u32, first: u8, into: &mut Vec<u8>) {
    let most = (1_usize << prefix) - 1;
    if number < most {
        into.push(first | number as u8);
        return;
    }
    into.push(first | most as u8);
    number -= most;
    while number >= 0x80 {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}
